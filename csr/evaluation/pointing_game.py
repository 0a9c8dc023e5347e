"""Localisation: pointing game and overlap of maps with boxes, beside floors that need no model.

A pair is an image and a concept that it has boxes of. Pointing game: the centre of the map's highest cell
(the first of equals) lies in one of the pair's boxes. Overlap: the map, bilinearly enlarged, is cut half-way
between its lowest and its highest value; intersection over union with the boxes. Floors: a random point hits
with the share of the image that the boxes cover (which is also the overlap of the whole image), the image's
centre hits or does not. `reachable`: the share of pairs whose boxes hold a cell's centre; no map hits others.

Letters: B batch, N images, K concepts, M prototypes, H W map, P pairs, R boxes, S scores, G grid.
Boxes are x_min, y_min, x_max, y_max as fractions of the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from csr.data.batch import Batch
from csr.data.labels.positive import is_positive
from csr.evaluation.bootstrap import Bootstrap, estimate, proportion_limits
from csr.evaluation.label_scores import mean_of_known, named
from csr.evaluation.weighted_metrics import ratio
from csr.model.interaction import box_cells
from csr.model.layers.prototypes import winners

GRID = 128
SCORES = ("cam_hit", "cam_iou", "similarity_hit", "similarity_iou", "chance", "centre_hit", "reachable")
RATES = ("cam_hit", "similarity_hit", "centre_hit", "reachable")


def pointing_rows(
    cam_BKHW: torch.Tensor, sim_BKMHW: torch.Tensor, batch: Batch, *, kept_KM: torch.Tensor | None = None
) -> torch.Tensor:
    """Return the scores of every pair of a batch.

    Args:
        cam_BKHW: concept activation maps.
        sim_BKMHW: similarity maps; of each concept the prototype with the highest value counts.
        kept_KM: bool, prototypes that were not dropped; None: all. A concept without any has no similarity
            map, which counts as a miss and no overlap.
        batch: with `concept` (B, K), `box` (R, 4), `box_class` and `box_row` (R,); boxes of concepts that
            are not labelled present are omitted.

    Returns:
        value_BKS float32, NaN where there is no pair.
    """
    batch_size, num_concepts, height, width = cam_BKHW.shape
    value_BKS = cam_BKHW.new_full((batch_size, num_concepts, len(SCORES)), torch.nan, dtype=torch.float32)
    keep_R = is_positive(batch["concept"][batch["box_row"], batch["box_class"]])
    key_R = (batch["box_row"] * num_concepts + batch["box_class"])[keep_R]
    key_P, pair_R = torch.unique(key_R, return_inverse=True)
    if not len(key_P):
        return value_BKS
    box_R4 = batch["box"][keep_R]
    row_P, concept_P = key_P // num_concepts, key_P % num_concepts
    kept = torch.ones_like(sim_BKMHW[0, :, :, 0, 0], dtype=torch.bool) if kept_KM is None else kept_KM
    best_P = winners(sim_BKMHW.amax(dim=(3, 4)), kept)[row_P, concept_P]
    mask_PGG = pair_masks(box_R4, pair_R)
    scores = []
    for map_PHW in (cam_BKHW[row_P, concept_P], sim_BKMHW[row_P, concept_P, best_P]):
        scores.append(hits(peak_points(map_PHW), box_R4, pair_R))
        scores.append(overlap(map_PHW, mask_PGG))
    has_map_P = (best_P >= 0).float()
    scores[2:] = [score * has_map_P for score in scores[2:]]
    centre_P2 = torch.full_like(box_R4[:1, :2], 0.5).expand(len(key_P), 2)
    areas = union_areas(box_R4.cpu().numpy(), pair_R.cpu().numpy())
    scores += [
        torch.from_numpy(areas).to(box_R4),
        hits(centre_P2, box_R4, pair_R),
        reachable(box_R4, pair_R, height=height, width=width),
    ]
    value_BKS[row_P, concept_P] = torch.stack([score.float() for score in scores], dim=1)
    return value_BKS


def peak_points(map_PHW: torch.Tensor) -> torch.Tensor:
    """Return the centre (x, y) of each map's highest cell, fractions of the image, (P, 2)."""
    height, width = map_PHW.shape[1:]
    at_P = map_PHW.float().flatten(1).argmax(dim=1)
    return torch.stack([(at_P % width + 0.5) / width, (at_P // width + 0.5) / height], dim=1)


def hits(point_P2: torch.Tensor, box_R4: torch.Tensor, pair_R: torch.Tensor) -> torch.Tensor:
    """Return 1 for pairs whose point lies in one of their boxes, edges included, else 0; float (P,).

    Args:
        point_P2: x, y of each pair, fractions of the image.
        box_R4: boxes of all pairs.
        pair_R: the pair that each box belongs to, int64.
    """
    point_R2 = point_P2[pair_R]
    inside_R = ((point_R2 >= box_R4[:, :2]) & (point_R2 <= box_R4[:, 2:])).all(dim=1)
    return _any_of_pair(inside_R, pair_R, num_pairs=len(point_P2))


def _any_of_pair(value_R: torch.Tensor, pair_R: torch.Tensor, *, num_pairs: int) -> torch.Tensor:
    """Return 1 for pairs of which any box has the value True, else 0; float (P,)."""
    count_P = torch.zeros(num_pairs, device=value_R.device).index_add_(0, pair_R, value_R.float())
    return count_P.clamp(max=1)


def pair_masks(box_R4: torch.Tensor, pair_R: torch.Tensor) -> torch.Tensor:
    """Return the union of each pair's boxes on the fine grid; bool (P, G, G), at least one cell each."""
    inside_RGG = box_cells(box_R4, height=GRID, width=GRID)
    count_PGG = torch.zeros(int(pair_R.max()) + 1, GRID, GRID, device=box_R4.device)
    return count_PGG.index_add_(0, pair_R, inside_RGG.float()) > 0


def overlap(map_PHW: torch.Tensor, mask_PGG: torch.Tensor) -> torch.Tensor:
    """Return the intersection over union of the upper half of a map's range and a mask, (P,)."""
    map_P1HW = map_PHW.float()[:, None]
    fine_PGG = F.interpolate(map_P1HW, (GRID, GRID), mode="bilinear", align_corners=False)[:, 0]
    middle_P = (fine_PGG.amax(dim=(1, 2)) + fine_PGG.amin(dim=(1, 2))) / 2
    region_PGG = fine_PGG >= middle_P[:, None, None]
    both_P = (region_PGG & mask_PGG).sum(dim=(1, 2))
    return both_P / (region_PGG | mask_PGG).sum(dim=(1, 2))


def reachable(box_R4: torch.Tensor, pair_R: torch.Tensor, *, height: int, width: int) -> torch.Tensor:
    """Return 1 for pairs of which a box holds any cell's centre, else 0; float (P,)."""
    holds_R = torch.ones(len(box_R4), dtype=torch.bool, device=box_R4.device)
    for low_R, high_R, num in ((box_R4[:, 0], box_R4[:, 2], width), (box_R4[:, 1], box_R4[:, 3], height)):
        centre_C = (torch.arange(num, device=box_R4.device) + 0.5) / num  # of the columns, then of the rows
        holds_R &= ((centre_C >= low_R[:, None]) & (centre_C <= high_R[:, None])).any(dim=1)
    return _any_of_pair(holds_R, pair_R, num_pairs=int(pair_R.max()) + 1)


def union_areas(box_R4: np.ndarray, pair_R: np.ndarray) -> np.ndarray:
    """Return the exact share of the image that each pair's boxes cover together, float64 (P,)."""
    return np.array([_union_area(box_R4[pair_R == p].astype(np.float64)) for p in range(pair_R.max() + 1)])


def _union_area(box_R4: np.ndarray) -> float:
    """Return the area of the union: the plane is cut at all edges, and a piece counts if a box covers it."""
    x, y = np.unique(box_R4[:, [0, 2]]), np.unique(box_R4[:, [1, 3]])
    in_x = (box_R4[:, :1] <= x[:-1]) & (box_R4[:, 2:3] >= x[1:])
    in_y = (box_R4[:, 1:2] <= y[:-1]) & (box_R4[:, 3:] >= y[1:])
    covered = (in_y[:, :, None] & in_x[:, None, :]).any(axis=0)
    return float(np.sum(covered * np.diff(y)[:, None] * np.diff(x)))


class PointingMeasure:
    """Mean scores as a function of weights, weight_RN -> (R, K + 2, S): each concept's pairs, macro, micro.

    Args:
        value_NKS: from `pointing_rows`, NaN where there is no pair.
    """

    def __init__(self, value_NKS: np.ndarray) -> None:
        self._known_NKS = (~np.isnan(value_NKS)).astype(np.float64)
        self._value_NKS = np.nan_to_num(value_NKS).astype(np.float64)

    def __call__(self, weight_RN: np.ndarray) -> np.ndarray:
        sum_RKS = np.tensordot(weight_RN, self._value_NKS, axes=1)
        count_RKS = np.tensordot(weight_RN, self._known_NKS, axes=1)
        mean_RKS = ratio(sum_RKS, count_RKS)
        micro_RS = ratio(sum_RKS.sum(axis=1), count_RKS.sum(axis=1))
        return np.concatenate([mean_RKS, mean_of_known(mean_RKS)[:, None], micro_RS[:, None]], axis=1)


def score_pointing(value_NKS: np.ndarray, *, names: Sequence[str], bootstrap: Bootstrap) -> dict[str, Any]:
    """Return means with intervals of the scores of all images. Collective.

    Args:
        value_NKS: from `pointing_rows`.
        names: of the K concepts.
        bootstrap: of the intervals.

    Returns:
        `labels` (concept with boxes -> `n` pairs, and each of SCORES as {value, low, high}), `macro`,
        `micro`, `n` pairs of all. Hit rates of concepts have Wilson's intervals.
    """
    measured = estimate(PointingMeasure(value_NKS), num_images=len(value_NKS), bootstrap=bootstrap)
    n_K = (~np.isnan(value_NKS[:, :, 0])).sum(axis=0)
    labels = {
        name: {"n": int(n_K[k]), **named(measured, k, SCORES)} for k, name in enumerate(names) if n_K[k]
    }
    last, num_images = len(names), int((~np.isnan(value_NKS[:, :, 0])).any(axis=1).sum())
    micro = named(measured, last + 1, SCORES)
    for rate in RATES:  # a concept has at most one pair in an image, all concepts have several
        micro[rate] = proportion_limits(micro[rate], num_images, clustered=True)
        for row in labels.values():
            row[rate] = proportion_limits(row[rate], row["n"])
    return {
        "n": int(n_K.sum()),
        "labels": labels,
        "macro": named(measured, last, SCORES),
        "micro": micro,
    }
