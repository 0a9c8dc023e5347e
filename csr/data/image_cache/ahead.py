"""Cache files of decoded images filled by a process of their own, while this one imports packages.

It does what `open_store` does and says nothing: what it leaves undone, for whatever reason, `open_store` does
again and reports. It ends with the process that started it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import NoReturn

from csr.data.image_cache.cache_file import CacheBuild, cache_key, is_complete
from csr.data.images.square import SQUASH
from csr.runtime.errors import InputError

FEWEST = 100  # images that are worth a process: it needs a third of a second to begin
REPORT_EVERY_S = 0.2  # its pipe must not fill up while nobody reads
LEAVES_WITHIN_S = 5.0


class DecodingAhead:
    """A context with such a process, which is gone when the context ends.

    Args:
        sets: the images of each cache file, in the order of its table.
        size: side of the stored images in pixels.
        cache_dir: folder of the cache files; None: nothing is cached and no process started.
        workers: threads that decode.
        resize: see `csr.data.images.square`.
    """

    def __init__(
        self,
        sets: Sequence[Sequence[Path]],
        *,
        size: int,
        cache_dir: Path | None,
        workers: int,
        resize: str = SQUASH,
    ) -> None:
        self._process: subprocess.Popen[str] | None = None
        missing = [] if cache_dir is None else _missing(sets, size, cache_dir, resize)
        if sum(len(paths) for _, paths in missing) < FEWEST:
            return
        job = json.dumps({"sets": missing, "size": size, "workers": workers, "resize": resize})
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        except OSError:  # no process more is allowed here: then this one decodes
            return
        # a thread: the pipe is shorter than the list, and the process reads when it has imported
        threading.Thread(target=_write, args=(self._process, job), daemon=True).start()

    def __enter__(self) -> DecodingAhead:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(LEAVES_WITHIN_S)
        except subprocess.TimeoutExpired:
            self._process.kill()

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def finish(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Wait until the process is done or has failed; `progress(done, of)` may raise to leave early."""
        if self._process is None or self._process.stdout is None:
            return
        for line in self._process.stdout:
            done, of = line.split()
            if progress is not None:
                progress(int(done), int(of))
        self._process.wait()


def _missing(
    sets: Sequence[Sequence[Path]], size: int, cache_dir: Path, resize: str
) -> list[tuple[str, list[str]]]:
    """Return cache files that are not there, each with its images."""
    try:
        files = [cache_dir / f"images-{cache_key(paths, size, resize=resize)}.bin" for paths in sets]
    except InputError:  # a file vanished: `open_store` reports it
        return []
    return [
        (str(file), [str(path) for path in paths])
        for file, paths in zip(files, sets, strict=True)
        if not is_complete(file, len(paths), size)
    ]


def _write(process: subprocess.Popen[str], job: str) -> None:
    assert process.stdin is not None
    try:
        process.stdin.write(job + "\n")
        process.stdin.flush()  # and stays open: its end tells that this process is gone
    except OSError:  # it has ended
        return


class _Reports:
    """Progress written to the standard output now and then."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def __call__(self, done: int, of: int) -> None:
        if time.monotonic() - self._last > REPORT_EVERY_S:
            self._last = time.monotonic()
            sys.stdout.write(f"{done} {of}\n")
            sys.stdout.flush()


def _end_with_starter() -> None:
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)


def _leave(*_: object) -> NoReturn:
    raise SystemExit(1)  # in the main thread: a half-written file is removed


def main() -> None:
    """Fill the cache files that a line of standard input names."""
    signal.signal(signal.SIGTERM, _leave)
    job = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_starter, daemon=True).start()
    for file, names in job["sets"]:
        paths = [Path(name) for name in names]
        build = CacheBuild(Path(file), paths, job["size"], (0, 1), resize=job["resize"])
        build.write_own_part(job["workers"], _Reports())
        build.join()
        build.clean_up()


if __name__ == "__main__":
    main()
