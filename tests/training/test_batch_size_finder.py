"""`--batch_size auto`: sizes that divide, measured growth, the smallest answer of all ranks, no trace."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from train_command import flags

from csr.config.flags import parse_train_flags
from csr.config.options import TrainConfig
from csr.data.image_cache.store import ImageStore
from csr.engine import memory
from csr.runtime.errors import InputError
from csr.training import batch_size_finder, build, inputs
from csr.training.batch_size_finder import Trial, largest

MIB = 2**20


def test_a_size_is_the_largest_that_its_growth_allows():
    def needed(size: int) -> int:
        return (10 + 3 * size) * MIB

    assert largest([16, 8, 4, 2, 1], allowed=35 * MIB, needed=needed, free=100 * MIB)[0] == 8
    assert largest([16, 8, 4, 2, 1], allowed=12 * MIB, needed=needed, free=100 * MIB)[0] == 0
    size, reason = largest([3, 1], allowed=90 * MIB, needed=needed, free=100 * MIB)
    assert size == 3 and "whole share" in reason
    assert "8 images would take" in largest([8, 4], allowed=25 * MIB, needed=needed, free=MIB)[1]


def test_the_growth_is_a_line_through_two_measurements(monkeypatch):
    needs = iter([30 * MIB, 50 * MIB])
    sizes: list[int] = []
    monkeypatch.setattr(memory, "peak_of", lambda work: (work(), next(needs))[1])
    needed = batch_size_finder._growth(sizes.append)
    assert sizes == [1, 2, 4]
    assert [needed(size) for size in (2, 4, 8)] == [30 * MIB, 50 * MIB, 90 * MIB]


def test_noise_never_makes_more_images_free(monkeypatch):
    needs = iter([50 * MIB, 40 * MIB])
    monkeypatch.setattr(memory, "peak_of", lambda work: next(needs))
    needed = batch_size_finder._growth(lambda size: None)
    assert needed(64) >= needed(4) * 2 > 0


def test_a_peak_grows_with_what_is_held_at_once():
    def hold(mib: int) -> int:
        return memory.peak_of(lambda: torch.ones(mib * MIB // 4).sum())

    hold(16)
    assert hold(16) < 40 * MIB < 48 * MIB < hold(64) < 120 * MIB


@pytest.mark.parametrize("folder", ["V2", "V1"])
def test_a_control_groups_limit_counts(monkeypatch, tmp_path, folder):
    names = {
        "V2": ("memory.max", "memory.current", "file"),
        "V1": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_cache"),
    }
    limit, used, cached = names[folder]
    monkeypatch.setattr(memory, "V1", tmp_path / "none")
    monkeypatch.setattr(memory, "V2", tmp_path / "none")
    before = memory.free_host_bytes()
    monkeypatch.setattr(memory, folder, tmp_path)
    (tmp_path / limit).write_text(f"{64 * MIB}\n")
    (tmp_path / used).write_text(f"{40 * MIB}\n")
    (tmp_path / "memory.stat").write_text(f"anon 5\n{cached} {10 * MIB}\n")
    assert memory.free_host_bytes() == 34 * MIB < before
    (tmp_path / limit).write_text("max\n" if folder == "V2" else f"{2**63 - 4096}\n")
    assert memory.free_host_bytes() > 34 * MIB


@pytest.mark.parametrize("folder, line", [("V2", "0::{}"), ("V1", "4:cpu,memory:{}")])
def test_the_limit_of_a_jobs_group_below_the_root_counts(monkeypatch, tmp_path, folder, line):
    """SLURM and systemd set a job's limit on the group of /proc/self/cgroup, or on one around it."""
    limit, used = (
        ("memory.max", "memory.current")
        if folder == "V2"
        else (
            "memory.limit_in_bytes",
            "memory.usage_in_bytes",
        )
    )
    for name in ("V1", "V2"):
        monkeypatch.setattr(memory, name, tmp_path / "none")
    monkeypatch.setattr(memory, folder, tmp_path)
    own = tmp_path / "groups"
    own.write_text("1:cpuset:/\n" + line.format("/slurm/job_7/step_0") + "\n")
    monkeypatch.setattr(memory, "OWN_GROUPS", own)
    job = tmp_path / "slurm" / "job_7"
    (job / "step_0").mkdir(parents=True)
    whole = memory.free_host_bytes()
    assert whole > 64 * MIB
    for place, mib in ((job, 64), (job / "step_0", 48)):
        (place / limit).write_text(f"{mib * MIB}\n")
        (place / used).write_text(f"{16 * MIB}\n")
        (place / "memory.stat").write_text("file 0\ntotal_cache 0\n")
        assert memory.free_host_bytes() == (mib - 16) * MIB


class Parts:
    """The parts of a run that exist before its batch is measured."""

    def __init__(self, phantom: Path, out: Path, *more: str, **changed: Any) -> None:
        given = parse_train_flags(flags(phantom, out, *more, **{"batch_size": "auto", **changed}))
        self.config: TrainConfig = batch_size_finder.provisional(given, world=1)
        self.tables = inputs.build_tables(self.config, lambda line: None)
        self.model = build.build_model(self.config, self.tables.train, lambda line: None)
        stores: tuple[ImageStore, ImageStore] = inputs.build_stores(self.config, self.tables)
        self.data = build.build_data(self.config, self.tables, stores[0], self.model)
        table = self.tables.train.select(self.tables.train_indices)
        self.stage = build.build_stage(
            "concept", config=self.config, model=self.model, train=table, report=lambda line: None
        )

    def find(self) -> batch_size_finder.Choice:
        return batch_size_finder.find(
            self.stage,
            self.data,
            share=self.config.optim.batch_size,
            precision="fp32",
            device=torch.device("cpu"),
        )


@pytest.fixture(scope="module")
def parts(phantom_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Parts:
    return Parts(phantom_folder, tmp_path_factory.mktemp("auto") / "out", effective_batch="24")


def test_a_search_leaves_no_trace(parts):
    parts.model.backbone.recompute_activations(False)
    learnable = [p.requires_grad for p in parts.model.parameters()]
    before = {k: v.clone() for k, v in parts.model.state_dict().items()}
    choice = parts.find()
    assert choice.batch_size * choice.accumulation == 24
    assert [p.requires_grad for p in parts.model.parameters()] == learnable
    assert all(p.grad is None for p in parts.model.parameters())
    assert all(torch.equal(v, before[k]) for k, v in parts.model.state_dict().items())
    assert all(m.training for m in parts.model.backbone.modules())


def test_little_memory_gives_small_micro_batches_and_none_an_error(parts, monkeypatch):
    enough = parts.find()
    needed = Trial(parts.stage, parts.data, precision="fp32", device=torch.device("cpu")).engine_bytes
    free = {"bytes": 0}
    monkeypatch.setattr(batch_size_finder.memory, "free_host_bytes", lambda: free["bytes"])
    monkeypatch.setattr(batch_size_finder, "_growth", lambda trial: lambda size: size * 8 * MIB)
    free["bytes"] = int((needed + 50 * MIB) / batch_size_finder.CPU_SHARE)
    choice = parts.find()
    assert (choice.batch_size, choice.accumulation) == (6, 4) and enough.batch_size == 24
    free["bytes"] = MIB
    with pytest.raises(InputError, match="--batch_size auto: not one image fits"):
        parts.find()


def test_ranks_agree_on_the_smallest(parts, monkeypatch):
    monkeypatch.setattr(batch_size_finder.distributed, "host_max", lambda values: [max(*values, -3)])
    assert parts.find()[:2] == (3, 8)


def test_running_out_of_gpu_memory_is_the_only_error_that_means_too_large(parts, monkeypatch):
    sizes: list[int] = []

    class Stub:
        device, engine_bytes, stage = torch.device("cpu"), MIB, parts.stage

        def __call__(self, size: int) -> None:
            sizes.append(size)
            if size > 6:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory")
            if size == 5:
                raise RuntimeError("another error")

    for name in ("synchronize", "empty_cache"):
        monkeypatch.setattr(torch.cuda, name, lambda *args: None)
    monkeypatch.setattr(memory, "free_gpu_bytes", lambda device: 4 * MIB)
    assert batch_size_finder._on_gpu(Stub(), [24, 12, 6, 3])[0] == 6
    assert sizes == [24, 12, 6]
    assert batch_size_finder._on_gpu(Stub(), [24])[0] == 0
    with pytest.raises(RuntimeError, match="another"):
        batch_size_finder._on_gpu(Stub(), [5])


def test_what_ranks_cannot_share_is_refused_with_a_number_that_they_can():
    given = dataclasses.replace(TrainConfig(), optim=dataclasses.replace(TrainConfig().optim, batch_size=0))
    assert batch_size_finder.provisional(given, world=4).optim.batch_size == 8
    with pytest.raises(InputError, match="--effective_batch 33"):
        batch_size_finder.provisional(given, world=3)


def test_a_resumed_run_keeps_its_choice_on_as_many_ranks():
    manifest = {"world_size": 2, "options": {"optim": {"batch_size": 4, "accumulation": 4}}}
    assert batch_size_finder.kept(manifest, world=2) == (4, 4)
    assert batch_size_finder.kept(manifest, world=1) is None and batch_size_finder.kept(None, world=2) is None


def test_trials_see_images_again_where_there_are_fewer(parts):
    trial = Trial(parts.stage, parts.data, precision="fp32", device=torch.device("cpu"))
    batch = trial._feeder.example(parts.stage, None, num_images=100)
    assert len(batch["image"]) == 100
    assert np.isclose(batch["scale"]["concept"], 1 / batch["concept"].isfinite().sum())
