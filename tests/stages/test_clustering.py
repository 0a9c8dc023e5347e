"""k-means starts, hits and restarts on points small enough to count by hand."""

from __future__ import annotations

import sys

import pytest
import torch
from on_device import compute_there
from torch.nn import functional as F

from csr.runtime.progress import PROGRESS
from csr.stages.clustering import count_hits, kmeans_prototypes, nearest_prototype, restart_dead


@pytest.fixture(autouse=True)
def _there(device, monkeypatch):
    compute_there(
        monkeypatch,
        sys.modules[__name__],
        "count_hits",
        "kmeans_prototypes",
        "nearest_prototype",
        "restart_dead",
        device=device,
    )


def blobs() -> tuple[torch.Tensor, torch.Tensor]:
    """Concept 0 around the axes x and y, concept 1 around z; 20 vectors each axis."""
    generator = torch.Generator().manual_seed(0)
    axes = torch.eye(3).repeat_interleave(20, dim=0)
    vec = F.normalize(axes + 0.05 * torch.randn(60, 3, generator=generator), dim=1)
    return vec, torch.tensor([0] * 40 + [1] * 20)


def test_kmeans_finds_the_directions_of_each_concept():
    vec, concept = blobs()
    proto = kmeans_prototypes(vec, concept, num_concepts=2, num_per_concept=2, seed=0)
    found = (proto[0] @ torch.eye(3)[:2].T).max(dim=0).values
    assert (found > 0.99).all()
    assert (proto[1] @ torch.eye(3)[2] > 0.9).all()
    torch.testing.assert_close(proto.norm(dim=-1), torch.ones(2, 2))


def test_rounding_does_not_choose_other_prototypes():
    torch.manual_seed(0)
    vec_ND = F.normalize(torch.randn(60, 8), dim=-1)
    vec_ND[:, 0] = 0.1  # rounding alone now decides which vector sorts first
    concept_N = torch.zeros(60, dtype=torch.long)
    runs = [
        kmeans_prototypes(vec_ND + noise, concept_N, num_concepts=1, num_per_concept=4, seed=0)
        for noise in (1e-6 * torch.randn(60, 8), 1e-6 * torch.randn(60, 8))
    ]
    torch.testing.assert_close(runs[0], runs[1], atol=1e-4, rtol=0)


def test_a_concept_with_fewer_vectors_than_prototypes_keeps_them_all():
    vec = F.normalize(torch.tensor([[1.0, 0, 0], [0, 1.0, 0]]), dim=1)
    proto = kmeans_prototypes(vec, torch.tensor([0, 0]), num_concepts=2, num_per_concept=4, seed=0)
    assert (proto[0] @ vec.T).max(dim=0).values.min() > 0.999
    torch.testing.assert_close(proto.norm(dim=-1), torch.ones(2, 4))


def test_the_nearest_prototype_is_that_of_a_loop_whatever_the_chunk():
    vec, concept = blobs()
    proto = F.normalize(torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(1)), dim=-1)
    cosine, index = nearest_prototype(vec, concept, proto, chunk=7)
    for n in range(len(vec)):
        by_hand = [float(vec[n] @ proto[concept[n], m]) for m in range(5)]
        assert int(index[n]) == max(range(5), key=by_hand.__getitem__)
        torch.testing.assert_close(float(cosine[n]), max(by_hand))


def test_hits_are_counted_per_concept_and_prototype():
    hits = count_hits(
        torch.tensor([0, 0, 2, 1]), torch.tensor([0, 1, 1, 1]), num_concepts=2, num_per_concept=3
    )
    assert hits.tolist() == [[1, 0, 0], [1, 1, 1]]


def test_a_dead_prototype_moves_to_the_worst_covered_vector_of_its_concept():
    vec, concept = blobs()
    proto = torch.stack([torch.eye(3)[[0, 2]], torch.eye(3)[[2, 2]]])  # none covers y; ties kill the twin
    proto[0, 1] = F.normalize(torch.tensor([1.0, -1.0, -1.0]), dim=0)
    cover, _ = nearest_prototype(vec, concept, proto)
    fresh, alive, moved = restart_dead(proto, vec, concept)
    worst = int(cover[:40].argmin())
    assert moved == 2 and alive == 2
    torch.testing.assert_close(fresh[0, 1], vec[worst])
    torch.testing.assert_close(fresh[0, 0], proto[0, 0])
    assert restart_dead(fresh, vec, concept)[1] == 4


def test_more_prototypes_than_vectors_leave_the_living_alone():
    vec = torch.eye(3)[:1]
    proto = F.normalize(torch.tensor([[[1.0, 0.1, 0], [0, 1.0, 0], [0, 0, 1.0]]]), dim=-1)
    fresh, alive, moved = restart_dead(proto, vec, torch.tensor([0]))
    assert (alive, moved) == (1, 0)
    torch.testing.assert_close(fresh, proto)


def test_each_concept_of_kmeans_is_a_move_for_the_watchdog():
    vec, concept = blobs()
    before = PROGRESS.moves
    kmeans_prototypes(vec, concept, num_concepts=2, num_per_concept=2, seed=0)
    assert PROGRESS.moves - before >= 2 and PROGRESS.doing == ""
