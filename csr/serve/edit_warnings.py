"""What edits do to diagnoses of the served model: measured, where `csr evaluate --simulate` did so."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from csr.evaluation.simulation.edit_effects import FILE, EditEffect, read_edit_effects
from csr.runtime.errors import InputError

_WHAT = {
    "rejections": "rejected findings",
    "confirmations": "confirmed findings",
    "concepts": "rejected and confirmed findings",
    "boxes": "regions to look at",
    "not here": "regions that are ruled out",
}
_TOLD_OF_ZERO = ("concepts", "boxes", "not here")


@dataclass(frozen=True)
class EditWarnings:
    """Sentences of the page.

    Attributes:
        zero: on edits that put a similarity of zero in place of what does not count.
        medians: on kinds of edits that broke more diagnoses than they fixed with the usual scores in that
            place, which the page does first; empty: none, or not measured.
    """

    zero: str
    medians: str = ""


NOT_MEASURED = EditWarnings(
    "A similarity of zero is far below that of any image, also of one without the finding: it often breaks a "
    "right diagnosis. How often with this model was not measured here (csr evaluate --simulate, then "
    "csr serve --evaluation)."
)


def read_edit_warnings(folder: Path, *, model_sha256: str) -> EditWarnings:
    """Return what was measured.

    Args:
        folder: of `csr evaluate --simulate`; untrusted.
        model_sha256: of the model that is served.

    Raises:
        InputError: no simulation is there, it is damaged, or of another model.
    """
    if not (folder / FILE).exists():
        again = " --overwrite" if folder.is_dir() else ""
        raise InputError(
            f"--evaluation {folder}: no {FILE}, which a simulation writes: run `csr evaluate MODEL --csv CSV "
            f"--dir IMAGES --simulate concept --out {folder}{again}` (or --simulate both, with --boxes_csv)"
        )
    effects = read_edit_effects(folder / FILE, model_sha256=model_sha256)
    found = {(effect.kind, effect.replacement): effect for effect in effects}
    zero = [_zero_line(found, kind) for kind in _TOLD_OF_ZERO if (kind, "zero") in found]
    bad = [
        f"{_WHAT[kind]} {_counts(found[kind, 'median'])}"
        for kind in _WHAT
        if (kind, "median") in found and found[kind, "median"].helps is False
    ]
    begin = "Measured on labelled images with a simulated reader: "
    return EditWarnings(
        zero=f"{begin}{'; '.join(zero)}." if zero else NOT_MEASURED.zero,
        medians=f"{begin}{'; '.join(bad)}. Expect no better diagnosis from them with this model."
        if bad
        else "",
    )


def _zero_line(found: dict[tuple[str, str], EditEffect], kind: str) -> str:
    """Return what one kind of edit did towards zero and, where it was played, towards medians."""
    line = f"{_WHAT[kind]} towards zero {_counts(found[kind, 'zero'])}"
    usual = found.get((kind, "median"))
    if usual is None:
        return line
    return f"{line}, towards the usual scores fixed {usual.fixed} and broke {usual.broken}"


def _counts(effect: EditEffect) -> str:
    return f"fixed {effect.fixed} and broke {effect.broken} of {effect.decisions} diagnoses"
