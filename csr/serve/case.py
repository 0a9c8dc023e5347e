"""One image's similarities, computed once, and the diagnosis under any edits of them.

Letters: B batch (1 here), K concepts, M prototypes per concept, H W feature map, C channels, S side.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch

from csr.explain.explanation import Explanation, explain_output, map_range
from csr.model import CSR, CSROutput
from csr.model.interaction import SafetyReport, check_safety, decide, edited_maps
from csr.model.layers.prototypes import winners
from csr.serve.edits import MEDIAN, ZERO, EditSet


@dataclass(frozen=True, eq=False)
class Outcome:
    """A diagnosis under edits.

    Attributes:
        edits: which.
        explanation: of the edited scores. Its maps and best prototypes are those after the boxes and
            before decisions on concepts: a rejected concept still shows what was rejected.
        safety: of `csr.model.interaction.check_safety`.
    """

    edits: EditSet
    explanation: Explanation
    safety: SafetyReport


class Case:
    """What the network computed for one image; nothing of it changes.

    Args:
        model: in eval mode, with a card; shared by all cases.
        pixels_CSS: uint8, from `csr.data.images.resize`.
    """

    @torch.no_grad()
    def __init__(self, model: CSR, pixels_CSS: np.ndarray) -> None:
        assert model.card is not None
        self.model, self.card = model, model.card
        self.device = next(model.parameters()).device
        image_BCSS = torch.from_numpy(pixels_CSS).unsqueeze(0).to(self.device)
        self.output: CSROutput = model(self.card.preprocessing.transform()(image_BCSS))
        self.plain: Explanation = explain_output(model, self.output)[0]
        # one scale for the whole session, so that an edit cannot make a weak map look strong
        self.scale = map_range(self.plain, self.plain.shown(model.num_concepts))

    @property
    def unedited(self) -> EditSet:
        return EditSet.none(self.model.num_concepts, replacement=default_replacement(self.model))

    @torch.no_grad()
    def diagnose(self, edits: EditSet) -> Outcome:
        """The diagnosis under edits: scores and head only, the network does not run.

        Raises:
            ValueError: see `EditSet.tensors`.
        """
        chosen = edits.tensors(self.device)
        use_medians = edits.replacement == MEDIAN
        absent_KM = self.card.reference.absent_KM if use_medians else None
        present_KM = self.card.reference.present_KM if use_medians else None
        sim_BKMHW = edited_maps(self.output.similarity_maps, chosen, absent_KM=absent_KM)
        seen_BKM = sim_BKMHW.amax(dim=(3, 4))
        score_BKM = decide(seen_BKM, chosen.decision_BK, absent_KM=absent_KM, present_KM=present_KM)
        output = dataclasses.replace(
            self.output,
            similarity_maps=sim_BKMHW,
            similarity_scores=score_BKM,
            logits=self.model.task_head(score_BKM),
        )
        best_K = winners(seen_BKM, self.model.prototypes.kept_KM)[0].cpu()
        map_KHW = sim_BKMHW[0].cpu()[torch.arange(len(best_K)), best_K]
        explanation = explain_output(self.model, output)[0]
        safety = check_safety(
            self.output.similarity_maps,
            chosen,
            diagnose=self._probability,
            absent_KM=absent_KM,
            present_KM=present_KM,
        )
        return Outcome(edits, dataclasses.replace(explanation, best_K=best_K, map_KHW=map_KHW), safety)

    def _probability(self, score_BKM: torch.Tensor) -> torch.Tensor:
        return self.card.probability(self.model.task_head(score_BKM))

    @torch.no_grad()
    def maps(self, edits: EditSet, places: list[tuple[int, int]]) -> np.ndarray:
        """Maps of prototypes (concept, prototype) after the boxes, (number of places, H, W)."""
        chosen = edits.tensors(self.device)
        concept, prototype = torch.tensor(places, dtype=torch.int64).view(-1, 2).unbind(1)
        some_BKMHW = self.output.similarity_maps[:, concept, prototype].unsqueeze(2)
        absent_KM = self.card.reference.absent_KM if edits.replacement == MEDIAN else None
        if absent_KM is not None:
            absent_KM = absent_KM[concept, prototype].unsqueeze(1)
        return edited_maps(some_BKMHW, chosen, absent_KM=absent_KM)[0, :, 0].cpu().numpy()


def default_replacement(model: CSR) -> str:
    """Medians where the model has them: they harm less than the paper's zero."""
    assert model.card is not None
    return ZERO if model.card.reference.absent_KM is None else MEDIAN
