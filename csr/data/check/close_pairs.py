"""Pairs of points that are close, and of bit strings that differ little, without comparing all of N x N.

Points: halved again and again along the axis of the largest variance (a k-d tree); a point meets those of
the cells alone that its ball reaches. Bits: two strings with at most b differences are equal in one of b + 1
bands (the pigeonhole principle). Both lose nothing. The trees of SciPy and scikit-learn list all pairs of a
set of copies, whose number is the square of theirs; here cells whose points are known to belong together are
passed over.

Letters: N points or strings, D axes, F bits, P pairs.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from csr.data.check.groups import Groups

CELL = 48  # points of a cell at most
SLACK = 1e-3  # of squared distances in units of the radius, for float32
_AT_ONCE = 2**20  # distances in memory
_GATHERED = 2**17  # pairs


def close_pairs(point_ND: np.ndarray, radius: float, groups: Groups | None = None) -> Iterator[np.ndarray]:
    """Yield all pairs of points no farther apart than `radius`: places int64 (P, 2), the first one smaller.

    A few pairs that are slightly farther apart (by `SLACK`) are yielded too.

    Args:
        point_ND: float32.
        radius: above 0, in the unit of the points.
        groups: pairs within a group may be left out; the caller may join groups while this goes on.
    """
    tree = _Tree(np.asarray(point_ND / radius, dtype=np.float32))
    found = _gathered(tree.neighbours()) if groups is not None else iter(())
    for part in (found, tree.all_pairs(groups)):
        for place_P2 in part:
            yield np.sort(tree.order_N[place_P2], axis=1)


def _gathered(parts: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield pairs in larger parts: joining groups takes the same time for one pair and for many."""
    held: list[np.ndarray] = []
    for part in parts:
        held.append(part)
        if sum(map(len, held)) >= _GATHERED:
            yield np.concatenate(held)
            held = []
    if held:
        yield np.concatenate(held)


class _Tree:
    """Points in the order of their cells; places are places in this order."""

    def __init__(self, point_ND: np.ndarray) -> None:
        self.order_N = np.arange(len(point_ND))
        self._cuts: dict[tuple[int, int], tuple[int, float]] = {}  # axis and place by first and last point
        self._cells: list[tuple[int, int]] = []
        parts = [(0, len(point_ND))]
        while parts:
            begin, end = parts.pop()
            if end - begin <= CELL:
                self._cells.append((begin, end))
                continue
            part, middle = self.order_N[begin:end], (begin + end) // 2
            own_ND = point_ND[part]
            axis = int(np.argmax(own_ND.var(axis=0)))
            part[:] = part[np.argpartition(own_ND[:, axis], middle - begin)]
            self._cuts[begin, end] = axis, float(point_ND[self.order_N[middle], axis])
            parts += [(middle, end), (begin, middle)]
        self._point_ND = point_ND[self.order_N]
        self._length_N = np.square(self._point_ND).sum(axis=1)

    def neighbours(self) -> Iterator[np.ndarray]:
        """Yield the close pairs of each cell and of the next one: of copies, nearly all that joins them."""
        for (begin, end), (_, last) in zip(self._cells, [*self._cells[1:], self._cells[-1]], strict=True):
            yield from self._close(np.arange(begin, end), begin, last)

    def all_pairs(self, groups: Groups | None) -> Iterator[np.ndarray]:
        """Yield all close pairs, each once; those of one group may be left out."""
        num_points, num_axes = self._point_ND.shape
        everywhere = np.stack([np.full(num_axes, end, dtype=np.float32) for end in (-np.inf, np.inf)])
        all_N = np.arange(num_points)
        stack = [(0, num_points, everywhere, all_N, np.zeros(num_points, dtype=np.float32))]
        while stack:
            begin, end, box, place_P, square_P = stack.pop()
            if groups is not None:
                keep_P = self._apart(begin, end, place_P, groups)
                place_P, square_P = place_P[keep_P], square_P[keep_P]
            if not len(place_P):
                continue
            if (begin, end) not in self._cuts:
                yield from self._close(place_P, begin, end)
                continue
            axis, cut = self._cuts[begin, end]
            middle, along_P = (begin + end) // 2, self._point_ND[place_P, axis]
            gap_P = np.maximum(0, np.maximum(box[0, axis] - along_P, along_P - box[1, axis]))
            beside_P = square_P - gap_P**2
            for first, last, side in ((middle, end, 0), (begin, middle, 1)):
                half = box.copy()
                half[side, axis] = cut
                gap_P = np.maximum(0, np.maximum(half[0, axis] - along_P, along_P - half[1, axis]))
                reached_P = beside_P + gap_P**2
                keep_P = (reached_P <= 1 + SLACK) & (place_P < last)
                stack.append((first, last, half, place_P[keep_P], reached_P[keep_P]))

    def _close(self, place_P: np.ndarray, begin: int, end: int) -> Iterator[np.ndarray]:
        """Yield the close pairs of some points with later ones of a stretch."""
        own_SD, length_S = self._point_ND[begin:end], self._length_N[begin:end]
        rows = max(1, _AT_ONCE // (end - begin))
        for first in range(0, len(place_P), rows):
            part_P = place_P[first : first + rows]
            squared_PS = self._point_ND[part_P] @ own_SD.T
            squared_PS *= -2
            squared_PS += length_S
            place, other = np.nonzero(squared_PS <= (1 + SLACK - self._length_N[part_P])[:, None])
            pair_P2 = np.stack([part_P[place], begin + other], axis=1)
            pair_P2 = pair_P2[pair_P2[:, 0] < pair_P2[:, 1]]
            if len(pair_P2):
                yield pair_P2

    def _apart(self, begin: int, end: int, place_P: np.ndarray, groups: Groups) -> np.ndarray:
        """Return which points are not of the group that a whole stretch is of, bool (P,)."""
        own = groups.first_N[self.order_N[begin:end]]
        if (own != own[0]).any():
            return np.ones(len(place_P), dtype=bool)
        return groups.first_N[self.order_N[place_P]] != own[0]


def band_pairs(bit_NF: np.ndarray, differences: int, groups: Groups | None = None) -> Iterator[np.ndarray]:
    """Yield pairs of bit strings that are equal in a band: all with at most `differences`, and others.

    A pair is yielded once for each band that is equal, as places int64 (P, 2), the first one smaller.

    Args:
        bit_NF: bool.
        differences: bits; there is one band more.
        groups: pairs within a group may be left out; the caller may join groups while this goes on.
    """
    for order_N, start_R, size_R in _bands(bit_NF, differences):
        step = 1
        while len(start_R):
            first_P = np.repeat(start_R, size_R - step) + _counts(size_R - step)
            for begin in range(0, len(first_P), _AT_ONCE):
                part_P = first_P[begin : begin + _AT_ONCE]
                yield np.sort(np.stack([order_N[part_P], order_N[part_P + step]], axis=1), axis=1)
            step += 1
            keep_R = size_R > step
            if groups is not None:
                keep_R &= _several(groups.first_N[order_N], start_R, size_R)
            start_R, size_R = start_R[keep_R], size_R[keep_R]


def has_few_band_pairs(bit_NF: np.ndarray, differences: int, most: int) -> bool:
    """Return whether `band_pairs` without groups yields no more than so many pairs."""
    for _, _, size_R in _bands(bit_NF, differences):
        most -= int((size_R * (size_R - 1) // 2).sum())
        if most < 0:
            return False
    return True


def _bands(bit_NF: np.ndarray, differences: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield strings ordered by each band, and the starts and sizes of runs of two and more equal ones."""
    for band in range(differences + 1):
        # bits of neighbouring pixels are alike: a band takes them from everywhere, 64 at most
        own_NB = np.packbits(bit_NF[:, band :: differences + 1][:, :64], axis=1)
        key_N = np.pad(own_NB, ((0, 0), (0, 8 - own_NB.shape[1]))).view(np.uint64).ravel()
        order_N = np.argsort(key_N, kind="stable")
        sorted_N = key_N[order_N]
        start_R = np.flatnonzero(np.append(True, sorted_N[1:] != sorted_N[:-1]))
        size_R = np.diff(start_R, append=len(key_N))
        yield order_N, start_R[size_R > 1], size_R[size_R > 1]


def _counts(size_R: np.ndarray) -> np.ndarray:
    """Return 0, 1, .. for each size, one after another."""
    ends_R = np.cumsum(size_R)
    return np.arange(ends_R[-1] if len(ends_R) else 0) - np.repeat(ends_R - size_R, size_R)


def _several(first_N: np.ndarray, start_R: np.ndarray, size_R: np.ndarray) -> np.ndarray:
    """Return which runs are of more than one group."""
    bounds = np.stack([start_R, start_R + size_R], axis=1).ravel()
    first_N = np.append(first_N, 0)  # so that the last run may end behind the last string
    low_R, high_R = (f.reduceat(first_N, bounds)[::2] for f in (np.minimum, np.maximum))
    return low_R != high_R
