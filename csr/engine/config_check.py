"""A DeepSpeed JSON tried on a tiny stage before anything is trained."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from csr.engine.device import local_device
from csr.engine.engine import Engine
from csr.runtime.errors import InputError


def check_config(ds_config: dict[str, Any], name: str) -> None:
    """Let DeepSpeed take one step of a tiny model: it refuses a JSON before any work is done. Collective.

    Args:
        ds_config: merged JSON of the run.
        name: of its file.

    Raises:
        InputError: DeepSpeed's own words.
    """
    from deepspeed.runtime.config import DeepSpeedConfigError
    from deepspeed.runtime.zero.utils import ZeRORuntimeException

    refusals = (
        DeepSpeedConfigError,
        ZeRORuntimeException,
        NotImplementedError,
        ZeroDivisionError,
        ValueError,
        TypeError,
        AssertionError,
        AttributeError,
        KeyError,
    )
    tiny = _TinyStage()
    groups = [{"params": list(tiny.parameters()), "lr": 1e-3, "weight_decay": 0.0}]
    try:
        # what ZeRO alone would refuse is refused on one rank too: there a JSON is tried before it goes to a
        # cluster
        engine = Engine(
            tiny, param_groups=groups, ds_config=ds_config, lr_factor=lambda step: 1.0, always_shards=True
        )
        for _ in range(ds_config["gradient_accumulation_steps"]):
            engine.micro_step(torch.ones(1, 4, device=local_device()))
        engine.close()
    except refusals as error:
        lines = [line.strip() for line in str(error).splitlines() if "errors.pydantic.dev" not in line]
        raise InputError(f"{name}: DeepSpeed refuses it: {' '.join(lines)[:300]}") from error


class _TinyStage(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 4)

    def forward(self, input_BD: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(loss=self.layer(input_BD.to(self.layer.weight.dtype)).float().mean())
