"""fp16 with fp32 weights on one rank, beside plain torch with its GradScaler and beside ZeRO.

Emulated on a CPU.
"""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from csr.engine import process_group
from csr.engine.ds_config import load_ds_config, merge_ds_config
from csr.engine.engine import Engine
from csr.runtime.distributed import adopt_launcher_environment

WINDOW, POWER, CLIP, LR = 3, 4, 0.05, 1e-2
GOOD, BAD = 1.0, float("inf")
# growths and overflows, never a second growth before an overflow: there the two rules count alike
COURSE = [GOOD] * 4 + [BAD] * 2 + [GOOD] * 4 + [BAD] + [GOOD] * 2


@pytest.fixture(scope="module", autouse=True)
def started() -> Any:
    """DeepSpeed refuses native fp16 on most CPUs, though torch computes in it, slowly."""
    adopt_launcher_environment()
    process_group.start(5)
    import deepspeed

    patch = pytest.MonkeyPatch()
    patch.setattr(deepspeed.get_accelerator(), "is_fp16_supported", lambda: True)
    yield
    patch.undo()


class Small(nn.Module):
    """A stage of two layers and a norm; the batch's factor multiplies its loss."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm, self.last = nn.Linear(8, 16), nn.LayerNorm(16), nn.Linear(16, 4)

    def forward(self, batch: dict[str, Any]) -> SimpleNamespace:
        x = batch["x"].to(self.first.weight.dtype)
        y = self.last(torch.tanh(self.norm(self.first(x))))
        return SimpleNamespace(loss=y.float().square().mean() * batch["factor"])


def batch_of(step: int, factor: float) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(step)
    return {"x": torch.randn(6, 8, generator=generator), "factor": factor}


def engine_of(
    stage: nn.Module, *, sharded: bool = False, clip: float = CLIP, lr: float = LR, **section: Any
) -> Engine:
    parsed, name = load_ds_config(None, "fp16")
    parsed = {**parsed, "fp16": {**parsed["fp16"], **section}}
    config = merge_ds_config(parsed, name=name, batch_size=6, accumulation=1, clip=clip, world_size=1)
    groups = [{"params": list(stage.parameters()), "lr": lr, "weight_decay": 0.1}]
    return Engine(
        stage, param_groups=groups, ds_config=config, lr_factor=lambda step: 1.0, always_shards=sharded
    )


def test_steps_scales_and_skips_are_those_of_torch_with_its_gradscaler():
    stage = Small()
    plain = copy.deepcopy(stage)
    optimizer = torch.optim.AdamW(plain.parameters(), lr=LR, weight_decay=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**POWER, growth_interval=WINDOW + 1)
    engine = engine_of(stage, initial_scale_power=POWER, loss_scale_window=WINDOW, hysteresis=1)
    assert stage.first.weight.dtype == torch.float32
    scales, skipped = [], 0
    for step, factor in enumerate(COURSE):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.float16):
            loss = plain(batch_of(step, factor)).loss
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        norm = float(nn.utils.clip_grad_norm_(plain.parameters(), CLIP))
        scaler.step(optimizer)
        before = scaler.get_scale()
        scaler.update()
        skipped += scaler.get_scale() < before
        output = engine.micro_step(batch_of(step, factor))
        assert float(output.loss.detach()) == pytest.approx(float(loss.detach()), rel=1e-3)
        assert (engine.loss_scale, engine.skipped_steps) == (scaler.get_scale(), skipped)
        assert engine.gradient_norm == (pytest.approx(norm, rel=1e-3) if factor == GOOD else float("inf"))
        scales.append(engine.loss_scale)
    assert skipped == 3 and max(scales) == 2.0 ** (POWER + 1)
    state = engine.close().state_dict()
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(state[name], value, rtol=0, atol=2e-5)


@pytest.mark.parametrize("section", [{}, {"hysteresis": 3}, {"consecutive_hysteresis": True}])
def test_the_scale_follows_the_rules_of_the_json_on_one_rank_as_under_zero(section):
    rules = {"initial_scale_power": 3, "loss_scale_window": 2, "min_loss_scale": 2, **section}
    course = [GOOD] * 3 + [BAD] * 2 + [GOOD] * 4 + [BAD] * 9 + [GOOD] * 5
    engines = [engine_of(Small(), sharded=sharded, **rules) for sharded in (False, True)]
    for step, factor in enumerate(course):
        for engine in engines:
            engine.micro_step(batch_of(step, factor))
        alone, sharded = ((e.loss_scale, e.skipped_steps, e.steps) for e in engines)
        assert alone == sharded
        if step == 2:
            assert engines[0].loss_scale == 2.0**4, "it has grown by the given window"
        if step == 17:
            assert engines[0].loss_scale == 2.0, "the lowest, and the run goes on"
    counters = [engine.training_state()["counters"] for engine in engines]
    assert counters[0] == counters[1]
    for engine in engines:
        engine.close()


def test_a_static_scale_stays_and_overflows_are_skipped():
    engine = engine_of(Small(), loss_scale=128.0)
    for step, factor in enumerate((GOOD, BAD, GOOD)):
        engine.micro_step(batch_of(step, factor))
        assert engine.loss_scale == 128.0
    assert (engine.steps, engine.skipped_steps) == (3, 1)
    engine.close()


@pytest.mark.parametrize("first", [False, True], ids=["whole first", "sharded first"])
def test_a_state_goes_on_in_shards_and_back_with_its_scale(first):
    def steps(numbers: range, sharded: bool, saved: dict[str, Any] | None = None) -> tuple[Any, Any]:
        stage = Small()
        if saved is not None:
            stage.load_state_dict(saved["weights"])
        engine = engine_of(stage, sharded=sharded, initial_scale_power=5, loss_scale_window=2)
        if saved is not None:
            engine.load_training_state(saved)
        for number in numbers:
            engine.micro_step(batch_of(number, COURSE[number]))
        found = copy.deepcopy(engine.training_state()), engine.loss_scale
        engine.close()
        return found

    (expected, scale), (saved, _) = steps(range(10), first), steps(range(7), first)
    assert saved["counters"]["scaler.last_overflow_iter"] == 5 and scale != 2.0**5
    got, got_scale = steps(range(7, 10), not first, saved)
    assert (got["counters"], got["scalars"], got_scale) == (expected["counters"], expected["scalars"], scale)
    for name, value in expected["weights"].items():
        torch.testing.assert_close(got["weights"][name], value, rtol=0, atol=1e-3)  # of 3 steps of 1e-2
        for key, moment in expected["moments"][name].items():
            torch.testing.assert_close(got["moments"][name][key], moment, rtol=0.02, atol=1e-4)


@pytest.mark.parametrize("sharded", [False, True])
def test_an_update_at_which_the_scale_grows_is_a_whole_one(sharded):
    """DeepSpeed divides the gradients by the scale that has just grown: by twice their own."""

    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.full((4,), 0.5))

        def forward(self, batch: torch.Tensor) -> SimpleNamespace:
            return SimpleNamespace(loss=(self.weight.float() * batch).sum())

    engine = engine_of(Sum(), sharded=sharded, clip=0.0, lr=1e-6, loss_scale_window=1, initial_scale_power=2)
    for _ in range(5):
        engine.micro_step(torch.full((4,), 0.25))
    assert engine.loss_scale == 2.0**6 and engine.skipped_steps == 0
    average = engine.training_state()["moments"]["weight"]["exp_avg"]
    torch.testing.assert_close(average, torch.full((4,), 0.25 * (1 - 0.9**5)))  # of five equal gradients
    engine.close()
