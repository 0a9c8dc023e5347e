"""The agreement of a label table's readers: Cohen's kappa of every two, Fleiss' kappa of three and more.

Letters: R reads (image and reader), P pairs of readers, L labels, N images, C categories.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from csr.data.labels.csv_blocks import number_texts
from csr.data.labels.csv_file import CsvFile
from csr.data.labels.csv_header import read_header
from csr.data.labels.label_cells import label_codes
from csr.data.labels.names import image_key, name_key
from csr.data.labels.reader_merge import begins
from csr.data.labels.table import LabelTable
from csr.data.labels.vocabulary import AVERAGE_READERS

MIN_READERS_FLEISS = 3
MISSING = -1
_VALUE_OF_CODE = np.asarray([0, 1, MISSING, MISSING], dtype=np.int8)


@dataclass(frozen=True, eq=False)
class Reads:
    """The labels of each reader for each image, sorted by image and reader, one read for each pair of both.

    Attributes:
        image_R, reader_R: int64, places in the table and in `readers`.
        value_RL: int8, 1, 0 or `MISSING`; concepts, then targets.
        readers: every `rad_id` of the file.
        labels: L names.
        averages: images with rows of `AVERAGE_READERS`, which are nobody's reads and not among them.
    """

    image_R: np.ndarray
    reader_R: np.ndarray
    value_RL: np.ndarray
    readers: tuple[str, ...]
    labels: tuple[str, ...]
    averages: int


def read_reads(table: LabelTable) -> Reads | None:
    """Return the reads in a table's file, which was checked when `table` was read; None without `rad_id`."""
    labels = (*table.concept_names, *table.target_names)
    place_of = {image_key(name): place for place, name in enumerate(table.image_ids)}
    number_of: dict[str, int] = {}
    parts = []
    with CsvFile(table.path) as file:
        header = [name_key(name) for name in read_header(file.rows(), table.path, required=("image_id",))]
        if "rad_id" not in header:
            return None
        image_at, reader_at, *labels_at = map(header.index, ("image_id", "rad_id", *map(name_key, labels)))
        for block in file.blocks():
            image_R = block.columns[image_at].each(lambda text: place_of.get(image_key(text), -1), np.int64)
            reader_R = number_texts(block.columns[reader_at], number_of)
            value_RL = _VALUE_OF_CODE[label_codes([block.columns[number] for number in labels_at])]
            parts.append((image_R, reader_R, value_RL))
    image_R, reader_R, value_RL = (np.concatenate(part) for part in zip(*parts, strict=True))
    pair_R = image_R * len(number_of) + reader_R
    order_R = np.argsort(pair_R, kind="stable")
    begin_P = begins(pair_R[order_R])
    pair_P = pair_R[order_R][begin_P]
    value_PL = np.maximum.reduceat(value_RL[order_R], begin_P)
    image_P, reader_P = pair_P // len(number_of), pair_P % len(number_of)
    is_average_P = np.isin(reader_P, [number_of[name] for name in AVERAGE_READERS if name in number_of])
    averages, read_P = len(np.unique(image_P[is_average_P])), ~is_average_P
    return Reads(image_P[read_P], reader_P[read_P], value_PL[read_P], tuple(number_of), labels, averages)


def agreement(reads: Reads) -> dict[str, Any] | None:
    """Return kappas of each label and their means; None if no image has two readers.

    `cohen` is the mean over all pairs of readers for whom it exists (Light 1971), on the images that both
    read; `fleiss` (1971) is taken over the images with the most common number of reads, three or more. Both
    are None where chance alone explains everything: all reads are the same.
    """
    first_P, second_P = _pairs(reads.image_R)
    if not len(first_P):
        return None
    labels = {
        name: {**_cohen_of(reads, first_P, second_P, place), **_fleiss_of(reads, place)}
        for place, name in enumerate(reads.labels)
    }
    return {
        "readers": len(np.unique(reads.reader_R)),
        "images": int(len(np.unique(reads.image_R[first_P]))),
        "labels": labels,
        "mean": {key: _mean([row[key] for row in labels.values()]) for key in ("agree", "cohen", "fleiss")},
    }


def average_warnings(averages: dict[str, int], reader_merge: str) -> list[str]:
    """Return a line where a labeler's -1, written as 2 of 3, is merged into 1.

    Args:
        averages: images that have one, by split.
        reader_merge: how rows of an image are merged.
    """
    num = sum(averages.values())
    if not num or reader_merge == "soft":
        return []
    return [
        f"merged by '{reader_merge}', a labeler's -1 becomes 1 ({num} image{'' if num == 1 else 's'} with "
        "some); --reader_merge soft makes it 2/3, as it was imported"
    ]


def _pairs(image_R: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return every two reads of one image, two arrays (P,) of places; `image_R` is sorted."""
    first, second = [], []
    largest = int(np.bincount(image_R).max()) if len(image_R) else 0
    for step in range(1, largest):
        place = np.arange(len(image_R) - step)
        same = image_R[place] == image_R[place + step]
        first.append(place[same])
        second.append(place[same] + step)
    empty = np.zeros(0, dtype=np.int64)
    return np.concatenate([empty, *first]), np.concatenate([empty, *second])


def _cohen_of(reads: Reads, first_P: np.ndarray, second_P: np.ndarray, label: int) -> dict[str, Any]:
    a_P, b_P = reads.value_RL[first_P, label], reads.value_RL[second_P, label]
    both_P = (a_P != MISSING) & (b_P != MISSING)
    a_P, b_P = a_P[both_P].astype(np.int64), b_P[both_P].astype(np.int64)
    who_P = reads.reader_R[first_P[both_P]] * len(reads.readers) + reads.reader_R[second_P[both_P]]
    pair, place_P = np.unique(who_P, return_inverse=True)
    count_P4 = np.bincount(place_P * 4 + a_P * 2 + b_P, minlength=4 * len(pair)).reshape(-1, 2, 2)
    kappas = [cohen_kappa(count) for count in count_P4]
    return {
        "agree": float((a_P == b_P).mean()) if len(a_P) else None,
        "cohen": _mean(kappas),
        "pairs": sum(kappa is not None for kappa in kappas),
    }


def cohen_kappa(count_CC: np.ndarray) -> float | None:
    """Return Cohen's kappa of two readers; None without images, or if chance explains everything.

    Args:
        count_CC: integers, images by the category of the one and of the other reader.
    """
    total = count_CC.sum()
    if not total:
        return None
    share_CC = count_CC / total
    seen, chance = np.trace(share_CC), float(share_CC.sum(0) @ share_CC.sum(1))
    return None if np.isclose(chance, 1.0, rtol=0, atol=1e-12) else float((seen - chance) / (1 - chance))


def _fleiss_of(reads: Reads, label: int) -> dict[str, Any]:
    value_R = reads.value_RL[:, label]
    read_R = value_R != MISSING
    num_images = int(reads.image_R.max()) + 1
    reads_N = np.bincount(reads.image_R[read_R], minlength=num_images)
    yes_N = np.bincount(reads.image_R[read_R], weights=value_R[read_R], minlength=num_images)
    enough = reads_N[reads_N >= MIN_READERS_FLEISS]
    if not len(enough):
        return {"fleiss": None, "fleiss_images": 0}
    usual = int(np.bincount(enough).argmax())
    used = reads_N == usual
    count_NC = np.stack([yes_N[used], usual - yes_N[used]], axis=1)
    return {"fleiss": fleiss_kappa(count_NC), "fleiss_images": int(used.sum())}


def fleiss_kappa(count_NC: np.ndarray) -> float | None:
    """Return Fleiss' kappa; None if chance explains everything.

    Args:
        count_NC: numbers of readers by image and category; the sum of each row is the same.
    """
    reads = count_NC.sum(axis=1)[0]
    seen = ((count_NC**2).sum(axis=1) - reads).mean() / (reads * (reads - 1))
    chance = float(((count_NC.sum(axis=0) / count_NC.sum()) ** 2).sum())
    return None if np.isclose(chance, 1.0, rtol=0, atol=1e-12) else float((seen - chance) / (1 - chance))


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
