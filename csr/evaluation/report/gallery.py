"""Pictures of the worst errors, and the command that explains each of them."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from csr.data.images.decode import decode_image
from csr.report.pictures import jpeg_address
from csr.runtime.errors import InputError

SIDE_PX = 160
Results = dict[str, Any]


def error_pictures(errors: Mapping[str, Sequence[Results]], paths: Sequence[Path]) -> dict[int, str]:
    """Return each image of the worst errors, reduced, as the address that a page carries it under.

    Args:
        errors: of `csr.evaluation.worst_errors`.
        paths: image files, by place in the label table.

    Returns:
        place -> address; without images that cannot be read any more.
    """
    pictures = {}
    for place in sorted({row["place"] for rows in errors.values() for row in rows}):
        try:
            pixels = decode_image(paths[place], min_size=2 * SIDE_PX).pixels
        except InputError:
            continue
        pictures[place] = jpeg_address(pixels, SIDE_PX)
    return pictures


def shown_path(given: str | Path, placeholder: str) -> str:
    """Return a path as the user typed it if it is relative, else a placeholder: it tells who works where."""
    return placeholder if Path(given).is_absolute() else str(given)


def explain_commands(
    errors: Mapping[str, Sequence[Results]], paths: Sequence[Path], *, model: str, folder: str
) -> None:
    """Add `command` to each of the worst errors: what explains it, from where `csr evaluate` was called.

    Args:
        errors: changed.
        paths: image files, by place in the label table.
        model, folder: as the user named them; absolute ones are called MODEL and DIR.
    """
    shown_model, shown_folder = shown_path(model, "MODEL"), shown_path(folder, "DIR")
    for name, rows in errors.items():
        for row in rows:
            inside = paths[row["place"]].relative_to(folder)
            words = ["csr", "explain", shown_model, str(Path(shown_folder) / inside)]
            words += ["--diagnosis", name, "--out", f"explanation_{inside.stem}"]
            row["command"] = shlex.join(words)


def errors_section(results: Results, pictures: Mapping[int, str]) -> Results | None:
    """Return what the page shows of the worst errors; None where none were asked for."""
    if not results["options"]["worst_errors"]:
        return None
    return {
        "has_commands": any("command" in row for rows in results["worst_errors"].values() for row in rows),
        "targets": [
            {
                "name": name,
                "rows": [{**row, "picture": pictures.get(row["place"])} for row in rows],
            }
            for name, rows in results["worst_errors"].items()
        ],
    }
