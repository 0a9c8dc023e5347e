"""The CSR network: `from csr.model import CSR`."""

from csr.model.csr import CSR, CSROutput

__all__ = ["CSR", "CSROutput"]
