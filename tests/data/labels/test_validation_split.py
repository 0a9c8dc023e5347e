"""The validation split: stratified, by patient, the same on every rank."""

import time

import numpy as np
import pytest
from label_tables import table_of

from csr.data.labels.validation_split import MIN_GROUPS_FOR_BOTH, split_validation
from csr.runtime.errors import InputError


@pytest.mark.parametrize("seed", range(5))
def test_every_label_is_split_close_to_the_fraction(seed):
    rng = np.random.default_rng(seed)
    rate_L = np.array([0.01, 0.02, 0.05, 0.2, 0.5])
    label_NL = rng.random((1000, 5)) < rate_L
    train, val = split_validation(table_of(label_NL), fraction=0.1, seed=seed)
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
    train, val = split_validation(table_of(label_NL), fraction=0.1, seed=seed)
    assert label_NL[train].sum(0)[0] == 1
    assert (label_NL[train].sum(0)[1:] >= 1).all()
    assert (label_NL[val].sum(0)[2:] >= 1).all()


@pytest.mark.parametrize("fraction", [0.05, 0.3, 0.5, 0.8])
@pytest.mark.parametrize("seed", range(5))
def test_no_label_with_two_positives_vanishes_from_training(fraction, seed):
    rng = np.random.default_rng(seed)
    label_NL = rng.random((40, 12)) < 0.12
    train, val = split_validation(table_of(label_NL), fraction=fraction, seed=seed)
    assert (label_NL[train].sum(0)[label_NL.sum(0) >= 1] >= 1).all()
    assert len(train) and len(val)


def test_images_of_one_patient_stay_together_and_unknown_patients_are_apart():
    rng = np.random.default_rng(0)
    patients = tuple(f"p{n // 4}" if n < 160 else "" for n in range(200))
    label_NL = rng.random((200, 3)) < 0.2
    train, val = split_validation(table_of(label_NL, patients=patients), fraction=0.2, seed=1)
    of = np.array(patients)
    assert not ({*of[train]} & {*of[val]}) - {""}
    assert "" in {*of[train]} & {*of[val]}
    assert abs(len(val) - 40) <= 6


def test_the_seed_decides_and_nothing_else():
    label_NL = np.random.default_rng(3).random((100, 4)) < 0.3
    first = split_validation(table_of(label_NL), fraction=0.1, seed=5)[1]
    np.testing.assert_array_equal(first, split_validation(table_of(label_NL), fraction=0.1, seed=5)[1])
    assert first.tolist() != split_validation(table_of(label_NL), fraction=0.1, seed=6)[1].tolist()


def test_missing_labels_do_not_count_as_positives():
    label_NL = np.full((10, 2), np.nan)
    train, val = split_validation(table_of(label_NL), fraction=0.1, seed=0)
    assert (len(train), len(val)) == (9, 1)


def test_two_images_give_one_for_each_side_and_one_image_is_refused():
    assert [len(side) for side in split_validation(table_of([[1], [0]]), fraction=0.1, seed=0)] == [1, 1]
    with pytest.raises(InputError, match="cannot be split"):
        split_validation(table_of([[1]]), fraction=0.1, seed=0)
    with pytest.raises(InputError, match="between 0 and 1"):
        split_validation(table_of([[1], [0]]), fraction=1.0, seed=0)


# the same steps with every count made anew from all rows, as they were first written


def slow_split(label_NL, patients, fraction, seed):
    keys = [patient or (n,) for n, patient in enumerate(patients or [""] * len(label_NL))]
    number = {key: place for place, key in enumerate(dict.fromkeys(keys))}
    group_N = np.array([number[key] for key in keys])
    count_GL = np.zeros((len(number), label_NL.shape[1]), dtype=np.int64)
    np.add.at(count_GL, group_N, label_NL > 0)
    size_G = np.bincount(group_N)
    side_G = slow_stratify(count_GL, size_G, fraction, np.random.default_rng(seed))
    slow_repair(side_G, count_GL > 0, size_G)
    return np.flatnonzero(side_G[group_N])


def slow_stratify(
    count_GL: np.ndarray, size_G: np.ndarray, fraction: float, rng: np.random.Generator
) -> np.ndarray:
    # The last column stands for 'an image': it takes groups without labels and sets the size.
    count_GL = np.concatenate([count_GL, size_G[:, None]], axis=1)
    wanted_L = fraction * count_GL.sum(0)
    free_G = np.ones(len(count_GL), dtype=bool)
    side_G = np.zeros(len(count_GL), dtype=bool)
    while free_G.any():
        left_L = (count_GL[free_G] > 0).sum(0)
        label = int(np.argmin(np.where(left_L > 0, left_L, len(count_GL) + 1)))
        group_F = rng.permutation(np.flatnonzero(free_G & (count_GL[:, label] > 0)))
        missing = wanted_L[label] - count_GL[side_G, label].sum()
        # Groups are taken while half of the next one still fits: the nearest to what is missing.
        amount_F = count_GL[group_F, label]
        taken_F = np.cumsum(amount_F) - amount_F / 2 <= missing
        side_G[group_F[taken_F]] = True
        free_G[group_F] = False
    return side_G


def slow_repair(side_G: np.ndarray, has_GL: np.ndarray, size_G: np.ndarray) -> None:
    has_GL = np.concatenate([has_GL, np.ones((len(has_GL), 1), dtype=bool)], axis=1)
    total_L = has_GL.sum(0)
    order_L = np.argsort(total_L, kind="stable")
    for label in order_L:  # validation first: what training must keep is settled last
        # A side as a whole (the last column) needs one group each, however few there are.
        least = 2 if label == len(total_L) - 1 else MIN_GROUPS_FOR_BOTH
        if total_L[label] >= least and not has_GL[side_G, label].any():
            spare_G = ~has_GL[:, (has_GL[~side_G].sum(0) < 2)].any(1)
            slow_move(side_G, ~side_G & has_GL[:, label] & spare_G, size_G)
    for label in order_L:
        if total_L[label] >= 1 and not has_GL[~side_G, label].any():
            slow_move(side_G, side_G & has_GL[:, label], size_G)


def slow_move(side_G: np.ndarray, candidate_G: np.ndarray, size_G: np.ndarray) -> None:
    candidates = np.flatnonzero(candidate_G)
    if len(candidates):
        chosen = candidates[np.argmin(size_G[candidates])]
        side_G[chosen] = ~side_G[chosen]


@pytest.mark.parametrize("seed", range(40))
def test_the_split_is_that_of_counts_made_anew_at_every_step(seed):
    rng = np.random.default_rng(seed)
    num, labels = int(rng.integers(30, 400)), int(rng.integers(1, 40))
    label_NL = (rng.random((num, labels)) < rng.uniform(0.005, 0.4, labels)).astype(np.float32)
    label_NL[rng.random((num, labels)) < 0.1] = np.nan
    patients = None if seed % 2 else tuple(f"p{n}" if n else "" for n in rng.integers(0, num // 3, num))
    fraction = float(rng.choice([0.02, 0.1, 0.3, 0.6]))
    expected = slow_split(np.nan_to_num(label_NL), patients, fraction, seed)
    if not len(expected):
        with pytest.raises(InputError, match="no image can be kept"):
            split_validation(table_of(label_NL, patients=patients), fraction=fraction, seed=seed)
        return
    got = split_validation(table_of(label_NL, patients=patients), fraction=fraction, seed=seed)[1]
    np.testing.assert_array_equal(got, expected)


def test_many_labels_take_a_fraction_of_the_time_of_counts_made_anew():
    rng = np.random.default_rng(0)
    label_NL = (rng.random((4000, 400)) < rng.uniform(1e-3, 0.05, 400)).astype(np.float32)
    table, spent = table_of(label_NL), []
    for _ in range(3):  # the first pays for what is cold
        begin = time.process_time()
        got = split_validation(table, fraction=0.1, seed=0)[1]
        spent.append(time.process_time() - begin)
    begin = time.process_time()
    expected = slow_split(label_NL, None, 0.1, 0)
    whole = time.process_time() - begin
    assert min(spent) < whole / 4  # a thirtieth or less where nothing else runs
    np.testing.assert_array_equal(got, expected)
