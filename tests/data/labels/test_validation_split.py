"""The validation split: stratified, by patient, the same on every rank."""

import numpy as np
import pytest

from csr.data.labels.table import LabelTable
from csr.data.labels.validation_split import split_validation
from csr.runtime.errors import InputError


def make_table(label_NL, patients=None) -> LabelTable:
    label_NL = np.asarray(label_NL, dtype=np.float32)
    num = len(label_NL)
    return LabelTable(
        path="t.csv",
        image_ids=tuple(f"i{n}" for n in range(num)),
        concept_names=tuple(f"c{n}" for n in range(label_NL.shape[1])),
        target_names=(),
        concept_NK=label_NL,
        target_NT=np.zeros((num, 0), dtype=np.float32),
        row_numbers=tuple(range(2, num + 2)),
        patient_ids=patients,
        num_readers_N=np.ones(num, dtype=np.int64),
    )


@pytest.mark.parametrize("seed", range(5))
def test_every_label_is_split_close_to_the_fraction(seed):
    rng = np.random.default_rng(seed)
    rate_L = np.array([0.01, 0.02, 0.05, 0.2, 0.5])
    label_NL = rng.random((1000, 5)) < rate_L
    train, val = split_validation(make_table(label_NL), fraction=0.1, seed=seed)
    assert sorted([*train, *val]) == list(range(1000))
    assert (np.diff(train) > 0).all() and (np.diff(val) > 0).all()
    assert train.dtype == val.dtype == np.int64
    assert abs(len(val) - 100) <= 5
    positives_L = label_NL.sum(0)
    np.testing.assert_allclose(label_NL[val].sum(0), 0.1 * positives_L, atol=3)


@pytest.mark.parametrize("seed", range(20))
def test_rare_labels_are_on_both_sides_and_the_rarest_in_training(seed):
    label_NL = np.zeros((60, 4))
    label_NL[0, 0] = 1  # one positive
    label_NL[[1, 2], 1] = 1  # two
    label_NL[[3, 4, 5], 2] = 1  # three
    label_NL[6:12, 3] = 1  # six
    train, val = split_validation(make_table(label_NL), fraction=0.1, seed=seed)
    assert label_NL[train].sum(0)[0] == 1
    assert (label_NL[train].sum(0)[1:] >= 1).all()
    assert (label_NL[val].sum(0)[2:] >= 1).all()


@pytest.mark.parametrize("fraction", [0.05, 0.3, 0.5, 0.8])
@pytest.mark.parametrize("seed", range(5))
def test_no_label_with_two_positives_vanishes_from_training(fraction, seed):
    rng = np.random.default_rng(seed)
    label_NL = rng.random((40, 12)) < 0.12
    train, val = split_validation(make_table(label_NL), fraction=fraction, seed=seed)
    assert (label_NL[train].sum(0)[label_NL.sum(0) >= 1] >= 1).all()
    assert len(train) and len(val)


def test_images_of_one_patient_stay_together_and_unknown_patients_are_apart():
    rng = np.random.default_rng(0)
    patients = tuple(f"p{n // 4}" if n < 160 else "" for n in range(200))
    label_NL = rng.random((200, 3)) < 0.2
    train, val = split_validation(make_table(label_NL, patients), fraction=0.2, seed=1)
    of = np.array(patients)
    assert not ({*of[train]} & {*of[val]}) - {""}
    assert "" in {*of[train]} & {*of[val]}
    assert abs(len(val) - 40) <= 6


def test_the_seed_decides_and_nothing_else():
    label_NL = np.random.default_rng(3).random((100, 4)) < 0.3
    first = split_validation(make_table(label_NL), fraction=0.1, seed=5)[1]
    np.testing.assert_array_equal(first, split_validation(make_table(label_NL), fraction=0.1, seed=5)[1])
    assert first.tolist() != split_validation(make_table(label_NL), fraction=0.1, seed=6)[1].tolist()


def test_missing_labels_do_not_count_as_positives():
    label_NL = np.full((10, 2), np.nan)
    train, val = split_validation(make_table(label_NL), fraction=0.1, seed=0)
    assert (len(train), len(val)) == (9, 1)


def test_two_images_give_one_for_each_side_and_one_image_is_refused():
    assert [len(side) for side in split_validation(make_table([[1], [0]]), fraction=0.1, seed=0)] == [1, 1]
    with pytest.raises(InputError, match="cannot be split"):
        split_validation(make_table([[1]]), fraction=0.1, seed=0)
    with pytest.raises(InputError, match="between 0 and 1"):
        split_validation(make_table([[1], [0]]), fraction=1.0, seed=0)
