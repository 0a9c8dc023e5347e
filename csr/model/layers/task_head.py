"""Task head (paper, Eq. 1): one linear layer from the K x M similarity scores to the diagnoses.

Letters: B batch, K concepts, M prototypes per concept, T targets, F = K x M.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from csr.model.layers.precision import full, no_autocast


class TaskHead(nn.Module):
    """score_BKM -> logit_BT, in fp32; nothing hidden in between.

    Args:
        num_concepts: K.
        num_per_concept: M.
        num_classes: T.
    """

    def __init__(self, num_concepts: int, num_per_concept: int, num_classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(num_concepts * num_per_concept, num_classes)
        nn.init.normal_(self.linear.weight, std=0.01)
        nn.init.zeros_(self.linear.bias)

    def forward(self, score_BKM: torch.Tensor) -> torch.Tensor:
        with no_autocast(score_BKM):
            return F.linear(full(score_BKM).flatten(1), full(self.linear.weight), full(self.linear.bias))


def fold_standardisation(
    weight_TF: torch.Tensor, bias_T: torch.Tensor, mean_F: torch.Tensor, std_F: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Fold: the linear layer on raw scores that equals this one on (score - mean) / std.

    Args:
        weight_TF, bias_T: trained on standardised scores.
        mean_F, std_F: of the scores on the training set; std above 0.

    Returns:
        weight_TF, bias_T for raw scores, in the types that came in (fp64 inside).
    """
    folded_TF = weight_TF.double() / std_F.double()
    shifted_T = bias_T.double() - folded_TF @ mean_F.double()
    return folded_TF.to(weight_TF.dtype), shifted_T.to(bias_T.dtype)
