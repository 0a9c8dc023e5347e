"""Folds: each image validates once, patients together, labels spread evenly."""

import numpy as np
import pytest
from label_tables import table_of

from csr.data.labels.folds import ALWAYS_TRAINING, fold_of_images
from csr.data.labels.validation_split import split_validation
from csr.data.training_split import split_training
from csr.runtime.errors import InputError


@pytest.mark.parametrize("folds", [2, 5, 10])
@pytest.mark.parametrize("seed", range(3))
def test_labels_and_images_spread_evenly_over_the_folds(folds, seed):
    draw = np.random.default_rng(seed)
    label_NL = draw.random((1000, 6)) < np.array([0.012, 0.02, 0.05, 0.2, 0.5, 0.97])
    fold_N = fold_of_images(table_of(label_NL), folds=folds, seed=seed)
    assert fold_N.dtype == np.int64 and set(fold_N) == set(range(folds))
    for fold in range(folds):
        here = fold_N == fold
        assert abs(here.sum() - 1000 / folds) <= 6
        np.testing.assert_allclose(label_NL[here].sum(0), label_NL.sum(0) / folds, atol=4)
    # the rarest label is settled first, and as evenly as whole images allow
    counts = np.bincount(fold_N[label_NL[:, 0]], minlength=folds)
    assert counts.max() - counts.min() <= 1


def test_patients_stay_together_and_unknown_ones_are_apart():
    draw = np.random.default_rng(0)
    patients = tuple(f"p{n // draw.integers(2, 6)}" if n < 160 else "" for n in range(200))
    label_NL = draw.random((200, 3)) < 0.3
    fold_N = fold_of_images(table_of(label_NL, patients=patients), folds=4, seed=1)
    of = np.array(patients)
    for patient in set(patients) - {""}:
        assert len(set(fold_N[of == patient])) == 1
    assert len(set(fold_N[of == ""])) == 4
    assert np.ptp(np.bincount(fold_N, minlength=4)) <= 6


def test_every_fold_is_a_split_of_all_images_and_no_image_validates_twice():
    table = table_of(np.random.default_rng(2).random((90, 4)) < 0.3)
    sides = [split_training(table, fraction=0.1, seed=3, folds=5, fold=fold) for fold in (4, 0, 2, 1, 3)]
    assert sorted(np.concatenate([val for _, val in sides])) == list(range(90))
    for train, val in sides:
        assert sorted([*train, *val]) == list(range(90))
        assert (np.diff(train) > 0).all() and (np.diff(val) > 0).all()


def test_the_seed_and_the_number_of_folds_decide_and_nothing_else():
    label_NL = np.random.default_rng(3).random((120, 4)) < 0.3
    first = fold_of_images(table_of(label_NL), folds=5, seed=0)
    np.testing.assert_array_equal(first, fold_of_images(table_of(label_NL), folds=5, seed=0))
    assert first.tolist() != fold_of_images(table_of(label_NL), folds=5, seed=1).tolist()


@pytest.mark.parametrize("seed", range(30))
def test_training_lacks_no_label_in_any_fold(seed):
    draw = np.random.default_rng(seed)
    label_NL = draw.random((60, 12)) < draw.choice([0.02, 0.04, 0.1], 12)
    label_NL[0] = [True] + [False] * 11  # of one image alone
    label_NL[1:, 0] = False
    patients = tuple(f"p{n}" for n in draw.integers(0, 40, 60))
    table = table_of(label_NL, patients=patients)
    fold_N = fold_of_images(table, folds=3, seed=seed)
    assert fold_N[0] == ALWAYS_TRAINING
    for fold in range(3):
        train, val = split_training(table, fraction=0.1, seed=seed, folds=3, fold=fold)
        assert label_NL[train].any(0)[label_NL.any(0)].all() and len(val)
    # only what must be is in no fold: groups that are the last of a label
    held = {patients[n] for n in np.flatnonzero(fold_N == ALWAYS_TRAINING)}
    groups = [{patients[n] for n in np.flatnonzero(column)} for column in label_NL.T]
    alone = set().union(*(g for g in groups if len(g) == 1))
    assert alone <= held and len(held - alone) <= 1


def test_too_few_images_are_refused_and_no_folds_means_the_fraction():
    table = table_of(np.eye(6))
    with pytest.raises(InputError, match="t.csv: 0 images or patients can validate, too few for 5 folds"):
        fold_of_images(table, folds=5, seed=0)
    with pytest.raises(InputError, match="too few for 5 folds"):
        fold_of_images(table_of([[1]] * 4), folds=5, seed=0)
    assert sorted(fold_of_images(table_of([[1]] * 5), folds=5, seed=0)) == [0, 1, 2, 3, 4]
    table = table_of(np.random.default_rng(0).random((50, 2)) < 0.4)
    for one, other in zip(
        split_training(table, fraction=0.2, seed=4), split_validation(table, fraction=0.2, seed=4)
    ):
        np.testing.assert_array_equal(one, other)
