"""Starting places of prototypes, and new ones for dead prototypes: k-means on the sphere, coverage, restarts.

Letters: N unit vectors, K concepts, M prototypes per concept, D embedding.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from csr.runtime.progress import PROGRESS

MAX_VECTORS = 256  # per prototype: k-means on more changes the centres little and costs more


def kmeans_prototypes(
    vec_ND: torch.Tensor, concept_N: torch.Tensor, *, num_concepts: int, num_per_concept: int, seed: int
) -> torch.Tensor:
    """Return unit centres of each concept's vectors.

    A concept with fewer distinct vectors than prototypes gets them all and random unit vectors for the rest.

    Returns:
        proto_KMD, fp32 on the CPU.
    """
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    generator = np.random.default_rng(seed)
    vec_ND, concept_N = vec_ND.float().cpu(), concept_N.cpu()
    proto_KMD = torch.from_numpy(
        generator.normal(size=(num_concepts, num_per_concept, vec_ND.shape[1]))
    ).float()
    # a move for each concept: all ranks compute this at once, and must not look like ranks that stand still
    for k in PROGRESS.along(range(num_concepts), total=num_concepts, title="k-means of concepts"):
        own_ND = _distinct(vec_ND[concept_N == k].numpy())
        if len(own_ND) <= num_per_concept:
            proto_KMD[k, : len(own_ND)] = torch.from_numpy(own_ND)
            continue
        limit = MAX_VECTORS * num_per_concept
        if len(own_ND) > limit:
            own_ND = own_ND[generator.choice(len(own_ND), limit, replace=False)]
        means = KMeans(num_per_concept, n_init=1, random_state=int(generator.integers(2**31)))
        with threadpool_limits(limits=1, user_api="openmp"):  # threads add up in any order: not repeatable
            means.fit(own_ND)
        proto_KMD[k] = torch.from_numpy(means.cluster_centers_).float()
    return F.normalize(proto_KMD, dim=-1)


def _distinct(vec_ND: np.ndarray) -> np.ndarray:
    """Return each vector once, in the order of arrival.

    Rounding alone would reorder sorted ones and part the runs.
    """
    first = np.unique(vec_ND, axis=0, return_index=True)[1]
    return vec_ND[np.sort(first)]


def nearest_prototype(
    vec_ND: torch.Tensor, concept_N: torch.Tensor, proto_KMD: torch.Tensor, *, chunk: int = 4096
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the cosine (N,) to and the index (N,) of each vector's best prototype of its own concept."""
    best, index = [], []
    for vec, concept in zip(vec_ND.split(chunk), concept_N.split(chunk), strict=True):
        sim_NM = torch.einsum("nd,nmd->nm", vec, proto_KMD[concept])
        value, at = sim_NM.max(dim=1)
        best.append(value)
        index.append(at)
    return torch.cat(best), torch.cat(index)


def count_hits(
    index_N: torch.Tensor, concept_N: torch.Tensor, *, num_concepts: int, num_per_concept: int
) -> torch.Tensor:
    """Return how many vectors each prototype is the nearest of, (K,M) int64."""
    flat = concept_N * num_per_concept + index_N
    return torch.bincount(flat, minlength=num_concepts * num_per_concept).view(num_concepts, num_per_concept)


def restart_dead(
    proto_KMD: torch.Tensor, vec_ND: torch.Tensor, concept_N: torch.Tensor
) -> tuple[torch.Tensor, int, int]:
    """Move each prototype that no vector is nearest to onto its concept's worst-covered vector.

    A vector that is some prototype's only one is not taken: that prototype would die instead. A concept
    with fewer vectors than prototypes keeps dead ones.

    Returns:
        The new proto_KMD, how many were alive before, how many were moved.
    """
    num_concepts, num_per_concept, _ = proto_KMD.shape
    cover_N, index_N = nearest_prototype(vec_ND, concept_N, proto_KMD)
    hits_KM = count_hits(index_N, concept_N, num_concepts=num_concepts, num_per_concept=num_per_concept)
    moved, fresh_KMD = 0, proto_KMD.clone()
    for k in torch.nonzero((hits_KM == 0).any(dim=1)).flatten().tolist():
        members = torch.nonzero(concept_N == k).flatten()
        members = members[hits_KM[k, index_N[members]] > 1]
        dead = torch.nonzero(hits_KM[k] == 0).flatten()
        worst = members[cover_N[members].argsort(stable=True)][: len(dead)]
        fresh_KMD[k, dead[: len(worst)]] = vec_ND[worst]
        moved += len(worst)
    return fresh_KMD, int((hits_KM > 0).sum()), moved
