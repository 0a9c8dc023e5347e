"""What to say where the name of a model or of an atlas leads to no such folder."""

from __future__ import annotations

import os
from pathlib import Path

MAX_NAMED = 6
ATLAS_FILE = "nearest.json"


def no_folder(name: str) -> str | None:
    """Return why a name that is no folder here cannot be a hub id, `owner/model`, either; None if it can.

    An owner who has the name of a folder with something in it is a mistyped path: the hub is not asked.
    """
    said = f"{name}: no such folder"
    owner, slash, _ = name.partition("/")
    if os.path.lexists(name) or name.count("/") > 1 or name.startswith((".", "/", "~")) or name.endswith("/"):
        return f"{said}; give one that `csr export` wrote, or a hub id"
    if not slash:
        return f"{said}; give the folder of a run, one that `csr export` wrote, or a hub id as owner/model"
    if _is_filled(owner):
        return said + (_models_in(Path(owner)) or f"; {owner}/ is here, and holds no model")
    return None


def no_model(folder: Path, *, lacks: str) -> str:
    """Describe a folder without a model: what it lacks, and which models are below it."""
    there = _models_in(folder) if folder.is_dir() else ""
    return f"{folder}: holds no {lacks}{there or '; `csr export` makes such a folder of a run'}"


def not_there(path: Path) -> str:
    """Describe a missing JSON file of a model's folder or an atlas."""
    if path.name == ATLAS_FILE:
        return f"{path.parent}: is no atlas, it has no {ATLAS_FILE}; give the folder that `csr atlas` wrote"
    there = _models_in(path.parent) if path.parent.is_dir() else ""
    return f"{path}: not there; a model's folder has one{there}"


def _is_filled(folder: str) -> bool:
    try:
        with os.scandir(folder) as entries:
            return any(entries)
    except (OSError, ValueError):  # no folder, and a name that cannot be one
        return False


def _models_in(folder: Path) -> str:
    try:
        with os.scandir(folder) as entries:
            found = sorted(entry.path for entry in entries if os.path.isfile(f"{entry.path}/config.json"))
    except OSError:
        return ""
    more = f" and {len(found) - MAX_NAMED} more" if len(found) > MAX_NAMED else ""
    return f"; did you mean {' or '.join(found[:MAX_NAMED])}{more}?" if found else ""
