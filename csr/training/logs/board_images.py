"""Pictures for the TensorBoard: maps of a few validation images after a stage.

Letters: B images, K concepts, M prototypes per concept, H W feature map.
"""

from __future__ import annotations

import numpy as np
import torch

from csr.data.dataset import LabelledImages
from csr.data.labels.positive import is_positive
from csr.data.transforms import EvalTransform
from csr.model import CSR
from csr.report.pictures import captioned, column, overlay, row, to_rgb

NUM_IMAGES, NUM_CONCEPTS = 6, 3


@torch.no_grad()
def cam_figure(
    model: CSR, dataset: LabelledImages, transform: EvalTransform, device: torch.device
) -> np.ndarray:
    """Return per row an image and the activation maps of its most probable concepts, (H,W,3) uint8."""
    return _figure(model, dataset, transform, device, similarities=False)


@torch.no_grad()
def similarity_figure(
    model: CSR, dataset: LabelledImages, transform: EvalTransform, device: torch.device
) -> np.ndarray:
    """Return per row an image and the best prototype's map of its most probable concepts, (H,W,3) uint8."""
    return _figure(model, dataset, transform, device, similarities=True)


def _figure(
    model: CSR, dataset: LabelledImages, transform: EvalTransform, device: torch.device, *, similarities: bool
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
        tiles = [captioned(image, [table.image_ids[shown[b]][:24], ", ".join(present)[:40] or "no finding"])]
        for k in output.concept_logits[b].topk(min(NUM_CONCEPTS, len(table.concept_names))).indices.tolist():
            tiles.append(_tile(image, output, b, k, name=table.concept_names[k], similarities=similarities))
        rows.append(row(tiles))
    return column(rows)


def _tile(image: np.ndarray, output: object, b: int, k: int, *, name: str, similarities: bool) -> np.ndarray:
    probability = float(output.concept_logits[b, k].sigmoid())  # type: ignore[attr-defined]
    if not similarities:
        map_HW = output.cams[b, k].float().cpu().numpy()  # type: ignore[attr-defined]
        picture = overlay(image, map_HW, low=float(np.median(map_HW)), high=float(map_HW.max()))
        return captioned(picture, [name, f"probability {probability:.2f}"])
    score, m = output.similarity_scores[b, k].max(dim=0)  # type: ignore[attr-defined]
    map_HW = output.similarity_maps[b, k, int(m)].float().cpu().numpy()  # type: ignore[attr-defined]
    picture = overlay(image, map_HW, low=float(np.median(map_HW)), high=float(map_HW.max()))
    return captioned(
        picture, [f"{name}: prototype {int(m)}", f"cosine {float(score):.2f}, p {probability:.2f}"]
    )


def richest_images(concept_NK: np.ndarray) -> np.ndarray:
    """Return indices of up to NUM_IMAGES images with the most findings; of equal ones the first.

    Args:
        concept_NK: labels; NaN is not annotated.
    """
    order = np.argsort(-np.nansum(concept_NK, axis=1), kind="stable")
    return order[:NUM_IMAGES]
