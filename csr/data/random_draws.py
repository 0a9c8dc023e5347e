"""Random numbers that depend on (seed, epoch, index) and on nothing else.

SplitMix64 (Steele, Lea, Flood, OOPSLA 2014) as a hash of counters, in int64 tensor arithmetic, which wraps
around: on a GPU the numbers are made where they are used and nothing waits for the CPU. torch's own
generators draw in sequence: with them the draws of an image would depend on the batch it is in.

Letters: B indices.
"""

from __future__ import annotations

import torch

_STEP = 0x9E3779B97F4A7C15
_FIRST = 0xBF58476D1CE4E5B9
_SECOND = 0x94D049BB133111EB
_BITS = 24  # what a float32 in [0, 1) holds exactly


def _signed(value: int) -> int:
    value &= 2**64 - 1
    return value - 2**64 if value >= 2**63 else value


def _shift_right(value: torch.Tensor, bits: int) -> torch.Tensor:
    return (value >> bits) & (2 ** (64 - bits) - 1)  # int64 shifts copy the sign: mask it away


def _mix(value: torch.Tensor) -> torch.Tensor:
    value = (value ^ _shift_right(value, 30)) * _signed(_FIRST)
    value = (value ^ _shift_right(value, 27)) * _signed(_SECOND)
    return value ^ _shift_right(value, 31)


def uniform_draws(index_B: torch.Tensor, *, num: int, epoch: int, seed: int) -> torch.Tensor:
    """Return `num` independent draws from [0, 1) for each index, float32 (B, num).

    Args:
        index_B: int64, any values; equal indices get equal draws.
        num: draws for each index; a larger `num` leaves the first ones as they are.
        epoch, seed: any integers.
    """
    state = torch.full((1,), _signed(seed), dtype=torch.int64, device=index_B.device)
    state = _mix(state + _signed(_STEP)) ^ _signed(epoch * _STEP)
    state = _mix(_mix(state) + index_B.to(torch.int64) * _signed(_STEP))
    counter = torch.arange(1, num + 1, device=index_B.device) * _signed(_STEP)
    bits = _shift_right(_mix(state[:, None] + counter), 64 - _BITS)
    return bits.float() / 2**_BITS
