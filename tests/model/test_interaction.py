"""A doctor's edits against slow loops over images, concepts, prototypes and cells."""

from __future__ import annotations

import pytest
import torch

from csr.data.box_masks import box_masks
from csr.data.transforms import identity_theta
from csr.model.interaction import (
    box_cells,
    decide,
    edited_maps,
    edited_scores,
    importance_map,
    make_edits,
    no_edits,
)

B, K, M, T, H, W = 5, 3, 2, 4, 6, 7


@pytest.fixture
def sim() -> torch.Tensor:
    return torch.rand(B, K, M, H, W, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture
def edits():
    """Image 0: none; 1: a positive and a negative box; 2: decisions; 3: both; 4: a negative box."""
    decision = torch.zeros(B, K, dtype=torch.int64)
    decision[2, 0], decision[2, 1], decision[3, 2] = -1, 1, -1
    box = torch.tensor(
        [
            [0.1, 0.1, 0.6, 0.7],
            [0.4, 0.5, 0.9, 0.9],
            [0.0, 0.0, 0.5, 0.5],
            [0.45, 0.45, 0.46, 0.46],
            [0.5, 0.0, 1.0, 1.0],
        ]
    )
    row, positive = torch.tensor([1, 1, 3, 3, 4]), torch.tensor([True, False, True, False, False])
    alpha = torch.tensor([0.2, 0.2, 0.2, 0.5, 0.3])
    return make_edits(decision, box_R4=box, row_R=row, positive_R=positive, alpha=alpha)


def slow_importance(edits, b: int, h: int, w: int) -> float:
    boxes = [i for i in range(len(edits.box_R4)) if int(edits.row_R[i]) == b]
    if not boxes:
        return 1.0
    inside = {i: bool(box_cells(edits.box_R4[i : i + 1], height=H, width=W)[0, h, w]) for i in boxes}
    if any(inside[i] and not edits.positive_R[i] for i in boxes):
        return 0.0
    if any(inside[i] and edits.positive_R[i] for i in boxes):
        return 1.0
    return float(edits.alpha_B[b]) if any(edits.positive_R[i] for i in boxes) else 1.0


def slow_score(sim, edits, b: int, k: int, m: int, absent: float | None = None) -> float:
    if int(edits.decision_BK[b, k]) == -1:
        return absent or 0.0
    has_box = b in edits.row_R.tolist()
    values = []
    for h in range(H):
        for w in range(W):
            value = float(sim[b, k, m, h, w])
            importance = slow_importance(edits, b, h, w)
            if has_box and absent is None:
                value = max(value, 0.0) * importance
            elif has_box and value > absent:
                value = absent + importance * (value - absent)
            values.append(value)
    return max(values)


def test_a_batch_of_different_edits_equals_loops_over_everything(sim, edits):
    absent = torch.rand(K, M)
    scores, with_medians = edited_scores(sim, edits), edited_scores(sim, edits, absent_KM=absent)
    for b in range(B):
        for k in range(K):
            for m in range(M):
                assert float(scores[b, k, m]) == pytest.approx(slow_score(sim, edits, b, k, m))
                expected = slow_score(sim, edits, b, k, m, float(absent[k, m]))
                assert float(with_medians[b, k, m]) == pytest.approx(expected)


def test_each_image_of_a_batch_is_edited_as_if_it_were_alone(sim, edits):
    together = edited_scores(sim, edits)
    for b in range(B):
        own = edits.row_R == b
        alone = make_edits(
            edits.decision_BK[b : b + 1],
            box_R4=edits.box_R4[own],
            positive_R=edits.positive_R[own],
            row_R=torch.zeros(int(own.sum()), dtype=torch.int64),
            alpha=edits.alpha_B[b : b + 1],
        )
        assert torch.equal(edited_scores(sim[b : b + 1], alone)[0], together[b])


def test_a_reset_gives_back_the_unedited_scores_to_the_last_bit(sim, edits):
    before = sim.clone()
    edited_scores(sim, edits)
    assert torch.equal(sim, before)
    assert torch.equal(edited_scores(sim, no_edits(B, K)), sim.amax(dim=(3, 4)))
    assert torch.equal(edited_maps(sim, edits)[0], sim[0]), "images without boxes keep negative similarities"


def test_importance_is_1_in_positive_0_in_negative_boxes_and_alpha_beside_positive_ones(edits):
    importance = importance_map(edits, height=H, width=W)
    for b in range(B):
        for h in range(H):
            for w in range(W):
                assert importance[b, :, h, w].tolist() == pytest.approx([slow_importance(edits, b, h, w)] * K)
    assert {0.0, 1.0} <= set(importance[1].flatten().tolist())


def test_a_box_tied_to_a_concept_changes_the_maps_of_that_concept_alone(sim, edits):
    tied = make_edits(
        edits.decision_BK,
        box_R4=edits.box_R4,
        row_R=edits.row_R,
        positive_R=edits.positive_R,
        concept_R=torch.tensor([-1, 2, 0, 0, 1]),
        alpha=edits.alpha_B,
    )
    absent = torch.rand(K, M, generator=torch.Generator().manual_seed(3))
    for medians in (None, absent):
        maps = edited_maps(sim, tied, absent_KM=medians)
        for k in range(K):
            counts = (tied.concept_R == -1) | (tied.concept_R == k)
            alone = make_edits(
                edits.decision_BK,
                box_R4=edits.box_R4[counts],
                row_R=edits.row_R[counts],
                positive_R=edits.positive_R[counts],
                alpha=edits.alpha_B,
            )
            assert torch.equal(maps[:, k], edited_maps(sim, alone, absent_KM=medians)[:, k])
    assert torch.equal(edited_maps(sim, tied)[3, 1:], sim[3, 1:]), "no box of image 3 is for these"
    assert tied.has_box_B.tolist() == [False, True, False, True, True]
    some = torch.tensor([2, 0])
    sim_some = sim[:, some]
    assert torch.equal(edited_maps(sim_some, tied, concept_N=some), edited_maps(sim, tied)[:, some])


@pytest.mark.parametrize("concept", [[-2], [K], [0, 1]])
def test_a_box_tied_to_no_concept_of_the_model_is_refused(concept):
    with pytest.raises(ValueError, match="concept"):
        make_edits(
            torch.zeros(1, K, dtype=torch.int64),
            box_R4=torch.tensor([[0.0, 0, 1, 1]]),
            concept_R=torch.tensor(concept),
        )


def test_a_negative_box_wins_over_a_positive_one_in_either_order():
    boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.25, 0.25, 0.75, 0.75]])
    none = torch.zeros(1, 1, dtype=torch.int64)
    maps = []
    for order in ([0, 1], [1, 0]):
        positive = torch.tensor([True, False])[order]
        edits = make_edits(none, box_R4=boxes[order], row_R=torch.zeros(2), positive_R=positive)
        maps.append(importance_map(edits, height=4, width=4)[:, 0])
    assert torch.equal(maps[0], maps[1]) and maps[0][0, 1:3, 1:3].sum() == 0 and maps[0].sum() == 12


def test_boxes_cover_the_cells_that_training_boxes_cover():
    box = torch.tensor([[0.1, 0.2, 0.7, 0.9], [0.5, 0.5, 1.0, 1.0], [0.41, 0.41, 0.42, 0.42], [0, 0, 1, 1]])
    zero = torch.zeros(1, dtype=torch.int64)
    for i in range(len(box)):
        expected = box_masks(
            box[i : i + 1],
            class_R=zero,
            row_R=zero,
            theta_B23=identity_theta(1, torch.device("cpu")),
            num_concepts=1,
            height=H,
            width=W,
        )[0]
        assert torch.equal(box_cells(box[i : i + 1], height=H, width=W), expected)


def test_a_thin_box_keeps_its_length():
    cells = box_cells(torch.tensor([[0.0, 0.51, 1.0, 0.52]]), height=4, width=4)
    assert cells[0].int().tolist() == [[0] * 4, [0] * 4, [1] * 4, [0] * 4]


def test_a_rejected_concept_moves_the_logit_by_what_the_formula_says(sim):
    score = sim.amax(dim=(3, 4))
    weight, absent = torch.randn(T, K, M), torch.rand(K, M)
    decision = torch.tensor([[-1, 0, 0]]).expand(B, K)
    before = torch.einsum("tkm,bkm->bt", weight, score)
    for value in (None, absent):
        after = torch.einsum("tkm,bkm->bt", weight, decide(score, decision, absent_KM=value))
        target = torch.zeros(M) if value is None else value[0]
        expected = -torch.einsum("tm,bm->bt", weight[:, 0], score[:, 0] - target)
        torch.testing.assert_close(after - before, expected, rtol=1e-4, atol=1e-5)


def test_a_confirmed_concept_is_raised_to_its_median_and_never_lowered(sim):
    score, present = sim.amax(dim=(3, 4)), torch.full((K, M), 0.9)
    decision = torch.ones(B, K, dtype=torch.int64)
    assert torch.equal(decide(score, decision), score), "confirming alone is agreeing"
    raised = decide(score, decision, present_KM=present)
    assert torch.equal(raised, torch.where(score < 0.9, torch.tensor(0.9), score))


@pytest.mark.parametrize(
    "wrong",
    [
        {"box_R4": [[0.5, 0.0, 0.5, 1.0]]},
        {"box_R4": [[0.0, 0.0, 1.5, 1.0]]},
        {"alpha": -0.1},
        {"box_R4": [[float("nan"), 0.0, 1.0, 1.0]]},
        {"box_R4": [[0, 0, 1, 1]], "row_R": [1]},
        {"box_R4": [[0, 0, 1, 1]], "positive_R": [True, False]},
    ],
)
def test_edits_that_mean_nothing_are_refused(wrong):
    given = {k: v if k == "alpha" else torch.tensor(v) for k, v in wrong.items()}
    with pytest.raises(ValueError):
        make_edits(torch.zeros(1, K, dtype=torch.int64), **given)
    with pytest.raises(ValueError):
        make_edits(torch.full((1, K), 2))
    with pytest.raises(ValueError):
        make_edits(torch.zeros(2, K, dtype=torch.int64), box_R4=torch.tensor([[0.0, 0.0, 1.0, 1.0]]))
