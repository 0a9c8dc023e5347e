"""`--deterministic`: kernels whose sums have one order, so that a run on a GPU has the same bits again.

Without it cuDNN and attention add in whatever order threads come, and cuDNN takes the kernel that was
fastest in a trial. On CPUs csr's sums have one order anyway.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import torch

from csr.runtime.errors import StoppedError

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
# of what torch says where an operation has no such kernel on the device
MISSING = "does not have a deterministic implementation"


def use_deterministic_kernels() -> None:
    """Choose such kernels from now on in this process: to be called before CUDA is initialised."""
    os.environ.setdefault(WORKSPACE, ":4096:8")  # else products of several streams share their sums' memory
    torch.use_deterministic_algorithms(True)
    # tensors that are not filled yet are read by nothing: filling them too would only take time
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    torch.backends.cuda.enable_cudnn_sdp(False)  # flash and memory-efficient attention have such a backward


@contextlib.contextmanager
def refusals_told() -> Iterator[None]:
    """Turn torch's refusal of an operation inside into one line.

    Raises:
        StoppedError: with the operation.
    """
    try:
        yield
    except RuntimeError as error:
        if MISSING not in str(error):
            raise
        operation = str(error).split(MISSING)[0].strip()
        raise StoppedError(
            f"--deterministic: torch has no deterministic {operation} for this device, and this model needs "
            "it: omit --deterministic, or take --progressive none, another --image_size or another backbone"
        ) from error
