"""Median similarity scores of images with and without each concept, over all ranks.

Letters: N images, B batch, K concepts, M prototypes per concept.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch

from csr.evaluation.thresholds import concept_medians
from csr.runtime import distributed

BLOCK_BYTES = 64 * 2**20  # of the scores of all images that a rank holds beside its own


class ScoreRows:
    """Scores of this rank's images, until their medians are known."""

    def __init__(self) -> None:
        self._scores: list[torch.Tensor] = []
        self._positions: list[torch.Tensor] = []

    def add(self, score_BKM: torch.Tensor, position_B: torch.Tensor) -> None:
        """Keep the scores of a batch where they lie: no sync.

        Args:
            score_BKM: cosine similarities.
            position_B: places of the images in the data set.
        """
        self._scores.append(score_BKM.detach().float())
        self._positions.append(position_B)

    def medians(
        self, concept_NK: torch.Tensor, *, block_bytes: int = BLOCK_BYTES
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return `concept_medians` of all ranks' images, absent_KM and present_KM. Collective.

        The scores travel a few concepts at a time.

        Args:
            concept_NK: labels of all images, NaN where not annotated.
            block_bytes: of the scores of all images that travel at once; one concept at least.
        """
        num_images, num_concepts = concept_NK.shape
        own_N = torch.cat(self._positions).cpu().numpy() if self._positions else np.zeros(0, np.int64)
        order_N = np.argsort(np.concatenate(distributed.all_gather_object(own_N)), kind="stable")
        width = max(distributed.all_gather_object(self._scores[0].shape[2] if self._scores else 0))
        step = max(1, block_bytes // max(1, 4 * num_images * width))
        blocks = []
        for first in range(0, num_concepts, step):
            block = slice(first, min(first + step, num_concepts))
            ranks = [rows for rows in distributed.all_gather_object(self._rows(block)) if rows is not None]
            blocks.append(distributed.on_main(partial(_medians, ranks, order_N, concept_NK[:, block])))
        absent, present = zip(*blocks, strict=True)
        return torch.cat(absent), torch.cat(present)

    def _rows(self, block: slice) -> np.ndarray | None:
        """Return this rank's scores of some concepts, or None where it has no image."""
        if not self._scores:
            return None
        return torch.cat([score_BKM[:, block] for score_BKM in self._scores]).cpu().numpy()


def _medians(
    ranks: list[np.ndarray], order_N: np.ndarray, concept_NK: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    score_NKM = np.concatenate(ranks)[order_N]
    return concept_medians(torch.from_numpy(score_NKM), concept_NK)
