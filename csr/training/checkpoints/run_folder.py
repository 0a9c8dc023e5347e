"""The result folder of a run: its content, its lock, emptied or taken back to a checkpoint.

Called by rank 0 alone; nothing is written before `RunFolder.open`.

TensorBoard files are cut to their length at the checkpoint. `SummaryWriter(purge_step=..)` would leave the
points of lost steps in the file and only hide them from TensorBoard's own reader: other readers would see
them twice. (The resumed run gives it all the same, for a TensorBoard that has read those points already.)
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from typing import Any

from csr.runtime.errors import InputError
from csr.runtime.files import replaced_path, write_atomic
from csr.runtime.monitor import BOARD, METRICS, json_line
from csr.training.checkpoints import checkpoint_folder
from csr.training.checkpoints.file_names import CONFIG, LOCK, OUTPUT_FOLDERS, OUTPUTS, RESULTS
from csr.training.checkpoints.state import Saved


class RunFolder:
    """The folder of one run.

    Args:
        path: output_dir/exp_name.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: Any = None

    def owns(self, checkpoint: Path) -> bool:
        """Return whether a checkpoint lies in this folder."""
        return checkpoint.resolve().parent.parent == self.path.resolve()

    def check_writable(self) -> None:
        """Raise InputError where the folder could not be made or written."""
        try:
            present = next((f for f in (self.path, *self.path.parents) if f.exists()), self.path)
        except OSError as error:
            raise self._unusable(error) from None
        if not present.is_dir():
            raise InputError(f"{self.path}: {present} is no folder: give another --output_dir or --exp_name")
        if not os.access(present, os.W_OK | os.X_OK):
            raise InputError(f"{self.path}: {present} cannot be written to: give another --output_dir")

    def content(self) -> str:
        """Return "nothing", "unfinished", or "results" (of a finished run, or foreign files)."""
        try:
            names = {entry.name for entry in self.path.iterdir()} if self.path.is_dir() else set()
        except OSError as error:
            raise self._unusable(error) from None
        if CONFIG in names and RESULTS not in names:
            return "unfinished"
        # of a run that was killed before it wrote its options
        left = {n for n in names if n == LOCK or n.startswith(f".{CONFIG}.")}
        return "results" if names - left else "nothing"

    def open(self, checkpoint: Path | None, saved: Saved | None) -> None:
        """Make the folder ready: empty of an earlier run's files, or as it was at the checkpoint.

        Args:
            checkpoint: to resume from; None empties the folder.
            saved: its content.

        Raises:
            InputError: it cannot be written, or another run is writing it.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._take_lock(create=True)
            if checkpoint is None or saved is None:
                self._clear()
            else:
                self._rewind(checkpoint, saved)
        except OSError as error:
            raise self._unusable(error) from None

    def _unusable(self, error: OSError) -> InputError:
        reason = error.strerror or error
        return InputError(f"{self.path}: {reason}: give another --output_dir or --exp_name")

    def _clear(self) -> None:
        """Remove the files of an earlier run of csr, nothing else; config.json, which marks a run, last."""
        for folder in OUTPUT_FOLDERS:
            if (self.path / folder).is_dir():
                shutil.rmtree(self.path / folder)
        for pattern in (RESULTS, *(p for p in OUTPUTS if p != CONFIG), CONFIG):
            for old in self.path.glob(pattern):
                old.unlink()

    def _rewind(self, checkpoint: Path, saved: Saved) -> None:
        """Take back what was logged and written after the checkpoint, so that nothing is there twice."""
        text = "".join(json_line(record) for record in saved.state.history)
        write_atomic(self.path / METRICS, lambda file: file.write(text.encode()))
        for file in (self.path / BOARD).glob("*/*"):
            length = saved.board.get(f"{file.parent.name}/{file.name}", 0)
            if not length:
                file.unlink()
            elif file.stat().st_size > length:
                os.truncate(file, length)
        for name in saved.state.best_files:
            source = checkpoint / name
            if source.is_file():
                with replaced_path(self.path / name) as private:
                    checkpoint_folder.link(source, private)
        if self.owns(checkpoint):
            for newer in checkpoint_folder.all_of(checkpoint.parent):
                if newer.name == checkpoint.name:
                    break
                checkpoint_folder.remove(newer)

    def lock_if_there(self) -> None:
        """Hold a folder that an earlier run has made; a new one is held when it is opened."""
        self._take_lock(create=False)

    def _take_lock(self, *, create: bool) -> None:
        """Hold the folder for the life of this process: two runs must never write one folder."""
        if self._lock is not None or not (create or (self.path / LOCK).is_file()):
            return
        try:
            lock = open(self.path / LOCK, "a", encoding="utf-8")
        except OSError as error:
            raise self._unusable(error) from None
        try:
            import fcntl
        except ImportError:  # not on Windows: there a folder is not guarded against a second run
            self._lock = lock
            return
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise InputError(
                f"{self.path}: another run is writing this folder: give another --exp_name"
            ) from None
        except OSError:
            pass  # a file system without locks
        self._lock = lock

    def close(self) -> None:
        """Release the folder for another run."""
        if self._lock is not None:
            with contextlib.suppress(OSError):
                self._lock.close()
            self._lock = None
