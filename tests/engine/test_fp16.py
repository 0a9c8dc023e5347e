"""fp16 in three stages and under ZeRO, where weights are cast to half; emulated on a CPU."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from csr.engine import engine, process_group
from csr.engine.ds_config import load_ds_config, merge_ds_config
from csr.model import CSR
from csr.model.layers.sync_norm import convert
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
@pytest.mark.parametrize("sharded", [False, True], ids=["whole", "sharded"])
@pytest.mark.parametrize("name", BACKBONES)
def test_three_stages_learn_in_fp16_and_leave_fp32_weights_behind(name, sharded):
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
            stage,
            param_groups=stage.param_groups(),
            ds_config=ds_config,
            lr_factor=lambda step: 1.0,
            always_shards=sharded,
        )
        assert next(model.backbone.parameters()).dtype == (torch.float16 if sharded else torch.float32)
        losses = [float(opened.micro_step(scaled).loss.detach()) for _ in range(12)]
        assert opened.loss_scale <= 2**16 and opened.skipped_steps < 10
        state = opened.close().state_dict()
        assert losses[-1] < losses[0]
        assert {v.dtype for v in state.values() if v.is_floating_point()} == {torch.float32}
        frozen = [k for k in state if not k.startswith(stage.trainable)]
        assert frozen and all(torch.equal(state[k], before[k]) for k in frozen)


def opened_engine(stage, accumulation: int = 1, clip: float = 0.0) -> engine.Engine:
    parsed, name = load_ds_config(None, "fp16")
    config = merge_ds_config(
        parsed, name=name, batch_size=2, accumulation=accumulation, clip=clip, world_size=1
    )
    groups = [{"params": list(stage.parameters()), "lr": 1e-6, "weight_decay": 0.0}]
    return engine.Engine(
        stage, param_groups=groups, ds_config=config, lr_factor=lambda step: 1.0, always_shards=True
    )


class Scaled(torch.nn.Module):
    """Two weights; the loss is their product with the batch, so gradients are the batch itself."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.kept = torch.nn.Parameter(torch.rand(50, generator=generator))
        self.edited = torch.nn.Parameter(torch.rand(50, generator=generator))

    def forward(self, batch: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(loss=((self.kept + self.edited).float() * batch).sum())


def test_an_edit_of_weights_leaves_masters_of_others_what_half_precision_cannot_hold():
    opened = opened_engine(Scaled())
    opened.micro_step(torch.full((50,), 0.01))
    assert opened.skipped_steps == 0
    before = opened.state_dict()
    with torch.no_grad():
        opened.stage.edited[7] = 0.25
    opened.weights_changed()
    after = opened.state_dict()
    assert not torch.equal(before["kept"], before["kept"].half().float()), "half would lose bits"
    assert torch.equal(after["kept"], before["kept"])
    assert after["edited"][7] == 0.25
    assert torch.equal(after["edited"][torch.arange(50) != 7], before["edited"][torch.arange(50) != 7])
    opened.close()


def test_gradients_of_a_window_are_summed_in_fp32():
    """One of 1 and 63 of 2**-12: in half each of the small ones would be less than half a step."""
    opened = opened_engine(Scaled(), accumulation=64)
    small = torch.zeros(50)
    small[0] = 2.0**-12
    large = torch.zeros(50)
    large[0] = 1.0
    for batch in (large, *[small] * 63):
        opened.micro_step(batch)
    expected = 2**0.5 * (1 + 63 * 2.0**-12) / 64  # of two weights, the mean over the window
    assert opened.gradient_norm == pytest.approx(expected, rel=1e-5)
    opened.close()


def test_norms_keep_fp32_statistics_beside_half_weights():
    torch.manual_seed(0)
    model = CSR(K, T, M, backbone_type="timm", model_name="test_resnet", image_size=64, embedding_dim=8)
    convert(model, unknown_stay=True)
    stage = next(stages(model))
    opened = opened_engine(stage)
    norms = [m for m in stage.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    first = norms[0]
    assert first.weight.dtype == torch.float16 and first.running_var.dtype == torch.float32
    seen: list[torch.Tensor] = []
    first.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach().double()))
    before = first.running_var.clone().double()
    batch = {"image": 3e3 * torch.randn(B, 3, 64, 64), "concept": torch.ones(B, K), "scale": {"concept": 0.1}}
    opened.micro_step(batch)
    variance_C = seen[0].var((0, 2, 3), correction=1)
    assert variance_C.max() > 65504, "half cannot hold it"
    expected = 0.9 * before + 0.1 * variance_C
    torch.testing.assert_close(first.running_var.double(), expected, rtol=1e-4, atol=0)
    assert all(n.running_var.isfinite().all() for n in norms)
    with opened.inference():
        assert stage.predict(batch).isfinite().all()
    opened.close()
