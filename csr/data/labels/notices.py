"""Notices on label tables whose author may have meant something else than what csr reads.

Nothing here is an error: each line names the columns, what csr makes of them and what to write instead.

Letters: N images, K concepts, L labels.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

from csr.data.labels.names import means_group, name_key, show, show_some
from csr.data.labels.positive import is_positive
from csr.data.labels.table import LabelTable, count_positives

# blanks that stand for negatives leave hardly any: with as many left out and as few left, they are in doubt
MIN_BLANK_SHARE, MIN_POSITIVE_SHARE = 0.1, 0.5
_SHOWN = 5
_NO_FINDING = re.compile(
    r"(is_?|in_?)?(train(ing)?|test|val(id(ation)?)?|fold|split)(_?set)?\d*"
    r"|(is_?)?(fe)?male|sex|gender|age|weight|height|smoker"
    r"|(is_?)?(ap|pa|frontal|lateral|portable|view)|index|row|id|unnamed: ?\d+"
)
_PANDAS_TWIN = re.compile(r"(.+)\.\d+")


def table_notices(table: LabelTable, *, all_negatives: bool = False) -> list[str]:
    """Return lines on a training table: blanks, unread patients, columns that are no findings, no negatives.

    Args:
        table: N training images.
        all_negatives: of `csr train`: other present concepts of an image count as negatives in stage 2.
    """
    names = (*table.concept_names, *table.target_names)
    value_NL = np.concatenate([table.concept_NK, table.target_NT], axis=1)
    return [
        *_blanks(names, value_NL),
        *_unread_groups(table),
        *_no_findings(names),
        *_no_negatives(table, all_negatives),
    ]


def constant_targets(table: LabelTable) -> list[str]:
    """Return the targets that every annotated image of a table has."""
    annotated_T = np.count_nonzero(~np.isnan(table.target_NT), axis=0)
    counts_T = count_positives(table.target_NT)
    counted = zip(table.target_names, counts_T, annotated_T, strict=True)
    return [name for name, count, annotated in counted if annotated and count == annotated]


def _blanks(names: tuple[str, ...], value_NL: np.ndarray) -> Iterator[str]:
    annotated_L = np.count_nonzero(~np.isnan(value_NL), axis=0)
    count_L, num_images = count_positives(value_NL), len(value_NL)
    doubtful = [
        f"{show(name)} (annotated in {annotated} of {num_images} images, {count / annotated:.0%} of them "
        "positive)"
        for name, annotated, count in zip(names, annotated_L.tolist(), count_L.tolist(), strict=True)
        if annotated
        and num_images - annotated >= MIN_BLANK_SHARE * num_images
        and count > MIN_POSITIVE_SHARE * annotated
    ]
    if doubtful:
        yield (
            f"an empty cell is 'not annotated': {show_some(doubtful, limit=_SHOWN)}; if it means 'negative' "
            "in this data set, write 0"
        )


def _unread_groups(table: LabelTable) -> Iterator[str]:
    columns = [show(name) for name in table.ignored_names if means_group(name)]
    if table.patient_ids is None and columns:
        yield (
            f"{' and '.join(columns)} is not read, so images of one patient may be on both sides of the "
            f"validation split: --group_col {columns[0]} keeps them together"
        )


def _no_findings(names: tuple[str, ...]) -> Iterator[str]:
    keys = {name_key(name) for name in names}
    odd = []
    for name in names:
        twin = _PANDAS_TWIN.fullmatch(name_key(name))
        if _NO_FINDING.fullmatch(name_key(name)) or (twin and twin[1] in keys):
            odd.append(show(name))
    if odd:
        yield (
            f"{show_some(odd, limit=_SHOWN)}: read as labels, but named like no finding; choose the findings "
            "with --concept_cols"
        )


def _no_negatives(table: LabelTable, all_negatives: bool) -> Iterator[str]:
    present_NK = is_positive(table.concept_NK)
    some_N, every_N = present_NK.any(axis=1), present_NK.all(axis=1)
    if present_NK.shape[1] == 1:
        yield (
            "there is one concept: the contrastive loss of stage 2 has no negatives, prototypes stay where "
            "k-means put them"
        )
    elif not all_negatives and bool((every_N | ~some_N).all()):
        yield (
            "all concepts always come together: the contrastive loss of stage 2 has no negatives, prototypes "
            "stay where k-means put them; --all_negatives makes the other concepts negatives"
        )
