"""What edits do to a diagnosis, and boxes against the evidence, beside loops over the boxes."""

from __future__ import annotations

import pytest
import torch

from csr.model.edit_safety import check_safety, top_two_gap
from csr.model.interaction import box_cells, edited_scores, make_edits, no_edits

B, K, M, H, W = 5, 3, 2, 6, 7


@pytest.fixture
def sim() -> torch.Tensor:
    return torch.rand(B, K, M, H, W, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture
def edits():
    """Boxes on images 1, 3 and 4; the second of image 3 is smaller than a cell."""
    box = torch.tensor(
        [[0.1, 0.1, 0.6, 0.7], [0.4, 0.5, 0.9, 0.9], [0.45, 0.45, 0.46, 0.46], [0.5, 0.0, 1.0, 1.0]]
    )
    positive = torch.tensor([True, False, False, True])
    return make_edits(
        torch.zeros(B, K, dtype=torch.int64),
        box_R4=box,
        row_R=torch.tensor([1, 3, 3, 4]),
        positive_R=positive,
    )


@pytest.mark.parametrize(
    "probability, gap", [([0.7, 0.1, 0.5], 0.2), ([0.5, 0.5], 0.0), ([0.9], 0.8), ([0.1], 0.8)]
)
def test_the_gap_is_between_the_two_most_likely_diagnoses(probability, gap):
    assert float(top_two_gap(torch.tensor([probability]))[0]) == pytest.approx(gap)


def lit_map() -> torch.Tensor:
    """One image, two concepts: concept 0 lights up top left, concept 1 is flat and low."""
    sim = torch.full((1, 2, 1, 4, 4), 0.1)
    sim[0, 0, 0, 0, 0] = 0.9
    return sim


def diagnose(score: torch.Tensor) -> torch.Tensor:
    return torch.stack([score[:, 0, 0], 1 - score[:, 0, 0]], dim=1)


@pytest.mark.parametrize(
    "box, positive, is_high, contradicts, warns",
    [
        ([0.0, 0.0, 0.25, 0.25], True, True, False, False),  # where the map is: nothing moves
        ([0.5, 0.5, 1.0, 1.0], True, False, True, True),  # where nothing is: the diagnosis turns
        ([0.0, 0.0, 0.25, 0.25], False, True, True, True),  # takes the evidence away
        ([0.5, 0.5, 1.0, 1.0], False, False, False, False),  # agrees, and the rest stays as it is
    ],
)
def test_a_box_against_the_evidence_is_told(box, positive, is_high, contradicts, warns):
    edits = make_edits(
        torch.zeros(1, 2, dtype=torch.int64), box_R4=torch.tensor([box]), positive_R=torch.tensor([positive])
    )
    report = check_safety(lit_map(), edits, diagnose=diagnose)
    assert bool(report.is_high_R[0]) == is_high and bool(report.contradicts_R[0]) == contradicts
    assert bool(report.warn_B[0]) == warns
    after = diagnose(edited_scores(lit_map(), edits))
    torch.testing.assert_close(report.moved_B, (after - torch.tensor([[0.9, 0.1]])).abs().amax(1))
    assert bool(report.flips_B[0]) == bool(after[0, 0] < after[0, 1])


def test_the_peak_in_each_box_and_its_map_equal_a_loop(sim, edits):
    high = torch.full((K, M), 2.0)
    report = check_safety(sim, edits, diagnose=lambda s: s[:, :, 0].sigmoid(), high_KM=high)
    cells = box_cells(edits.box_R4, height=H, width=W)
    for r, b in enumerate(edits.row_R.tolist()):
        best = max((float(sim[b, k, m][cells[r]].max()), k, m) for k in range(K) for m in range(M))
        assert (float(report.peak_R[r]), int(report.concept_R[r]), int(report.prototype_R[r])) == best
    assert not report.is_high_R.any(), "no similarity reaches 2"


def test_without_boxes_the_safety_check_has_nothing_to_say_about_them(sim):
    report = check_safety(sim, no_edits(B, K), diagnose=lambda s: s[:, :, 0].sigmoid())
    assert len(report.peak_R) == 0 and float(report.moved_B.max()) == 0 and not report.warn_B.any()


BOX = torch.tensor([[0.0, 0.0, 0.25, 0.25], [0.5, 0.5, 1.0, 1.0]])  # where the map is, and elsewhere


def reported(decision: list[int], called: list[bool], *, positive: bool):
    edits = make_edits(torch.tensor([decision]), box_R4=BOX[:1], positive_R=torch.tensor([positive]))
    return check_safety(lit_map(), edits, diagnose=diagnose, called_BK=torch.tensor([called]))


@pytest.mark.parametrize(
    "decision, called, is_high",
    [
        ([0, 0], [True, False], True),
        ([0, 0], [False, False], False),  # what lights up is not called
        ([1, 0], [False, False], True),  # but confirmed
        ([-1, 0], [True, False], False),  # rejected: leaving it out agrees
    ],
)
def test_maps_of_called_or_confirmed_concepts_count_and_rejections_are_agreed_with(decision, called, is_high):
    assert bool(reported(decision, called, positive=False).contradicts_R[0]) == is_high
    assert bool(reported(decision, called, positive=True).contradicts_R[0]) == (not is_high)


def test_each_box_moves_what_its_absence_would():
    """Alone the second box takes 0.9 to 0.18; beside the first, which keeps the map, it moves nothing."""
    both = make_edits(torch.zeros(1, 2, dtype=torch.int64), box_R4=BOX)
    report = check_safety(lit_map(), both, diagnose=diagnose)
    assert report.box_moved_R.tolist() == pytest.approx([0.72, 0.0])
    assert not report.warn_B.any() and float(report.regions_B[0]) == 0
    second = make_edits(torch.zeros(1, 2, dtype=torch.int64), box_R4=BOX[1:])
    report = check_safety(lit_map(), second, diagnose=diagnose)
    assert report.regions_B.tolist() == report.box_moved_R.tolist() == pytest.approx([0.72])
    assert report.warn_B.all()


def test_decisions_that_move_a_diagnosis_far_are_no_matter_of_regions():
    edits = make_edits(torch.tensor([[-1, 0]]), box_R4=BOX[:1])
    report = check_safety(lit_map(), edits, diagnose=diagnose)
    assert float(report.moved_B[0]) == pytest.approx(0.9) and float(report.regions_B[0]) == 0
    assert not report.warn_B.any()
