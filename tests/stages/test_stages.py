"""Each stage: only what it trains moves, frozen buffers stand still, its loss is the mean over the window."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from csr.model import CSR
from csr.stages.concept import ConceptStage, positive_weights
from csr.stages.losses import concept_bce
from csr.stages.prototype import PrototypeStage
from csr.stages.runner import StageRunner
from csr.stages.task import MIN_SD, TaskStage, choose_task_loss
from csr.training.features.table import build_feature_table

K, T, M, B = 3, 2, 4, 6


@pytest.fixture
def model() -> CSR:
    torch.manual_seed(0)
    return CSR(K, T, M, backbone_type="timm", model_name="test_resnet", image_size=64, embedding_dim=8)


@pytest.fixture
def batch() -> dict:
    generator = torch.Generator().manual_seed(1)
    concept = (torch.rand(B, K, generator=generator) > 0.5).float()
    concept[0, 0], concept[1] = float("nan"), 1.0
    target = (torch.rand(B, T, generator=generator) > 0.5).float()
    image = torch.randn(B, 3, 64, 64, generator=generator)
    return {"image": image, "concept": concept, "target": target}


def concept_stage(model: CSR) -> ConceptStage:
    return ConceptStage(model, pos_weight_K=torch.ones(K), lr=1e-2, backbone_lr_scale=1.0, weight_decay=0.0)


def prototype_stage(model: CSR) -> PrototypeStage:
    return PrototypeStage(
        model,
        gamma=1000.0,
        lam=20.0,
        delta=0.1,
        margin_mode="softtriple",
        mask_present=True,
        restart=True,
        lr=1e-2,
        weight_decay=0.0,
        seed=0,
    )


def task_stage(model: CSR, loss: str = "bce") -> TaskStage:
    return TaskStage(model, loss=loss, pos_weight_T=torch.ones(T), lr=1e-2, weight_decay=0.0)


BUILD = {"concept": concept_stage, "prototype": prototype_stage, "task": task_stage}


def with_scale(stage, batch: dict) -> dict:
    counts = stage.counts({k: batch[k].numpy() for k in ("concept", "target")})
    return {**batch, "scale": {name: 1.0 / count for name, count in counts.items()}}


@pytest.mark.parametrize("name", BUILD)
def test_a_step_moves_what_the_stage_trains_and_nothing_else(name, model, batch):
    stage = BUILD[name](model)
    stage.freeze()
    before = {k: v.clone() for k, v in stage.state_dict().items()}
    optimizer = torch.optim.AdamW(stage.param_groups())
    stage(with_scale(stage, batch)).loss.backward()
    trained = {n for n, p in stage.named_parameters() if p.requires_grad}
    assert trained == {n for n, p in stage.named_parameters() if p.grad is not None}
    assert all(n.startswith(stage.trainable) for n in trained)
    grouped = {id(p) for g in stage.param_groups() for p in g["params"]}
    assert grouped == {id(p) for n, p in stage.named_parameters() if n in trained}
    optimizer.step()
    moved = {k for k, v in stage.state_dict().items() if not torch.equal(v, before[k])}
    assert moved and all(k.startswith(stage.trainable) for k in moved)


@pytest.mark.parametrize("name", ["prototype", "task"])
def test_a_frozen_batchnorm_stands_still_in_train_mode(name, model, batch):
    stage = BUILD[name](model)
    stage.freeze()
    stage.train()
    before = {k: v.clone() for k, v in model.backbone.named_buffers()}
    stage(with_scale(stage, batch))
    assert before and all(torch.equal(v, before[k]) for k, v in model.backbone.named_buffers())


@pytest.mark.parametrize("name", ["prototype", "task"])
def test_cached_inputs_give_the_loss_of_images(name, model, batch):
    stage = BUILD[name](model)
    stage.freeze()
    scaled = with_scale(stage, batch)
    with torch.no_grad():
        rows = {k: v.numpy() for k, v in stage.inputs(batch).items()}
    rows["image"] = rows.pop("row")
    table = build_feature_table([rows], num_images=B)
    cached = {k: v for k, v in scaled.items() if k != "image"}
    cached.update(table.gather(np.arange(B), np.ones(B, dtype=bool)))
    torch.testing.assert_close(stage(cached).loss, stage(scaled).loss)


def test_two_halves_scaled_by_the_whole_window_sum_to_the_whole(model, batch):
    stage = concept_stage(model)
    stage.freeze()
    stage.eval()
    scaled = with_scale(stage, batch)
    whole = stage(scaled).loss
    halves = [{**{k: v[i : i + 3] for k, v in batch.items()}, "scale": scaled["scale"]} for i in (0, 3)]
    torch.testing.assert_close(sum(stage(h).loss for h in halves), whole)
    logit = stage.predict(batch)
    expected = concept_bce(logit, batch["concept"], torch.ones(K)) / (B * K - 1)
    torch.testing.assert_close(whole, expected)
    torch.testing.assert_close(
        stage.evaluation_loss(logit.detach(), batch["concept"]), expected.item(), rtol=1e-5, atol=1e-7
    )


def test_positive_weights_are_negatives_over_positives_of_what_is_annotated_clipped():
    label = np.array([[1, 0, 1], [0, 0, np.nan], [0, 0, 1], [0, 1, 1]], dtype=np.float32)
    assert positive_weights(label, maximum=2.5).tolist() == pytest.approx([2.5, 2.5, 0.4])
    assert positive_weights(label, maximum=20).tolist() == pytest.approx([3.0, 3.0, 0.05])


def test_the_exported_head_is_one_linear_map_on_raw_cosines(model, batch):
    stage = task_stage(model)
    stage.freeze()
    with torch.no_grad():
        rows = {k: v.numpy() for k, v in stage.inputs(batch).items()}
        rows["image"] = rows.pop("row")
        stage.begin(build_feature_table([dict(rows)], num_images=B))
        torch.nn.init.normal_(stage.head.weight)
        torch.nn.init.normal_(stage.head.bias)
        expected = stage.predict(batch)
        scores = torch.from_numpy(rows["score"])
        standard = (scores - scores.mean(0)) / scores.std(0, unbiased=False).clamp_min(MIN_SD)
        torch.testing.assert_close(expected, stage.head(standard), rtol=1e-3, atol=1e-3)
        model.load_state_dict(stage.model_weights(stage.state_dict()))
        model.eval()
        output = model(batch["image"])
        linear = model.task_head.linear
        torch.testing.assert_close(output.logits, expected, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(
            output.similarity_scores.flatten(1) @ linear.weight.T + linear.bias, output.logits
        )


@pytest.mark.parametrize(
    "target, expected",
    [
        ([[1, 0], [0, 1]], "ce"),
        ([[1, 1], [0, 1]], "bce"),
        ([[0, 0], [0, 1]], "bce"),
        ([[np.nan, 1], [0, 1]], "bce"),
        ([[1], [1]], "bce"),
        ([[0.5, 0.5], [0, 1]], "bce"),
    ],
)
def test_cross_entropy_is_chosen_only_where_every_image_has_one_target(target, expected):
    assert choose_task_loss("auto", np.array(target, dtype=np.float32)) == expected
    assert choose_task_loss("focal", np.array(target, dtype=np.float32)) == "focal"


def test_a_stage_refuses_to_start_from_the_wrong_predecessor(model):
    runner = StageRunner(model, lambda name: BUILD[name](model))
    with pytest.raises(ValueError, match="builds on 'concept'"):
        runner.open("prototype")
    runner.hand_over(runner.open("concept"), model.state_dict())
    runner.open("prototype")
    with pytest.raises(ValueError, match="builds on 'prototype'"):
        runner.open("task")


def test_prototypes_start_on_local_vectors_and_dead_ones_are_restarted(model, batch):
    stage = prototype_stage(model)
    stage.freeze()
    generator = np.random.default_rng(0)
    rows = {
        "image": np.repeat(np.arange(30), K),
        "concept_row": np.tile(np.arange(K), 30),
        "local": generator.normal(size=(30 * K, model.backbone.channels)).astype(np.float32),
    }
    table = build_feature_table([rows], num_images=30)
    stage.begin(table)
    report = stage.end_epoch(table, last=True)
    assert report["prototypes_alive"] == K * M
    with torch.no_grad():
        model.prototypes.proto_KMD[:, 1:] = -model.prototypes.proto_KMD[:, :1]
    assert stage.end_epoch(table, last=True)["restarted"] == 0
    report = stage.end_epoch(table, last=False)
    assert report["prototypes_alive"] < K * M and report["restarted"] > 0
    assert stage.end_epoch(table, last=True)["prototypes_alive"] > report["prototypes_alive"]
