"""Boxes follow their image: as boxes, and as masks at the feature map's resolution."""

import sys

import pytest
import torch
from on_device import compute_there
from torch.nn import functional as F

from csr.data.box_masks import box_masks, invert_theta, transform_boxes
from csr.data.transforms import STRENGTHS, draw_theta, identity_theta

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _there(device, monkeypatch):
    compute_there(
        monkeypatch, sys.modules[__name__], "box_masks", "transform_boxes", "invert_theta", device=device
    )


def masks(box, theta=None, *, rows=None, classes=None, num_concepts=1, size=(4, 4)):
    box = torch.tensor(box).view(-1, 4)
    theta = identity_theta(1, CPU) if theta is None else theta
    return box_masks(
        box,
        class_R=torch.tensor(classes or [0] * len(box)),
        row_R=torch.tensor(rows or [0] * len(box)),
        theta_B23=theta,
        num_concepts=num_concepts,
        height=size[0],
        width=size[1],
    )


def test_a_cell_belongs_to_a_box_if_its_centre_lies_inside():
    mask = masks([0.0, 0.5, 0.6, 1.0], size=(2, 4))
    assert mask[0, 0].int().tolist() == [[0, 0, 0, 0], [1, 1, 0, 0]]


@pytest.mark.parametrize("x", [0.0, 0.11, 0.5, 0.87, 0.99])
@pytest.mark.parametrize("y", [0.0, 0.5, 0.99])
def test_a_tiny_box_gets_exactly_the_cell_it_lies_in(x, y):
    mask = masks([x, y, x + 0.01, y + 0.01])[0, 0]
    assert mask.nonzero().tolist() == [[int(y * 4 + 0.02), int(x * 4 + 0.02)]]


def test_boxes_go_to_their_image_and_concept_and_are_united():
    box = [[0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1], [0, 0, 1, 1]]
    mask = masks(box, identity_theta(3, CPU), rows=[2, 2, 0], classes=[1, 1, 0], num_concepts=2, size=(2, 2))
    assert mask[2, 1].int().tolist() == [[1, 0], [0, 1]]
    assert mask[0, 0].all() and mask.sum() == 6


def test_no_boxes_give_an_empty_mask():
    assert not masks([]).any() and masks([]).shape == (1, 1, 4, 4)


def test_a_mirrored_image_has_mirrored_masks():
    theta = identity_theta(1, CPU)
    theta[:, 0, 0] = -1
    box = [[0.0, 0.0, 0.3, 0.6]]
    assert torch.equal(masks(box, theta), masks(box).flip(-1))


def test_a_box_that_left_the_image_has_no_cell_and_one_at_the_edge_keeps_one():
    theta = identity_theta(1, CPU)
    theta[:, 0, 2] = 1.0  # what is shown begins in the middle of the image
    assert not masks([0.0, 0.2, 0.4, 0.6], theta).any()
    edge = masks([0.2, 0.3, 0.54, 0.32], theta)[0, 0]
    assert edge.nonzero().tolist() == [[1, 0]]


@pytest.mark.parametrize("seed", range(4))
def test_masks_cover_what_a_painted_box_covers_after_the_same_transform(seed):
    draws = torch.rand(1, 5, generator=torch.Generator().manual_seed(seed))
    theta = draw_theta(draws, STRENGTHS["flip"])
    box = torch.tensor([[0.25, 0.375, 0.625, 0.75]])
    painted = torch.zeros(1, 1, 64, 64)
    painted[:, :, 24:48, 16:40] = 1
    grid = F.affine_grid(theta, [1, 1, 16, 16], align_corners=False)
    shown = F.grid_sample(painted, grid, mode="nearest", align_corners=False)[0, 0] > 0.5
    mask = masks(box.tolist(), theta, size=(16, 16))[0, 0]
    assert (mask != shown).sum() <= 2, "only cells whose centre is on the very edge may differ"


def test_transformed_boxes_are_the_hull_of_their_corners():
    theta = draw_theta(torch.rand(3, 5, generator=torch.Generator().manual_seed(1)), STRENGTHS["flip"])
    box = torch.tensor([[0.1, 0.2, 0.4, 0.9], [0.3, 0.3, 0.5, 0.6]])
    rows = [2, 0]
    made = transform_boxes(box, row_R=torch.tensor(rows), theta_B23=theta)
    for one, row, got in zip(box.tolist(), rows, made):
        forward = torch.linalg.inv(torch.cat([theta[row], torch.tensor([[0.0, 0, 1]])]))
        corners = [
            (forward @ torch.tensor([2 * x - 1, 2 * y - 1, 1.0]))[:2] / 2 + 0.5
            for x in one[::2]
            for y in one[1::2]
        ]
        points = torch.stack(corners)
        torch.testing.assert_close(got, torch.cat([points.amin(0), points.amax(0)]))


def test_the_inverse_undoes_theta():
    theta = draw_theta(torch.rand(5, 5), STRENGTHS["flip"])
    twice = invert_theta(invert_theta(theta))
    torch.testing.assert_close(twice, theta)


def test_no_number_of_the_host_is_sent_to_the_device(monkeypatch):
    """A tensor made of Python's numbers makes the CPU wait for its copy to a GPU, in every step."""
    monkeypatch.setattr(torch, "tensor", None)
    box_R4 = torch.zeros(1, 4)
    box_R4[0] += torch.arange(1, 5) / 1000
    mask = box_masks(
        box_R4,
        class_R=torch.zeros(1, dtype=torch.int64),
        row_R=torch.zeros(1, dtype=torch.int64),
        theta_B23=torch.eye(2, 3)[None],
        num_concepts=1,
        height=4,
        width=5,
    )
    assert mask.nonzero().tolist() == [[0, 0, 0, 0]]
