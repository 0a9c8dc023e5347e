"""Concept head, local vectors, projector, prototypes and task head against plain loops."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from csr.model.layers.concept_head import ConceptHead, local_concept_vectors, pool_cams
from csr.model.layers.projector import Projector
from csr.model.layers.prototypes import Prototypes
from csr.model.layers.task_head import TaskHead, fold_standardisation


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_a_concept_map_is_a_weighted_sum_of_channels_at_each_cell():
    head, feat = ConceptHead(5, 3), noise(2, 5, 3, 4)
    cam = head(feat)
    weight = head.conv.weight[:, :, 0, 0]
    for b, k, h, w in [(0, 0, 0, 0), (1, 2, 2, 3), (0, 1, 1, 2)]:
        expected = sum(weight[k, c] * feat[b, c, h, w] for c in range(5))
        assert cam[b, k, h, w].item() == pytest.approx(expected.item(), abs=1e-6)
    assert [name for name, _ in head.named_parameters()] == ["conv.weight"]


def test_pooling_modes_equal_their_definitions():
    cam = noise(2, 3, 4, 5)
    for b in range(2):
        for k in range(3):
            cells = cam[b, k].flatten().tolist()
            assert pool_cams(cam, "avg")[b, k].item() == pytest.approx(sum(cells) / 20, abs=1e-6)
            assert pool_cams(cam, "max")[b, k].item() == pytest.approx(max(cells), abs=1e-6)
            lse = math.log(sum(math.exp(c) for c in cells) / 20)
            assert pool_cams(cam, "lse")[b, k].item() == pytest.approx(lse, abs=1e-5)
    with pytest.raises(ValueError, match="avg, max, lse"):
        pool_cams(cam, "mean")


def test_a_local_vector_is_the_softmax_weighted_mean_of_the_features():
    feat, cam = noise(2, 4, 3, 2), noise(2, 3, 3, 2, seed=1)
    local = local_concept_vectors(feat, cam)
    for b in range(2):
        for k in range(3):
            exps = [[math.exp(v) for v in row] for row in cam[b, k].tolist()]
            whole = sum(map(sum, exps))
            expected = sum(exps[h][w] / whole * feat[b, :, h, w] for h in range(3) for w in range(2))
            torch.testing.assert_close(local[b, k], expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_heads_and_softmax_run_in_fp32_for_half_precision_input_under_autocast(dtype):
    head, task = ConceptHead(5, 3).to(dtype), TaskHead(3, 2, 4).to(dtype)
    prototypes = Prototypes(3, 2, 5).to(dtype)
    feat = noise(2, 5, 3, 4).to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cam = head(feat)
        sim = prototypes.similarity_maps(F.normalize(feat.float(), dim=1).permute(0, 2, 3, 1))
        values = [cam, pool_cams(cam), local_concept_vectors(feat, cam), sim, task(sim.amax(dim=(3, 4)))]
    assert [v.dtype for v in values] == [torch.float32] * 5
    exact = F.conv2d(feat.float(), head.conv.weight.float())
    torch.testing.assert_close(cam, exact, atol=1e-6, rtol=0)


def test_the_projector_treats_vectors_and_maps_alike_and_gives_unit_vectors():
    projector, feat = Projector(6, 4, 2), 100 * noise(2, 3, 3, 6)
    embed = projector(feat)
    torch.testing.assert_close(embed.norm(dim=-1), torch.ones(2, 3, 3))
    torch.testing.assert_close(projector(feat[1, 2, 0]), embed[1, 2, 0])
    torch.testing.assert_close(projector(feat.flatten(0, 2)).view_as(embed), embed)


def test_the_projector_takes_no_vectors_at_all_and_gives_its_parameters_gradients():
    projector = Projector(6, 4, 3)
    embed = projector(torch.zeros(0, 6))
    embed.sum().backward()
    assert embed.shape == (0, 4)
    assert all(p.grad is not None and (p.grad == 0).all() for p in projector.parameters())


@pytest.mark.parametrize("num_blocks", [0, 1, 3])
def test_every_parameter_of_the_projector_is_used(num_blocks):
    projector = Projector(6, 4, num_blocks)
    projector(noise(5, 6))[:, 0].sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in projector.parameters())


def test_embeddings_of_a_fresh_projector_are_spread_and_not_one_direction():
    torch.manual_seed(0)
    embed = Projector(64, 32, 3)(noise(200, 64))
    cosines = embed @ embed.T
    assert cosines.fill_diagonal_(0).mean().abs() < 0.3


def test_similarity_maps_are_cosines_and_scores_their_maxima():
    prototypes = Prototypes(3, 2, 5)
    with torch.no_grad():
        prototypes.proto_KMD.mul_(7.0)  # only directions count
    embed = F.normalize(noise(2, 4, 3, 5), dim=-1)
    maps = prototypes.similarity_maps(embed)
    assert maps.shape == (2, 3, 2, 4, 3)
    for b, k, m, h, w in [(0, 0, 0, 0, 0), (1, 2, 1, 3, 2), (0, 1, 0, 2, 1)]:
        expected = F.cosine_similarity(prototypes.proto_KMD[k, m], embed[b, h, w], dim=0)
        torch.testing.assert_close(maps[b, k, m, h, w], expected)
    torch.testing.assert_close(prototypes.scores(embed), maps.amax(dim=(3, 4)))


@pytest.mark.parametrize("max_cosines", [1, 24, 60, 10**9])
def test_scores_in_chunks_equal_scores_at_once(max_cosines):
    prototypes, embed = Prototypes(3, 4, 5), F.normalize(noise(2, 4, 3, 5), dim=-1)
    torch.testing.assert_close(
        prototypes.scores(embed, max_cosines=max_cosines), prototypes.similarity_maps(embed).amax(dim=(3, 4))
    )


def test_setting_prototypes_keeps_the_parameter_and_its_place_in_optimizers():
    prototypes = Prototypes(3, 2, 5)
    before = prototypes.proto_KMD
    prototypes.set_(4 * noise(3, 2, 5))
    assert prototypes.proto_KMD is before and before.requires_grad
    torch.testing.assert_close(prototypes.unit(), F.normalize(noise(3, 2, 5), dim=-1))


def test_prototypes_start_as_different_unit_vectors():
    proto = Prototypes(4, 10, 32).proto_KMD.detach().flatten(0, 1)
    torch.testing.assert_close(proto.norm(dim=1), torch.ones(40))
    assert (proto @ proto.T).fill_diagonal_(0).abs().max() < 0.95


def test_the_task_head_is_one_linear_layer_with_a_zero_bias():
    head, score = TaskHead(3, 2, 4), noise(5, 3, 2)
    assert sorted(head.state_dict()) == ["linear.bias", "linear.weight"] and (head.linear.bias == 0).all()
    torch.testing.assert_close(head(score), score.flatten(1) @ head.linear.weight.T)


def test_a_folded_standardisation_gives_the_same_logits_on_raw_scores():
    score = 0.09 + 0.06 * noise(50, 6)
    mean, std = score.mean(0), score.std(0)
    weight, bias = noise(3, 6, seed=1), noise(3, seed=2)
    folded_weight, folded_bias = fold_standardisation(weight, bias, mean, std)
    expected = ((score - mean) / std) @ weight.T + bias
    torch.testing.assert_close(score @ folded_weight.T + folded_bias, expected, atol=1e-4, rtol=1e-4)
    assert folded_weight.dtype == folded_bias.dtype == torch.float32
