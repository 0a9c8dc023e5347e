"""Stage 1 trains what it is told of the backbone, at rates that fall with depth."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from csr.model import CSR
from csr.stages.concept import ConceptStage
from csr.stages.trained_backbone import TrainedBackbone

K, B = 3, 4


def model(name="test_vit", size=160):
    torch.manual_seed(0)
    return CSR(K, 2, 2, backbone_type="timm", model_name=name, image_size=size, embedding_dim=8)


def stage_of(csr, trained):
    stage = ConceptStage(
        csr,
        pos_weight_K=torch.ones(K),
        lr=1e-2,
        backbone_lr_scale=0.5,
        weight_decay=0.1,
        box_weight=1.0,
        trained=trained,
    )
    stage.freeze()
    return stage


def batch(csr, size=160):
    generator = torch.Generator().manual_seed(1)
    concept = (torch.rand(B, K, generator=generator) > 0.5).float()
    concept[0, 0] = float("nan")
    return {
        "image": torch.randn(B, 3, size, size, generator=generator),
        "concept": concept,
        "box_mask": torch.rand(B, K, *csr.backbone.map_size, generator=generator) > 0.7,
        "scale": {"concept": 0.1, "box": 0.2},
    }


def moved_by_a_step(stage, batch):
    before = {name: value.clone() for name, value in stage.state_dict().items()}
    optimizer = torch.optim.AdamW(stage.param_groups())
    stage(batch).loss.backward()
    optimizer.step()
    return {name for name, value in stage.state_dict().items() if not torch.equal(value, before[name])}


@pytest.mark.parametrize(
    ("trained", "inside"),
    [
        (TrainedBackbone("none"), ()),
        (TrainedBackbone("norms"), ("norm",)),
        (TrainedBackbone("last", 1), ("blocks.5.", "net.norm.")),
    ],
)
def test_a_step_moves_the_chosen_parameters_and_the_head_alone(trained, inside):
    csr = model()
    moved = moved_by_a_step(stage_of(csr, trained), batch(csr))
    of_backbone = {name for name in moved if name.startswith("model.backbone.")}
    wanted = {
        n for n, _ in csr.named_parameters() if n.startswith("backbone.") and any(w in n for w in inside)
    }
    assert of_backbone == {f"model.{name}" for name in wanted}
    assert moved - of_backbone == {"model.concept_head.conv.weight"}


def test_statistics_of_frozen_blocks_stand_still_and_those_of_trained_ones_move():
    csr = model("resnet18", 64)
    stage = stage_of(csr, TrainedBackbone("last", 1))
    stage.train()
    moved = moved_by_a_step(stage, batch(csr, 64))
    running = {name for name in stage.state_dict() if "running_mean" in name}
    assert {n for n in running if "layer4.1" in n} == running & moved
    norms = [(n, m) for n, m in csr.backbone.net.named_modules() if isinstance(m, nn.BatchNorm2d)]
    assert {n for n, m in norms if m.training} == {n for n, _ in norms if n.startswith("layer4.1")}


def test_rates_fall_by_the_factor_from_block_to_block():
    csr = model()
    stage = stage_of(csr, TrainedBackbone(layer_decay=0.5))
    rate = {id(p): group["lr"] for group in stage.param_groups() for p in group["params"]}
    net = csr.backbone.net
    base = 1e-2 * 0.5
    assert rate[id(csr.concept_head.conv.weight)] == 1e-2
    assert rate[id(net.norm.weight)] == base
    assert rate[id(net.patch_embed.proj.weight)] == pytest.approx(base * 0.5**7)
    for number, block in enumerate(net.blocks):
        for parameter in block.parameters():
            assert rate[id(parameter)] == pytest.approx(base * 0.5 ** (6 - number))


def test_all_without_decay_is_two_groups_as_ever():
    groups = stage_of(model(), TrainedBackbone()).param_groups()
    assert [g["name"] for g in groups][:2] == ["backbone", "backbone_no_decay"]
    assert len(groups) == 4


def test_cached_maps_give_the_loss_and_gradients_of_images():
    csr = model()
    stage = stage_of(csr, TrainedBackbone("none"))
    given = batch(csr)
    stage(given).loss.backward()
    expected = csr.concept_head.conv.weight.grad.clone()
    csr.concept_head.conv.weight.grad = None
    with torch.no_grad():
        rows = stage.inputs(given)
    assert rows["feat"].shape == (B, csr.backbone.channels, *csr.backbone.map_size)
    cached = {key: given[key] for key in ("concept", "scale")}
    loss = stage({**cached, **rows}).loss
    loss.backward()
    torch.testing.assert_close(loss, stage(given).loss)
    torch.testing.assert_close(csr.concept_head.conv.weight.grad, expected)


def test_padding_without_a_row_counts_for_nothing():
    csr = model()
    stage = stage_of(csr, TrainedBackbone("none"))
    given = batch(csr)
    with torch.no_grad():
        rows = stage.inputs(given)
    padded = {
        "concept": torch.cat([given["concept"], torch.full((2, K), float("nan"))]),
        "scale": given["scale"],
        **rows,
    }
    whole = {"concept": given["concept"], "scale": given["scale"], **rows}
    torch.testing.assert_close(stage(padded).loss, stage(whole).loss)


def test_how_many_numbers_are_cached():
    csr = model()
    stage = stage_of(csr, TrainedBackbone("none"))
    with torch.no_grad():
        feat = stage.inputs(batch(csr))["feat"]
    assert stage.input_floats(torch.zeros(B, K).numpy()) == feat.numel()
