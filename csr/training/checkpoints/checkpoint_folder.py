"""Training checkpoints: complete or absent, checked before use, the last few kept.

`checkpoints/checkpoint-000007/` holds `state.pth`, the best models so far (hard links, nothing is written
twice) and `manifest.json` with the size and hash of each. It is made under another name, flushed, renamed;
`latest.json`, written last, points at it. A kill at any moment leaves the one before.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from csr.runtime.errors import InputError
from csr.runtime.files import sync_folder, write_json
from csr.runtime.json_file import read_json
from csr.runtime.tensor_files import Written, hash_file, save_tensors

FORMAT = 1
FOLDER, PREFIX, STATE, MANIFEST, POINTER = (
    "checkpoints",
    "checkpoint-",
    "state.pth",
    "manifest.json",
    "latest.json",
)
Report = Callable[[str], None]


class DamagedError(ValueError):
    """A checkpoint that is not what was written."""


class CheckpointFolder:
    """The folder of a run's training checkpoints. Called by rank 0 only.

    Args:
        folder: of the run; made when the first checkpoint is written.
        keep: how many of the last ones stay.
        identity: of the run, for the manifest: options, data, ranks.
    """

    def __init__(self, folder: Path, *, keep: int, identity: dict[str, Any]) -> None:
        self.folder, self._keep, self._identity = folder / FOLDER, keep, identity

    def write(self, state: dict[str, Any], *, place: dict[str, Any], best: dict[str, Written]) -> Path:
        """Write one checkpoint, then the pointer, then remove old ones.

        Args:
            state: tensors and plain values.
            place: stage, epoch and step, for the manifest.
            best: files of the run's folder that belong to this state.

        Raises:
            OSError: nothing of this checkpoint is left, the ones before are whole.
        """
        self.folder.mkdir(exist_ok=True)
        number = max((_number(path) for path in all_of(self.folder)), default=0) + 1
        final = self.folder / f"{PREFIX}{number:06d}"
        private = self.folder / f".{final.name}.{os.getpid()}.tmp"
        try:
            private.mkdir()
            files = {STATE: save_tensors(private / STATE, state)}
            for name, written in best.items():
                link(self.folder.parent / name, private / name)
                files[name] = written
            described = {**self._identity, **place, "files": {n: w._asdict() for n, w in files.items()}}
            write_json(private / MANIFEST, _signed(described))
            sync_folder(private)
            os.replace(private, final)
        except BaseException:
            shutil.rmtree(private, ignore_errors=True)
            raise
        sync_folder(self.folder)
        write_json(self.folder / POINTER, {"checkpoint": final.name})
        self._prune()
        return final

    def _prune(self) -> None:
        for old in all_of(self.folder)[self._keep :]:
            remove(old)
        for left in self.folder.glob(".*.tmp"):  # of killed runs: this one has just renamed its own
            shutil.rmtree(left, ignore_errors=True)


def _signed(manifest: dict[str, Any]) -> dict[str, Any]:
    plain = {"format": FORMAT, **json.loads(json.dumps(manifest))}
    return {**plain, "sha256": _hash_of(plain)}


def _hash_of(plain: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def link(source: Path, target: Path) -> None:
    """Give a file a second name; copy it where the file system has no hard links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
        with open(target, "rb") as file:
            os.fsync(file.fileno())


def _number(path: Path) -> int:
    return int(path.name.removeprefix(PREFIX))


def all_of(folder: Path) -> list[Path]:
    """Return the checkpoints of a folder, newest first."""
    checkpoints = [p for p in folder.glob(f"{PREFIX}*") if p.name.removeprefix(PREFIX).isdigit()]
    return sorted(checkpoints, key=_number, reverse=True)


def remove(checkpoint: Path) -> None:
    """Remove a checkpoint such that a kill in between leaves nothing that looks like one."""
    hidden = checkpoint.with_name(f".{checkpoint.name}.{os.getpid()}.tmp")
    os.replace(checkpoint, hidden)
    shutil.rmtree(hidden, ignore_errors=True)


def verified(checkpoint: Path) -> dict[str, Any]:
    """Return the manifest of a checkpoint whose files are all as they were written.

    Raises:
        DamagedError: the first thing wrong with it.
    """
    try:
        manifest = read_json(checkpoint / MANIFEST)
        claimed = manifest.pop("sha256")
        if claimed != _hash_of(manifest):
            raise DamagedError(f"{MANIFEST} has been changed")
        if manifest["format"] != FORMAT:
            raise DamagedError(f"its format is {manifest['format']}, this csr reads {FORMAT}")
        for name, written in manifest["files"].items():
            if Path(name).name != name:
                raise DamagedError(f"{name!r} is no file of it")
            _check_file(checkpoint / name, Written(**written))
    except OSError as error:
        raise DamagedError(f"{Path(str(error.filename)).name}: {error.strerror}") from None
    except DamagedError:
        raise
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise DamagedError(f"{MANIFEST} cannot be read") from None
    return manifest


def _check_file(path: Path, written: Written) -> None:
    size = path.stat().st_size
    if size != written.size:
        raise DamagedError(f"{path.name} has {size} bytes instead of {written.size}")
    if hash_file(path) != written:
        raise DamagedError(f"{path.name} is not what was written (its SHA-256 differs)")


def newest(folder: Path, report: Report) -> tuple[Path, dict[str, Any]] | None:
    """Return the newest whole checkpoint of a folder and its manifest; report damaged ones.

    Raises:
        InputError: there are checkpoints, all of them damaged.
    """
    problems = []
    for checkpoint in _pointed_first(folder):
        try:
            return checkpoint, verified(checkpoint)
        except DamagedError as error:
            problems.append(f"{checkpoint}: damaged: {error}")
            report(f"{problems[-1]}; the one before it is tried")
    if problems:
        raise InputError(f"{'; '.join(problems)}: no checkpoint is left: start anew with --overwrite")
    return None


def _pointed_first(folder: Path) -> list[Path]:
    """Return the checkpoints to try: the pointed one, then the others, newest first.

    A complete one may be newer than the pointer: then the run was killed between the two.
    """
    checkpoints = all_of(folder)
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
        pointed = folder / read_json(folder / POINTER)["checkpoint"]
        checkpoints.sort(key=lambda path: path != pointed)  # stable
    return checkpoints


def named_by_user(path: Path, report: Report) -> tuple[Path, dict[str, Any]]:
    """Return the checkpoint of `--resume PATH` and its manifest: itself, or the newest of a folder.

    Raises:
        InputError: there is none, or the one named is damaged.
    """
    if path.is_file():
        path = path.parent
    if path.name.startswith(PREFIX) or (path / MANIFEST).is_file():
        try:
            return path, verified(path)
        except DamagedError as error:
            raise InputError(f"--resume {path}: damaged: {error}: give another checkpoint") from None
    for folder in (path, path / FOLDER):
        checkpoint = newest(folder, report) if folder.is_dir() else None
        if checkpoint is not None:
            return checkpoint
    raise InputError(f"--resume {path}: holds no training checkpoint ({FOLDER}/{PREFIX}000001 and so on)")
