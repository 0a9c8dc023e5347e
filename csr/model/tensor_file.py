"""Read tensors from .pth, .ckpt, .bin and .safetensors files, never running code that a file brings."""

from __future__ import annotations

import argparse
import pickle
import re
from pathlib import Path
from typing import Any

import torch

from csr.runtime.errors import InputError
from csr.runtime.file_content import placeholder
from csr.runtime.torch_file import DAMAGED, read_torch_file

_WRAPPERS = ("model", "state_dict", "module")
_DEPTH = 3  # dicts within dicts that are searched for tensors
_NO_WEIGHTS = re.compile(r"optim|sched|scaler|callbacks|loops|hyper_parameters|args|config", re.IGNORECASE)


class _LeftOut:
    """Take the place of a value that lies beside weights and is of no use: nothing of it is made."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


class _PlainDict(dict[Any, Any]):
    """Take the place of dicts with a default."""

    def __init__(self, *_: object) -> None:
        super().__init__()


_HOLDERS = (
    *(
        f"{core}.multiarray.{name}"
        for core in ("numpy.core", "numpy._core")
        for name in ("scalar", "_reconstruct")
    ),
    "numpy.ndarray",
    "numpy.dtype",
    *(
        f"pathlib{module}.{name}"
        for module in ("", "._local")
        for name in ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath")
    ),
    *(f"datetime.{name}" for name in ("datetime", "date", "time", "timedelta", "timezone")),
    "types.SimpleNamespace",
    "builtins.list",
    "builtins.dict",
    "builtins.int",
    "builtins.float",
    "builtins.str",
    "builtins.bool",
)
# what training scripts leave beside weights: MAE its options, others their best score and their folder
_ALLOWED: tuple[type | tuple[type, str], ...] = (
    argparse.Namespace,
    *((_LeftOut, name) for name in _HOLDERS),
    (_PlainDict, "collections.defaultdict"),
)


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Read the state dict of a file, on the CPU, out of `model` or `state_dict` where it is wrapped.

    Raises:
        InputError: missing, truncated, a pickle of anything but plain data, or no tensors in it.
    """
    groups = read_state_dicts(path)
    return groups[next((name for name in _WRAPPERS if name in groups), next(iter(groups)))]


def read_state_dicts(path: Path) -> dict[str, dict[str, torch.Tensor]]:
    """Read every dict of named tensors in a file, on the CPU; optimizer states are left out.

    Returns:
        By the keys that lead to it, joined by dots ('' for the file itself); `model`, `state_dict` and
        `module` first.

    Raises:
        InputError: missing, truncated, a pickle of anything but plain data, or no tensors in it.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such weights file")
    try:
        meaning = placeholder(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    if meaning:
        raise InputError(f"{path}: {meaning}")
    value: Any = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    groups: dict[str, dict[str, torch.Tensor]] = {}
    _collect(value, (), groups)
    if not groups:
        raise InputError(f"{path}: holds no named tensors")
    first = ("", *_WRAPPERS)
    return dict(sorted(groups.items(), key=lambda item: first.index(item[0]) if item[0] in first else 9))


def _collect(value: Any, keys: tuple[str, ...], groups: dict[str, dict[str, torch.Tensor]]) -> None:
    if not isinstance(value, dict):
        return
    tensors = {str(k): v for k, v in value.items() if isinstance(v, torch.Tensor)}
    if tensors:
        groups[".".join(keys)] = tensors
    if len(keys) < _DEPTH:
        for key, item in value.items():
            if isinstance(key, str) and not _NO_WEIGHTS.search(key):
                _collect(item, (*keys, key), groups)


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, *DAMAGED) as error:
        raise InputError(f"{path}: not a readable safetensors file ({_first_line(error)})") from error


def _read_torch(path: Path) -> Any:
    try:
        return read_torch_file(path, allowed=_ALLOWED)
    except pickle.UnpicklingError as error:
        refused = re.search(r"GLOBAL ([\w.]+)", str(error))
        if refused:
            raise InputError(
                f"{path}: refused, it also holds an object of {refused[1][:100]}, which csr does not make, "
                "since that could run code; save its state dict alone with torch.save, or as .safetensors"
            ) from error
        raise InputError(
            f"{path}: refused, it is a pickle that would run code or is damaged; "
            "save its state dict alone with torch.save, or as .safetensors"
        ) from error
    except DAMAGED as error:
        raise InputError(f"{path}: not a readable weights file ({_first_line(error)})") from error


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:120] if text else type(error).__name__
