"""A run may die anywhere: the same command resumes it and ends with the same bits, each point once."""

from __future__ import annotations

import json
import os
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from ended_run import STEP, ended, finished
from train_command import flags, train

from csr.training.checkpoints import checkpoint_folder

FEW = {
    "epochs_stage1": "2",
    "epochs_stage2": "2",
    "epochs_stage3": "2",
    "batch_size": "16",
}  # 3 steps an epoch
CLOCKS = ("seconds", "data_wait_s", "images_per_s", "features_s", "telemetry")
# LayerNorm and no BatchNorm: which images share a micro batch does not matter
VIT = {"model_name": "test_vit", "lr": "1e-4", "prototype_lr_scale": "0.1", "task_lr_scale": "1"}
ZERO_1 = {"zero_optimization": {"stage": 1, "overlap_comm": False, "contiguous_gradients": True}}


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("resume") / "results"


def records(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in record.items() if k not in CLOCKS} for record in lines]


def points(folder: Path) -> Counter[tuple[str, str, int]]:
    """How often each (rank, tag, step) stands in the TensorBoard files."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    return Counter(
        (file.parent.name, value.tag, event.step)
        for file in (folder / "tensorboard").glob("*/*")
        for event in EventFileLoader(str(file)).Load()
        for value in event.summary.value
        if not value.tag.startswith(("_hparams_", "hparam/"))
    )


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "final_model.pth", weights_only=True)


def assert_same(got: Path, expected: Path) -> None:
    one, other = weights(got), weights(expected)
    assert [n for n in other if not torch.equal(one[n], other[n])] == []
    for name in ("best_model_stage1.pth", "best_model_stage3.pth"):
        assert (got / name).read_bytes() == (expected / name).read_bytes(), name
    assert records(got) == records(expected)
    assert points(got) == points(expected)
    assert max(points(got).values()) == 1


def largest_difference(got: Path, expected: Path) -> float:
    one, other = weights(got), weights(expected)
    return max(float((one[n].float() - other[n].float()).abs().max()) for n in other)


@pytest.fixture(scope="module")
def whole(phantom_folder: Path, out: Path) -> Path:
    """An undisturbed run."""
    finished(*flags(phantom_folder, out, "--log_every", "2", exp_name="whole", **FEW))
    return out / "whole"


def disturbed(phantom: Path, out: Path, name: str, ends: list[tuple[str, str, int]], *more: str) -> Path:
    """The same command again and again, met by one end after another, then left to finish."""
    arguments = flags(phantom, out, "--log_every", "2", *more, exp_name=name, **FEW)
    for what, place, number in ends:
        done = ended(what, place, number, *arguments)
        expected = -9 if what == "KILL" else 75
        assert done.returncode == expected, (what, place, done.stdout[-500:], done.stderr)
    finished(*arguments)
    return out / name


@pytest.mark.dist
def test_a_run_killed_in_every_stage_ends_with_the_same_bits(phantom_folder, out, whole):
    ends = [("KILL", STEP, 5), ("KILL", STEP, 4), ("KILL", STEP, 8)]
    assert_same(disturbed(phantom_folder, out, "killed", ends), whole)


@pytest.mark.slow
@pytest.mark.dist
def test_a_signal_in_training_features_or_test_saves_exits_75_and_resumes(phantom_folder, out, whole):
    ends = [
        ("TERM", STEP, 4),
        ("USR1", "csr.training.validation:Validator._features", 1),
        ("INT", "csr.training.final_test:FinalTest.test", 1),
    ]
    assert_same(disturbed(phantom_folder, out, "signalled", ends), whole)


@pytest.mark.dist
@pytest.mark.slow
def test_on_a_cpu_deterministic_kernels_are_those_of_any_run(phantom_folder, out, whole):
    finished(
        *flags(phantom_folder, out, "--log_every", "2", "--deterministic", exp_name="deterministic", **FEW)
    )
    assert_same(out / "deterministic", whole)


@pytest.mark.dist
@pytest.mark.slow
def test_kills_in_the_middle_of_writing_and_between_stages_change_no_bit(phantom_folder, out, whole):
    ends = [
        ("KILL", "csr.training.checkpoints.checkpoint_folder:save_tensors", 1),
        ("KILL", "csr.training.checkpoints.saver:save_tensors", 1),
        ("KILL", "csr.training.checkpoints.checkpoint_folder:write_json", 3),
        ("KILL", "csr.training.checkpoints.checkpoint_folder:write_json", 4),
        ("KILL", "csr.training.validation:Validator.validate", 1),
        ("KILL", "csr.stages.prototype:PrototypeStage.begin", 1),
        ("KILL", "csr.training.checkpoints.checkpoint_folder:CheckpointFolder._prune", 1),
        ("KILL", "csr.training.validation:Validator.features", 1),
        ("KILL", "csr.training.checkpoints.checkpoint_folder:remove", 1),
        ("KILL", "csr.engine.engine:Engine.close", 1),
        ("KILL", STEP, 3),
        ("KILL", "csr.training.run:Run._check_reload", 1),
    ]
    assert_same(disturbed(phantom_folder, out, "often", ends, "--save_every", "2"), whole)


@pytest.mark.dist
@pytest.mark.slow
def test_signals_while_images_are_decoded_and_in_validation_exit_75(phantom_folder, out, whole, tmp_path):
    fresh = ("--image_cache", str(tmp_path / "images"))
    ends = [
        ("TERM", "csr.data.images.resize:resize_file", 9),
        ("TERM", "csr.training.validation:Validator.validate", 2),
    ]
    assert_same(disturbed(phantom_folder, out, "early", ends, *fresh), whole)


@pytest.mark.dist
@pytest.mark.slow
def test_a_second_interrupt_stops_at_once(phantom_folder, out):
    arguments = flags(phantom_folder, out, exp_name="twice", **FEW)
    assert ended("INT+INT", STEP, 2, *arguments).returncode == 130


@pytest.mark.dist
@pytest.mark.slow
def test_two_ranks_killed_and_signalled_end_with_the_bits_of_two_undisturbed(phantom_folder, out):
    changed = {**FEW, "batch_size": "8"}
    finished(*flags(phantom_folder, out, exp_name="pair", **changed), ranks=2)
    arguments = flags(phantom_folder, out, exp_name="pair-killed", **changed)
    for what, number in (("KILL", 5), ("TERM", 4), ("KILL", 6)):
        done = ended(what, STEP, number, *arguments, ranks=2)
        assert done.returncode != 0
        assert ("exitcode  : 75" in done.stderr) == (what == "TERM"), done.stderr
    finished(*arguments, ranks=2)
    assert_same(out / "pair-killed", out / "pair")
    assert {p.name[:5] for p in (out / "pair" / "logs").iterdir()} == {"rank0", "rank1"}


@pytest.mark.dist
@pytest.mark.slow
@pytest.mark.parametrize("before, after", [(2, 1), (1, 2), (2, 4)])
def test_another_number_of_ranks_resumes_with_the_same_windows(phantom_folder, out, before, after):
    changed = {**FEW, **VIT, "batch_size": str(16 // before)}
    if not (out / f"vit-{before}").is_dir():
        finished(*flags(phantom_folder, out, exp_name=f"vit-{before}", **changed), ranks=before)
    arguments = flags(phantom_folder, out, exp_name=f"vit-{before}-{after}", **changed)
    assert ended("TERM", STEP, 5, *arguments, ranks=before).returncode != 0
    done = finished(*arguments, ranks=after)
    assert "keep the effective batch of 16" in done.stdout
    got, expected = (records(out / name) for name in (f"vit-{before}-{after}", f"vit-{before}"))
    for one, other in zip(got, expected, strict=True):
        assert one["train_loss"] == pytest.approx(other["train_loss"], rel=1e-4), (one, other)
    assert largest_difference(out / f"vit-{before}-{after}", out / f"vit-{before}") < 1e-3


@pytest.mark.dist
@pytest.mark.slow
def test_zero_2_resumes_as_zero_1_and_back_with_the_same_bits(phantom_folder, out, whole, tmp_path):
    path = tmp_path / "zero1.json"
    path.write_text(json.dumps(ZERO_1))
    arguments = flags(phantom_folder, out, "--log_every", "2", exp_name="zero", **FEW)
    assert ended("TERM", STEP, 4, *arguments).returncode == 75
    assert ended("TERM", STEP, 4, *arguments, "--ds_config", str(path)).returncode == 75
    finished(*arguments)
    assert_same(out / "zero", whole)


@pytest.mark.dist
@pytest.mark.slow
def test_a_full_disk_is_reported_keeps_the_last_checkpoint_and_the_run_resumes_later(
    phantom_folder, out, whole, tmp_path
):
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    size = "size={}m".format
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", size(9), "tmpfs", str(disk)], check=False)
    if mounted.returncode:
        pytest.skip("this container may not mount")
    try:
        cache = str(out.parent / "image-cache")
        arguments = flags(phantom_folder, disk, "--log_every", "2", **{**FEW, "image_cache": cache})
        done = train(*arguments)
        assert done.returncode == 1
        assert done.stderr.count("No space left on device") == 1 and "Traceback" not in done.stderr
        assert checkpoint_folder.newest(disk / "csr_exp" / "checkpoints", pytest.fail) is not None
        subprocess.run(["mount", "-o", f"remount,{size(90)}", str(disk)], check=True)
        assert "resumes" in finished(*arguments).stdout
        assert_same(disk / "csr_exp", whole)
    finally:
        subprocess.run(["umount", str(disk)], check=True)
