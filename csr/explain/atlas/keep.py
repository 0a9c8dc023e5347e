"""keep.csv: which prototypes a doctor keeps.

An atlas writes it, a person edits the column `keep`, refine reads it.

    concept,prototype,keep,wins,alive,top_weight,top_target,note,vector
    Cavity,0,1,31,1,0.8123,Tuberculosis,,v0f3a96c21d7e
    Cavity,1,0,12,1,1.4021,Tuberculosis,"looks at the same place in every image, at the edge",v77b01c9ae452

`concept`, `prototype` and `keep` are needed. `vector` names the prototype's vector
(`csr.explain.neighbours`): a file of another model is refused by it, and read unchecked without it. The other
columns help to decide; they may be changed or left out.

Letters: K concepts, M prototypes.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from csr.data.labels.csv_file import read_rows
from csr.data.labels.csv_header import read_header
from csr.data.labels.names import name_key, show, show_some
from csr.explain.neighbours import of_another_model
from csr.runtime.errors import InputError

VECTOR = "vector"
COLUMNS = ("concept", "prototype", "keep", "wins", "alive", "top_weight", "top_target", "note", VECTOR)
_READ = COLUMNS[:3]
MOST_ON_PAGE = 20_000  # prototypes of which a page can write the file: about 2 MB
Record = dict[str, Any]


def write_keep(atlas: Record) -> str:
    """Return keep.csv of an atlas, everything kept.

    `top_weight` is the weight of the diagnosis it moves the most.
    """
    rows = (before + "1" + after for _, before, after in keep_rows(atlas))
    return _line(COLUMNS) + "".join(rows)


def page_table(atlas: Record) -> Record | None:
    """Return what a page needs to write the file: `head`, and `rows` as in `keep_rows`.

    None of an atlas of more than `MOST_ON_PAGE` prototypes.
    """
    rows = list(keep_rows(atlas))
    return None if len(rows) > MOST_ON_PAGE else {"head": _line(COLUMNS), "rows": rows}


def keep_rows(atlas: Record) -> Iterator[tuple[str, str, str]]:
    """Yield for each prototype its name (concept.prototype), and its line before and after the decision."""
    for k, concept in enumerate(atlas["concepts"]):
        for p in concept["prototypes"]:
            weight = f"{p['weights'][p['top_target']]['weight']:.4f}"
            rest = [p["wins"], int(p["alive"]), weight, p["top_target"], "; ".join(p["hints"]), p["vector"]]
            before = _line([concept["name"], p["prototype"]]).removesuffix("\n") + ","
            yield f"{k}.{p['prototype']}", before, "," + _line(rest)


def _line(cells: Iterable[object]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()


def read_keep(
    path: str | os.PathLike[str],
    *,
    concept_names: tuple[str, ...],
    kept_KM: np.ndarray,
    vector_KM: np.ndarray,
    say: Callable[[str], None],
) -> np.ndarray:
    """Read a file that a person edited.

    Args:
        path: the file.
        concept_names: of the model.
        kept_KM: bool, the prototypes that the model still has; every one needs a row.
        vector_KM: their `vector_names`.
        say: called with a notice where the file does not name the model it belongs to.

    Returns:
        keep_KM, bool: what is left. A concept may be left without any prototype.

    Raises:
        InputError: no such concept or prototype, a row that is there twice or missing, a `keep` that is
            neither 0 nor 1, a prototype that is gone already, a file of another model, or nothing kept
            at all.
    """
    line_KM = np.zeros(kept_KM.shape, dtype=np.int64)
    keep_KM = np.zeros(kept_KM.shape, dtype=bool)
    known_KM = np.full(kept_KM.shape, "", dtype=object)
    for row in _rows(path):
        k, m = _place(row, concept_names, kept_KM.shape[1])
        _check_decision(row, m, earlier_line=int(line_KM[k, m]), is_kept=bool(kept_KM[k, m]))
        line_KM[k, m], keep_KM[k, m], known_KM[k, m] = row.line, row.keep == "1", row.vector
    _check_complete(path, line_KM, kept_KM, concept_names)
    if not keep_KM.any():
        raise InputError(f"{path}: rejects every prototype; keep at least one")
    _check_vectors(path, known_KM, np.where(kept_KM, vector_KM, ""), concept_names, say)
    return keep_KM


@dataclass(frozen=True)
class _Row:
    """A row as it is written; `location` names file and line for errors."""

    location: str
    line: int
    concept: str
    prototype: str
    keep: str
    vector: str


def _rows(path: str | os.PathLike[str]) -> Iterator[_Row]:
    rows = read_rows(path)
    header = read_header(rows, path, required=_READ)
    column = {name_key(name): i for i, name in enumerate(header)}
    for line, cells in rows:
        concept, prototype, keep = (cells[column[key]] for key in _READ)
        vector = cells[column[VECTOR]] if VECTOR in column else ""
        yield _Row(f"{path} line {line}", line, concept, prototype, keep, vector)


def _place(row: _Row, concept_names: tuple[str, ...], num_prototypes: int) -> tuple[int, int]:
    """Return concept and prototype of a row.

    Raises:
        InputError: the model has no such concept, or the concept no such prototype.
    """
    if row.concept not in concept_names:
        some = show_some([show(known) for known in concept_names], limit=8)
        raise InputError(
            f"{row.location}: no concept {show(row.concept)} (the model has {some}); use its keep.csv"
        )
    m = _whole(row.prototype)
    if not 0 <= m < num_prototypes:
        raise InputError(
            f"{row.location}, column prototype: {show(row.prototype)}: concept {show(row.concept)} has "
            f"prototypes 0 to {num_prototypes - 1}"
        )
    return concept_names.index(row.concept), m


def _check_decision(row: _Row, m: int, *, earlier_line: int, is_kept: bool) -> None:
    """Refuse a decision that cannot be read, that is there twice, or that would bring a prototype back.

    Args:
        row: of prototype m.
        earlier_line: another line of the same prototype; 0 without one.
        is_kept: whether the model still has the prototype.
    """
    if row.keep not in ("0", "1"):
        raise InputError(f"{row.location}, column keep: {show(row.keep)}: write 1 (keep) or 0 (reject)")
    name = f"{row.location}: prototype {m} of {show(row.concept)}"
    if earlier_line:
        raise InputError(f"{name} is in line {earlier_line} too; remove one of them")
    if row.keep == "1" and not is_kept:
        raise InputError(
            f"{name} was dropped before and cannot come back; write 0, or refine the model that still has it"
        )


def _check_vectors(
    path: str | os.PathLike[str],
    known_KM: np.ndarray,
    vector_KM: np.ndarray,
    names: tuple[str, ...],
    say: Callable[[str], None],
) -> None:
    """Compare the vectors of prototypes; dropped ones have none any more and are not compared."""
    comparable_KM = (known_KM != "") & (vector_KM != "")
    differing = np.argwhere(comparable_KM & (known_KM != vector_KM)).tolist()
    if differing:
        raise of_another_model(path, [(names[k], m) for k, m in differing])
    unknown = int(((vector_KM != "") & (known_KM == "")).sum())
    if unknown:
        say(
            f"Notice: {path}: {unknown} prototype(s) have nothing in the column '{VECTOR}': csr cannot check "
            "whether they are this model's."
        )


def _whole(text: str) -> int:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else -1


def _check_complete(
    path: str | os.PathLike[str], line_KM: np.ndarray, kept_KM: np.ndarray, names: tuple[str, ...]
) -> None:
    """Refuse a missing row: it is no decision, and may have been cut off by accident."""
    missing = np.argwhere(kept_KM & (line_KM == 0))
    if len(missing):
        absent = show_some([f"{show(names[k])} {m}" for k, m in missing.tolist()], limit=4)
        raise InputError(
            f"{path}: {len(missing)} prototype(s) have no row ({absent}); write one with keep 1 or 0 for each"
        )
