"""Pictures for the TensorBoard: maps of a few validation images after a stage.

Letters: B images, K concepts, M prototypes per concept, H W feature map.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from csr.data.dataset import LabelledImages
from csr.data.labels.positive import is_positive
from csr.data.transforms import EvalTransform
from csr.model import CSR, CSROutput
from csr.model.baselines import BaselineOutput, ConceptBottleneck
from csr.model.contributions import model_contributions
from csr.report.pictures import captioned, column, overlay, row, to_rgb

NUM_IMAGES, NUM_CONCEPTS = 6, 3


@torch.no_grad()
def cam_figure(
    model: CSR | ConceptBottleneck, dataset: LabelledImages, transform: EvalTransform, device: torch.device
) -> np.ndarray:
    """Return per row an image and the activation maps of its most probable concepts, (H,W,3) uint8."""
    return _figure(model, dataset, transform, device, similarities=False)


@torch.no_grad()
def similarity_figure(
    model: CSR, dataset: LabelledImages, transform: EvalTransform, device: torch.device
) -> np.ndarray:
    """Return per row an image, its likeliest diagnosis, and the concepts that contribute most to it.

    Args:
        model: with a card; contributions are counted from its absent medians.
        dataset, transform, device: as for `cam_figure`.

    Returns:
        (H,W,3) uint8: maps of the concepts' best prototypes.
    """
    return _figure(model, dataset, transform, device, similarities=True)


def _figure(
    model: CSR | ConceptBottleneck,
    dataset: LabelledImages,
    transform: EvalTransform,
    device: torch.device,
    *,
    similarities: bool,
) -> np.ndarray:
    table = dataset.table.select(dataset.indices)
    shown = richest_images(table.concept_NK)
    batch = dataset.load(shown)
    model.to(device).eval()
    output = model(transform(batch["image"].to(device)))
    rows = []
    for b in range(len(shown)):
        image = to_rgb(batch["image"][b])
        present = [table.concept_names[k] for k in np.flatnonzero(is_positive(table.concept_NK[shown[b]]))]
        captions = [table.image_ids[shown[b]][:24], ", ".join(present)[:40] or "no finding"]
        draw: Callable[..., Tiles] = _similarity_tiles if similarities else _cam_tiles
        lines, tiles = draw(model, image, output, b, table.concept_names)
        rows.append(row([captioned(image, [*captions, *lines]), *tiles]))
    return column(rows)


Tiles = tuple[list[str], list[np.ndarray]]


def _cam_tiles(
    model: CSR | ConceptBottleneck,
    image: np.ndarray,
    output: CSROutput | BaselineOutput,
    b: int,
    names: Sequence[str],
) -> Tiles:
    assert output.concept_logits is not None and output.cams is not None
    tiles = []
    for k in output.concept_logits[b].topk(min(NUM_CONCEPTS, len(names))).indices.tolist():
        probability = float(output.concept_logits[b, k].sigmoid())
        picture = _lit(image, output.cams[b, k])
        tiles.append(captioned(picture, [names[k], f"probability {probability:.2f}"]))
    return [], tiles


def _similarity_tiles(
    model: CSR, image: np.ndarray, output: CSROutput, b: int, names: Sequence[str]
) -> Tiles:
    assert model.card is not None
    parts = model_contributions(model, output.similarity_scores[b : b + 1])
    t = int(output.logits[b].argmax())
    target, logit = model.card.target_names[t], float(output.logits[b, t])
    share_K = parts.share_BTKM[0, t].sum(1)
    tiles = []
    for k in share_K.abs().topk(min(NUM_CONCEPTS, len(names))).indices.tolist():
        probability = float(model.card.concept_probability(output.concept_logits[b])[k])
        score, m = output.similarity_scores[b, k].max(dim=0)
        scale = model.card.reference.map_scale(k, int(m))
        picture = _lit(image, output.similarity_maps[b, k, int(m)], scale)
        said = f"adds {float(share_K[k]):+.2f} to {target}"
        facts = f"prototype {int(m)}, cosine {float(score):.2f}, p {probability:.2f}"
        tiles.append(captioned(picture, [names[k], said, facts]))
    base = "without findings" if model.card.reference.absent_KM is not None else "bias"
    return [f"{target}: logit {logit:+.2f}, {base} {float(parts.base_T[t]):+.2f}"], tiles


def _lit(image: np.ndarray, map_hw: torch.Tensor, scale: tuple[float, float] | None = None) -> np.ndarray:
    map_HW = map_hw.float().cpu().numpy()
    low, high = scale or (float(np.median(map_HW)), float(map_HW.max()))
    return overlay(image, map_HW, low=low, high=high)


def richest_images(concept_NK: np.ndarray) -> np.ndarray:
    """Return indices of up to NUM_IMAGES images with the most findings; of equal ones the first.

    Args:
        concept_NK: labels; NaN is not annotated.
    """
    order = np.argsort(-np.nansum(concept_NK, axis=1), kind="stable")
    return order[:NUM_IMAGES]
