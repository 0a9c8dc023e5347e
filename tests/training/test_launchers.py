"""Two ranks with half the batch each follow one rank with all of it, under both launchers, in fp32.

The backbone has BatchNorm, so its statistics have to run over all ranks. Steps are small: at the usual ones
Adam turns the rounding of gradients near zero into steps of full length, and the weights of
two runs part, whatever the ranks (another number of threads does the same to one process).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from train_command import flags, train

pytestmark = [pytest.mark.dist, pytest.mark.slow]
SMALL_STEPS = ("--lr", "1e-4", "--prototype_lr_scale", "1", "--task_lr_scale", "0.1", "--precision", "fp32")
CHECKPOINTS = ("best_model_stage1.pth", "model_stage2_epoch5.pth", "best_model_stage3.pth", "final_model.pth")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("launchers") / "results"


def run(phantom: Path, out: Path, launcher: str, batch_size: int) -> Path:
    boxes = str(phantom / "boxes_train.csv")
    arguments = flags(
        phantom,
        out,
        *SMALL_STEPS,
        "--boxes_csv",
        boxes,
        "--log_every",
        "1",
        exp_name=launcher,
        batch_size=str(batch_size),
    )
    done = train(*arguments, launcher=launcher)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("=== Test set: 24 images") == 1, "printed by rank 0 alone"
    return out / launcher


@pytest.fixture(scope="module")
def alone(phantom_folder: Path, out: Path) -> Path:
    return run(phantom_folder, out, "none", 16)


@pytest.fixture(scope="module", params=["torchrun", "deepspeed"])
def pair(request: pytest.FixtureRequest, phantom_folder: Path, out: Path) -> Path:
    return run(phantom_folder, out, request.param, 8)


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_two_ranks_follow_one(alone, pair):
    expected, got = records(alone), records(pair)
    assert [(r["stage"], r["epoch"], r["step"]) for r in got] == [
        (r["stage"], r["epoch"], r["step"]) for r in expected
    ]
    for one, two in zip(expected, got):
        where = f"{one['stage']} epoch {one['epoch']}"
        # float32 sums in another order: the contrastive loss multiplies cosines by 20 and is about 4 here
        assert two["train_loss"] == pytest.approx(one["train_loss"], rel=2e-5, abs=1e-5), where
        if "val_loss" in one:
            assert two["val_loss"] == pytest.approx(one["val_loss"], rel=2e-5, abs=1e-5), where
            for name in ("auc", "map", "f1_macro", "f1_micro"):
                assert two[name] == pytest.approx(one[name], abs=1e-6), f"{where} {name}"
        else:
            assert two["prototypes_alive"] == one["prototypes_alive"], where


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_two_ranks_end_with_the_weights_of_one(alone, pair, name):
    one, two = (torch.load(folder / name, weights_only=True) for folder in (alone, pair))
    assert list(one) == list(two)
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, atol=1e-3, rtol=1e-3, msg=lambda m, k=key: f"{k}: {m}")


def test_two_ranks_measure_what_one_measures_on_the_test_images(alone, pair):
    one, two = (json.loads((folder / "results.json").read_text()) for folder in (alone, pair))
    assert two["num_images"] == one["num_images"] == 24
    assert two["summary"] == pytest.approx(one["summary"], abs=1e-6)


def test_each_rank_has_a_board_of_its_own_and_rank_0_the_gathered_metrics(pair):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folders = sorted((pair / "tensorboard").iterdir())
    assert [f.name.split("-")[0] for f in folders] == ["rank0", "rank1"]
    main, other = (EventAccumulator(str(f)).Reload().Tags() for f in folders)
    for tags in (main, other):
        own = {
            "concept/images_per_s",
            "concept/memory_mib",
            "concept/data_wait_s",
            "concept_time/compute_share",
        }
        assert own <= set(tags["scalars"])
    shared = {"concept/loss", "concept/gradient_norm", "concept_epoch/auc", "concept_ranks/memory_mib/min"}
    assert shared <= set(main["scalars"]) and not shared & set(other["scalars"])
    assert main["images"] and not other["images"]


def test_points_of_losses_on_two_ranks_are_those_of_one(alone, pair):
    one, two = (losses_on_board(folder) for folder in (alone, pair))
    assert list(one) == list(two) and len(one["concept/loss"]) == len({s for s, _ in one["concept/loss"]})
    for tag, points in one.items():
        assert [step for step, _ in two[tag]] == [step for step, _ in points]
        assert [v for _, v in two[tag]] == pytest.approx([v for _, v in points], rel=1e-4), tag


def losses_on_board(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (rank0,) = (folder / "tensorboard").glob("rank0-*")
    events = EventAccumulator(str(rank0), size_guidance={"scalars": 0}).Reload()
    tags = sorted(t for t in events.Tags()["scalars"] if t.endswith("loss"))
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in tags}
