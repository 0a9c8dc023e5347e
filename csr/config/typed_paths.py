"""Where the paths of a run's options lead: a run keeps them as they were typed, where it was started."""

from __future__ import annotations

import filecmp
import os
from pathlib import Path

from csr.config.options import TrainConfig

DATA_PATHS = ("train_csv", "train_dir", "test_csv", "test_dir", "boxes_csv")
PATHS = (*DATA_PATHS, "model_name", "backbone_weights", "stage1_from", "ds_config")


def started_in(folder: Path, config: TrainConfig) -> Path | None:
    """Return the folder that a run was started in; None where its place does not tell.

    Args:
        folder: of the run.
        config: its options.
    """
    parts = Path(config.run.output_dir).parts
    above = folder.resolve().parent
    if Path(config.run.output_dir).is_absolute() or above.parts[len(above.parts) - len(parts) :] != parts:
        return None
    return above.parents[len(parts) - 1] if parts else above


def leading_elsewhere(folder: Path, earlier: TrainConfig, now: TrainConfig) -> dict[str, tuple[str, str]]:
    """Return option -> (its path of an earlier run, of this command) for paths that lead to different places.

    A relative path of the earlier run is followed from where that run was started. What lies beside the
    results, in the folder above `output_dir`, moves with them: the same place there is the same data, unless
    the file of before is still there with another content.

    Args:
        folder: where the results of the earlier run are now.
        earlier: its options.
        now: options of this command, whose relative paths are seen from here.
    """
    base = started_in(folder, earlier)
    old, new = _paths(earlier), _paths(now)
    found = {}
    for name in PATHS:
        was, given = old[name], new[name]
        if name == "model_name" and was == given:  # a name of a hub or of timm more often than a path
            continue
        if was is None or given is None:
            if was != given:
                found[name] = (was or "not given", given or "not given")
            continue
        there = (
            os.path.join(base, was) if base is not None and (base / was).exists() else os.path.abspath(was)
        )
        if os.path.realpath(there) == os.path.realpath(given) or _has_moved(there, given, folder, earlier):
            continue
        found[name] = (was, given) if was != given else (there, os.path.abspath(given))
    return found


def _paths(config: TrainConfig) -> dict[str, str | None]:
    flat = {name: value for group in config.to_dict().values() for name, value in group.items()}
    return {name: flat[name] for name in PATHS}


def _has_moved(there: str, given: str, folder: Path, earlier: TrainConfig) -> bool:
    """Return whether a path is where the folder of results and data took it that was moved or copied."""
    output = Path(earlier.run.output_dir)
    above = folder.resolve().parent.parent
    if not output.is_absolute() or not Path(there).is_relative_to(output.parent):
        return False
    moved = above / Path(there).relative_to(output.parent)
    if above == output.parent.resolve() or os.path.realpath(moved) != os.path.realpath(given):
        return False
    both_there = os.path.isfile(there) and os.path.isfile(given)
    return not both_there or filecmp.cmp(there, given, shallow=False)
