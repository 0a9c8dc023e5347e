"""Boxes after an image's geometric transform, as boxes and as masks on the feature map.

Letters: B batch, R boxes of the batch, K concepts, H W cells of the map, P points. `row_R` is the image of
the batch to which a box belongs; `theta_B23` maps points of the output to points of the stored image, both
normalised to -1..1 (see `csr.data.transforms`).
"""

from __future__ import annotations

import torch

_PROBES = 9  # a box that covers no cell's centre is looked at in 9 x 9 points


def invert_theta(theta_B23: torch.Tensor) -> torch.Tensor:
    """Return the inverse maps, (B, 2, 3): from points of the stored image to points of the output."""
    # In closed form: torch.linalg.inv would make the CPU wait for the GPU.
    a, b, c, d = theta_B23[:, :, :2].flatten(1).unbind(1)
    back_B22 = torch.stack([d, -b, -c, a], dim=1).view(-1, 2, 2) / (a * d - b * c).view(-1, 1, 1)
    return torch.cat([back_B22, -back_B22 @ theta_B23[:, :, 2:]], dim=2)


def transform_boxes(box_R4: torch.Tensor, *, row_R: torch.Tensor, theta_B23: torch.Tensor) -> torch.Tensor:
    """Return the smallest upright boxes around the transformed ones, (R, 4), as fractions of the image.

    They are not cut at the edge of the image: values below 0 and above 1 are possible.

    Args:
        box_R4: x_min, y_min, x_max, y_max as fractions of the image before the transform.
        row_R: int64, place in the batch of each box.
        theta_B23: the transform of each image.
    """
    corner_R42 = (2 * box_R4 - 1)[:, [0, 1, 2, 1, 2, 3, 0, 3]].view(-1, 4, 2)
    moved_R42 = (_apply(invert_theta(theta_B23)[row_R], corner_R42) + 1) / 2
    return torch.cat([moved_R42.amin(1), moved_R42.amax(1)], dim=1)


def box_masks(
    box_R4: torch.Tensor,
    *,
    class_R: torch.Tensor,
    row_R: torch.Tensor,
    theta_B23: torch.Tensor,
    num_concepts: int,
    height: int,
    width: int,
) -> torch.Tensor:
    """Return the cells inside the transformed boxes: a cell belongs to a box if its centre lies inside.

    A box without any centre gets the cell that holds the visible point nearest to the box's centre, so every
    box has a cell unless it left the image. Boxes of one concept are united.

    Args:
        box_R4: x_min, y_min, x_max, y_max as fractions of the image before the transform.
        class_R: int64, concept of each box.
        row_R: int64, place in the batch of each box.
        theta_B23: the transform of each image.
        num_concepts, height, width: K, H, W.

    Returns:
        bool (B, K, H, W).
    """
    mask_BKHW = torch.zeros(
        len(theta_B23), num_concepts, height, width, dtype=torch.bool, device=box_R4.device
    )
    if not len(box_R4):
        return mask_BKHW
    y, x = torch.meshgrid(
        *((torch.arange(n, device=box_R4.device) + 0.5) * 2 / n - 1 for n in (height, width)),
        indexing="ij",
    )
    centre_P2 = torch.stack([x.flatten(), y.flatten()], dim=1).to(box_R4.dtype)
    low_R12, high_R12 = (2 * box_R4 - 1).view(-1, 2, 2).unbind(1)
    source_RP2 = _apply(theta_B23[row_R], centre_P2.expand(len(box_R4), -1, -1))
    inside_RP = ((source_RP2 >= low_R12[:, None]) & (source_RP2 <= high_R12[:, None])).all(2)
    inside_RP |= ~inside_RP.any(1, keepdim=True) & _nearest_cell(
        box_R4, theta_B23[row_R], height=height, width=width
    )
    # Several boxes may share (image, concept): a sum of 0 and 1 does not depend on their order.
    count = torch.zeros(len(theta_B23) * num_concepts, height * width, device=box_R4.device)
    count.index_add_(0, row_R * num_concepts + class_R, inside_RP.float())
    return (count > 0).view(mask_BKHW.shape)


def _apply(theta_R23: torch.Tensor, point_RP2: torch.Tensor) -> torch.Tensor:
    return point_RP2 @ theta_R23[:, :, :2].transpose(1, 2) + theta_R23[:, :, 2].unsqueeze(1)


def _nearest_cell(box_R4: torch.Tensor, theta_R23: torch.Tensor, *, height: int, width: int) -> torch.Tensor:
    """Return one cell for each box of which a probed point is visible, bool (R, H*W)."""
    step = torch.linspace(0, 1, _PROBES, device=box_R4.device, dtype=box_R4.dtype)
    part_P2 = torch.cartesian_prod(step, step)
    box_R22 = (2 * box_R4 - 1).view(-1, 2, 2)
    probe_RP2 = box_R22[:, :1] + part_P2 * (box_R22[:, 1:] - box_R22[:, :1])
    seen_RP2 = _apply(invert_theta(theta_R23), probe_RP2)
    visible_RP = (seen_RP2.abs() < 1).all(2)
    far_P = (part_P2 - 0.5).square().sum(1)
    best_R = torch.where(visible_RP, far_P, torch.inf).argmin(1)
    point_R2 = seen_RP2[torch.arange(len(box_R4), device=box_R4.device), best_R]
    # by plain numbers: a tensor of the two sides would make the CPU wait for its copy to the GPU
    x_R, y_R = (
        ((point_R2[:, i] + 1) / 2 * side).long().clamp(0, side - 1) for i, side in enumerate((width, height))
    )
    cell_RP = torch.zeros(len(box_R4), height * width, dtype=torch.bool, device=box_R4.device)
    at_R1 = (y_R * width + x_R).unsqueeze(1)
    return cell_RP.scatter_(1, at_R1, visible_RP.any(1, keepdim=True))
