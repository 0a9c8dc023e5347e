"""Images that look the same, by their thumbnails.

Hashes of brightness differences and the correlation of the thumbnails decide. Comparing all of N x N hashes
takes minutes from some 10,000 images on, so images are first compared in `AXES` numbers each: the axes along
which a sample of the set differs most. A projection shortens every distance, so no pair within the limits is
lost by that; what remains is judged in full.

Letters: N images, S side of the thumbnail, F bits of the hash or pixels, D axes, P pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

THUMBNAIL_PX, HASH_PX = 32, 16
# (of 480 bits, correlation of the thumbnails): re-saving, scaling and windowing flip up to 36 bits and leave
# the thumbnail alike; a mark in a corner flips few bits and spoils it. Other images were seen to differ in 47
# and more.
NEAR_LIMITS = ((36, 0.98), (16, 0.6))
MIN_CONTRAST = 1.0  # standard deviation of the thumbnail in grey levels: below there is nothing to compare
AXES = 32
_STEP = 0.5  # grey levels that a neighbour must be brighter by
_SAMPLED = 4096  # images that choose the axes
_ROWS = 4096  # images whose pixels are in memory as numbers at once
_BLOCK_ENTRIES = 2**24
_PAIRS = 2**18  # judged at once
_SLACK = 1e-3  # of squared distances of unit vectors, for float32


def near_duplicates(thumbnail_NSS: np.ndarray) -> list[tuple[int, int, float]]:
    """Return pairs of images that look the same.

    Args:
        thumbnail_NSS: uint8.

    Returns:
        (first, second, correlation), first < second, in order. Images without contrast are in no pair.
    """
    usable = np.flatnonzero(has_contrast(thumbnail_NSS))
    if len(usable) < 2:
        return []
    thumb_NSS = thumbnail_NSS[usable]
    bit_NB = np.concatenate([np.packbits(difference_bits(part), axis=1) for part in _parts(thumb_NSS)])
    found: dict[tuple[int, int], float] = {}
    (many_bits, high), (few_bits, low) = NEAR_LIMITS
    for vectors, radius, bits, correlation in (
        (centred_units, np.sqrt(2 - 2 * high), many_bits, high),
        (sign_units, np.sqrt(4 * few_bits / hash_bits()), few_bits, low),
    ):
        for pair_P2 in close_pairs(_projected(thumb_NSS, vectors), float(radius)):
            flipped_P = np.bitwise_count(bit_NB[pair_P2[:, 0]] ^ bit_NB[pair_P2[:, 1]]).sum(axis=1)
            for part_P2 in _parts(pair_P2[flipped_P <= bits]):
                one_PF, other_PF = (centred_units(thumb_NSS[part_P2[:, side]]) for side in (0, 1))
                alike_P = np.einsum("pf,pf->p", one_PF, other_PF)
                near_P = alike_P >= correlation
                pairs = map(tuple, usable[part_P2[near_P]].tolist())
                found.update(zip(pairs, alike_P[near_P].tolist(), strict=True))
    return [(*pair, found[pair]) for pair in sorted(found)]


def has_contrast(thumbnail_NSS: np.ndarray) -> np.ndarray:
    """Return which images have something to compare, bool (N,)."""
    deviations = [part.reshape(len(part), -1).std(axis=1, dtype=np.float32) for part in _parts(thumbnail_NSS)]
    return np.concatenate([np.zeros(0), *deviations]) >= MIN_CONTRAST


def centred_units(thumbnail_NSS: np.ndarray) -> np.ndarray:
    """Return thumbnails as vectors whose products are correlations, float32 (N, F); all have contrast."""
    flat_NF = thumbnail_NSS.reshape(-1, THUMBNAIL_PX**2).astype(np.float32)
    flat_NF -= flat_NF.mean(axis=1, keepdims=True)
    return flat_NF / np.linalg.norm(flat_NF, axis=1, keepdims=True)


def sign_units(thumbnail_NSS: np.ndarray) -> np.ndarray:
    """Return hashes as unit vectors, float32 (N, F): two that differ in b bits are sqrt(4 b / F) apart."""
    return (2 * difference_bits(thumbnail_NSS).astype(np.float32) - 1) / np.float32(np.sqrt(hash_bits()))


def hash_bits() -> int:
    """Return the bits of a hash, F."""
    return 2 * HASH_PX * (HASH_PX - 1)


def difference_bits(thumbnail_NSS: np.ndarray) -> np.ndarray:
    """Return whether the right and the lower neighbours are brighter (difference hash, dHash), bool (N, F).

    Args:
        thumbnail_NSS: uint8.
    """
    count, pool = len(thumbnail_NSS), THUMBNAIL_PX // HASH_PX
    small = thumbnail_NSS.reshape(count, HASH_PX, pool, HASH_PX, pool).astype(np.float32).mean(axis=(2, 4))
    across, down = np.diff(small, axis=2) > _STEP, np.diff(small, axis=1) > _STEP
    return np.concatenate([across.reshape(count, -1), down.reshape(count, -1)], axis=1)


def close_pairs(point_ND: np.ndarray, radius: float) -> Iterator[np.ndarray]:
    """Yield pairs of points no farther apart than `radius`, as places int64 (P, 2), the first one smaller.

    Points are walked through along the first axis, so that those too far along it are not compared.

    Args:
        point_ND: float32.
        radius: in the unit of the points; a few pairs that are slightly farther apart are yielded too.
    """
    order = np.argsort(point_ND[:, 0], kind="stable")
    sorted_ND = point_ND[order]
    ones_N1 = np.ones((len(sorted_ND), 1), dtype=np.float32)
    length_N1 = np.square(sorted_ND).sum(axis=1, keepdims=True)
    # The product of a left and a right row is the squared distance of their points.
    left_NE = np.concatenate([-2 * sorted_ND, length_N1, ones_N1], axis=1)
    right_NE = np.concatenate([sorted_ND, ones_N1, length_N1], axis=1)
    end_N = np.searchsorted(sorted_ND[:, 0], sorted_ND[:, 0] + radius + _SLACK, side="right")
    begin = 0
    while begin < len(sorted_ND):
        rows = max(1, _BLOCK_ENTRIES // int(end_N[begin] - begin))
        rows = min(rows, 1024, len(sorted_ND) - begin)
        end = int(end_N[begin + rows - 1])
        squared = left_NE[begin : begin + rows] @ right_NE[begin:end].T
        place, other = np.divmod(np.flatnonzero(squared <= radius**2 + _SLACK), end - begin)
        later = other > place
        places = np.stack([place[later], other[later]], axis=1) + begin
        yield from _parts(np.sort(order[places], axis=1), rows=_PAIRS)
        begin += rows


def _projected(
    thumbnail_NSS: np.ndarray, vectors: Callable[[np.ndarray], np.ndarray], axes: int = AXES
) -> np.ndarray:
    """Return vectors along the axes on which a sample differs most, float32 (N, D)."""
    sample_NF = vectors(thumbnail_NSS[:: -(-len(thumbnail_NSS) // _SAMPLED)])
    sample_NF = sample_NF - sample_NF.mean(axis=0)
    _, axis_FF = np.linalg.eigh(sample_NF.T @ sample_NF)  # the last ones vary most
    axis_FD = axis_FF[:, : -axes - 1 : -1]
    return np.concatenate([vectors(part) @ axis_FD for part in _parts(thumbnail_NSS)]).astype(np.float32)


def _parts(array: np.ndarray, *, rows: int = _ROWS) -> Iterator[np.ndarray]:
    for begin in range(0, len(array), rows):
        yield array[begin : begin + rows]


def groups_of(pairs: Sequence[tuple[int, int, float]]) -> list[list[int]]:
    """Return images joined by pairs, directly or by way of others; each group and all groups in order."""
    root: dict[int, int] = {}

    def find(place: int) -> int:
        while root.setdefault(place, place) != place:
            root[place] = place = root[root[place]]
        return place

    for first, second, _ in pairs:
        low, high = sorted((find(first), find(second)))
        root[high] = low
    groups: dict[int, list[int]] = {}
    for place in sorted(root):
        groups.setdefault(find(place), []).append(place)
    return list(groups.values())
