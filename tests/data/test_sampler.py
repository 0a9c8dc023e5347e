"""The samplers: the same windows for any number of ranks."""

import numpy as np
import pytest

from csr.data.sampler import EvalSampler, WindowSampler


def windows(num, world, micro, accumulation, epoch=0):
    """Return the sets of (position, valid) of every optimizer step, over all ranks."""
    samplers = [
        WindowSampler(num, micro_batch=micro, rank=r, world=world, accumulation=accumulation, seed=3)
        for r in range(world)
    ]
    for sampler in samplers:
        sampler.set_epoch(epoch)
    steps = [list(sampler) for sampler in samplers]
    assert len({len(s) for s in steps}) == 1 and len(steps[0]) == len(samplers[0])
    found = []
    for window in range(samplers[0].num_windows):
        entries = []
        for step in range(window * accumulation, (window + 1) * accumulation):
            for rank in range(world):
                positions, valid = steps[rank][step]
                assert len(positions) == len(valid) == micro
                entries += list(zip(positions.tolist(), valid.tolist()))
        found.append(entries)
    return found


@pytest.mark.parametrize("num", [1, 5, 16, 17, 33, 64])
def test_ranks_and_accumulation_see_the_windows_of_one_process(num):
    one = windows(num, 1, 16, 1)
    assert windows(num, 2, 8, 1) == one
    assert windows(num, 4, 4, 1) == one
    assert windows(num, 1, 8, 2) == one
    assert windows(num, 2, 4, 2) == one


@pytest.mark.parametrize("num", [1, 3, 7, 8, 9])
def test_every_image_is_valid_once_in_an_epoch(num):
    entries = [entry for window in windows(num, 2, 2, 2) for entry in window]
    assert sorted(position for position, valid in entries if valid) == list(range(num))
    assert len(entries) == 8 * -(-num // 8)


def test_a_window_knows_the_valid_positions_of_all_ranks():
    sampler = WindowSampler(11, micro_batch=2, rank=1, world=2, accumulation=2, seed=3)
    for number, window in enumerate(windows(11, 2, 2, 2)):
        wanted = [position for position, valid in window if valid]
        assert sampler.window_positions(number).tolist() == wanted


def test_epochs_and_seeds_have_their_own_order():
    orders = set()
    for seed in (0, 1):
        for epoch in (0, 1):
            sampler = WindowSampler(50, micro_batch=50, seed=seed)
            sampler.set_epoch(epoch)
            orders.add(tuple(next(iter(sampler))[0].tolist()))
    assert len(orders) == 4
    straight = WindowSampler(50, micro_batch=50, shuffle=False)
    assert next(iter(straight))[0].tolist() == list(range(50))


def test_a_resumed_epoch_continues_where_it_was_stopped():
    sampler = WindowSampler(20, micro_batch=4, seed=1)
    sampler.set_epoch(7)
    whole = [positions.tolist() for positions, _ in sampler]
    sampler.set_epoch(7, start_step=2)
    assert len(sampler) == 3
    assert [positions.tolist() for positions, _ in sampler] == whole[2:]


@pytest.mark.parametrize("num, batch, world", [(10, 3, 2), (1, 4, 3), (0, 2, 2), (12, 4, 1)])
def test_evaluation_takes_every_image_once_without_padding(num, batch, world):
    chunks = []
    for rank in range(world):
        sampler = EvalSampler(num, batch=batch, rank=rank, world=world)
        batches = list(sampler)
        assert len(batches) == len(sampler)
        assert all(valid.all() and 0 < len(positions) <= batch for positions, valid in batches)
        chunks += [positions for positions, _ in batches]
    joined = np.concatenate(chunks) if chunks else np.zeros(0)
    assert sorted(joined.tolist()) == list(range(num))
