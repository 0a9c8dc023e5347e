"""Activation checkpointing and torch.compile: gradients, statistics and dropout of the plain backbone."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from csr.model import CSR
from csr.model.backbones import compiling
from csr.model.backbones.base import Backbone
from csr.model.backbones.build import build_backbone
from csr.model.layers import sync_norm
from csr.runtime.errors import InputError

TINY_VIT = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "patch_size": 16,
    "layer_norm_eps": 1e-6,
    "hidden_act": "gelu",
    "qkv_bias": True,
}
BACKBONES = ("test_resnet", "test_vit", "test_convnext", "test_efficientnet", "medmae")


def backbone_of(name: str) -> Backbone:
    torch.manual_seed(0)
    if name == "medmae":
        return build_backbone("medmae", "tiny", image_size=64, architecture=TINY_VIT).train()
    return build_backbone("timm", name, image_size=64).train()


def step(backbone: Backbone, *, seed: int = 3) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """A forward and backward pass; the map, and every gradient and buffer after it."""
    images_B3HW = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(seed)
    feat = backbone(images_B3HW)
    # a sum of squares alone gives no gradient behind a LayerNorm
    (feat * torch.linspace(-1, 1, feat.numel()).view_as(feat)).sum().backward()
    grads = {n: p.grad for n, p in backbone.named_parameters() if p.grad is not None}
    return feat.detach(), {**grads, **{n: b.clone() for n, b in backbone.named_buffers()}}


def saved_bytes(backbone: Backbone) -> int:
    """Bytes of distinct storages that a forward pass keeps for backward."""
    kept: dict[int, int] = {}

    def pack(x: torch.Tensor) -> torch.Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        feat = backbone(torch.randn(4, 3, 64, 64))
    assert feat.requires_grad
    return sum(kept.values())


@pytest.mark.parametrize("name", BACKBONES)
def test_gradients_and_statistics_are_those_without_checkpointing(name):
    plain = backbone_of(name)
    saving = copy.deepcopy(plain)
    saving.recompute_activations()
    feat, expected = step(plain)
    got_feat, got = step(saving)
    torch.testing.assert_close(got_feat, feat)
    assert set(got) == set(expected)
    for key, value in expected.items():
        torch.testing.assert_close(got[key], value, msg=lambda m, k=key: f"{k}: {m}")
    assert list(saving.state_dict()) == list(plain.state_dict())


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "medmae"])
def test_fewer_activations_are_kept(name):
    backbone = backbone_of(name)
    before = saved_bytes(backbone)
    backbone.recompute_activations()
    assert saved_bytes(backbone) < 0.8 * before
    backbone.recompute_activations(False)
    assert saved_bytes(backbone) == before


def test_batchnorm_counts_each_batch_once_and_goes_on_counting():
    backbone = backbone_of("test_resnet")
    backbone.recompute_activations()
    for number in (1, 2):
        step(backbone)
        norms = [m for m in backbone.modules() if isinstance(m, nn.BatchNorm2d)]
        assert {int(m.num_batches_tracked) for m in norms} == {number}


def test_a_synchronised_norm_inside_counts_once_too(monkeypatch):
    """The branch for several ranks, with a sum over one."""
    backbone = backbone_of("test_resnet")
    sync_norm.convert(backbone)
    monkeypatch.setattr(sync_norm.SyncBatchNorm, "forward", sync_norm.SyncBatchNorm._synced)
    backbone.recompute_activations()
    _, state = step(backbone)
    assert {int(v) for n, v in state.items() if n.endswith("num_batches_tracked")} == {1}


def test_dropout_drops_the_same_again():
    """Otherwise gradients would be those of another network."""
    plain = backbone_of("test_vit")
    for module in plain.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.3
    saving = copy.deepcopy(plain)
    saving.recompute_activations()
    _, expected = step(plain)
    _, other = step(copy.deepcopy(plain), seed=4)
    _, got = step(saving)
    some = "net.blocks.0.attn.qkv.weight"
    torch.testing.assert_close(got[some], expected[some])
    assert not torch.allclose(other[some], 2 * expected[some])


@pytest.mark.parametrize("name", ["dla46_c"])
def test_a_network_that_cannot_is_named(name):
    backbone = build_backbone("timm", name, image_size=64)
    with pytest.raises(InputError, match=f"--activation_checkpointing.*{name}"):
        backbone.recompute_activations()


def test_without_a_compiler_one_line_says_so(monkeypatch):
    def broken(*args: object, **kwargs: object):
        def call(x: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("\nInvalidCxxCompiler: No working C++ compiler found\nlong trace")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(InputError, match=r"--compile: .*No working C\+\+ compiler found\)"):
        compiling.check_compiler(torch.device("cpu"))


@pytest.mark.slow
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_a_compiled_training_step_is_the_plain_one(name, recompute):
    torch.manual_seed(0)
    model = CSR(3, 2, 4, backbone_type="timm", model_name=name, image_size=64, embedding_dim=8).train()
    fast = copy.deepcopy(model)
    if recompute:
        fast.backbone.recompute_activations()
    fast.backbone.compile_training()
    feat, expected = step(model.backbone)
    got_feat, got = step(fast.backbone)
    torch.testing.assert_close(got_feat, feat, rtol=1e-3, atol=1e-4)
    for key, value in expected.items():
        torch.testing.assert_close(got[key], value, rtol=1e-3, atol=1e-3, msg=lambda m, k=key: f"{k}: {m}")
    assert list(fast.state_dict()) == list(model.state_dict())
    images = torch.randn(3, 3, 64, 64)
    with torch.no_grad():
        # evaluation is not compiled: any batch size, the same bits
        assert torch.equal(fast.eval()(images).logits, load(model, fast).eval()(images).logits)


@pytest.mark.slow
@pytest.mark.parametrize("recompute", [False, True])
def test_norms_that_talk_to_other_ranks_are_not_compiled(recompute, monkeypatch):
    """The branch for several ranks, with a sum over one."""
    plain = backbone_of("test_resnet")
    sync_norm.convert(plain)
    monkeypatch.setattr(sync_norm.SyncBatchNorm, "forward", lambda self, x: self._synced(x))
    fast = copy.deepcopy(plain)
    if recompute:
        fast.recompute_activations()
    fast.compile_training()
    feat, expected = step(plain)
    got_feat, got = step(fast)
    torch.testing.assert_close(got_feat, feat, rtol=1e-3, atol=1e-4)
    for key, value in expected.items():
        torch.testing.assert_close(got[key], value, rtol=1e-3, atol=1e-3, msg=lambda m, k=key: f"{k}: {m}")


def load(model: CSR, other: CSR) -> CSR:
    model.load_state_dict(other.state_dict())
    return model
