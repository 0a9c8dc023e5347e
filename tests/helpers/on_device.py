"""Functions under test that compute on another device, while their tests stay on the CPU."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch


def compute_there(
    monkeypatch: pytest.MonkeyPatch, module: ModuleType, *names: str, device: torch.device
) -> None:
    """Replace functions, and classes whose objects are called, in a test's module; nothing on the CPU."""
    if device.type == "cpu":
        return
    for name in names:
        original = getattr(module, name)
        if isinstance(original, type):
            there: Any = type(name, (original,), {"__call__": moved(original.__call__, device)})
        else:
            there = moved(original, device)
        monkeypatch.setattr(module, name, there)


def moved(function: Callable[..., Any], device: torch.device) -> Callable[..., Any]:
    """Return the function with its tensors sent to a device and its result brought back."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return _sent(function(*_sent(args, device), **_sent(kwargs, device)), torch.device("cpu"))

    return call


def _sent(value: Any, device: torch.device) -> Any:
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {name: _sent(one, device) for name, one in value.items()}
    if isinstance(value, tuple | list) and not hasattr(value, "_fields"):
        return type(value)(_sent(one, device) for one in value)
    return value
