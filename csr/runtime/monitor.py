"""Output of a run: lines and bars on rank 0, TensorBoard on every rank, metrics.jsonl, other trackers."""

from __future__ import annotations

import json
import math
import socket
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, TextIO, TypeVar

from csr.runtime import distributed
from csr.runtime.progress import PROGRESS

T = TypeVar("T")
PLAIN_LINE_EVERY_S = 30.0
BOARD, METRICS = "tensorboard", "metrics.jsonl"


class Sink(Protocol):
    """Another place for points and pictures."""

    def scalars(self, values: Mapping[str, float], *, step: int) -> None:
        """Take numbers by tag."""

    def figure(self, tag: str, image_HW3: Any, *, step: int) -> None:
        """Take a picture, (H,W,3) uint8."""


class Monitor:
    """Opens the writers of one run.

    Args:
        folder: of the run, or None to write nothing (a dry run's checks).
        quiet: print nothing (ranks other than 0 never print).
        first_step: of a resumed run: what a running TensorBoard has read of later steps it drops.
        board: whether TensorBoard's files are written.
    """

    def __init__(
        self,
        folder: Path | None,
        *,
        quiet: bool = False,
        first_step: int | None = None,
        board: bool = True,
    ) -> None:
        self._prints = distributed.is_main() and not quiet
        self._folder = folder
        self._board: Any = None
        self._log: TextIO | None = None
        self.trackers: Sink | None = None  # of rank 0, told what its board is told
        if folder is not None:
            name = f"rank{distributed.rank()}-{socket.gethostname()}"
            if board:
                from torch.utils.tensorboard import SummaryWriter

                self._board_folder = folder / BOARD / name
                self._board = SummaryWriter(str(self._board_folder), purge_step=first_step)
            (folder / "logs").mkdir(parents=True, exist_ok=True)  # rank 0 alone made the folder, on its host
            PROGRESS.log = folder / "logs" / f"{name}.log"
            self._log = open(PROGRESS.log, "a", encoding="utf-8", errors="backslashreplace", buffering=1)

    def say(self, line: str = "") -> None:
        """Print a line on rank 0, and add it to every rank's log."""
        if self._prints:
            print(line, flush=True)
        self.log(line)

    def log(self, line: str) -> None:
        """Add a line, with the time, to this rank's log; if it cannot be written, training continues."""
        if self._log is None or not line:
            return
        try:
            self._log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")
        except OSError:
            self._log = None

    def board_lengths(self) -> dict[str, int]:
        """Return the bytes of this rank's TensorBoard files, by name, all points so far included."""
        if self._board is None:
            return {}
        self._board.flush()
        return {f"{f.parent.name}/{f.name}": f.stat().st_size for f in self._board_folder.iterdir()}

    def scalars(self, values: dict[str, float], *, step: int) -> None:
        """Write points of this rank; NaN, a value that does not exist yet, is left out."""
        if self.trackers is not None:
            self.trackers.scalars(values, step=step)
        if self._board is not None:
            for tag, value in values.items():
                if not math.isnan(value):
                    self._board.add_scalar(tag, value, step)

    def gathered(self, values: dict[str, float], *, step: int) -> None:
        """Write TensorBoard points of values that are the same on all ranks: on rank 0."""
        if distributed.is_main():
            self.scalars(values, step=step)

    def figure(self, tag: str, image_HW3: Any, *, step: int) -> None:
        """Write a picture, (H,W,3) uint8, to rank 0's board."""
        if self.trackers is not None:
            self.trackers.figure(tag, image_HW3, step=step)
        if self._board is not None and distributed.is_main():
            self._board.add_image(tag, image_HW3, step, dataformats="HWC")

    def layout(self, charts: dict[str, dict[str, list]]) -> None:
        """Write what the CUSTOM SCALARS tab of rank 0's board shows: category -> title -> chart."""
        if self._board is not None and distributed.is_main():
            self._board.add_custom_scalars(charts)

    def texts(self, markdown: dict[str, str], *, step: int) -> None:
        """Write Markdown by tag to the TEXT tab of rank 0's board."""
        if self._board is not None and distributed.is_main():
            for tag, text in markdown.items():
                self._board.add_text(tag, text, step)

    def summaries(self, protos: Iterable[Any]) -> None:
        """Write summaries that TensorBoard's plugins read, protocol buffers, to rank 0's board."""
        if self._board is not None and distributed.is_main():
            for proto in protos:
                self._board.file_writer.add_summary(proto)

    def epoch_line(self, record: dict[str, Any]) -> None:
        """Append one line to metrics.jsonl (rank 0); numbers that do not exist are null."""
        if self._folder is None or not distributed.is_main():
            return
        with open(self._folder / METRICS, "a", encoding="utf-8") as file:
            file.write(json_line(record))

    def bar(self, items: Iterable[T], *, total: int, title: str) -> Iterator[T]:
        """Yield items with a progress bar on a terminal, and a plain line now and then elsewhere."""
        if not self._prints:
            yield from items
        elif sys.stderr.isatty():
            from tqdm import tqdm

            self._tqdm = tqdm(items, total=total, desc=title, dynamic_ncols=True, leave=False)
            yield from self._tqdm
        else:
            yield from self._plain_lines(items, total, title)

    def bar_loss(self, loss: float) -> None:
        """Show a loss on the bar."""
        self._loss = loss
        bar = getattr(self, "_tqdm", None)
        if bar is not None:
            bar.set_postfix(loss=f"{loss:.4f}")

    def _plain_lines(self, items: Iterable[T], total: int, title: str) -> Iterator[T]:
        last = time.monotonic()
        self._loss = float("nan")
        for done, item in enumerate(items, start=1):
            yield item
            if time.monotonic() - last > PLAIN_LINE_EVERY_S and done < total:
                last = time.monotonic()
                loss = "" if math.isnan(self._loss) else f" loss {self._loss:.4f}"
                self.say(f"{title}: {done}/{total}{loss}")

    def flush(self) -> None:
        if self._board is not None:
            self._board.flush()

    def close(self) -> None:
        if self._board is not None:
            self._board.close()


def json_line(record: dict[str, Any]) -> str:
    """Return an epoch's line in metrics.jsonl; numbers that do not exist are null."""
    return json.dumps(_without_nan(record)) + "\n"


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_nan(v) for k, v in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
