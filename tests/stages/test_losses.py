"""Losses against slow loops over single entries; gradients against finite differences."""

from __future__ import annotations

import math
import sys

import pytest
import torch
from on_device import compute_there

from csr.stages import losses
from csr.stages.losses import (
    box_attention,
    concept_bce,
    contrastive,
    prototype_similarity,
    task_bce,
    task_cross_entropy,
    task_focal,
)

NAN = float("nan")
MODES = losses.MARGIN_MODES


@pytest.fixture(autouse=True)
def _there(device, monkeypatch):
    compute_there(
        monkeypatch,
        sys.modules[__name__],
        "box_attention",
        "concept_bce",
        "contrastive",
        "prototype_similarity",
        "task_bce",
        "task_cross_entropy",
        "task_focal",
        device=device,
    )


def unit(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.nn.functional.normalize(values, dim=-1).to(dtype)


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def labels() -> torch.Tensor:
    return torch.tensor([[1.0, 0.0, NAN], [0.25, 1.0, 0.0], [NAN, NAN, NAN], [0.0, 1.0, 2 / 3]])


def slow_bce(logits: torch.Tensor, label: torch.Tensor, weight: torch.Tensor) -> float:
    total = 0.0
    for b in range(label.shape[0]):
        for k in range(label.shape[1]):
            y = label[b, k].item()
            if math.isnan(y):
                continue
            p = 1 / (1 + math.exp(-logits[b, k].item()))
            total -= weight[k].item() * y * math.log(p) + (1 - y) * math.log(1 - p)
    return total


def test_concept_bce_sums_the_annotated_entries_as_a_loop_does():
    logit, weight = noise(4, 3), torch.tensor([1.0, 3.0, 0.5])
    expected = slow_bce(logit, labels(), weight)
    assert concept_bce(logit, labels(), weight).item() == pytest.approx(expected, rel=1e-6)
    assert task_bce(logit, labels(), weight).item() == pytest.approx(expected, rel=1e-6)
    ones = slow_bce(logit, labels(), torch.ones(3))
    assert concept_bce(logit, labels()).item() == pytest.approx(ones, rel=1e-6)


def test_entries_that_are_not_annotated_get_no_gradient_even_if_their_logit_is_infinite():
    logit = noise(4, 3)
    logit[2] = float("inf")
    logit.requires_grad_()
    loss = concept_bce(logit, labels(), torch.ones(3))
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(logit.grad).all()
    assert (logit.grad[labels().isnan()] == 0).all()
    assert (logit.grad[~labels().isnan()] != 0).all()


def test_focal_loss_equals_its_definition_on_each_entry():
    logit, label, weight = noise(4, 3), labels(), torch.tensor([1.0, 3.0, 0.5])
    expected = 0.0
    for b in range(4):
        for t in range(3):
            y = label[b, t].item()
            if math.isnan(y):
                continue
            p = 1 / (1 + math.exp(-logit[b, t].item()))
            p_t = y * p + (1 - y) * (1 - p)
            alpha_t = 0.25 * y + 0.75 * (1 - y)
            bce = -weight[t].item() * y * math.log(p) - (1 - y) * math.log(1 - p)
            expected += alpha_t * (1 - p_t) ** 2 * bce
    assert task_focal(logit, label, weight).item() == pytest.approx(expected, rel=1e-5)


def test_focal_loss_without_focus_is_half_of_bce():
    logit = noise(4, 3)
    focal = task_focal(logit, labels(), alpha=0.5, gamma=0.0)
    assert focal.item() == pytest.approx(task_bce(logit, labels()).item() / 2, rel=1e-6)


def test_cross_entropy_skips_rows_that_are_not_annotated_and_weighs_classes():
    logit, weight = noise(4, 3), torch.tensor([2.0, 1.0, 0.5])
    label = torch.tensor([[0.0, 1, 0], [1, 0, 0], [NAN, 0, 1], [0, 0, 1]])
    expected = 0.0
    for b, y in ((0, 1), (1, 0), (3, 2)):
        exps = [math.exp(v) for v in logit[b].tolist()]
        expected -= weight[y].item() * math.log(exps[y] / sum(exps))
    assert task_cross_entropy(logit, label, weight).item() == pytest.approx(expected, rel=1e-6)


def slow_similarity(vec: torch.Tensor, proto: torch.Tensor, gamma: float) -> torch.Tensor:
    result = torch.zeros(len(vec), len(proto), dtype=torch.float64)
    for n in range(len(vec)):
        for k in range(len(proto)):
            cosines = [sum(a * b for a, b in zip(vec[n].tolist(), p.tolist(), strict=True)) for p in proto[k]]
            top = max(cosines)
            weights = [math.exp(gamma * (c - top)) for c in cosines]
            result[n, k] = sum(w * c for w, c in zip(weights, cosines, strict=True)) / sum(weights)
    return result


@pytest.mark.parametrize("gamma", [1.0, 20.0, 1000.0])
def test_prototype_similarity_equals_a_loop(gamma):
    vec, proto = unit(5, 6), unit(3, 4, 6, seed=1)
    result = prototype_similarity(vec, proto, gamma=gamma)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result.double(), slow_similarity(vec, proto, gamma), atol=1e-5, rtol=0)


def test_gamma_of_a_thousand_takes_the_best_prototype():
    vec, proto = unit(5, 6), unit(3, 4, 6, seed=1)
    best = torch.einsum("nd,kmd->nkm", vec, proto).amax(dim=2)
    torch.testing.assert_close(prototype_similarity(vec, proto, gamma=1000.0), best, atol=1e-4, rtol=0)


def test_chunks_change_neither_values_nor_gradients():
    results = []
    for max_cosines in (2**24, 25, 1):
        vec, proto = unit(7, 6).requires_grad_(), unit(3, 4, 6, seed=1).requires_grad_()
        sim = prototype_similarity(vec, proto, gamma=50.0, max_cosines=max_cosines)
        contrastive(sim, torch.arange(7) % 3).backward()
        results.append((sim.detach(), vec.grad, proto.grad))
    for other in results[1:]:
        for value, reference in zip(other, results[0], strict=True):
            torch.testing.assert_close(value, reference, atol=1e-6, rtol=1e-5)


def test_many_prototypes_stay_within_the_chunk_limit(monkeypatch):
    seen = []
    original = losses._soft_similarity

    def recorded(vec, proto, gamma):
        seen.append(len(vec) * proto.shape[0] * proto.shape[1])
        return original(vec, proto, gamma)

    monkeypatch.setattr(losses, "_soft_similarity", recorded)
    prototype_similarity(unit(40, 8), unit(28, 100, 8), max_cosines=2**15)
    assert len(seen) == 4 and max(seen) <= 2**15


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_input_is_computed_in_fp32_under_autocast_too(dtype):
    vec, proto = unit(5, 6, dtype=dtype), unit(3, 4, 6, seed=1, dtype=dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = prototype_similarity(vec, proto, gamma=1000.0)
        loss = contrastive(result.to(dtype), torch.tensor([0, 1, 2, 0, 1]))
        bce = concept_bce(noise(4, 3, dtype=dtype), labels().to(dtype), torch.ones(3))
    exact = slow_similarity(vec.double(), proto.double(), 1000.0)
    torch.testing.assert_close(result.double(), exact, atol=1e-5, rtol=0)
    assert loss.dtype == bce.dtype == torch.float32 and torch.isfinite(loss)


def slow_contrastive(sim, concept, present, lam, delta, mode) -> float:
    total = 0.0
    for n in range(len(sim)):
        own = concept[n].item()
        numerator_shift = {"softtriple": -delta, "paper": delta, "none": 0.0}[mode]
        denominator_shift = -delta if mode == "softtriple" else 0.0
        denominator = 0.0
        for k in range(sim.shape[1]):
            if k == own:
                denominator += math.exp(lam * (sim[n, k].item() + denominator_shift))
            elif present is None or not present[n, k]:
                denominator += math.exp(lam * sim[n, k].item())
        total -= math.log(math.exp(lam * (sim[n, own].item() + numerator_shift)) / denominator)
    return total


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("masked", [True, False])
def test_contrastive_loss_equals_a_loop(mode, masked):
    sim, concept = noise(6, 4).tanh(), torch.tensor([0, 1, 2, 3, 1, 0])
    present = (noise(6, 4, seed=3) > 0) if masked else None
    result = contrastive(sim, concept, present, lam=20.0, delta=0.1, margin_mode=mode)
    assert result.item() == pytest.approx(slow_contrastive(sim, concept, present, 20.0, 0.1, mode), rel=1e-5)


def test_only_the_softtriple_margin_changes_the_gradient():
    gradients = {}
    for mode in MODES:
        sim = noise(6, 4).tanh().requires_grad_()
        contrastive(sim, torch.tensor([0, 1, 2, 3, 1, 0]), margin_mode=mode).backward()
        gradients[mode] = sim.grad
    torch.testing.assert_close(gradients["paper"], gradients["none"])
    assert (gradients["softtriple"] - gradients["none"]).abs().max() > 0.1


def test_the_softtriple_margin_makes_the_positive_harder():
    sim, concept = torch.tensor([[0.5, 0.5]]), torch.tensor([0])
    harder = contrastive(sim, concept, margin_mode="softtriple")
    assert harder > contrastive(sim, concept, margin_mode="none")


def test_other_present_concepts_of_an_image_get_no_gradient():
    sim = noise(2, 4).tanh().requires_grad_()
    present = torch.tensor([[True, True, False, False], [True, True, False, False]])
    contrastive(sim, torch.tensor([0, 1]), present).backward()
    assert sim.grad[0, 1] == 0 and sim.grad[1, 0] == 0
    assert (sim.grad[:, 2:] > 0).all() and sim.grad[0, 0] < 0 and sim.grad[1, 1] < 0


def test_an_image_with_every_concept_present_costs_nothing():
    sim = noise(3, 4).tanh().requires_grad_()
    loss = contrastive(sim, torch.tensor([0, 1, 2]), torch.ones(3, 4, dtype=torch.bool))
    loss.backward()
    assert loss.item() == pytest.approx(0.0, abs=1e-5) and torch.isfinite(sim.grad).all()


def test_cosines_of_one_at_scale_twenty_do_not_overflow():
    sim = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float16)
    assert torch.isfinite(contrastive(sim, torch.tensor([1, 1]), lam=20.0))
    assert torch.isfinite(contrastive(sim, torch.tensor([1, 1]), lam=2000.0))


def test_an_unknown_margin_mode_is_refused():
    with pytest.raises(ValueError, match="softtriple, paper, none"):
        contrastive(noise(2, 3), torch.tensor([0, 1]), margin_mode="soft")


@pytest.mark.parametrize("mode", MODES)
def test_no_vectors_cost_zero_and_give_every_parameter_a_gradient(mode):
    vec, proto = torch.zeros(0, 6, requires_grad=True), unit(3, 4, 6).requires_grad_()
    sim = prototype_similarity(vec, proto)
    none, nowhere = torch.zeros(0, dtype=torch.long), torch.zeros(0, 3, dtype=torch.bool)
    loss = contrastive(sim, none, nowhere, margin_mode=mode)
    loss.backward()
    assert sim.shape == (0, 3) and loss.item() == 0 and (proto.grad == 0).all()


@pytest.mark.parametrize("loss", [concept_bce, task_bce, task_focal, task_cross_entropy])
@pytest.mark.parametrize("rows", [0, 2])
def test_nothing_annotated_costs_zero_with_a_graph(loss, rows):
    logit = torch.zeros(rows, 3, requires_grad=True)
    value = loss(logit, torch.full((rows, 3), NAN), torch.ones(3))
    value.backward()
    assert value.item() == 0 and (logit.grad == 0).all()


def test_box_attention_is_the_log_share_of_the_map_inside_its_boxes():
    cam = noise(2, 3, 4, 5)
    mask = noise(2, 3, 4, 5, seed=4) > 0.5
    mask[0, 1] = False
    mask[1, 2] = True
    expected = 0.0
    for b in range(2):
        for k in range(3):
            if not mask[b, k].any():
                continue
            exps = [[math.exp(v) for v in row] for row in cam[b, k].tolist()]
            whole = sum(map(sum, exps))
            inside = sum(exps[h][w] for h in range(4) for w in range(5) if mask[b, k, h, w])
            expected -= math.log(inside / whole)
    assert box_attention(cam, mask).item() == pytest.approx(expected, rel=1e-5)


def test_maps_without_boxes_get_no_gradient_and_no_nan():
    cam = noise(2, 2, 3, 3).requires_grad_()
    mask = torch.zeros(2, 2, 3, 3, dtype=torch.bool)
    box_attention(cam, mask).backward()
    assert (cam.grad == 0).all()
    mask[0, 0, 1, 1] = True
    cam.grad = None
    box_attention(cam, mask).backward()
    assert (cam.grad[0, 1] == 0).all() and (cam.grad[0, 0] != 0).any() and torch.isfinite(cam.grad).all()


def test_gradients_agree_with_finite_differences():
    label = labels().double()
    weight = torch.tensor([1.0, 3.0, 0.5], dtype=torch.float64)
    complete = torch.tensor([[0.0, 1, 0], [1, 0, 0], [NAN, 0, 1], [0, 0, 1]], dtype=torch.float64)
    mask = noise(2, 2, 3, 3, seed=4) > 0
    present = noise(5, 3, seed=5) > 0
    vec, proto = unit(5, 4, dtype=torch.float64), unit(3, 2, 4, seed=1, dtype=torch.float64)
    concept = torch.tensor([0, 1, 2, 0, 1])

    def whole(v, p):
        return contrastive(prototype_similarity(v, p, gamma=5.0, max_cosines=12), concept, present, lam=3.0)

    checks = [
        (lambda x: concept_bce(x, label, weight), (noise(4, 3, dtype=torch.float64),)),
        (lambda x: task_focal(x, label, weight), (noise(4, 3, dtype=torch.float64),)),
        (lambda x: task_cross_entropy(x, complete, weight), (noise(4, 3, dtype=torch.float64),)),
        (lambda x: box_attention(x, mask), (noise(2, 2, 3, 3, dtype=torch.float64),)),
        (whole, (vec, proto)),
    ]
    for function, inputs in checks:
        assert torch.autograd.gradcheck(function, [i.clone().requires_grad_() for i in inputs])
