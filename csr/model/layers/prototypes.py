"""Prototypes (paper, Sec. 3.1, Eq. 10): K x M unit vectors and their cosines with an embedded image.

Letters: B batch, K concepts, M prototypes per concept, D embedding, H W map, L = H x W, P = K x M.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from csr.model.layers.precision import full, no_autocast

MAX_COSINES = 2**25  # fp32 cosines of one chunk of `scores`: 128 MiB


class Prototypes(nn.Module):
    """M prototypes for each of K concepts. The parameter may have any length; only directions count.

    A prototype of length 0 was dropped: its cosines, and so its scores, are exactly 0 everywhere. So a state
    dict tells by itself which ones are left, under the names and shapes that it always has.

    Args:
        num_concepts: K.
        num_per_concept: M.
        dim: D.
    """

    def __init__(self, num_concepts: int, num_per_concept: int, dim: int) -> None:
        super().__init__()
        start_KMD = F.normalize(torch.randn(num_concepts, num_per_concept, dim), dim=-1)
        self.proto_KMD = nn.Parameter(start_KMD)

    def unit(self) -> torch.Tensor:
        """Return the prototypes at length 1: (K, M, D), fp32, differentiable."""
        return F.normalize(full(self.proto_KMD), dim=-1)

    @property
    def kept_KM(self) -> torch.Tensor:
        """bool (K, M), False where a prototype was dropped."""
        return (self.proto_KMD.detach() != 0).any(dim=-1)

    @torch.no_grad()
    def drop_(self, dropped_KM: torch.Tensor) -> None:
        """Drop prototypes, in place and for good.

        Args:
            dropped_KM: bool, True for those that go.
        """
        assert dropped_KM.shape == self.proto_KMD.shape[:2], dropped_KM.shape
        self.proto_KMD[dropped_KM.to(self.proto_KMD.device)] = 0.0

    @torch.no_grad()
    def set_(self, proto_KMD: torch.Tensor) -> None:
        """Overwrite the prototypes in place (k-means, restarts), at length 1."""
        unit_KMD = F.normalize(full(proto_KMD), dim=-1)
        assert unit_KMD.shape == self.proto_KMD.shape, (unit_KMD.shape, self.proto_KMD.shape)
        self.proto_KMD.copy_(unit_KMD)

    def similarity_maps(self, embed_BHWD: torch.Tensor) -> torch.Tensor:
        """Return S_km(h, w) = cos(p_km, embed(h, w)) (Eq. 10).

        Args:
            embed_BHWD: unit vectors, from the projector.

        Returns:
            sim_BKMHW, fp32.
        """
        batch, height, width, _ = embed_BHWD.shape
        num_concepts, num_per_concept, _ = self.proto_KMD.shape
        sim_BPL = _cosines(self.unit().flatten(0, 1), embed_BHWD)
        return sim_BPL.view(batch, num_concepts, num_per_concept, height, width)

    def scores(self, embed_BHWD: torch.Tensor, *, max_cosines: int = MAX_COSINES) -> torch.Tensor:
        """Return s_km = max_hw S_km(h, w), without holding all the maps.

        Args:
            embed_BHWD: unit vectors, from the projector.
            max_cosines: B x P x L above which prototypes are taken in chunks.

        Returns:
            score_BKM, fp32.
        """
        batch, height, width, _ = embed_BHWD.shape
        rows = max(1, max_cosines // max(1, batch * height * width))
        chunks = self.unit().flatten(0, 1).split(rows)
        parts = [_cosines(proto_PD, embed_BHWD).amax(dim=2) for proto_PD in chunks]
        return torch.cat(parts, dim=1).unflatten(1, self.proto_KMD.shape[:2])


def _cosines(proto_PD: torch.Tensor, embed_BHWD: torch.Tensor) -> torch.Tensor:
    with no_autocast(embed_BHWD):
        return torch.matmul(proto_PD, full(embed_BHWD).flatten(1, 2).transpose(1, 2))


def winners(score_BKM: torch.Tensor, kept_KM: torch.Tensor) -> torch.Tensor:
    """Return which prototype of each concept has the highest score; a dropped one never has.

    Args:
        score_BKM: similarity scores.
        kept_KM: bool, see `Prototypes.kept_KM`.

    Returns:
        winner_BK, int64 (the first of equals); -1 for a concept without any prototype.
    """
    kept_KM = kept_KM.to(score_BKM.device)
    winner_BK = score_BKM.masked_fill(~kept_KM, -torch.inf).argmax(dim=2)
    return winner_BK.masked_fill(~kept_KM.any(dim=1), -1)
