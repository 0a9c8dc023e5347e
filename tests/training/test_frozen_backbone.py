"""`--train_backbone none`: maps that are computed once give stage 1 the numbers of computing them anew."""

from __future__ import annotations

import json

import pytest
import torch
from train_command import flags, train

from csr.config.flags import parse_train_flags
from csr.runtime.errors import InputError

SAME_STEPS = ("--lr", "1e-3", "--augment", "none", "--train_backbone", "none", "--log_every", "1")


def losses(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [(r["stage"], r["train_loss"], r.get("val_loss") or 0.0) for r in map(json.loads, lines)]


def run(phantom, out, name, *more, launcher=None, **changed):
    boxes = ("--boxes_csv", str(phantom / "boxes_train.csv"))
    given = flags(phantom, out, *SAME_STEPS, *boxes, *more, exp_name=name, **changed)
    done = train(*given) if launcher is None else train(*given, launcher=launcher)
    assert done.returncode == 0, done.stderr[-2000:]
    return done, out / name


def assert_near(got, expected, tolerance=1e-5):
    assert len(got) == len(expected) > 0
    for one, two in zip(got, expected, strict=True):
        assert one[0] == two[0]
        assert one[1:] == pytest.approx(two[1:], rel=tolerance, abs=tolerance), one[0]


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("frozen") / "results"


@pytest.fixture(scope="module")
def computed(phantom_folder, out):
    """Return a run that computes the maps in every step."""
    return run(phantom_folder, out, "computed", "--cache", "off")[1]


@pytest.mark.parametrize("cache", ["memory", "disk"])
def test_cached_maps_give_the_same_losses_and_weights(cache, computed, phantom_folder, out):
    done, folder = run(phantom_folder, out, cache, "--cache", cache)
    assert "Features (train): computed" in done.stdout.split("Stage 2/3")[0]
    assert_near(losses(folder), losses(computed))
    expected, got = (torch.load(f / "final_model.pth", weights_only=True) for f in (computed, folder))
    for key, value in expected.items():
        if key.startswith("backbone."):
            assert torch.equal(got[key], value), key


def test_maps_in_fp16_are_near(computed, phantom_folder, out):
    _, folder = run(phantom_folder, out, "fp16", "--cache_dtype", "fp16")
    first = [r for r in losses(folder) if r[0] == "concept"]
    assert_near(first, [r for r in losses(computed) if r[0] == "concept"], tolerance=2e-3)


@pytest.mark.slow
@pytest.mark.dist
def test_two_ranks_give_the_losses_of_one(computed, phantom_folder, out):
    steps = ("--lr", "1e-4", "--prototype_lr_scale", "1", "--task_lr_scale", "0.1")
    _, one = run(phantom_folder, out, "one", *steps)
    _, two = run(phantom_folder, out, "two", *steps, launcher="torchrun", batch_size="8")
    assert_near(losses(two), losses(one), tolerance=1e-4)


@pytest.mark.slow
def test_boxes_count_in_cached_maps_and_augmented_views(phantom_folder, out):
    views = ("--augment", "light", "--cache_views", "2")
    _, with_boxes = run(phantom_folder, out, "boxes", *views, "--box_weight", "5")
    _, without = run(phantom_folder, out, "no-boxes", *views, "--box_weight", "0")
    first = [losses(folder)[0][1] for folder in (with_boxes, without)]
    assert first[0] > first[1] + 0.1


@pytest.mark.slow
def test_another_box_makes_other_masks_in_a_cache_on_disk(phantom_folder, out, tmp_path):
    """Same images, labels and weights: what was cached for other boxes is not served."""
    boxes = (phantom_folder / "boxes_train.csv").read_text().splitlines()
    head = boxes[0].split(",")
    whole = [line.split(",") for line in boxes[1:]]
    for cells in whole:
        for name in ("x_min", "y_min"):
            cells[head.index(name)] = "0"
    moved = tmp_path / "boxes.csv"
    moved.write_text("\n".join([boxes[0], *(",".join(cells) for cells in whole)]) + "\n")
    kept = ("--cache", "disk", "--cache_dir", str(tmp_path / "features"), "--box_weight", "5")
    _, first = run(phantom_folder, out, "boxes-first", *kept)
    done, second = run(phantom_folder, out, "boxes-moved", *kept, "--boxes_csv", str(moved))
    _, anew = run(phantom_folder, out, "boxes-anew", "--cache", "off", *kept[4:], "--boxes_csv", str(moved))
    assert "Features (train): computed" in done.stdout.split("Stage 2/3")[0]
    assert_near(losses(second), losses(anew))
    assert abs(losses(first)[0][1] - losses(second)[0][1]) > 0.01


@pytest.mark.parametrize("words", [["last"], ["last", "0"], ["last", "x"], ["all", "none"], ["some"]])
def test_a_part_that_there_is_not_is_refused(words):
    with pytest.raises(InputError, match="--train_backbone"):
        parse_train_flags(["--train_backbone", *words])


@pytest.mark.parametrize("flag", ["--layer_decay", "--backbone_lr_scale"])
def test_rates_of_a_frozen_backbone_are_refused(flag):
    with pytest.raises(InputError, match="does nothing with --train_backbone none"):
        parse_train_flags(["--train_backbone", "none", flag, "0.5"])
