"""Facts about label tables and their images, as plain JSON; `csr.data.check.check` judges them.

Letters: N images, L labels, S side of the thumbnails.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from csr.data.check.image_scan import Scanned
from csr.data.check.near_copies import THUMBNAIL_PX, near_groups
from csr.data.labels.names import image_key
from csr.data.labels.table import LabelTable, count_positives

Found = dict[str, Any]


@dataclass(eq=False)
class Split:
    """A label table and its images.

    Attributes:
        name: train or test.
        table: the labels.
        paths: image files by row of the table.
        scanned: readable images by row.
        missing, unreadable: why there is no file or no picture, by row.
    """

    name: str
    table: LabelTable
    paths: dict[int, Path] = field(default_factory=dict)
    scanned: dict[int, Scanned] = field(default_factory=dict)
    missing: dict[int, str] = field(default_factory=dict)
    unreadable: dict[int, str] = field(default_factory=dict)

    def label(self, row: int) -> str:
        """Return the name of an image in reports, `split:image_id`."""
        return f"{self.name}:{self.table.image_ids[row]}"

    @cached_property
    def thumbnails(self) -> np.ndarray:
        """Return the thumbnails of the readable images in their order, uint8 (N, S, S); once all are read."""
        thumbnails = [one.thumbnail_SS for one in self.scanned.values()]
        return np.stack(thumbnails) if thumbnails else np.zeros((0, THUMBNAIL_PX, THUMBNAIL_PX), np.uint8)


def labels_of(table: LabelTable) -> tuple[tuple[tuple[str, ...], np.ndarray], ...]:
    """Return names and values, (N, K) and (N, T), of the concepts, then of the targets."""
    return (table.concept_names, table.concept_NK), (table.target_names, table.target_NT)


def split_facts(split: Split) -> Found:
    """Return counts of images, patients and readers, and kinds and sizes (pixels) of the readable images."""
    table, scanned = split.table, [*split.scanned.values()]
    sizes = Counter((one.width, one.height) for one in scanned)
    sides = np.asarray([(one.width, one.height) for one in scanned], dtype=np.int64).reshape(-1, 2)
    patients = None if table.patient_ids is None else len({*table.patient_ids} - {""})
    readers = Counter(table.num_readers_N.tolist())
    return {
        "csv": Path(table.path).name,
        "images": len(table),
        "patients": patients,
        "readers_per_image": {str(number): count for number, count in sorted(readers.items())},
        "readable": len(scanned),
        "missing": [*split.missing.values()],
        "unreadable": [*split.unreadable.values()],
        "kinds": dict(Counter(one.kind for one in scanned).most_common()),
        "sizes": [[width, height, count] for (width, height), count in sizes.most_common()],
        "width": _spread(sides[:, 0]),
        "height": _spread(sides[:, 1]),
    }


def _spread(side_N: np.ndarray) -> Found | None:
    if not len(side_N):
        return None
    return {"min": int(side_N.min()), "median": float(np.median(side_N)), "max": int(side_N.max())}


def label_facts(splits: list[Split]) -> Found:
    """Return the numbers of positive and of annotated images of each label, by split."""
    facts: Found = {}
    for split in splits:
        for kind, (names, label_NL) in zip(("concept", "target"), labels_of(split.table), strict=True):
            annotated_L = np.count_nonzero(~np.isnan(label_NL), axis=0)
            for name, positive, annotated in zip(names, count_positives(label_NL), annotated_L, strict=True):
                row = facts.setdefault(name, {"kind": kind})
                row[split.name] = {"positive": int(positive), "annotated": int(annotated)}
    return facts


def copies(splits: list[Split]) -> Found:
    """Return groups of images with the same bytes, and groups of images that look the same."""
    places = [(split, row) for split in splits for row in split.scanned]
    by_hash: dict[str, list[int]] = {}
    for place, (split, row) in enumerate(places):
        by_hash.setdefault(split.scanned[row].sha256, []).append(place)
    exact = [group for group in by_hash.values() if len(group) > 1]
    firsts = [group[0] for group in by_hash.values()]
    near: list[list[int]] = []
    if firsts:
        thumbnails = np.stack([places[p][0].scanned[places[p][1]].thumbnail_SS for p in firsts])
        near = [[firsts[i] for i in group] for group in near_groups(thumbnails)]
    return {
        "exact_duplicates": [_group(group, places) for group in exact],
        "near_duplicates": [_group(group, places) for group in near],
    }


def _group(group: list[int], places: list[tuple[Split, int]]) -> Found:
    members = [places[place] for place in group]
    labels = [np.concatenate([s.table.concept_NK[row], s.table.target_NT[row]]) for s, row in members]
    return {
        "images": [split.label(row) for split, row in members],
        "files": [str(split.paths[row]) for split, row in members],
        "leak": len({split.name for split, _ in members}) > 1,
        "same_id": len({image_key(split.table.image_ids[row]) for split, row in members}) == 1,
        "labels_agree": all(np.array_equal(one, labels[0], equal_nan=True) for one in labels),
    }
