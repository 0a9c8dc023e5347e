"""Metrics against scikit-learn and counts by hand."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from csr.evaluation.metrics import multilabel_metrics
from csr.evaluation.test_table import results_record, table_lines


@pytest.fixture
def case() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    return generator.random((40, 3)), generator.integers(0, 2, (40, 3)).astype(np.float32)


def test_without_masks_the_numbers_are_scikit_learns(case):
    probability, label = case
    got = multilabel_metrics(probability, label, names="abc")
    assert got.auc == pytest.approx(roc_auc_score(label, probability, average="macro"))
    assert got.mean_ap == pytest.approx(average_precision_score(label, probability, average="macro"))
    assert got.f1_macro == pytest.approx(f1_score(label, probability >= 0.5, average="macro"))
    assert got.f1_micro == pytest.approx(f1_score(label, probability >= 0.5, average="micro"))


def test_masked_entries_count_nowhere(case):
    probability, label = case
    masked = label.copy()
    masked[:10, 1] = np.nan
    got = multilabel_metrics(probability, masked, names="abc")
    assert got.auc_by_label["b"] == pytest.approx(roc_auc_score(label[10:, 1], probability[10:, 1]))
    assert got.auc_by_label["a"] == pytest.approx(roc_auc_score(label[:, 0], probability[:, 0]))
    known = ~np.isnan(masked)
    assert got.f1_micro == pytest.approx(f1_score(label[known], probability[known] >= 0.5))


def test_a_label_with_one_class_has_no_auc_and_is_left_out_of_the_mean(case):
    probability, label = case
    label[:, 2] = 0
    got = multilabel_metrics(probability, label, names="abc")
    assert np.isnan(got.auc_by_label["c"])
    assert got.auc == pytest.approx(np.mean([got.auc_by_label["a"], got.auc_by_label["b"]]))


def test_soft_labels_count_from_one_half():
    got = multilabel_metrics(np.array([[0.9], [0.1], [0.8]]), np.array([[0.5], [0.33], [1.0]]), names="a")
    assert got.auc == 1.0 and got.f1_macro == 1.0


def test_a_label_that_every_image_has_is_no_part_of_the_mean_average_precision():
    truth = np.array([[1, 1], [0, 1], [1, 1], [0, 1]], dtype=np.float32)
    probability = np.array([[0.1, 0.9], [0.9, 0.8], [0.2, 0.7], [0.8, 0.6]], dtype=np.float32)
    found = multilabel_metrics(probability, truth, names=("a", "all"))
    assert np.isnan(found.ap_by_label["all"])
    # the two positives come last of four: (1/3 + 2/4) / 2
    assert found.mean_ap == pytest.approx((1 / 3 + 2 / 4) / 2)


def test_a_printed_table_is_cut_and_says_where_the_rest_is():
    rng = np.random.default_rng(0)
    label = (rng.random((30, 150)) < 0.5).astype(np.float32)
    many = multilabel_metrics(rng.random((30, 150)), label, names=[f"c{i}" for i in range(150)])
    few = multilabel_metrics(rng.random((30, 2)), label[:, :2], names=["a", "b"])
    lines = table_lines(many, few)
    assert [line.split()[0] for line in lines[1:102]] == [*(f"c{i}" for i in range(100)), ".."]
    assert lines[101] == ".. 50 more: results.json" and lines[102].startswith("macro")
    assert len(results_record(many, few, num_images=30)["concepts"]) == 150
