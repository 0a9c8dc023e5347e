"""What adds up to a logit: against loops and closed forms, from absent medians or from zero."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from refined_models import dropping
from tiny_model import K, M, T, tiny_model

from csr.model.contributions import contributions, model_contributions
from csr.model.interaction import decide


def noise(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_they_equal_a_loop_and_sum_to_the_logit():
    score, weight, bias, usual = (
        noise(5, K, M, seed=1),
        noise(T, K, M, seed=2),
        noise(T, seed=3),
        noise(K, M, seed=4),
    )
    found = contributions(score, weight, bias, usual)
    for b, t in np.ndindex(5, T):
        base, total = float(bias[t]), 0.0
        for k, m in np.ndindex(K, M):
            base += float(weight[t, k, m]) * float(usual[k, m])
            expected = float(weight[t, k, m]) * (float(score[b, k, m]) - float(usual[k, m]))
            assert float(found.share_BTKM[b, t, k, m]) == pytest.approx(expected, abs=1e-12)
            total += expected
        assert float(found.base_T[t]) == pytest.approx(base, abs=1e-12)
        logit = float(bias[t]) + float((weight[t].double() * score[b].double()).sum())
        assert base + total == pytest.approx(logit, abs=1e-12)


def test_a_concept_at_its_absent_medians_contributes_exactly_nothing():
    model = tiny_model()
    absent = model.card.reference.absent_KM
    score = noise(4, K, M, seed=5)
    score[:, 1] = absent[1]
    share = model_contributions(model, score).share_BTKM
    assert (share[:, :, 1] == 0).all() and (share[:, :, [0, 2]] != 0).all()


def test_rejecting_takes_the_contribution_away_and_leaves_the_others():
    model, score = tiny_model(), noise(4, K, M, seed=6)
    decision = torch.zeros(4, K, dtype=torch.int64)
    decision[:, 2] = -1
    after = decide(score, decision, absent_KM=model.card.reference.absent_KM)
    first, then = model_contributions(model, score), model_contributions(model, after)
    assert (then.share_BTKM[:, :, 2] == 0).all()
    assert torch.equal(then.share_BTKM[:, :, :2], first.share_BTKM[:, :, :2])
    with torch.no_grad():
        moved = model.task_head(after) - model.task_head(score)
    torch.testing.assert_close(moved.double(), -first.share_BTKM[:, :, 2].sum(2), rtol=0, atol=1e-5)


def test_a_dropped_prototype_adds_nothing_though_its_weight_and_median_are_still_there():
    model = tiny_model()
    model.prototypes.drop_(dropping((0, 1), (2, 3)))
    images = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        output = model(images)
    found = model_contributions(model, output.similarity_scores)
    assert (found.share_BTKM[:, :, 0, 1] == 0).all() and (found.share_BTKM[:, :, 2, 3] == 0).all()
    total = found.base_T + found.share_BTKM.sum((2, 3))
    torch.testing.assert_close(total.float(), output.logits, rtol=0, atol=1e-5)
