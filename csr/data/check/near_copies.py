"""Images that look the same, by their thumbnails.

Hashes of brightness differences and the correlation of the thumbnails decide. Comparing all of N x N of both
takes minutes from some 10,000 images on, so images are first compared in `AXES` numbers for each of the two:
the axes along which a sample of the set differs most. A projection shortens every distance, so no pair within
the limits is lost by that; what remains is judged in full.

Letters: N images, S side of the thumbnail, F bits of the hash or pixels, D axes, P pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from csr.data.check.close_pairs import band_pairs, close_pairs, has_few_band_pairs
from csr.data.check.groups import Groups

THUMBNAIL_PX, HASH_PX = 32, 16
# (of 480 bits, correlation of the thumbnails): re-saving, scaling and windowing flip up to 36 bits and leave
# the thumbnail alike; a mark in a corner flips few bits and spoils it. Other images were seen to differ in 47
# and more.
NEAR_LIMITS = ((36, 0.98), (16, 0.6))
MIN_CONTRAST = 1.0  # standard deviation of the thumbnail in grey levels: below there is nothing to compare
AXES = 32
FEW_PAIRS = 64  # an image, to be compared by their hashes
_STEP = 0.5  # grey levels that a neighbour must be brighter by
_SAMPLED = 4096  # images that choose the axes
_ROWS = 4096  # images whose pixels are in memory as numbers at once


def near_groups(thumbnail_NSS: np.ndarray) -> list[list[int]]:
    """Return images that look the same, directly or by way of others; each group and all groups in order.

    The groups are those of all pairs of `near_pairs`, of which only as many are judged as it takes: hardly
    any of images that are all alike.

    Args:
        thumbnail_NSS: uint8. Images without contrast are in no group.
    """
    usable_N = np.flatnonzero(has_contrast(thumbnail_NSS))
    groups = Groups(len(usable_N))
    for pair_P2, _ in _alike(thumbnail_NSS[usable_N], groups):
        groups.join(pair_P2)
    return [usable_N[group].tolist() for group in groups.several()]


def near_pairs(thumbnail_NSS: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield pairs of images that look the same: places int64 (P, 2), in order, correlations float32 (P,).

    They come in no order, a pair within both limits twice. Images without contrast are in none.

    Args:
        thumbnail_NSS: uint8.
    """
    usable_N = np.flatnonzero(has_contrast(thumbnail_NSS))
    for pair_P2, alike_P in _alike(thumbnail_NSS[usable_N], None):
        yield usable_N[pair_P2], alike_P


def _alike(thumb_NSS: np.ndarray, groups: Groups | None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield pairs with their correlations; with groups, which the caller joins, only those that are apart."""
    if len(thumb_NSS) < 2:
        return
    bit_NF = np.concatenate([difference_bits(part) for part in _parts(thumb_NSS)])
    bit_NB = np.packbits(bit_NF, axis=1)
    for bits, least in NEAR_LIMITS:
        for pair_P2 in _candidates(thumb_NSS, bit_NF, bits, least, groups):
            flipped_P = np.bitwise_count(bit_NB[pair_P2[:, 0]] ^ bit_NB[pair_P2[:, 1]]).sum(axis=1)
            pair_P2 = pair_P2[flipped_P <= bits]
            for part_P2 in _parts(pair_P2) if groups is None else few_at_a_time(pair_P2, groups):
                one_PF, other_PF = (centred_units(thumb_NSS[part_P2[:, side]]) for side in (0, 1))
                alike_P = np.einsum("pf,pf->p", one_PF, other_PF)
                near_P = alike_P >= least
                yield part_P2[near_P], alike_P[near_P]


def _candidates(
    thumb_NSS: np.ndarray, bit_NF: np.ndarray, bits: int, least: float, groups: Groups | None
) -> Iterator[np.ndarray]:
    """Return all pairs within limits of both, and others, by whichever of three ways has least to compare."""
    if has_few_band_pairs(bit_NF, bits, most=FEW_PAIRS * len(thumb_NSS)):
        return band_pairs(bit_NF, bits, groups)
    of_signs, of_pixels = float(np.sqrt(4 * bits / hash_bits())), float(np.sqrt(2 - 2 * least))
    if of_pixels < of_signs:
        return close_pairs(_projected(thumb_NSS, centred_units), of_pixels, groups)
    return close_pairs(_projected(thumb_NSS, sign_units), of_signs, groups)


def few_at_a_time(pair_P2: np.ndarray, groups: Groups) -> Iterator[np.ndarray]:
    """Yield pairs in parts that grow, without those whose images have come into one group meanwhile.

    A part has few pairs of each two groups and few of each group, so that a set of copies is joined by about
    as many pairs as it has images.
    """
    limit = 1
    while len(pair_P2):
        pair_P2 = pair_P2[groups.apart(pair_P2)]
        one_P, other_P = groups.first_N[pair_P2].T
        chosen_P = _turn(one_P * len(groups.first_N) + other_P) < limit
        chosen_P[chosen_P] = _turn(one_P[chosen_P]) < limit
        yield from _parts(pair_P2[chosen_P])
        pair_P2, limit = pair_P2[~chosen_P], 4 * limit


def _turn(key_P: np.ndarray) -> np.ndarray:
    """Return how many entries before have the same key, int64 (P,)."""
    order = np.argsort(key_P, kind="stable")
    start_R = np.flatnonzero(np.diff(key_P[order], prepend=-1))
    turn_P = np.empty(len(key_P), dtype=np.int64)
    turn_P[order] = np.arange(len(key_P)) - np.repeat(start_R, np.diff(start_R, append=len(key_P)))
    return turn_P


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


def _projected(
    thumbnail_NSS: np.ndarray, vectors: Callable[[np.ndarray], np.ndarray], axes: int = AXES
) -> np.ndarray:
    """Return vectors along the axes on which a sample differs most, float32 (N, D)."""
    sample_NF = vectors(thumbnail_NSS[:: -(-len(thumbnail_NSS) // _SAMPLED)])
    sample_NF = sample_NF - sample_NF.mean(axis=0)
    if len(sample_NF) < sample_NF.shape[1]:
        axis_FD = np.linalg.svd(sample_NF, full_matrices=False).Vh[:axes].T
    else:  # of the smaller of the two matrices
        _, axis_FF = np.linalg.eigh(sample_NF.T @ sample_NF)  # the last ones vary most
        axis_FD = axis_FF[:, : -axes - 1 : -1]
    return np.concatenate([vectors(part) @ axis_FD for part in _parts(thumbnail_NSS)]).astype(np.float32)


def _parts(array: np.ndarray, *, rows: int = _ROWS) -> Iterator[np.ndarray]:
    for begin in range(0, len(array), rows):
        yield array[begin : begin + rows]
