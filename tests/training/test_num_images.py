"""`--num_images`: what a run trains on, says and records."""

from __future__ import annotations

import numpy as np
import pytest
from train_options import train_options

from csr.data.labels.summary import data_facts
from csr.runtime.errors import InputError
from csr.training.inputs import Tables, build_tables
from csr.training.logs.summary import images_line


def tables(folder, number: int) -> Tables:
    config = train_options(
        train_csv=str(folder / "labels_train.csv"),
        test_csv=str(folder / "labels_test.csv"),
        train_dir=str(folder / "train"),
        test_dir=str(folder / "test"),
        val_fraction=0.25,
        num_images=number,
        workers=1,
        seed=2,
    )
    return build_tables(config, lambda line: None)


def test_a_run_trains_on_the_first_images_and_validates_on_the_same_ones(phantom_folder):
    everything, some = tables(phantom_folder, 0), tables(phantom_folder, 20)
    assert len(everything.train_indices) + len(everything.val_indices) == 48
    assert len(some.train_indices) == 20 and set(some.train_indices) < set(everything.train_indices)
    np.testing.assert_array_equal(some.val_indices, everything.val_indices)
    assert some.fingerprint() != everything.fingerprint()
    available = len(everything.train_indices)
    assert images_line(some).startswith(f"Data: 20 of {available} training, {48 - available} validation, 24 ")
    assert images_line(everything).startswith(f"Data: {available} training, ")
    splits = {"train_indices": some.train_indices, "val_indices": some.val_indices}
    images = data_facts(some.train, some.test, **splits)["images"]
    assert images == {"train": 20, "val": 48 - available, "test": 24, "unused": available - 20}


def test_more_than_there_are_is_refused_before_training(phantom_folder):
    with pytest.raises(InputError, match=r"--num_images 48: .*labels_train.csv has 3\d training images"):
        tables(phantom_folder, 48)
