"""Skipped steps are counted in a row, and the images without a finite loss are remembered."""

from __future__ import annotations

import numpy as np
import torch

from csr.training.skipped_steps import SkippedSteps


def test_it_trips_at_the_limit_and_an_applied_step_starts_the_count_again():
    guard = SkippedSteps(3)
    outcomes = [True, True, False, True, True, True]
    assert [guard.step_done(skipped=s) for s in outcomes] == [False] * 5 + [True]


def test_only_images_whose_loss_was_not_finite_are_suspects():
    guard = SkippedSteps(2)
    for loss, positions in ((float("nan"), [0]), (1.0, [1, 2]), (float("inf"), [3, 4])):
        guard.add(torch.tensor(loss), np.array(positions))
    assert guard.suspects() == [3, 4]  # the first has left the memory of two
