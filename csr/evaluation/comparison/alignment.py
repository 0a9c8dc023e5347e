"""Test images and labels that runs have in common, in one order; runs of other images are refused.

Letters: N images, L labels of one kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from csr.data.labels.names import show
from csr.evaluation.comparison.predictions import KINDS
from csr.evaluation.comparison.run_record import RunRecord
from csr.runtime.errors import InputError


@dataclass(frozen=True, eq=False)
class Kind:
    """One kind of labels over all runs.

    Attributes:
        names: of the labels that all runs with any of this kind have.
        label_NL: the truth, NaN where not annotated.
        probability_NL: of each run; None for one without labels of this kind.
        called_NL: decisions of each run, bool; None likewise.
        left_out: labels that only some of these runs have.
    """

    names: tuple[str, ...]
    label_NL: np.ndarray
    probability_NL: tuple[np.ndarray | None, ...]
    called_NL: tuple[np.ndarray | None, ...]
    left_out: tuple[str, ...]


def align(runs: Sequence[RunRecord]) -> dict[str, Kind]:
    """Return `target` and `concept` of all runs over the images of the first one, in its order.

    Raises:
        InputError: runs of other test images or with other labels of an image, named; no common target.
    """
    order = {image_id: i for i, image_id in enumerate(runs[0].predictions.image_ids)}
    rows = [_rows_of(order, runs[0], run) for run in runs]
    kinds = {kind: _kind(kind, runs, rows) for kind in KINDS}
    if not kinds["target"].names:
        raise InputError(
            f"{', '.join(str(run.folder) for run in runs)}: no target that all of them predict: "
            "compare runs of the same diagnoses"
        )
    return kinds


def _rows_of(order: dict[str, int], first: RunRecord, run: RunRecord) -> np.ndarray:
    """Return the rows of a run's predictions in the order of the first run's images."""
    place = {image_id: i for i, image_id in enumerate(run.predictions.image_ids)}
    only_first = [image_id for image_id in order if image_id not in place]
    only_this = [image_id for image_id in place if image_id not in order]
    if only_first or only_this:
        example = f"{show((only_this or only_first)[0])} is in the {'second' if only_this else 'first'} alone"
        raise InputError(
            f"{first.folder} and {run.folder}: were tested on different images ({len(order)} and "
            f"{len(place)}; {example}): compare runs of one test set"
        )
    return np.asarray([place[image_id] for image_id in order], dtype=np.int64)


def _kind(kind: str, runs: Sequence[RunRecord], rows: Sequence[np.ndarray]) -> Kind:
    scored = [run.predictions.kinds[kind] for run in runs]
    having = [i for i, of_run in enumerate(scored) if of_run.names]
    every = dict.fromkeys(name for i in having for name in scored[i].names)
    names = tuple(name for name in every if all(name in scored[i].names for i in having))
    columns = [[of_run.names.index(name) for name in names] if of_run.names else [] for of_run in scored]
    labels = {i: scored[i].label_NL[rows[i]][:, columns[i]] for i in having}
    for i in having[1:]:
        _check_same_labels(runs[having[0]], runs[i], labels[having[0]], labels[i], names=names)
    probabilities: list[np.ndarray | None] = []
    called: list[np.ndarray | None] = []
    for i, run in enumerate(runs):
        if i not in labels:
            probabilities.append(None)
            called.append(None)
            continue
        chosen_NL = scored[i].probability_NL[:, columns[i]]
        probabilities.append(chosen_NL[rows[i]])
        called.append(run.called(kind, names, chosen_NL)[rows[i]])
    truth = labels[having[0]] if having else np.zeros((len(rows[0]), 0), dtype=np.float32)
    left_out = tuple(name for name in every if name not in names)
    return Kind(names, truth, tuple(probabilities), tuple(called), left_out)


def _check_same_labels(
    first: RunRecord, other: RunRecord, first_NL: np.ndarray, other_NL: np.ndarray, *, names: tuple[str, ...]
) -> None:
    differs_NL = ~((first_NL == other_NL) | (np.isnan(first_NL) & np.isnan(other_NL)))
    if not differs_NL.any():
        return
    row, column = (int(i[0]) for i in np.nonzero(differs_NL))
    image_id = first.predictions.image_ids[row]
    example = f"{int(differs_NL.sum())}, as {show(names[column])} of {show(image_id)}"
    raise InputError(
        f"{first.folder} and {other.folder}: were tested against different labels ({example}): compare runs "
        "with one test table and one --reader_merge"
    )
