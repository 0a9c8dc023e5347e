"""The CSR network: `from csr.model import CSR`. It is loaded when it is asked for, and torch with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from csr.model.csr import CSR, CSROutput

__all__ = ["CSR", "CSROutput"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from csr.model import csr as network

    return getattr(network, name)
