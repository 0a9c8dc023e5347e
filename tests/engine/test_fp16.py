"""Native fp16 (weights and BatchNorm buffers in half precision, dynamic loss scale), emulated on a CPU."""

from __future__ import annotations

import pytest
import torch

from csr.engine import engine, process_group
from csr.engine.ds_config import load_ds_config, merge_ds_config
from csr.model import CSR
from csr.stages.concept import ConceptStage
from csr.stages.prototype import PrototypeStage
from csr.stages.task import TaskStage

K, T, M, B = 3, 2, 4, 8
BACKBONES = {"test_resnet": 64, "test_vit": 160}


@pytest.fixture(scope="module", autouse=True)
def fp16_on_a_cpu():
    """DeepSpeed refuses fp16 on most CPUs, though torch computes in it, slowly."""
    process_group.start(5)
    import deepspeed

    accelerator = deepspeed.get_accelerator()
    patch = pytest.MonkeyPatch()
    patch.setattr(accelerator, "is_fp16_supported", lambda: True)
    yield
    patch.undo()


def stages(model: CSR):
    yield ConceptStage(model, pos_weight_K=torch.ones(K), lr=1e-3, backbone_lr_scale=1.0, weight_decay=0.0)
    yield PrototypeStage(
        model,
        gamma=1000.0,
        lam=20.0,
        delta=0.1,
        margin_mode="softtriple",
        mask_present=True,
        restart=True,
        lr=1e-3,
        weight_decay=0.0,
        seed=0,
    )
    yield TaskStage(model, loss="bce", pos_weight_T=torch.ones(T), lr=1e-2, weight_decay=0.0)


@pytest.mark.slow
@pytest.mark.parametrize("name", BACKBONES)
def test_three_stages_learn_in_fp16_and_leave_fp32_weights_behind(name):
    torch.manual_seed(0)
    size = BACKBONES[name]
    model = CSR(K, T, M, backbone_type="timm", model_name=name, image_size=size, embedding_dim=8)
    learnable = {n for n, p in model.named_parameters() if p.requires_grad}
    batch = {
        "image": torch.randn(B, 3, size, size),
        "concept": (torch.rand(B, K) > 0.5).float(),
        "target": (torch.rand(B, T) > 0.5).float(),
    }
    parsed, config_name = load_ds_config(None, "fp16")
    ds_config = merge_ds_config(
        parsed, name=config_name, batch_size=B, accumulation=1, clip=1.0, world_size=1
    )
    for stage in stages(model):
        for n, p in model.named_parameters():
            p.requires_grad_(n in learnable)
        stage.freeze()
        if isinstance(stage, TaskStage):
            stage.mean_F.fill_(0.123456)
            stage.sd_F.fill_(0.0654321)
        before = {k: v.clone() for k, v in stage.state_dict().items()}
        counts = stage.counts({k: batch[k].numpy() for k in ("concept", "target")})
        scaled = {**batch, "scale": {k: 1.0 / v for k, v in counts.items()}}
        opened = engine.Engine(
            stage, param_groups=stage.param_groups(), ds_config=ds_config, lr_factor=lambda step: 1.0
        )
        assert next(model.backbone.parameters()).dtype == torch.float16
        losses = [float(opened.micro_step(scaled).loss.detach()) for _ in range(12)]
        assert opened.loss_scale <= 2**16 and opened.skipped_steps < 10
        state = opened.close().state_dict()
        assert losses[-1] < losses[0]
        assert {v.dtype for v in state.values() if v.is_floating_point()} == {torch.float32}
        frozen = [k for k in state if not k.startswith(stage.trainable)]
        assert frozen and all(torch.equal(state[k], before[k]) for k in frozen)
