"""The images of each step on each rank: the same windows for any number of ranks.

Letters: B images of one micro batch on one rank.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

Positions = tuple[np.ndarray, np.ndarray]  # (B,) int64 places in the data set, (B,) bool, False: padding


class WindowSampler(Sampler[Positions]):
    """Batches of one rank for training: an epoch is cut into windows, one for each optimizer step.

    A window is the next `world * micro_batch * accumulation` entries of one permutation, which seed and epoch
    alone decide; micro step j gives rank r its entries from `(j * world + r) * micro_batch` on. So one rank x
    16, two ranks x 8 and one rank x 8 x accumulation 2 see the same windows. The last window is filled up
    from the beginning of the permutation; these entries are marked as padding.

    Args:
        num_items: images in the data set, at least 1.
        micro_batch: images per rank and micro step.
        rank, world: this process and how many there are.
        accumulation: micro steps per optimizer step.
        seed: of the permutation, 0 or more.
        shuffle: False keeps the order of the data set.
    """

    def __init__(
        self,
        num_items: int,
        *,
        micro_batch: int,
        rank: int = 0,
        world: int = 1,
        accumulation: int = 1,
        seed: int = 0,
        shuffle: bool = True,
    ) -> None:
        assert num_items >= 1 and micro_batch >= 1 and accumulation >= 1 and 0 <= rank < world
        self.num_items, self.micro_batch, self.accumulation = num_items, micro_batch, accumulation
        self.rank, self.world, self.seed, self.shuffle = rank, world, seed, shuffle
        self.window = world * micro_batch * accumulation
        self.set_epoch(0)

    @property
    def num_windows(self) -> int:
        """Return the optimizer steps of an epoch."""
        return -(-self.num_items // self.window)

    @property
    def num_steps(self) -> int:
        """Return the micro steps of a whole epoch, the same on every rank."""
        return self.num_windows * self.accumulation

    def set_epoch(self, epoch: int, *, start_step: int = 0) -> None:
        """Choose the permutation of an epoch, and the micro step with which a resumed run begins."""
        assert 0 <= start_step <= self.num_steps
        self.epoch, self.start_step = epoch, start_step
        order = np.arange(self.num_items)
        if self.shuffle:
            order = np.random.Generator(np.random.Philox(key=[self.seed, epoch])).permutation(order)
        total = self.num_windows * self.window
        self._position = np.resize(order, total).astype(np.int64)
        self._valid = np.arange(total) < self.num_items

    def window_positions(self, window: int) -> np.ndarray:
        """Return the positions of all ranks in one window, int64, without padding and communication."""
        part = slice(window * self.window, (window + 1) * self.window)
        return self._position[part][self._valid[part]]

    def __len__(self) -> int:
        return self.num_steps - self.start_step

    def __iter__(self) -> Iterator[Positions]:
        for step in range(self.start_step, self.num_steps):
            begin = (step * self.world + self.rank) * self.micro_batch
            part = slice(begin, begin + self.micro_batch)
            yield self._position[part], self._valid[part]


class EvalSampler(Sampler[Positions]):
    """Batches of one rank for evaluation: every world-th chunk, nothing twice, nothing padded.

    Ranks may have different numbers of batches (also none); the batches' `index` restores the order.

    Args:
        num_items: images in the data set.
        batch: images per batch; the last one may be shorter.
        rank, world: this process and how many there are.
    """

    def __init__(self, num_items: int, *, batch: int, rank: int = 0, world: int = 1) -> None:
        assert num_items >= 0 and batch >= 1 and 0 <= rank < world
        self.num_items, self.batch, self.rank, self.world = num_items, batch, rank, world

    def _starts(self) -> range:
        return range(self.rank * self.batch, self.num_items, self.world * self.batch)

    def __len__(self) -> int:
        return len(self._starts())

    def __iter__(self) -> Iterator[Positions]:
        for start in self._starts():
            position_B = np.arange(start, min(start + self.batch, self.num_items), dtype=np.int64)
            yield position_B, np.ones(len(position_B), dtype=bool)
