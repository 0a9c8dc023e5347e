"""The images of a learning curve: nested, stratified, patients together, validation untouched."""

import numpy as np
import pytest
from label_tables import table_of

from csr.data.nested_order import first_images, nested_order
from csr.data.training_split import split_training
from csr.runtime.errors import InputError

RATES = np.array([0.012, 0.03, 0.1, 0.4, 0.9])


def make_table(label_NL, patients=None):
    """All labels but the last are concepts, the last is the target."""
    label_NL = np.asarray(label_NL)
    return table_of(label_NL[:, :-1], label_NL[:, -1:], patients=patients)


@pytest.mark.parametrize("seed", range(3))
def test_smaller_numbers_are_parts_of_larger_ones_and_validation_stays(seed):
    draw = np.random.default_rng(seed)
    table = make_table(draw.random((400, 5)) < RATES)
    split = dict(fraction=0.1, seed=seed)
    everything, val = split_training(table, **split)
    earlier: set[int] = set()
    for number in (50, 51, 100, 200, len(everything)):
        train, val_too = split_training(table, **split, num_images=number)
        assert len(train) == number and list(train) == sorted(set(train))
        assert earlier < set(train.tolist()) <= set(everything.tolist())
        np.testing.assert_array_equal(val_too, val)
        earlier = set(train.tolist())
    np.testing.assert_array_equal(train, everything)
    folded = [split_training(table, **split, folds=4, fold=1, num_images=n)[0] for n in (60, 120)]
    assert set(folded[0].tolist()) < set(folded[1].tolist())


def test_every_prefix_has_the_labels_of_all_images_more_evenly_than_chance_would():
    draw = np.random.default_rng(0)
    label_NL = draw.random((2000, 5)) < RATES
    off, by_chance = [], []
    for seed in range(5):
        order = nested_order(label_NL.astype(np.int64), seed=seed)
        assert sorted(order.tolist()) == list(range(2000))
        for number in (100, 150, 333, 512, 1000, 1500):
            wanted_L = label_NL.mean(0) * number
            off.append(label_NL[order[:number]].sum(0) - wanted_L)
            by_chance.append(label_NL[draw.permutation(2000)[:number]].sum(0) - wanted_L)
    # the order begins with one positive group of each label, which a tenth of the rarest label may exceed by
    assert np.abs(off).max(0).tolist() <= [2.5, 4, 8, 12, 10]
    spread_L, chance_L = np.std(off, axis=0), np.std(by_chance, axis=0)
    assert (spread_L < chance_L / 2).all()


def test_the_order_begins_with_a_positive_group_of_each_label():
    label_NL = np.zeros((300, 4), dtype=np.int64)
    label_NL[250:, 3] = 1
    label_NL[[40, 260], 0] = label_NL[[7], 1] = 1
    for seed in range(4):
        order = nested_order(label_NL, seed=seed)
        assert order[0] == 7 and order[1] in (40, 260)
        assert label_NL[order[:3]].any(0).tolist() == [True, True, False, True]


def test_the_order_is_that_of_the_seed_and_of_nothing_else():
    count_GL = (np.random.default_rng(1).random((80, 3)) < 0.3).astype(np.int64)
    orders = [nested_order(count_GL, seed=seed).tolist() for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    # without labels it is a bit-reversed, turned permutation: all there once
    assert sorted(nested_order(np.zeros((5, 0), dtype=np.int64), seed=0).tolist()) == [0, 1, 2, 3, 4]


def test_patients_stay_together_and_the_number_is_not_exceeded():
    draw = np.random.default_rng(3)
    patients = tuple(f"p{draw.integers(70)}" for _ in range(240)) + ("",) * 10
    table = make_table(draw.random((250, 3)) < 0.4, patients)
    of = np.array(patients)
    rows = np.arange(250)
    sizes = {p: patients.count(p) for p in set(patients)}
    for number in (40, 97, 160):
        chosen = first_images(table, rows, num_images=number, seed=2)
        assert number - max(size for p, size in sizes.items() if p) < len(chosen) <= number
        for patient in set(of[chosen]) - {""}:
            assert set(np.flatnonzero(of == patient)) <= set(chosen.tolist())


def test_numbers_that_cannot_be_used_are_refused_with_one_that_can():
    label_NL = np.zeros((60, 3))
    label_NL[:4, 0] = label_NL[10:30, 1] = 1
    table, rows = make_table(label_NL), np.arange(60)
    with pytest.raises(InputError, match="--num_images 61: t.csv has 60 training images .* give up to 60"):
        first_images(table, rows, num_images=61, seed=0)
    with pytest.raises(InputError, match="some concept has no positive image .* give 2 or more"):
        first_images(table, rows, num_images=1, seed=0)
    chosen = first_images(table, rows, num_images=2, seed=0)
    assert label_NL[chosen].any(0)[:2].all()
    np.testing.assert_array_equal(first_images(table, rows, num_images=0, seed=0), rows)
    one_patient = make_table(np.ones((9, 2)), ("p",) * 9)
    with pytest.raises(InputError, match="give 9 or more"):
        first_images(one_patient, np.arange(9), num_images=8, seed=0)
