"""test_predictions.csv: what is written is read back bit for bit, and what is broken is named by line."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from compared_runs import CONCEPTS, IMAGES, TARGETS, predictions

from csr.evaluation.comparison.predictions import FILE_NAME, read_predictions, write_predictions
from csr.runtime.errors import InputError


def test_every_number_is_read_back_as_it_was(tmp_path):
    written = predictions(0)
    draw = np.random.default_rng(0)
    for scored in written.kinds.values():
        scored.probability_NL[...] = draw.random(scored.probability_NL.shape) ** 8  # float32 of all sizes
    write_predictions(tmp_path, written)
    read = read_predictions(tmp_path / FILE_NAME)
    assert read.image_ids == IMAGES
    for kind, names in (("target", TARGETS), ("concept", CONCEPTS)):
        assert read.kinds[kind].names == names
        for part in ("probability_NL", "label_NL"):
            one, other = getattr(written.kinds[kind], part), getattr(read.kinds[kind], part)
            assert other.dtype == np.float32
            np.testing.assert_array_equal(one, other)


def test_any_program_can_read_the_table(tmp_path):
    write_predictions(tmp_path, predictions(0))
    with open(tmp_path / FILE_NAME, newline="") as file:
        rows = list(csv.DictReader(file))
    first = predictions(0).kinds["target"]
    for name, column in zip(TARGETS, range(2)):
        for i, row in enumerate(rows):
            assert float(row[f"target probability {name}"]) == pytest.approx(first.probability_NL[i, column])
            label = first.label_NL[i, column]
            assert row[f"target label {name}"] == ("" if np.isnan(label) else str(label))


@pytest.mark.parametrize(
    "text, message",
    [
        ("id,target probability A\nx,1\n", "line 1: the first column is 'id'"),
        ("image_id,A\nx,1\n", "line 1: column 'A' is none that csr writes"),
        ("image_id,target probability A\nx,1\n", "line 1: target 'A' lacks"),
        (
            "image_id,target probability A,target label A,target label A\nx,1,1,1\n",
            "line 1: column 'target label A' is there twice",
        ),
        ("image_id,target probability A,target label A\nx,1.5,1\n", "line 2: .* is '1.5': give a number"),
        ("image_id,target probability A,target label A\nx,nan,1\n", "line 2: .* is 'nan': give a number"),
        ("image_id,target probability A,target label A\nx,1,1\ny,,1\n", "line 3: a probability is missing"),
        ("image_id,target probability A,target label A\nx,1,1\nx,1,1\n", "line 3: 'x' is there twice"),
        ("image_id,target probability A,target label A\n", "no image in it"),
        ("image_id,target probability A,target label A\nx,1\n", "line 2"),
    ],
)
def test_a_broken_table_is_named_with_its_line(tmp_path, text, message):
    (tmp_path / FILE_NAME).write_text(text)
    with pytest.raises(InputError, match=f"{FILE_NAME}.*{message}"):
        read_predictions(tmp_path / FILE_NAME)
