"""The result folder of a run: may it be written, does it hold an unfinished run, and may that one go on.

Everything here is called by rank 0 alone; nothing is written before `RunFolder.open`.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from csr.config.options import TrainConfig
from csr.runtime.errors import InputError
from csr.runtime.files import write_atomic
from csr.runtime.json_file import read_json
from csr.runtime.monitor import BOARD, METRICS, json_line
from csr.training.checkpoints import checkpoint_folder
from csr.training.checkpoints.file_names import CONFIG, LOCK, OUTPUT_FOLDERS, OUTPUTS, RESULTS
from csr.training.checkpoints.resume_plan import MAY_DIFFER, Plan, _flat, _shown
from csr.training.checkpoints.state import Saved


class RunFolder:
    """The folder of one run.

    Args:
        config: options as the user gave them.
        mine: of `identity`.
        say: tells the user.
    """

    def __init__(self, config: TrainConfig, *, mine: dict[str, Any], say: Callable[[str], None]) -> None:
        self.config, self.path, self._mine, self._say = config, config.folder, mine, say
        self._lock: Any = None

    def plan(self) -> Plan:
        """Decide whether the run begins or goes on; write nothing.

        Raises:
            InputError: the folder cannot be written, holds results that nobody asked to replace, or an
                unfinished run that differs from this one.
        """
        self._check_writable()
        run, holds = self.config.run, self._holds()
        asked = None if run.resume in ("auto", "never") else Path(run.resume)
        if run.overwrite and asked is not None:
            raise InputError("--overwrite contradicts --resume PATH: give one of them alone")
        if not run.overwrite and (holds == "results" or (holds == "unfinished" and run.resume == "never")):
            hint = " (--resume auto goes on with it)" if holds == "unfinished" else ""
            raise InputError(
                f"{self.path}: holds results already{hint}: give another --exp_name, "
                "or --overwrite to replace them"
            )
        if run.dry_run:
            return Plan()
        self._take_lock(create=False)
        if run.overwrite:
            return Plan()
        if asked is not None:
            found = checkpoint_folder.named_by_user(asked, self._say)
            if holds == "unfinished" and not self._is_mine(found[0]):
                raise InputError(
                    f"{self.path}: holds another unfinished run: give another --exp_name with --resume PATH"
                )
            return self._go_on(*found)
        return self._newest() if holds == "unfinished" else Plan()

    def _newest(self) -> Plan:
        """Go on with the unfinished run of this folder, or begin it anew where it has saved nothing yet."""
        newest = checkpoint_folder.newest(self.path / checkpoint_folder.FOLDER, self._say)
        if newest is not None:
            return self._go_on(*newest)
        self._compare(self._read_config())
        self._say(f"{self.path}: an unfinished run without a checkpoint yet: it begins anew")
        return Plan()

    def _is_mine(self, checkpoint: Path) -> bool:
        return checkpoint.resolve().parent.parent == self.path.resolve()

    def _check_writable(self) -> None:
        try:
            present = next((f for f in (self.path, *self.path.parents) if f.exists()), self.path)
        except OSError as error:
            raise self._unusable(error) from None
        if not present.is_dir():
            raise InputError(f"{self.path}: {present} is no folder: give another --output_dir or --exp_name")
        if not os.access(present, os.W_OK | os.X_OK):
            raise InputError(f"{self.path}: {present} cannot be written to: give another --output_dir")

    def _holds(self) -> str:
        """nothing, an unfinished run, or results (of a finished run, or files of somebody else)."""
        try:
            names = {entry.name for entry in self.path.iterdir()} if self.path.is_dir() else set()
        except OSError as error:
            raise self._unusable(error) from None
        if CONFIG in names and RESULTS not in names:
            return "unfinished"
        # what a run may leave that was killed before it wrote its options
        left = {n for n in names if n == LOCK or n.startswith(f".{CONFIG}.")}
        return "results" if names - left else "nothing"

    def _read_config(self) -> dict[str, Any]:
        try:
            told = read_json(self.path / CONFIG)
            return {**self._mine, "options": told["options"], "precision": told["precision"]["name"]}
        except (OSError, ValueError, LookupError, TypeError):
            raise InputError(
                f"{self.path / CONFIG}: cannot be read: give another --exp_name, or --overwrite to replace it"
            ) from None

    def _go_on(self, checkpoint: Path, manifest: dict[str, Any]) -> Plan:
        try:
            self._compare(manifest)
            batch_size, accumulation = self._batch(manifest)
            stage, epoch, step = manifest["stage"], manifest["epoch"], manifest["step_in_epoch"]
            is_over = epoch > self.config.epochs[stage]
        except (LookupError, TypeError, AttributeError):
            raise InputError(f"{checkpoint}: was written by another version of csr") from None
        place = f"in the {stage} stage, epoch {epoch}, after step {step}"
        if is_over:
            place = f"after the {stage} stage"
        self._say(f"{checkpoint}: goes on {place}")
        return Plan(checkpoint, manifest, batch_size, accumulation)

    def _compare(self, theirs: dict[str, Any]) -> None:
        """Raise an InputError that lists every option that differs and matters."""
        old, new = (_flat(side["options"]) for side in (theirs, self._mine))
        differ = [
            f"--{name} was {_shown(old[name])}, now {_shown(new[name])}"
            for name in new
            if name in old and name not in MAY_DIFFER and old[name] != new[name]
        ]
        if theirs["precision"] != self._mine["precision"]:
            differ.append(f"--precision was {theirs['precision']}, now {self._mine['precision']}")
        for key in sorted(set(theirs["engine"]) | set(self._mine["engine"])):
            was, now = theirs["engine"].get(key), self._mine["engine"].get(key)
            if json.dumps(was) != json.dumps(now):
                differ.append(f"--ds_config {key!r} was {json.dumps(was)}, now {json.dumps(now)}")
        if differ:
            raise InputError(
                f"{self.path}: holds an unfinished run with other options: {'; '.join(differ)}: give "
                "the same ones to go on, another --exp_name, or --overwrite to replace it"
            )

    def _batch(self, manifest: dict[str, Any]) -> tuple[int, int]:
        """Batch size and accumulation that keep the checkpoint's effective batch on the ranks of now."""
        optim, world, effective = self.config.optim, self._mine["world_size"], manifest["effective_batch"]
        if effective < 1:
            raise LookupError("no effective batch")
        if self._mine["effective_batch"] == effective:
            return optim.batch_size, optim.accumulation
        old = manifest["options"]["optim"]
        if (optim.batch_size, optim.accumulation) != (old["batch_size"], old["accumulation"]):
            raise InputError(
                f"--batch_size {optim.batch_size} x --accumulation {optim.accumulation} x {world} rank(s) is "
                f"{self._mine['effective_batch']}, but the effective batch of the run is {effective}"
            )
        if effective % world:
            raise InputError(
                f"{self.path}: the effective batch of {effective} of the unfinished run cannot be divided by "
                f"{world} ranks: start a number of ranks that divides it"
            )
        share = effective // world
        fitting = (a for a in range(1, share + 1) if share % a == 0 and share // a <= optim.batch_size)
        accumulation = next(fitting)
        self._say(
            f"{world} rank(s) instead of {manifest['world_size']}: {share // accumulation} images per rank "
            f"and {accumulation} accumulation keep the effective batch of {effective}"
        )
        return share // accumulation, accumulation

    def open(self, plan: Plan, saved: Saved | None) -> None:
        """Make the folder ready: empty of an earlier run's files, or as it was at the checkpoint.

        Raises:
            InputError: it cannot be written, or another run is writing it.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._take_lock(create=True)
            if plan.checkpoint is None or saved is None:
                self._clear()
            else:
                self._rewind(plan.checkpoint, saved)
        except OSError as error:
            raise self._unusable(error) from None

    def _unusable(self, error: OSError) -> InputError:
        reason = error.strerror or error
        return InputError(f"{self.path}: {reason}: give another --output_dir or --exp_name")

    def _clear(self) -> None:
        """Remove what an earlier run of csr wrote there, nothing else; last what says that it is a run."""
        for folder in OUTPUT_FOLDERS:
            if (self.path / folder).is_dir():
                shutil.rmtree(self.path / folder)
        for pattern in (RESULTS, *(p for p in OUTPUTS if p != CONFIG), CONFIG):
            for old in self.path.glob(pattern):
                old.unlink()

    def _rewind(self, checkpoint: Path, saved: Saved) -> None:
        """Take back what was told and written after the checkpoint, so that nothing is told twice."""
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
                private = self.path / f".{name}.{os.getpid()}.tmp"
                private.unlink(missing_ok=True)
                checkpoint_folder.link(source, private)
                os.replace(private, self.path / name)
                private.unlink(missing_ok=True)  # a rename onto the same file does nothing
        if self._is_mine(checkpoint):
            for newer in checkpoint_folder.all_of(checkpoint.parent):
                if newer.name == checkpoint.name:
                    break
                checkpoint_folder.remove(newer)

    def _take_lock(self, *, create: bool) -> None:
        """Hold the folder as long as this process lives: two runs must never write one folder."""
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
        """Let another run have the folder."""
        if self._lock is not None:
            with contextlib.suppress(OSError):
                self._lock.close()
            self._lock = None
