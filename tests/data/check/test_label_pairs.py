"""Pairs of labels against loops over images, and twins by hand."""

import numpy as np
import pytest

from csr.data.check import label_pairs
from csr.data.check.label_pairs import pair_counts, twin_warnings, twins
from csr.data.labels.table import LabelTable


def table_of(concept_NK, target_NT, concepts, targets):
    num = len(concept_NK)
    ids = tuple(str(n) for n in range(num))
    labels = (np.asarray(concept_NK, dtype=np.float32), np.asarray(target_NT, dtype=np.float32))
    rows = tuple(range(2, num + 2))
    return LabelTable("t.csv", ids, concepts, targets, *labels, rows, None, np.ones(num, dtype=np.int64))


def test_counts_equal_a_loop_with_empty_and_soft_cells(monkeypatch):
    monkeypatch.setattr(label_pairs, "_ROWS", 7)
    rng = np.random.default_rng(0)
    value_NL = rng.choice([0.0, 1.0, np.nan, 0.3, 0.7], (40, 5))
    both_LL, either_LL = pair_counts(table_of(value_NL[:, :3], value_NL[:, 3:], ("a", "b", "c"), ("d", "e")))
    for i in range(5):
        for j in range(5):
            both = either = 0
            for one, other in zip(value_NL[:, i], value_NL[:, j], strict=True):
                both += bool(one >= 0.5 and other >= 0.5)
                known = not np.isnan(one) and not np.isnan(other)
                either += bool(known and (one >= 0.5 or other >= 0.5))
            assert (both_LL[i, j], either_LL[i, j]) == (both, either)


def test_a_concept_that_is_a_diagnosis_or_another_concept_is_named():
    num = 100
    emphysema = np.arange(num) < 33
    copd = (np.arange(num) >= 1) & (np.arange(num) < 33)  # 32 of 33: 97 %
    other = np.arange(num) % 3 == 0
    nearly = other.copy()
    nearly[:15] = False  # 29 of 34: 85 %
    concepts = np.stack([emphysema, other, other, nearly], axis=1)
    targets = np.stack([copd, ~other], axis=1)
    table = table_of(concepts, targets, ("Emphysema", "Edema", "Oedema", "Opacity"), ("COPD", "Healthy"))
    found = twins(table, *pair_counts(table))
    assert [(one["concept"], one["other"], one["kind"]) for one in found] == [
        ("Edema", "Oedema", "concept"),
        ("Emphysema", "COPD", "target"),
    ]
    assert found[1]["share"] == pytest.approx(32 / 33) and (found[1]["both"], found[1]["either"]) == (32, 33)
    same, diagnosis = twin_warnings(found)
    assert "'Edema' = 'Oedema' in 100% of the 34 images with either" in same
    assert "'Emphysema' = 'COPD' in 97% of the 33 images with either" in diagnosis


def test_few_images_and_two_diagnoses_are_no_twins():
    few = np.arange(100)[:, None] < 4
    targets = np.repeat(np.arange(100)[:, None] < 50, 2, axis=1)
    table = table_of(np.repeat(few, 2, axis=1), targets, ("a", "b"), ("c", "d"))
    assert twins(table, *pair_counts(table)) == []
