"""Untrusted files of `torch.save`: no code in them runs, and none takes more memory than its size.

`weights_only` keeps pickles from running code. What it lets through is looked at here: archives that inflate,
and tensors that claim more values than were stored (a view with stride 0 of one value).
"""

from __future__ import annotations

import pickle
import struct
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

# all that torch's reader was seen to raise on damaged files
DAMAGED = (
    pickle.UnpicklingError,
    RuntimeError,
    EOFError,
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    ArithmeticError,
    MemoryError,
    ImportError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
    NotImplementedError,
)
MAX_PICKLE_BYTES = 2**26  # names, shapes and plain values; the numbers of tensors are beside them
# types of weights, and of counters
_FITTING = {
    True: (torch.float32, torch.float16, torch.bfloat16, torch.float64),
    False: (torch.int64, torch.int32, torch.int16, torch.uint8, torch.bool),
}


def read_torch_file(path: Path, *, allowed: tuple[type | tuple[type, str], ...] = ()) -> Any:
    """Return plain values and tensors of a file, on the CPU.

    Args:
        path: written by `torch.save`.
        allowed: further types that the pickle may make, or pairs of a type and the name that it stands for.

    Raises:
        ValueError, RuntimeError, ...: one of `DAMAGED`: truncated, refused, or claiming too much.
    """
    if not path.is_file():
        raise FileNotFoundError(2, "No such file", str(path))
    _check_archive(path)
    # a file and not its name: torch has readers of its own for some suffixes
    with open(path, "rb") as file, torch.serialization.safe_globals(list(allowed)), warnings.catch_warnings():
        # torch remarks on a plain pickle's protocol before it refuses it: the error is enough
        warnings.filterwarnings("ignore", message="Detected pickle protocol")
        value = torch.load(file, map_location="cpu", weights_only=True)
    for tensor in tensors_in(value):
        _check_tensor(tensor)
    return value


def _check_archive(path: Path) -> None:
    """Refuse an archive with compressed members.

    Torch stores them as they are, so one that inflates is a bomb.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise ValueError("a compressed archive, which torch.save does not write")
    if any(member.file_size > MAX_PICKLE_BYTES for member in members if member.filename.endswith(".pkl")):
        raise ValueError("an archive with far more names than a model has")
    if sum(member.file_size for member in members) > path.stat().st_size:
        raise ValueError("an archive whose members are larger than itself")


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """Yield every tensor in nested plain values, each container once."""
    seen: set[int] = set()
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, torch.Tensor):
            yield item
        elif isinstance(item, (dict, list, tuple, set)) and id(item) not in seen:
            seen.add(id(item))
            waiting.extend(item.values() if isinstance(item, dict) else item)


def _check_tensor(tensor: torch.Tensor) -> None:
    plain = tensor.layout is torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
    if not plain:
        raise ValueError("a sparse, quantized or meta tensor, where a plain one belongs")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise ValueError(f"a tensor of shape {tuple(tensor.shape)} has fewer values than that")


def of_another_type(own: dict[str, torch.Tensor], state: dict[str, torch.Tensor]) -> list[str]:
    """Return names of tensors that would be cast into nonsense.

    Complex or 8-bit ones where weights belong.
    """
    return [k for k in own if k in state and state[k].dtype not in _FITTING[own[k].is_floating_point()]]


def not_finite(state: dict[str, torch.Tensor]) -> list[str]:
    """Return names of tensors that hold NaN or infinity."""
    plain = {key: value for key, value in state.items() if value.dtype in _FITTING[True]}
    return [key for key, value in plain.items() if not bool(value.isfinite().all())]
