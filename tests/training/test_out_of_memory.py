"""Training that runs out of memory ends in one line with the advice; edits of one rank reach all."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from train_command import flags

from csr.engine.engine import Engine
from csr.runtime import distributed
from csr.runtime.errors import StoppedError
from csr.train import main
from csr.training import batch_size_finder
from csr.training.trainer import Trainer

EXHAUSTED = RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")


def test_a_step_that_does_not_fit_is_told_with_what_to_do(phantom_folder, tmp_path, monkeypatch):
    def step(self: Engine, batch: object) -> None:
        raise EXHAUSTED

    monkeypatch.setattr(Engine, "micro_step", step)
    with pytest.raises(StoppedError, match="too small: give a smaller --batch_size.*--activation_checkp"):
        main(flags(phantom_folder, tmp_path / "out"))


@pytest.mark.parametrize("error, fits", [(None, True), (EXHAUSTED, False)])
def test_a_size_whose_trial_runs_out_of_memory_does_not_fit(error, fits, monkeypatch):
    def trial(size: int) -> None:
        if error is not None:
            raise error

    trial.device, trial.stage = torch.device("cpu"), torch.nn.Linear(1, 1)  # type: ignore[attr-defined]
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _: None)
    assert batch_size_finder._has_room(trial, 4, 100) is fits


def test_another_error_of_a_trial_is_no_answer(monkeypatch):
    def trial(size: int) -> None:
        raise RuntimeError("a bug")

    trial.device, trial.stage = torch.device("cpu"), torch.nn.Linear(1, 1)  # type: ignore[attr-defined]
    with pytest.raises(RuntimeError, match="a bug"):
        batch_size_finder._has_room(trial, 4, 100)


@pytest.mark.parametrize("elsewhere, broadcasts", [(0, 0), (3, 1)])
def test_prototypes_that_another_rank_moved_are_moved_here_too(elsewhere, broadcasts, monkeypatch):
    """Two kinds of GPUs may differ in a tie: a rank that broadcasts alone would wait for ever."""
    calls: list[str] = []
    monkeypatch.setattr(distributed, "average_buffers", lambda _: None)
    monkeypatch.setattr(distributed, "host_max", lambda values: [max(*values, elsewhere)])
    monkeypatch.setattr(distributed, "broadcast_module", lambda _: calls.append("broadcast"))
    stage = SimpleNamespace(end_epoch=lambda *_, last: {"restarted": 0})
    engine = SimpleNamespace(weights_changed=lambda: calls.append("changed"))
    opened = SimpleNamespace(stage=stage, engine=engine, features=SimpleNamespace(train=None))
    assert Trainer._end_epoch(SimpleNamespace(), opened, last=False) == {"restarted": 0}
    assert calls == ["broadcast", "changed"] * broadcasts
