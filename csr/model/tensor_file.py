"""Read tensors from .pth, .bin and .safetensors files, never running code that a file brings."""

from __future__ import annotations

import argparse
import pickle
from pathlib import Path
from typing import Any

import torch

from csr.runtime.errors import InputError
from csr.runtime.torch_file import DAMAGED, read_torch_file

_WRAPPERS = ("model", "state_dict", "module")


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Read the state dict of a file, on the CPU, out of `model` or `state_dict` where it is wrapped.

    Raises:
        InputError: missing, truncated, a pickle of anything but plain data, or no tensors in it.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such weights file")
    state: Any = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    for wrapper in _WRAPPERS:
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
            break
    tensors = state if isinstance(state, dict) else {}
    tensors = {str(k): v for k, v in tensors.items() if isinstance(v, torch.Tensor)}
    if not tensors:
        raise InputError(f"{path}: holds no named tensors")
    return tensors


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, *DAMAGED) as error:
        raise InputError(f"{path}: not a readable safetensors file ({_first_line(error)})") from error


def _read_torch(path: Path) -> Any:
    # MAE's training checkpoints carry their options as an argparse.Namespace: a plain holder of values
    try:
        return read_torch_file(path, allowed=(argparse.Namespace,))
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path}: refused, it is a pickle that would run code or is damaged; "
            "save its state dict alone with torch.save, or as .safetensors"
        ) from error
    except DAMAGED as error:
        raise InputError(f"{path}: not a readable weights file ({_first_line(error)})") from error


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:120] if text else type(error).__name__
