"""Scores with and without what dropped prototypes looked at, whatever the diagnosis.

A mark painted over, and pasted.

Where a mark is in every image of a class, dropping the prototypes that look at it leaves a head that is
fitted on the
same images every reason to find it again: kept prototypes are a little higher on marks too. So images are
changed:

* painted over: the regions in which dropped prototypes fire get the mean of the rest of the image, and the
  image goes through the network again. An image in which none fires loses the region of a random image in
  which one does: the fact of painting must carry no information.
* pasted: what painting took from the scores of a random image in which one fires is added to the painted
  image's.

A head that is fitted on both has met the mark as often with every diagnosis as without it.

Letters: B batch, N images, R dropped prototypes, J images in which one fires, H W map, C channels, S side, F
scores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

from csr.explain.atlas.regions import region_around_peak
from csr.explain.refine.fit import Scores
from csr.model import CSR

Batches = Callable[[str], Iterable[dict[str, Any]]]  # by the pass's title; in the images' order


@dataclass(frozen=True, eq=False)
class Marks:
    """The places where dropped prototypes fire, and what these add to scores.

    Attributes:
        region_JHW: bool.
        change_JF: scores of the image as it is, minus those with the region painted over.
    """

    region_JHW: torch.Tensor
    change_JF: torch.Tensor


def firing_from(score_NR: torch.Tensor) -> torch.Tensor:
    """Return the scores half-way between each prototype's median over training images and its highest,
    (R,).
    """
    return (score_NR.median(dim=0).values + score_NR.amax(dim=0)) / 2


@torch.no_grad()
def regions_of(
    model: CSR, batches: Iterable[dict[str, Any]], dropped_KM: torch.Tensor, *, firing_R: torch.Tensor
) -> torch.Tensor:
    """Return the regions around the peaks of the dropped prototypes that fire.

    Bool (N, H, W), empty where none does.
    """
    found = []
    for batch in batches:
        map_BRHW = model(batch["image"]).similarity_maps[:, dropped_KM.to(batch["image"].device)].cpu()
        region_BHW = torch.zeros(map_BRHW[:, 0].shape, dtype=torch.bool)
        fires_BR = map_BRHW.amax(dim=(2, 3)) >= firing_R
        for b, r in torch.nonzero(fires_BR).tolist():
            region_BHW[b] |= torch.from_numpy(region_around_peak(map_BRHW[b, r].numpy()))
        found.append(region_BHW)
    return torch.cat(found)


def paint_over(image_BCSS: torch.Tensor, region_BHW: torch.Tensor) -> torch.Tensor:
    """Return images with the mean of the rest of the image, by channel, in their regions."""
    side = image_BCSS.shape[-1]
    inside_B1SS = F.interpolate(region_BHW[:, None].to(image_BCSS), size=(side, side), mode="nearest")
    rest_B1SS = 1 - inside_B1SS
    mean_BC11 = (image_BCSS * rest_B1SS).sum((2, 3), keepdim=True) / rest_B1SS.sum(
        (2, 3), keepdim=True
    ).clamp_min(1)
    return image_BCSS * rest_B1SS + mean_BC11 * inside_B1SS


def painted_and_pasted(
    model: CSR,
    scores: Scores,
    batches: Batches,
    *,
    dropped_KM: torch.Tensor,
    firing_R: torch.Tensor,
    marks: Marks | None = None,
    seed: int,
) -> tuple[Scores, Marks]:
    """Return scores of every image painted over, and of the same with a random image's mark pasted: 2N rows.

    Args:
        model: unrefined, in eval mode.
        scores: of all prototypes on the images as they are.
        batches: the images, transformed, in the order of `scores`.
        dropped_KM: bool.
        firing_R: see `firing_from`.
        marks: to paint and paste; None: those of these images.
        seed: of what is drawn.
    """
    generator = torch.Generator().manual_seed(seed)
    region_NHW = regions_of(model, batches("regions"), dropped_KM, firing_R=firing_R)
    fires_N = region_NHW.flatten(1).any(dim=1)
    region_JHW = region_NHW[fires_N] if marks is None else marks.region_JHW
    drawn_N = torch.randint(len(region_JHW), (len(region_NHW),), generator=generator)
    region_NHW = torch.where(fires_N[:, None, None], region_NHW, region_JHW[drawn_N])
    painted_NF = _painted_scores(model, batches("painted over"), region_NHW)
    if marks is None:
        marks = Marks(region_JHW, (scores.score_NF - painted_NF)[fires_N])
    drawn_N = torch.randint(len(marks.change_JF), (len(painted_NF),), generator=generator)
    both_NF = torch.cat([painted_NF, painted_NF + marks.change_JF[drawn_N]])
    return Scores(both_NF, torch.cat([scores.target_NT, scores.target_NT])), marks


@torch.no_grad()
def _painted_scores(model: CSR, batches: Iterable[dict[str, Any]], region_NHW: torch.Tensor) -> torch.Tensor:
    found, done = [], 0
    for batch in batches:
        image_BCSS = batch["image"]
        region_BHW = region_NHW[done : done + len(image_BCSS)].to(image_BCSS.device)
        found.append(model(paint_over(image_BCSS, region_BHW)).similarity_scores.flatten(1).float().cpu())
        done += len(image_BCSS)
    return torch.cat(found)
