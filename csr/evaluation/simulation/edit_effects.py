"""edit_effects.json: which of a doctor's edits help with one model, for a page that offers them.

    {"format": "csr-edit-effects", "format_version": 1, "model_sha256": "..", "images": 200, ..,
     "effects": [{"kind": "boxes", "edits": ["positive"], "replacement": "zero", "images": 151,
                  "decisions": 1200, "fixed": 46, "broken": 211, "helps": false}, ..]}

`edits` are decisions on concepts (`rejected`, `confirmed`) and kinds of boxes (`positive`, `negative`),
`replacement` is `median` or `zero`, all as `csr serve` names them; `helps` is null where nothing changed.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from csr.evaluation.simulation.doctor import KINDS, Play
from csr.model.sharing.config_file import read_config
from csr.model.sharing.origin import Origin
from csr.runtime.errors import InputError

FILE = "edit_effects.json"
FORMAT, FORMAT_VERSION = "csr-edit-effects", 1
REPLACEMENTS = ("median", "zero")


@dataclass(frozen=True)
class EditEffect:
    """What one kind of edit did on labelled images.

    Attributes:
        kind: of `csr.evaluation.simulation.doctor.KINDS`.
        replacement: what takes the place of what does not count, one of `REPLACEMENTS`.
        images: that were edited.
        decisions: annotated diagnoses of all images.
        fixed, broken: of them, wrong then right, right then wrong.
    """

    kind: str
    replacement: str
    images: int
    decisions: int
    fixed: int
    broken: int

    @property
    def edits(self) -> tuple[str, ...]:
        """The edits that it is made of."""
        return KINDS[self.kind]

    @property
    def helps(self) -> bool | None:
        """Whether more decisions are fixed than broken; None if neither."""
        return self.fixed > self.broken if self.fixed or self.broken else None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON."""
        return {**asdict(self), "edits": list(self.edits), "helps": self.helps}


def effects_of(simulation: dict[str, Any], plays: tuple[Play, ...]) -> list[EditEffect]:
    """Return the effects on all images of what `score_plays` counted."""
    counts = ("decisions", "fixed", "broken")
    rows = [(play, simulation[play.name]["all"]) for play in plays]
    return [
        EditEffect(
            play.kind,
            "median" if play.medians else "zero",
            row["edited"],
            *(row[count] for count in counts),
        )
        for play, row in rows
    ]


def effects_record(
    effects: list[EditEffect], *, origin: Origin, csv: str, images: int, alpha: float
) -> dict[str, Any]:
    """Return the content of the file.

    Args:
        effects: from `effects_of`.
        origin: of the model.
        csv: name of the label table.
        images: in it.
        alpha: importance outside of positive boxes.
    """
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        **asdict(origin),
        "csv": csv,
        "images": images,
        "alpha": alpha,
        "effects": [effect.to_dict() for effect in effects],
    }


def read_edit_effects(path: Path, *, model_sha256: str) -> list[EditEffect]:
    """Read the file of a model.

    Args:
        path: of the file.
        model_sha256: of the model that it must be of (`csr.model.sharing.origin`).

    Raises:
        InputError: missing, damaged, or of another model.
    """
    value = read_config(path)
    if (value.get("format"), value.get("format_version")) != (FORMAT, FORMAT_VERSION):
        raise InputError(f"{path}: not {FORMAT} version {FORMAT_VERSION}: run csr evaluate --simulate again")
    if value.get("model_sha256") != model_sha256:
        raise InputError(f"{path}: of another model: run csr evaluate --simulate on this one")
    rows = value.get("effects")
    if not isinstance(rows, list):
        raise InputError(f"{path}: effects is no list")
    return [_read(row, f"{path}: effects[{i}]") for i, row in enumerate(rows)]


def _read(row: Any, where: str) -> EditEffect:
    counts = ("images", "decisions", "fixed", "broken")
    if (
        not isinstance(row, dict)
        or row.get("kind") not in KINDS
        or row.get("replacement") not in REPLACEMENTS
    ):
        raise InputError(f"{where}: kind is one of {', '.join(KINDS)}, replacement median or zero")
    numbers = [row.get(count) for count in counts]
    if not all(isinstance(n, int) and not isinstance(n, bool) and 0 <= n < 2**53 for n in numbers):
        raise InputError(f"{where}: {', '.join(counts)} are whole numbers from 0 on")
    return EditEffect(row["kind"], row["replacement"], *(int(row[count]) for count in counts))
