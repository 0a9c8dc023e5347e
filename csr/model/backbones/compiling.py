"""`--compile`: the training step of a backbone through torch.compile, names of weights unchanged.

Only training is compiled: validation, features and tests run as ever, so that what they give does not depend
on the flag, and odd batch sizes there compile nothing anew. What is compiled is kept by torch between runs.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from csr.model.layers.sync_norm import SyncBatchNorm
from csr.runtime.errors import InputError

Maps = Callable[[torch.Tensor], torch.Tensor]


def check_compiler(device: torch.device) -> None:
    """Compile a tiny function there.

    Raises:
        InputError: no working C++ compiler (CPU) or Triton (GPU).
    """
    tiny = torch.compile(lambda x: (x.sin() + 1).sum(), dynamic=False)
    try:
        tiny(torch.ones(8, device=device))
    except RuntimeError as error:
        raise InputError(
            f"--compile: torch.compile does not work on this machine ({reason(error)}): install a "
            "C++ compiler (and Triton, for a GPU), or leave --compile away"
        ) from error


def compiled(maps: Maps, *, label: str) -> Maps:
    """Return a function that compiles itself when it is first called.

    Args:
        maps: images -> feature map; its shapes stay the same.
        label: of the backbone, for messages.
    """
    fast = torch.compile(maps, dynamic=False)

    def call(images_B3HW: torch.Tensor) -> torch.Tensor:
        from torch._dynamo.exc import TorchDynamoException  # heavy, and loaded by torch.compile anyway

        try:
            return fast(images_B3HW)
        except TorchDynamoException as error:
            raise InputError(
                f"--compile: {label} cannot be compiled ({reason(error)}): leave --compile away"
            ) from error

    return call


def leave_out_collectives(module: nn.Module) -> None:
    """Let norms that talk to other ranks run as ever: traced, their sums over ranks come out wrong."""
    for child in module.modules():
        if isinstance(child, SyncBatchNorm):
            setattr(child, "_synced", torch.compiler.disable(child._synced))


def reason(error: BaseException) -> str:
    """Return the first line of an error's text with words in it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__
