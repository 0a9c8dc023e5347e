"""Numbers by which an image is compared with the training images.

Letters: B batch, K concepts, M prototypes per concept, C channels, H W pixels or cells, D
numbers of a statistic.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

if TYPE_CHECKING:
    from csr.model.csr import CSR
    from csr.model.sharing.preprocessing import Preprocessing

Statistics = dict[str, torch.Tensor]
# what a note calls each statistic, and the standard deviation below which a number of it is noise
STATISTICS: dict[str, tuple[str, float]] = {
    "features": ("what the network sees in it", 1e-3),
    "similarity": ("its similarity to the prototypes", 1e-3),
    "layout": ("where it is bright and dark", 0.01),
    "grey_levels": ("its grey levels", 0.01),
    "texture": ("its graininess", 0.05),
    "colour": ("its colour", 0.05),
}
CELLS, LEVELS = 8, 16
_DARKEST_STEP = 1e-3  # in a black image nothing is grainy


def image_statistics(
    model: CSR,
    image_B3HW: torch.Tensor,
    feat_BCHW: torch.Tensor,
    score_BKM: torch.Tensor,
    *,
    preprocessing: Preprocessing,
) -> Statistics:
    """Return the statistics of images, name -> (B, D), on their device.

    Args:
        model: whose dropped prototypes do not count.
        image_B3HW: the network's input, normalised.
        feat_BCHW: feature maps of the images.
        score_BKM: similarity scores, unedited.
        preprocessing: for what the normalisation was.
    """
    return {
        **network_statistics(model, feat_BCHW, score_BKM),
        **pixel_statistics(displayed(image_B3HW, preprocessing)),
    }


def network_statistics(model: CSR, feat_BCHW: torch.Tensor, score_BKM: torch.Tensor) -> Statistics:
    """Return what a network makes of images, `features` (B, C) and `similarity` (B, K x M); NaN: dropped.

    Args:
        model, feat_BCHW, score_BKM: see `image_statistics`.
    """
    kept_KM = model.prototypes.kept_KM.to(score_BKM.device)
    return {
        "features": feat_BCHW.float().mean(dim=(2, 3)),
        "similarity": score_BKM.masked_fill(~kept_KM, math.nan).flatten(1),
    }


def displayed(image_B3HW: torch.Tensor, preprocessing: Preprocessing) -> torch.Tensor:
    """Return the pixels, 0 to 1, of the network's normalised input (B, 3, H, W)."""
    mean, std = (image_B3HW.new_tensor(v).view(3, 1, 1) for v in (preprocessing.mean, preprocessing.std))
    return (image_B3HW * std + mean).clamp(0, 1)


def pixel_statistics(value_B3HW: torch.Tensor) -> Statistics:
    """Return what pixels tell without a network, name -> (B, D).

    Args:
        value_B3HW: 0 to 1.

    Returns:
        `layout`: mean grey of 8 x 8 cells; `grey_levels`: square roots of the shares of 16 levels; `texture`:
        logarithm of the mean step between neighbours, down and across; `colour`: mean absolute difference of
        red and green, and of green and blue.
    """
    grey_BHW = value_B3HW.mean(dim=1)
    level_BN = (grey_BHW * LEVELS).long().clamp(0, LEVELS - 1).flatten(1)
    share_BD = F.one_hot(level_BN, LEVELS).float().mean(dim=1)
    down_B, across_B = (grey_BHW.diff(dim=d).abs().mean(dim=(1, 2)) for d in (1, 2))
    difference_B2HW = (value_B3HW[:, :2] - value_B3HW[:, 1:]).abs()
    return {
        "layout": F.adaptive_avg_pool2d(grey_BHW.unsqueeze(1), CELLS).flatten(1),
        "grey_levels": share_BD.sqrt(),
        "texture": torch.stack([down_B, across_B], dim=1).clamp_min(_DARKEST_STEP).log(),
        "colour": difference_B2HW.mean(dim=(2, 3)),
    }
