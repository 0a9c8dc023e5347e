"""The stages of the baselines against plain PyTorch: loss, gradients, what is trained, what is frozen."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from csr.model.baselines import BlackBox, ConceptBottleneck
from csr.stages.base import Stage
from csr.stages.baselines import BlackBoxStage, BottleneckStage, JointStage
from csr.stages.runner import StageRunner
from csr.stages.trained_backbone import NONE, TrainedBackbone

K, T, B = 3, 2, 6
BACKBONE = {"backbone_type": "timm", "model_name": "test_resnet", "image_size": 64}
WEIGHT_K, WEIGHT_T = torch.tensor([1.0, 2.0, 0.5]), torch.tensor([3.0, 0.5])


@pytest.fixture
def batch() -> dict:
    generator = torch.Generator().manual_seed(1)
    concept = (torch.rand(B, K, generator=generator) > 0.5).float()
    target = (torch.rand(B, T, generator=generator) > 0.5).float()
    concept[0, 0], target[2, 1] = float("nan"), float("nan")
    image = torch.randn(B, 3, 64, 64, generator=generator)
    return {"image": image, "concept": concept, "target": target}


def stage_of(kind: str, **more: Any) -> Stage:
    torch.manual_seed(0)
    target: dict[str, Any] = {
        "loss": "bce",
        "pos_weight_T": WEIGHT_T,
        "lr": 1e-2,
        "weight_decay": 0.0,
        **more,
    }
    if kind == "blackbox":
        return BlackBoxStage(BlackBox(T, **BACKBONE), backbone_lr_scale=0.5, **target)
    model = ConceptBottleneck(K, T, concept_pool="avg", **BACKBONE)
    if kind == "bottleneck":
        return BottleneckStage(model, **target)
    return JointStage(model, pos_weight_K=WEIGHT_K, backbone_lr_scale=0.5, **target)


def with_scale(stage: Stage, batch: dict) -> dict:
    counts = stage.counts({k: batch[k].numpy() for k in ("concept", "target")})
    return {**batch, "scale": {name: 1.0 / count for name, count in counts.items()}}


def plain_bce(logit: torch.Tensor, label: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Mean over annotated entries, entry by entry."""
    entries = [
        F.binary_cross_entropy_with_logits(logit[i, j], label[i, j], pos_weight=weight[j])
        for i in range(len(label))
        for j in range(label.shape[1])
        if not label[i, j].isnan()
    ]
    return torch.stack(entries).mean()


def plain_loss(kind: str, stage: Stage, batch: dict) -> torch.Tensor:
    model = stage.model
    feat = model.backbone(batch["image"])
    weight, bias = model.task_head.linear.weight, model.task_head.linear.bias
    if kind == "blackbox":
        pooled = torch.stack([image.flatten(1).mean(1) for image in feat])
        return plain_bce(pooled @ weight.T + bias, batch["target"], WEIGHT_T)
    concept = torch.einsum("kc,bchw->bkhw", _matrix(model.concept_head), feat).flatten(2).mean(2)
    target = plain_bce(concept @ weight.T + bias, batch["target"], WEIGHT_T)
    return target + plain_bce(concept, batch["concept"], WEIGHT_K)


def _matrix(head: torch.nn.Module) -> torch.Tensor:
    (weight,) = head.parameters()
    return weight.flatten(1)


@pytest.mark.parametrize("kind", ["blackbox", "cbm-joint"])
def test_loss_and_gradients_are_those_of_plain_pytorch(kind, batch):
    stage = stage_of(kind)
    stage.freeze()
    stage(with_scale(stage, batch)).loss.backward()
    found = {name: p.grad.clone() for name, p in stage.named_parameters() if p.grad is not None}
    other = stage_of(kind)
    other.freeze()
    expected = plain_loss(kind, other, batch)
    expected.backward()
    stage = stage_of(kind)
    stage.freeze()
    assert float(stage(with_scale(stage, batch)).loss.detach()) == pytest.approx(
        float(expected.detach()), rel=1e-5
    )
    wanted = {name: p.grad for name, p in other.named_parameters() if p.grad is not None}
    assert set(found) == set(wanted)
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-6, msg=name)


@pytest.mark.parametrize("kind", ["blackbox", "cbm-joint"])
def test_everything_is_trained_the_backbone_at_its_own_rate(kind):
    stage = stage_of(kind)
    stage.freeze()
    groups = stage.param_groups()
    rate = {id(p): group["lr"] for group in groups for p in group["params"]}
    assert len(rate) == sum(len(group["params"]) for group in groups)
    for name, parameter in stage.named_parameters():
        assert rate[id(parameter)] == (0.005 if name.startswith("model.backbone") else 0.01), name


@pytest.mark.parametrize("kind", ["blackbox", "cbm-joint"])
def test_the_mean_over_an_evaluation_is_that_of_plain_pytorch(kind, batch):
    stage = stage_of(kind)
    stage.eval()
    with torch.no_grad():
        logit = stage.predict(batch)
        assert torch.equal(logit, stage.model(batch["image"]).logits)
    expected = plain_bce(logit, batch["target"], WEIGHT_T)
    assert stage.evaluation_loss(logit, batch["target"]) == pytest.approx(float(expected), rel=1e-5)


class Rows:
    """Features as a stage's `begin` takes them."""

    def __init__(self, rows: torch.Tensor) -> None:
        self._rows = rows

    def all(self, name: str) -> torch.Tensor:
        return self._rows


def test_the_bottleneck_sees_standardised_concept_logits_and_becomes_one_linear_map(batch):
    stage = stage_of("bottleneck")
    stage.freeze()
    stage.train()
    rows = stage.inputs(batch)
    with torch.no_grad():
        concept = stage.model.eval()(batch["image"]).concept_logits
    torch.testing.assert_close(rows["score"], concept)
    stage.begin(Rows(rows["score"]))
    torch.nn.init.normal_(stage.head.weight)
    standard = (concept - concept.mean(0)) / concept.std(0, unbiased=False).clamp_min(1e-2)
    logit = standard @ stage.head.weight.T + stage.head.bias
    expected = plain_bce(logit, batch["target"], WEIGHT_T)
    assert float(stage(with_scale(stage, batch)).loss.detach()) == pytest.approx(
        float(expected.detach()), rel=1e-5
    )
    stage.model.load_state_dict(stage.model_weights(stage.state_dict()))
    with torch.no_grad():
        torch.testing.assert_close(stage.model(batch["image"]).logits, logit, rtol=1e-4, atol=1e-4)
    trained = {name for name, p in stage.named_parameters() if p.requires_grad}
    assert trained == {"head.weight", "head.bias"}


def test_counts_are_over_annotated_entries(batch):
    labels = {name: batch[name].numpy() for name in ("concept", "target")}
    assert stage_of("cbm-joint").counts(labels) == {"concept": B * K - 1, "target": B * T - 1}
    assert (
        stage_of("blackbox").counts(labels) == stage_of("bottleneck").counts(labels) == {"target": B * T - 1}
    )
    assert np.isnan(labels["concept"]).sum() == 1


def test_the_runner_takes_the_order_of_a_baseline():
    model = ConceptBottleneck(K, T, concept_pool="avg", **BACKBONE)
    target = {"loss": "bce", "pos_weight_T": WEIGHT_T, "lr": 1e-2, "weight_decay": 0.0}
    runner = StageRunner(
        model, lambda name: BottleneckStage(model, **target), order=("concept", "bottleneck")
    )
    seen: list[str] = []

    def train(stage: Stage) -> dict:
        seen.append(stage.name)
        return stage.model.state_dict()

    runner.run(train, first="bottleneck")
    assert seen == ["bottleneck"]


@pytest.mark.parametrize("kind", ["blackbox", "cbm-joint"])
def test_heads_on_a_frozen_backbone_have_the_gradients_of_images_from_kept_maps(kind, batch):
    stage = stage_of(kind, trained=TrainedBackbone(NONE))
    stage.freeze()
    assert stage.frozen_inputs and not any(p.requires_grad for p in stage.model.backbone.parameters())
    with torch.no_grad():
        maps = stage.model.backbone.eval()(batch["image"])
    rows = stage.inputs({**batch, "feat": maps})
    assert torch.equal(rows["feat"], maps.float())
    assert rows["feat"].numel() == stage.input_floats(batch["concept"].numpy())
    order = torch.tensor([3, 1, 0, 5, 2, 4])  # rows in another order than their labels
    cached = {**{n: batch[n] for n in ("concept", "target")}, "feat": rows["feat"][order], "row": order}
    stage(with_scale(stage, cached)).loss.backward()
    other = stage_of(kind)
    other.freeze()
    other.model.backbone.eval()
    plain_loss(kind, other, batch).backward()
    heads = [name for name, _ in stage.named_parameters() if not name.startswith("model.backbone")]
    wanted = dict(other.named_parameters())
    assert heads and all(parameter.grad is None for parameter in stage.model.backbone.parameters())
    for name, parameter in stage.named_parameters():
        if name in heads:
            torch.testing.assert_close(parameter.grad, wanted[name].grad, rtol=1e-3, atol=1e-6, msg=name)


@pytest.mark.parametrize("kind", ["blackbox", "bottleneck"])
def test_the_model_says_of_maps_what_it_says_of_their_images(kind, batch):
    model = stage_of(kind).model.eval()
    with torch.no_grad():
        whole, parted = model(batch["image"]), model.from_features(model.features(batch["image"]))
    for name in ("logits", "concept_logits", "cams"):
        one, other = getattr(whole, name), getattr(parted, name)
        assert (one is None and other is None and kind == "blackbox") or torch.equal(one, other)
