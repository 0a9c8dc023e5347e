"""Random numbers by counter: reproducible, independent, uniform."""

import sys

import numpy as np
import pytest
import torch
from on_device import compute_there

from csr.data.random_draws import uniform_draws

WORD = 2**64


@pytest.fixture(autouse=True)
def _there(device, monkeypatch):
    compute_there(monkeypatch, sys.modules[__name__], "uniform_draws", device=device)


def splitmix(value):
    """Return one output of SplitMix64, computed with plain integers."""
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) % WORD
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) % WORD
    return value ^ (value >> 31)


def slow_draw(index, number, epoch, seed):
    step = 0x9E3779B97F4A7C15
    state = splitmix((seed + step) % WORD) ^ (epoch * step % WORD)
    state = splitmix((splitmix(state) + index * step) % WORD)
    return (splitmix((state + (number + 1) * step) % WORD) >> 40) / 2**24


def test_draws_equal_those_made_with_plain_integers():
    index = [0, 1, 7, 10**6, 2**40]
    for seed, epoch in ((0, 0), (12345, 3), (2**63 + 5, 99)):
        draws = uniform_draws(torch.tensor(index), num=3, epoch=epoch, seed=seed)
        wanted = [[slow_draw(i, n, epoch, seed) for n in range(3)] for i in index]
        assert draws.tolist() == wanted


def test_a_draw_does_not_depend_on_the_batch_around_it():
    whole = uniform_draws(torch.arange(10), num=5, epoch=1, seed=2)
    part = uniform_draws(torch.tensor([7, 3]), num=2, epoch=1, seed=2)
    assert torch.equal(part, whole[[7, 3], :2])


def test_draws_are_uniform_and_uncorrelated():
    draws = np.concatenate(
        [uniform_draws(torch.arange(2000), num=5, epoch=e, seed=0).numpy() for e in range(2)],
        axis=1,
    )
    assert draws.min() >= 0 and draws.max() < 1
    counts = np.stack([np.histogram(column, 10, (0, 1))[0] for column in draws.T])
    chi_square = ((counts - 200) ** 2 / 200).sum(1)  # 9 degrees of freedom: 99.9 % below 27.9
    assert (chi_square < 27.9).all()
    correlation = np.corrcoef(draws.T) - np.eye(10)
    assert abs(correlation).max() < 4.5 / np.sqrt(2000)
