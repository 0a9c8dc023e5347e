"""One image's similarities, computed once, and the diagnosis under any edits of them.

Letters: B batch (1 here), K concepts, M prototypes per concept, N maps, R boxes, H W feature map, C channels,
S side.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from csr.data.images.square import WHOLE, Frame
from csr.explain.explanation import Explanation, explain_output, map_range
from csr.model import CSR, CSROutput
from csr.model.edit_safety import SafetyReport, check_safety
from csr.model.interaction import box_cells, decide, edited_maps
from csr.model.layers.prototypes import winners
from csr.model.novelty import compare
from csr.serve.edits import MEDIAN, ZERO, as_tensors, no_edits
from csr.serve.schemas import Edits, Replacement


@dataclass(frozen=True, eq=False)
class Outcome:
    """A diagnosis under edits.

    Attributes:
        edits: those in force.
        explanation: of the edited scores. Its maps and best prototypes are those after the boxes and
            before decisions on concepts: a rejected concept still shows what was rejected.
        safety: of `csr.model.edit_safety.check_safety`.
        seen_KM: scores after the boxes and before decisions on concepts, on the model's device.
        cells_R4: first column, first row, last column, last row of the cells that each box counts as.
    """

    edits: Edits
    explanation: Explanation
    safety: SafetyReport
    seen_KM: torch.Tensor
    cells_R4: list[list[int]]


class Case:
    """Everything that the network computed for one image; nothing of it changes.

    Args:
        model: in eval mode, with a card; shared by all cases.
        pixels_CSS: uint8 (1 or 3, S, S), from `csr.data.images.resize`.
        frame: the square that they show, as fractions of the image.

    Attributes:
        output: of the network, a batch of one.
        seen: how the image compares with the training images; None where the model cannot tell.
        plain: explanation without edits.
        scale: similarities at the ends of the colour scale of maps without one of their own.
    """

    @torch.no_grad()
    def __init__(self, model: CSR, pixels_CSS: np.ndarray, *, frame: Frame = WHOLE) -> None:
        assert model.card is not None
        self.model, self.card, self.frame = model, model.card, frame
        self.device = next(model.parameters()).device
        image_BCSS = torch.from_numpy(pixels_CSS).unsqueeze(0).to(self.device)
        image_B3HW = self.card.preprocessing.transform()(image_BCSS)
        feat_BCHW = model.features(image_B3HW)
        self.output: CSROutput = model.from_features(feat_BCHW)
        self.seen = compare(model, image_B3HW, feat_BCHW, self.output.similarity_scores)[0]
        self.plain: Explanation = explain_output(model, self.output, frame=frame)[0]
        # one scale for the whole session, so that an edit cannot make a weak map look strong
        self.scale = map_range(self.plain, self.plain.shown(model.num_concepts))

    def scale_of(self, k: int, m: int) -> tuple[float, float]:
        """Return the similarities at the ends of a map's colour scale, (clear, brightest)."""
        return self.card.reference.map_scale(k, m) or self.scale

    @property
    def unedited(self) -> Edits:
        """The state that this image starts in."""
        return no_edits(default_replacement(self.model))

    @torch.no_grad()
    def diagnose(self, edits: Edits) -> Outcome:
        """Return the diagnosis under edits: scores and head only, the network does not run.

        Args:
            edits: from `csr.serve.edits.checked_edits`.
        """
        tensors = as_tensors(edits, self.card.concept_names, self.device, frame=self.frame)
        absent_KM, present_KM = self.medians(edits)
        sim_BKMHW = edited_maps(self.output.similarity_maps, tensors, absent_KM=absent_KM)
        seen_BKM = sim_BKMHW.amax(dim=(3, 4))
        score_BKM = decide(seen_BKM, tensors.decision_BK, absent_KM=absent_KM, present_KM=present_KM)
        output = dataclasses.replace(
            self.output,
            similarity_maps=sim_BKMHW,
            similarity_scores=score_BKM,
            logits=self.model.task_head(score_BKM),
        )
        best_K = winners(seen_BKM, self.model.prototypes.kept_KM)[0].cpu()
        map_KHW = sim_BKMHW[0].cpu()[torch.arange(len(best_K)), best_K]
        explanation = explain_output(self.model, output, frame=self.frame)[0]
        safety = check_safety(
            self.output.similarity_maps,
            tensors,
            diagnose=lambda score_BKM: self.card.probability(self.model.task_head(score_BKM)),
            absent_KM=absent_KM,
            present_KM=present_KM,
            called_BK=self.plain.active_K.unsqueeze(0),
        )
        explanation = dataclasses.replace(explanation, best_K=best_K, map_KHW=map_KHW)
        height, width = map_KHW.shape[1:]
        cells_R4 = cell_ranges(box_cells(tensors.box_R4, height=height, width=width))
        return Outcome(edits, explanation, safety, seen_BKM[0], cells_R4)

    def medians(self, edits: Edits) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Return scores (K, M) that rejected concepts get and confirmed ones reach; None: 0, as they are."""
        if edits.replacement != MEDIAN:
            return None, None
        return self.card.reference.absent_KM, self.card.reference.present_KM

    @torch.no_grad()
    def maps(self, edits: Edits, places: Sequence[tuple[int, int]]) -> np.ndarray:
        """Return similarity maps after the boxes, map_NHW.

        Args:
            edits: in force.
            places: (concept, prototype) of each map.
        """
        tensors = as_tensors(edits, self.card.concept_names, self.device, frame=self.frame)
        concept_N, prototype_N = torch.tensor(places, dtype=torch.int64).view(-1, 2).unbind(1)
        # one prototype each, as if it were a concept of its own: (1, N, 1, H, W)
        sim_BNMHW = self.output.similarity_maps[:, concept_N, prototype_N].unsqueeze(2)
        absent_KM = self.card.reference.absent_KM if edits.replacement == MEDIAN else None
        absent_NM = None if absent_KM is None else absent_KM[concept_N, prototype_N].unsqueeze(1)
        edited = edited_maps(sim_BNMHW, tensors, absent_KM=absent_NM, concept_N=concept_N.to(self.device))
        return edited[0, :, 0].cpu().numpy()


def cell_ranges(inside_RHW: torch.Tensor) -> list[list[int]]:
    """Return first column, first row, last column and last row of each box's cells, which are a rectangle."""
    ranges = []
    for inside_HW in inside_RHW.cpu():
        rows, columns = (inside_HW.any(dim=axis).nonzero().flatten().tolist() for axis in (1, 0))
        ranges.append([columns[0], rows[0], columns[-1], rows[-1]])
    return ranges


def default_replacement(model: CSR) -> Replacement:
    """Return medians where the model has them: they harm less than the paper's zero."""
    assert model.card is not None
    return ZERO if model.card.reference.absent_KM is None else MEDIAN
