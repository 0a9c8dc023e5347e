"""The words of `--track`."""

from __future__ import annotations

import pytest

from csr.config.flags import parse_train_flags
from csr.config.trackers import tracked
from csr.runtime.errors import InputError


@pytest.mark.parametrize(
    "words, names",
    [
        ("tensorboard", ("tensorboard",)),
        ("mlflow, tensorboard", ("mlflow", "tensorboard")),
        ("wandb,wandb,mlflow", ("wandb", "mlflow")),
    ],
)
def test_names_are_taken_once_in_their_order(words, names):
    assert tracked(words) == names
    assert tracked(parse_train_flags(["--track", words]).run.track) == names


@pytest.mark.parametrize("words, wrong", [("mlfow", "mlfow"), ("tensorboard,", ""), ("", ""), ("a,b", "a")])
def test_other_words_are_refused_and_named(words, wrong):
    with pytest.raises(
        InputError, match=f"^--track {words}: '{wrong}' is no tracker.*tensorboard,mlflow,wandb$"
    ):
        parse_train_flags(["--track", words])


def test_tensorboard_is_the_default():
    assert parse_train_flags([]).run.track == "tensorboard"
