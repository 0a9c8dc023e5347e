"""Variants of a run: the same seed, caches, boxes, a dry run."""

from __future__ import annotations

import pytest
import torch
from run_results import board, records, weights
from train_command import contents

pytestmark = pytest.mark.dist


def test_two_runs_of_one_seed_end_with_the_same_weights_bit_for_bit(run, results, variants):
    for name in ("best_model_stage1.pth", "model_stage2_epoch5.pth", "final_model.pth"):
        one, two = weights(run, name), weights(results / "replaced", name)
        assert all(torch.equal(one[k], two[k]) for k in one), name


def test_overwrite_replaces_what_csr_wrote_and_leaves_other_files(results, variants):
    assert len(records(results / "replaced")) == 9
    assert (results / "replaced" / "notes.txt").read_text() == "of a colleague"


def test_cached_features_give_the_numbers_that_images_give(results, variants):
    cached, decoded = records(results / "memory"), records(results / "off")
    assert [r["train_loss"] for r in cached] == pytest.approx([r["train_loss"] for r in decoded], abs=1e-4)
    val_cached, val_decoded = ([r["val_loss"] for r in x if "val_loss" in r] for x in (cached, decoded))
    assert val_cached == pytest.approx(val_decoded, abs=1e-4)
    for name, value in weights(results / "memory", "final_model.pth").items():
        torch.testing.assert_close(
            value, weights(results / "off", "final_model.pth")[name], atol=1e-2, rtol=1e-3, msg=name
        )


def test_a_table_of_boxes_turns_on_box_supervision(run, results, variants):
    boxed = board(results / "boxes")
    values = [e.value for e in boxed.Scalars("concept/box_loss")]
    assert len(values) == 6 and min(values) > 0
    assert "concept/box_loss" not in board(run).Tags()["scalars"]
    assert records(results / "boxes")[0]["train_loss"] > records(run)[0]["train_loss"]


def test_a_dry_run_reports_what_it_checked_and_leaves_no_results(results, variants):
    printed = variants.split(">>>")[-1]
    assert "40 training, 8 validation, 24 test images" in printed
    assert [f"=== Stage {n}/3" in printed for n in (1, 2, 3)] == [True] * 3
    assert "Dry run done: data, model, one step of every stage, saving and loading work." in printed
    assert not (results / "dry").exists()
    assert contents(results)  # the others' results are still there
