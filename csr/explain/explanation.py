"""The ground of a diagnosis: similarities, and what each adds to each logit (paper, Eq. 1 and Sec. 3.3).

Contributions are counted from an image without findings (`csr.model.contributions`).

Letters: K concepts, M prototypes per concept, T targets, H W feature map, B batch.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from csr.data.images.square import WHOLE, Frame, point_on_image
from csr.explain.neighbours import Neighbours
from csr.model import CSR, CSROutput
from csr.model.contributions import Contributions, model_contributions
from csr.model.doubt import doubts, top_two_gap
from csr.model.layers.prototypes import winners
from csr.model.novelty import Seen, compare
from csr.model.sharing.card import Card

FORMAT, FORMAT_VERSION = "csr-explanation", 2


@dataclass(frozen=True, eq=False)
class Explanation:
    """One image's diagnosis taken apart.

    Attributes:
        card: names and thresholds.
        logit_T, bias_T, probability_T: of the diagnoses.
        base_T: fp64, logits of an image without findings; the bias where the model has no absent medians.
        concept_probability_K: of the concepts.
        active_K: bool, which concepts reach their threshold.
        score_KM: highest similarity of each prototype.
        share_TKM: fp64 contributions; logit_T = base_T + share_TKM summed over K and M.
        weight_TKM, usual_KM: fp64; share_TKM is weight_TKM x (score_KM - usual_KM).
        map_KHW: similarity map of each concept's best prototype (highest score).
        best_K: which prototype that is; -1 for a concept whose prototypes were all dropped.
        frame: the square that the maps cover, as fractions of the image (`csr.data.images.square`).
        seen: how the image compares with the training images; None where the model cannot tell.
    """

    card: Card
    logit_T: torch.Tensor
    bias_T: torch.Tensor
    base_T: torch.Tensor
    probability_T: torch.Tensor
    concept_probability_K: torch.Tensor
    active_K: torch.Tensor
    score_KM: torch.Tensor
    share_TKM: torch.Tensor
    weight_TKM: torch.Tensor
    usual_KM: torch.Tensor
    map_KHW: torch.Tensor
    best_K: torch.Tensor
    frame: Frame = WHOLE
    seen: Seen | None = None

    @property
    def is_centred(self) -> bool:
        """Whether contributions are counted from absent medians; else from a cosine of 0."""
        return self.card.reference.absent_KM is not None

    @property
    def rejected_TK(self) -> torch.Tensor | None:
        """Return how far each logit moves if a concept's scores fall to its absent medians.

        That is minus the contribution; None where the medians were not measured.
        """
        return -self.share_TKM.sum(2) if self.is_centred else None

    @property
    def raw_TK(self) -> torch.Tensor:
        """Weight x cosine of each concept, (T, K), constants included; with the bias they are the logit."""
        return (self.weight_TKM * self.score_KM.double()).sum(2)

    @property
    def gap(self) -> float:
        """Difference between the two most likely diagnoses."""
        return float(top_two_gap(self.probability_T.unsqueeze(0))[0])

    @property
    def doubt(self) -> str | None:
        """Why a doctor should decide, a line; None where there is no doubt."""
        return doubts(self.card, self.probability_T.unsqueeze(0))[0]

    @property
    def present_T(self) -> torch.Tensor:
        """Diagnoses that are called: from their thresholds on, or the likeliest if exactly one holds."""
        return self.card.called(self.probability_T)

    @property
    def chosen(self) -> int:
        """The diagnosis to explain first: of those called the most probable, or the most probable of all."""
        called_T = torch.where(self.present_T, self.probability_T, -torch.ones_like(self.probability_T))
        return int((called_T if bool(self.present_T.any()) else self.probability_T).argmax())

    def shown(self, maximum: int, *, target: int | None = None) -> list[int]:
        """Return the concepts that contribute most to a diagnosis, for or against, called or not.

        Args:
            maximum: how many at most.
            target: the diagnosis; None: the chosen one.

        Returns:
            Concepts that have prototypes, the largest contribution first; the first concept if none has any.
        """
        t = self.chosen if target is None else target
        order = self.share_TKM[t].sum(1).abs().argsort(descending=True, stable=True).tolist()
        return [k for k in order if int(self.best_K[k]) >= 0][:maximum] or order[:1]

    def rest(self, concepts: list[int], *, target: int) -> float:
        """Return what all other concepts together contribute to a diagnosis."""
        share_K = self.share_TKM[target].sum(1)
        return float(share_K.sum() - share_K[concepts].sum())

    def peak(self, k: int) -> tuple[float, float]:
        """Return the highest cell of a concept's best prototype's map.

        X, y of its centre, fractions of the image; below 0 or above 1 in the black of a letterbox.
        """
        height, width = self.map_KHW.shape[1:]
        at = int(self.map_KHW[k].argmax())
        return point_on_image(((at % width + 0.5) / width, (at // width + 0.5) / height), self.frame)

    @property
    def cell(self) -> tuple[float, float]:
        """Width and height of a cell of the maps, fractions of the image."""
        height, width = self.map_KHW.shape[1:]
        return (self.frame[2] - self.frame[0]) / width, (self.frame[3] - self.frame[1]) / height


@torch.no_grad()
def explain(model: CSR, image_BCSS: torch.Tensor, *, frame: Frame = WHOLE) -> list[Explanation]:
    """Explain resized images (uint8, 1 or 3 channels).

    Args:
        model: in eval mode, with a card.
        image_BCSS: from `csr.data.images.resize`, as the card says.
        frame: of these images (`StoredImage.frame`).
    """
    card = model.card
    assert card is not None
    device = next(model.parameters()).device
    image_B3HW = card.preprocessing.transform()(image_BCSS.to(device))
    feat_BCHW = model.features(image_B3HW)
    output = model.from_features(feat_BCHW)
    seen_B = compare(model, image_B3HW, feat_BCHW, output.similarity_scores)
    explained_B = explain_output(model, output, frame=frame)
    return [dataclasses.replace(e, seen=seen) for e, seen in zip(explained_B, seen_B, strict=True)]


@torch.no_grad()
def explain_output(model: CSR, output: CSROutput, *, frame: Frame = WHOLE) -> list[Explanation]:
    """Explain what the model computed, or what edits made of it; scores and logits must belong together.

    Args:
        model: with a card.
        output: of a batch.
        frame: of its images, see `explain`.
    """
    card = model.card
    assert card is not None
    parts = model_contributions(model, output.similarity_scores)
    every = (_explain_one(model, card, output, parts, b) for b in range(len(output.logits)))
    return [dataclasses.replace(one, frame=frame) for one in every]


def _explain_one(model: CSR, card: Card, output: CSROutput, parts: Contributions, b: int) -> Explanation:
    score_KM = output.similarity_scores[b].cpu()
    best_K = winners(output.similarity_scores[b : b + 1], model.prototypes.kept_KM)[0].cpu()
    concept_K = card.concept_probability(output.concept_logits[b]).cpu()
    logit_T = output.logits[b].cpu()
    return Explanation(
        card=card,
        logit_T=logit_T,
        bias_T=model.task_head.linear.bias.detach().cpu(),
        base_T=parts.base_T,
        probability_T=card.probability(logit_T.unsqueeze(0))[0],
        concept_probability_K=concept_K,
        active_K=card.called_concepts(concept_K),
        score_KM=score_KM,
        share_TKM=parts.share_BTKM[b],
        weight_TKM=parts.weight_TKM,
        usual_KM=parts.usual_KM,
        map_KHW=output.similarity_maps[b].cpu()[torch.arange(len(best_K)), best_K],
        best_K=best_K,
    )


def to_dict(explanation: Explanation, *, neighbours: Neighbours, show_ids: bool = False) -> dict[str, Any]:
    """Return all numbers of an explanation as plain JSON, by name; every prototype is in it, shown or not.

    Args:
        explanation: of an image.
        neighbours: training regions, may be empty.
        show_ids: name their images, whose ids are often patients'; never their folders.
    """
    e, card = explanation, explanation.card
    diagnoses = [
        {
            "name": name,
            "probability": float(e.probability_T[t]),
            "calibration": card.target_calibration_T[t].method,
            "logit": float(e.logit_T[t]),
            "base": float(e.base_T[t]),
            "bias": float(e.bias_T[t]),
            "threshold": None if card.exactly_one else float(card.target_threshold_T[t]),
            "present": bool(e.present_T[t]),
        }
        for t, name in enumerate(card.target_names)
    ]
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "task_loss": card.task_loss,
        "contributions_from": "absent medians" if e.is_centred else "zero",
        "map_cells": list(e.map_KHW.shape[1:]),
        "chosen_diagnosis": card.target_names[e.chosen],
        "diagnoses": diagnoses,
        "gap": e.gap,
        "needs_doctor": e.doubt is not None,
        "doubt": e.doubt,
        "novelty": None if e.seen is None else e.seen.to_dict(),
        "concepts": [_concept(e, k, neighbours, show_ids) for k in range(len(card.concept_names))],
    }


def _concept(e: Explanation, k: int, neighbours: Neighbours, show_ids: bool) -> dict[str, Any]:
    card, best = e.card, int(e.best_K[k])
    return {
        "name": card.concept_names[k],
        "probability": float(e.concept_probability_K[k]),
        "calibration": card.concept_calibration_K[k].method,
        "threshold": float(card.concept_threshold_K[k]),
        "active": bool(e.active_K[k]),
        "contribution": _by_target(card, e.share_TKM[:, k].sum(1)),
        "if_rejected": None if e.rejected_TK is None else _by_target(card, e.rejected_TK[:, k]),
        "best_prototype": best if best >= 0 else None,
        "map_scale": card.reference.map_scale(k, best) if best >= 0 else None,
        "peak": list(e.peak(k)) if best >= 0 else None,
        "training_regions": [n.to_dict(show_ids=show_ids) for n in neighbours.get((k, best), [])],
        "prototypes": [_prototype(e, k, m) for m in range(e.score_KM.shape[1])],
    }


def _prototype(e: Explanation, k: int, m: int) -> dict[str, Any]:
    return {
        "score": float(e.score_KM[k, m]),
        "absent_median": float(e.usual_KM[k, m]) if e.is_centred else None,
        "weight": _by_target(e.card, e.weight_TKM[:, k, m]),
        "contribution": _by_target(e.card, e.share_TKM[:, k, m]),
    }


def _by_target(card: Card, value_T: torch.Tensor) -> dict[str, float]:
    return dict(zip(card.target_names, value_T.tolist(), strict=True))


def map_scales(explanation: Explanation, concepts: list[int]) -> dict[int, tuple[float, float]]:
    """Return the cosines between which the map of each concept's best prototype is coloured.

    Args:
        explanation: of an image.
        concepts: that have prototypes.

    Returns:
        concept -> (clear, brightest): of the prototype (`Reference.map_scale`), so that the map of a finding
        that is absent stays clear. Without medians one scale for all: weak maps look weak.
    """
    e, reference = explanation, explanation.card.reference
    own = {k: reference.map_scale(k, int(e.best_K[k])) for k in concepts}
    return {k: scale or map_range(e, concepts) for k, scale in own.items()}


def map_range(explanation: Explanation, concepts: list[int]) -> tuple[float, float]:
    """Return one colour scale for all maps shown, median to maximum of them all: weak maps look weak."""
    values = np.concatenate([explanation.map_KHW[k].numpy().ravel() for k in concepts])
    return float(np.median(values)), float(values.max())
