"""A resumed run keeps the micro batch that it measured; on other ranks its effective batch."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from csr.config.option_field import AUTO
from csr.config.options import TrainConfig
from csr.engine.ds_config import load_ds_config
from csr.engine.precision import Precision
from csr.training import prepare
from csr.training.batch_size_finder import Choice, provisional
from csr.training.checkpoints.resume_plan import Plan
from csr.training.prepared import Arithmetic, Images, Labels, Request, Start

NO_REPORT = print


def auto_options(effective: int) -> TrainConfig:
    given = TrainConfig()
    optim = dataclasses.replace(given.optim, batch_size=AUTO, effective_batch=effective)
    return provisional(dataclasses.replace(given, optim=optim), world=1)


def manifest(*, world: int, batch_size: int, accumulation: int) -> dict[str, Any]:
    optim = {"batch_size": batch_size, "accumulation": accumulation}
    return {"world_size": world, "options": {"optim": optim}, "batch_size_auto": "as it was measured"}


def start(monkeypatch: pytest.MonkeyPatch, config: TrainConfig, plan: Plan) -> Start:
    planner = SimpleNamespace(plan=lambda: plan)
    monkeypatch.setattr(prepare, "Planner", lambda *args: planner)
    arithmetic = Arithmetic(Precision("fp32", "for a test"), load_ds_config(None, "fp32"))
    return prepare.resume_plan(Request(config, True, None), arithmetic, None, NO_REPORT)


def fitted(monkeypatch: pytest.MonkeyPatch, begun: Start) -> tuple[tuple[int, int], list[int], str | None]:
    """Return micro batch and accumulation, the shares that were measured, and the recorded reason."""
    shares: list[int] = []

    def find(stage: Any, data: Any, *, share: int, precision: str, device: Any) -> Choice:
        shares.append(share)
        return Choice(share // 2, 2, "measured again")

    table = SimpleNamespace(select=lambda indices: None)
    tables = SimpleNamespace(train=table, train_indices=None)
    stage = SimpleNamespace(to=lambda device: None)
    monkeypatch.setattr(prepare.batch_size_finder, "find", find)
    monkeypatch.setattr(prepare.build, "build_stage", lambda *args, **kwargs: stage)
    monkeypatch.setattr(prepare.process_group, "started", lambda: True)
    labels, images = Labels(tables, None, begun.identity), Images(None, None)
    result = prepare.fit_batch(begun, labels, images, None, Precision("fp32", ""), NO_REPORT)
    optim = result.config.optim
    return (optim.batch_size, optim.accumulation), shares, result.identity.batch_size_auto


@pytest.mark.parametrize("batch_size, accumulation", [(16, 1), (4, 4)])
def test_the_measured_batch_is_kept_even_where_it_is_the_whole_share(monkeypatch, batch_size, accumulation):
    plan = Plan(Path("c"), manifest(world=1, batch_size=batch_size, accumulation=accumulation), 16, 1)
    begun = start(monkeypatch, auto_options(16), plan)
    assert fitted(monkeypatch, begun) == ((batch_size, accumulation), [], "as it was measured")


def test_another_number_of_ranks_measures_within_the_effective_batch_of_the_run(monkeypatch):
    plan = Plan(Path("c"), manifest(world=2, batch_size=16, accumulation=1), batch_size=16, accumulation=2)
    begun = start(monkeypatch, auto_options(16), plan)
    assert fitted(monkeypatch, begun) == ((16, 2), [32], "measured again")


def test_a_run_that_begins_measures(monkeypatch):
    begun = start(monkeypatch, auto_options(16), Plan())
    assert fitted(monkeypatch, begun) == ((8, 2), [16], "measured again")
