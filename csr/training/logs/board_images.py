"""Pictures for the board: maps of a few validation images, what was called marked as right or wrong.

Letters: B images, K concepts, M prototypes per concept, T targets, H W feature map.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from csr.data.dataset import LabelledImages
from csr.data.labels.positive import is_positive
from csr.data.transforms import EvalTransform
from csr.model import CSR, CSROutput
from csr.model.baselines import BaselineOutput, ConceptBottleneck
from csr.model.contributions import Contributions, contributions
from csr.model.sharing.card import Card
from csr.report.pictures import captioned, column, enlarged, marked, overlay, row, to_rgb

NUM_IMAGES, NUM_CONCEPTS = 6, 3
TILE_PX = 192
Head = tuple[torch.Tensor, torch.Tensor]  # weight (T, K*M) and bias (T,) on raw scores


@dataclass(frozen=True)
class Drawn:
    """Images of a picture.

    Attributes:
        dataset: validation images; the first of those with the most findings are drawn.
        transform: stored pixels -> input of the network.
        device: of the model.
        card: names, and thresholds, calibration and medians as far as they are known yet.
    """

    dataset: LabelledImages
    transform: EvalTransform
    device: torch.device
    card: Card

    def images(self) -> tuple[np.ndarray, torch.Tensor, torch.Tensor]:
        """Return rows of the label table (B,), stored images (B,C,S,S) uint8, and the input on the device."""
        shown = richest_images(self.dataset.table.concept_NK[self.dataset.indices])
        stored = self.dataset.load(shown)["image"]
        return self.dataset.indices[shown], stored, self.transform(stored.to(self.device))


@torch.no_grad()
def cam_figure(model: CSR | ConceptBottleneck, drawn: Drawn) -> np.ndarray:
    """Return per row an image and the activation maps of its most probable concepts, (H,W,3) uint8.

    Args:
        model: on the device, in eval mode.
        drawn: the images.
    """
    index_B, stored_BCSS, input_B = drawn.images()
    output = model(input_B)
    assert output.concept_logits is not None and output.cams is not None
    rows = []
    for b, index in enumerate(index_B):
        image, label_K = _tile(stored_BCSS[b]), drawn.dataset.table.concept_NK[index]
        tiles = []
        for k in _likeliest(output, b):
            picture = _lit(image, output.cams[b, k])
            tiles.append(_of_concept(picture, [], drawn.card, output, b, k, label_K[k]))
        rows.append(row([captioned(image, _truth(drawn, index)), *tiles]))
    return column(rows)


@torch.no_grad()
def similarity_figure(model: CSR, drawn: Drawn, head: Head | None) -> np.ndarray:
    """Return per row an image with its diagnoses, and the concepts that contribute most to the likeliest.

    Args:
        model: on the device, in eval mode.
        drawn: the images; contributions are counted from the absent medians of their card.
        head: of the diagnoses; None while it is not trained: the likeliest concepts are drawn.

    Returns:
        (H,W,3) uint8: maps of the concepts' best prototypes.
    """
    index_B, stored_BCSS, input_B = drawn.images()
    output = model(input_B)
    parts = None if head is None else _parts(output, head, drawn.card)
    rows = []
    for b, index in enumerate(index_B):
        image, table, lines = _tile(stored_BCSS[b]), drawn.dataset.table, _truth(drawn, index)
        shown, said = _likeliest(output, b), [""] * len(drawn.card.concept_names)
        left = image
        if parts is not None:
            logit_T = parts.base_T + parts.share_BTKM[b].sum(dim=(1, 2))
            diagnoses, is_right = _diagnoses(drawn.card, logit_T, table.target_NT[index])
            t = _foremost(drawn.card, logit_T)
            target, share_K = drawn.card.target_names[t], parts.share_BTKM[b, t].sum(1)
            shown = share_K.abs().topk(len(shown)).indices.tolist()
            said = [f"adds {float(share):+.2f} to {target}" for share in share_K]
            base = "without findings" if drawn.card.reference.absent_KM is not None else "bias"
            of_target = f"{target}: logit {float(logit_T[t]):+.2f}, {base} {float(parts.base_T[t]):+.2f}"
            lines, left = [*lines, *diagnoses, of_target], marked(image, is_right)
        tiles = []
        for k in shown:
            score, m = output.similarity_scores[b, k].max(dim=0)
            scale = drawn.card.reference.map_scale(k, int(m))
            picture = _lit(image, output.similarity_maps[b, k, int(m)], scale)
            facts = [said[k], f"prototype {int(m)}, cosine {float(score):.2f}"]
            tiles.append(_of_concept(picture, facts, drawn.card, output, b, k, table.concept_NK[index, k]))
        rows.append(row([captioned(left, lines), *tiles]))
    return column(rows)


def _foremost(card: Card, logit_T: torch.Tensor) -> int:
    """Return the diagnosis that `csr explain` explains: the likeliest of those called, else of all."""
    probability_BT = card.probability(logit_T[None])
    called_BT = card.called(probability_BT)
    return int((probability_BT * called_BT if bool(called_BT.any()) else probability_BT)[0].argmax())


def _parts(output: CSROutput, head: Head, card: Card) -> Contributions:
    score_BKM = output.similarity_scores.float().cpu()
    weight_TKM = head[0].float().cpu().unflatten(1, score_BKM.shape[1:])
    absent_KM = card.reference.absent_KM
    usual_KM = torch.zeros(score_BKM.shape[1:]) if absent_KM is None else absent_KM.cpu()
    return contributions(score_BKM, weight_TKM, head[1].float().cpu(), usual_KM)


def _tile(stored_CSS: torch.Tensor) -> np.ndarray:
    return enlarged(to_rgb(stored_CSS), TILE_PX)


def _likeliest(output: CSROutput | BaselineOutput, b: int) -> list[int]:
    assert output.concept_logits is not None
    logit_K = output.concept_logits[b]
    return logit_K.topk(min(NUM_CONCEPTS, len(logit_K))).indices.tolist()


def _truth(drawn: Drawn, index: int) -> list[str]:
    table = drawn.dataset.table
    present = np.flatnonzero(is_positive(table.concept_NK[index]))
    names = ", ".join(table.concept_names[k] for k in present) or "no finding"
    return [table.image_ids[index], f"has: {names}"]


def _of_concept(
    picture: np.ndarray,
    facts: list[str],
    card: Card,
    output: CSROutput | BaselineOutput,
    b: int,
    k: int,
    label: float,
) -> np.ndarray:
    """Return a map of a concept, marked, with its name, its facts, and whether it was called rightly."""
    assert output.concept_logits is not None
    probability_K = card.concept_probability(output.concept_logits[b].float().cpu())
    threshold = float(card.concept_threshold_K[k])
    said, is_right = verdict(bool(probability_K[k] >= threshold), label)
    number = f"p {float(probability_K[k]):.2f}, called from {threshold:.2f}"
    return captioned(marked(picture, is_right), [card.concept_names[k], said, *filter(None, facts), number])


def _diagnoses(card: Card, logit_T: torch.Tensor, label_T: np.ndarray) -> tuple[list[str], bool | None]:
    """Return a line for each diagnosis that is called or holds, and whether all are right; None: unknown."""
    probability_T = card.probability(logit_T.float())
    lines, verdicts = [], []
    for t, is_called in enumerate(card.called(probability_T).tolist()):
        said, is_right = verdict(is_called, label_T[t])
        verdicts.append(is_right)
        if is_called or is_positive(label_T[t]):
            lines.append(f"{card.target_names[t]} {float(probability_T[t]):.2f}, {said}")
    known = [is_right for is_right in verdicts if is_right is not None]
    return lines or ["no diagnosis is called"], all(known) if known else None


def verdict(is_called: bool, label: float) -> tuple[str, bool | None]:
    """Return words, and whether a call agrees with a label (0 to 1, NaN: not annotated -> None)."""
    if math.isnan(label):
        return f"{'called' if is_called else 'not called'}, not annotated", None
    is_right = is_called == bool(is_positive(np.asarray(label)))
    if is_called:
        return ("right: called, is there" if is_right else "wrong: called, is not there"), is_right
    return ("right: not called, is not there" if is_right else "wrong: missed, is there"), is_right


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
