"""What a run tells: lines and bars on rank 0, TensorBoard on every rank, metrics.jsonl."""

from __future__ import annotations

import json
import math
import socket
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from csr import distributed

T = TypeVar("T")
PLAIN_LINE_EVERY_S = 30.0


class Monitor:
    """Opens the writers of one run.

    Args:
        folder: of the run, or None to write nothing (a dry run's checks).
        quiet: print nothing (ranks other than 0 never print).
    """

    def __init__(self, folder: Path | None, *, quiet: bool = False) -> None:
        self._prints = distributed.is_main() and not quiet
        self._folder = folder
        self._board: Any = None
        if folder is not None:
            from torch.utils.tensorboard import SummaryWriter

            host = socket.gethostname()
            self._board = SummaryWriter(str(folder / "tensorboard" / f"rank{distributed.rank()}-{host}"))

    def say(self, line: str = "") -> None:
        """One line for the user, from rank 0."""
        if self._prints:
            print(line, flush=True)

    def scalars(self, values: dict[str, float], *, step: int) -> None:
        """TensorBoard points of this rank; values that are not numbers yet (NaN) are left out."""
        if self._board is not None:
            for tag, value in values.items():
                if not math.isnan(value):
                    self._board.add_scalar(tag, value, step)

    def gathered(self, values: dict[str, float], *, step: int) -> None:
        """TensorBoard points of what is the same on all ranks: rank 0 writes them."""
        if distributed.is_main():
            self.scalars(values, step=step)

    def figure(self, tag: str, image_HW3: Any, *, step: int) -> None:
        """A picture (uint8, H W 3) on rank 0's board."""
        if self._board is not None and distributed.is_main():
            self._board.add_image(tag, image_HW3, step, dataformats="HWC")

    def hyperparameters(self, options: dict[str, Any], results: dict[str, float]) -> None:
        """The HParams board of this run."""
        if self._board is None or not distributed.is_main():
            return
        flat = {
            f"{group}.{name}": value if isinstance(value, int | float | str | bool) else str(value)
            for group, values in options.items()
            for name, value in values.items()
        }
        known = {f"hparam/{k}": v for k, v in results.items() if not math.isnan(v)}
        self._board.add_hparams(flat, known, run_name=".")

    def epoch_line(self, record: dict[str, Any]) -> None:
        """Append one line to metrics.jsonl (rank 0); numbers that do not exist are null."""
        if self._folder is None or not distributed.is_main():
            return
        with open(self._folder / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(_without_nan(record)) + "\n")

    def bar(self, items: Iterable[T], *, total: int, title: str) -> Iterator[T]:
        """Items with a progress bar on a terminal, and a plain line now and then elsewhere."""
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


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_nan(v) for k, v in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
