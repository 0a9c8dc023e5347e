"""The vocabulary of a label table: its concepts and targets, the same in all files of a model."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from csr.data.labels.names import name_key, print_key, show, show_some
from csr.runtime.errors import InputError

RESERVED_COLUMNS = ("image_id", "rad_id", "patient_id")
DEFAULT_TARGETS = (
    "COPD",
    "Lung tumor",
    "Pneumonia",
    "Tuberculosis",
    "No finding",
    "Other disease",
)
# rad_id of the three rows by which an importer writes a labeler's -1 as 2 of 3: an average, nobody's reading
AVERAGE_READERS = tuple(f"labeler (average {number} of 3)" for number in (1, 2, 3))


@dataclass(frozen=True)
class Vocabulary:
    """The frozen names and order of concepts and targets that a trained model knows.

    Attributes:
        concept_names: K names.
        target_names: T names.
        ignored_names: label columns that training omitted on purpose; None: any further column of another
            file is omitted too.
    """

    concept_names: tuple[str, ...]
    target_names: tuple[str, ...]
    ignored_names: tuple[str, ...] | None = None


def choose_columns(
    path: str | os.PathLike[str],
    header: list[str],
    *,
    concept_cols: Sequence[str] | None,
    target_cols: Sequence[str] | None,
    group_col: str | None = None,
) -> Vocabulary:
    """Split a header into concepts, targets and omitted columns.

    Args:
        path: the file, for messages.
        header: its cleaned names.
        concept_cols, target_cols, group_col: columns by name, see `csr.data.labels.table.read_label_table`.

    Raises:
        InputError: a name that is no label column or is given twice; no concept or no target is left.
    """
    reserved = _reserved(group_col)
    labels = {name_key(name): name for name in header if name_key(name) not in reserved}
    concepts = _named_columns(path, labels, concept_cols, "--concept_cols")
    targets = _named_columns(path, labels, target_cols, "--target_cols")
    as_target = set(targets or ())
    both = [name for name in concepts or () if name in as_target]
    if both:
        raise InputError(
            f"{path}: column {show(both[0])} is in --concept_cols and in --target_cols; name it once"
        )
    if targets is None:
        by_name = {name_key(name) for name in DEFAULT_TARGETS}
        named = set(concepts or ())
        targets = tuple(v for k, v in labels.items() if k in by_name and v not in named)
    if concepts is None:
        concepts = tuple(name for name in labels.values() if name not in targets)
    if not concepts or not targets:
        kind, flag = ("concept", "--concept_cols") if not concepts else ("target", "--target_cols")
        raise InputError(
            f"{path}: no {kind} column among the labels ({_shown(labels)}); name some with {flag}"
        )
    used = {*concepts, *targets}
    ignored = tuple(name for name in labels.values() if name not in used)
    return Vocabulary(concepts, targets, ignored)


def _reserved(group_col: str | None) -> tuple[str, ...]:
    return RESERVED_COLUMNS if group_col is None else (*RESERVED_COLUMNS, name_key(group_col))


def _named_columns(
    path: str | os.PathLike[str], labels: dict[str, str], wanted: Sequence[str] | None, flag: str
) -> tuple[str, ...] | None:
    if wanted is None:
        return None
    keys = [name_key(name) for name in wanted]
    for name, key in zip(wanted, keys):
        if key not in labels:
            raise InputError(f"{path}: no label column {show(name)} ({flag}); the file has {_shown(labels)}")
        if keys.count(key) > 1:
            raise InputError(f"{flag} names {show(name)} twice; name it once")
    return tuple(labels[key] for key in keys)


def _shown(labels: dict[str, str]) -> str:
    return show_some([show(name) for name in labels.values()], limit=8) or "none"


def match_columns(
    path: str | os.PathLike[str],
    header: list[str],
    frozen: Vocabulary,
    *,
    source: str,
    group_col: str | None = None,
) -> Vocabulary:
    """Return the frozen names, checked to be those of a header.

    Args:
        path: the file, for messages.
        header: its cleaned names.
        frozen: the vocabulary of the model or of the training table.
        source: the origin of `frozen`, for messages.
        group_col: the column of patients, no label.

    Raises:
        InputError: a label column is missing, or training did not know one.
    """
    wanted = {name_key(name): name for name in (*frozen.concept_names, *frozen.target_names)}
    present = {name_key(name): name for name in header}
    missing = [name for key, name in wanted.items() if key not in present]
    known = {*wanted, *_reserved(group_col), *(name_key(name) for name in frozen.ignored_names or ())}
    extra = [name for key, name in present.items() if key not in known]
    if missing or (extra and frozen.ignored_names is not None):
        twins = {print_key(name) for name in missing} & {print_key(name) for name in extra}
        parts = [
            f"{verb} {show_some([show(name) for name in names])}"
            for verb, names in (("lacks", missing), ("also has", extra))
            if names
        ]
        hint = " (they look alike but have letters of another alphabet)" if twins else ""
        raise InputError(
            f"{path} line 1: the label columns differ from {source}: the file {' and '.join(parts)}"
            f"{hint}; use the same columns in both files"
        )
    return Vocabulary(frozen.concept_names, frozen.target_names, frozen.ignored_names)
