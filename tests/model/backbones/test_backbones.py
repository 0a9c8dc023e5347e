"""Backbones behind one contract: images in, feat_BCHW out, channels, stride and map size known."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from csr.model.backbones.build import build_backbone
from csr.model.backbones.weights import load_backbone_weights
from csr.runtime.errors import InputError

TINY_TIMM = ["test_resnet", "test_vit", "test_convnext", "test_efficientnet", "test_mambaout", "test_vit3"]


def check_contract(backbone, size: int) -> None:
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    feat = backbone(images)
    assert feat.shape == (2, backbone.channels, *backbone.map_size)
    assert backbone.map_size[0] == -(-size // backbone.stride) > 1
    assert torch.isfinite(feat).all()


def unused(backbone, size: int) -> list[str]:
    backbone.train()
    feat = backbone(torch.randn(2, 3, size, size))
    (feat * torch.randn_like(feat)).sum().backward()
    return [n for n, p in backbone.named_parameters() if p.requires_grad and p.grad is None]


@pytest.mark.parametrize("name", TINY_TIMM)
@pytest.mark.parametrize("size", [96, 160])
def test_tiny_timm_models_keep_the_contract_at_several_sizes(name, size):
    backbone = build_backbone("timm", name, image_size=size)
    check_contract(backbone, size)
    assert unused(backbone, size) == []


@pytest.mark.parametrize(
    ("backbone_type", "name", "size", "channels", "stride"),
    [
        ("timm", "convnext_tiny", 96, 768, 32),
        ("timm", "resnet18", 96, 512, 32),
        ("resnet50", "resnet50", 64, 2048, 32),
        ("vit", "vit_tiny_patch16_224", 160, 192, 16),
        ("timm", "swin_tiny_patch4_window7_224", 96, 768, 32),
        ("timm", "efficientnet_b0", 96, 1280, 32),
        ("timm", "mobilenetv3_small_100", 96, 1024, 32),
    ],
)
def test_known_models_have_their_channels_and_stride_and_no_unused_parameter(
    backbone_type, name, size, channels, stride
):
    backbone = build_backbone(backbone_type, name, image_size=size)
    assert (backbone.channels, backbone.stride) == (channels, stride)
    check_contract(backbone, size)
    assert unused(backbone, size) == []


@pytest.mark.parametrize(
    ("name", "size", "channels", "rows"),
    [
        ("deit_tiny_distilled_patch16_224", 224, 192, 14),
        ("inception_next_atto", 96, 320, 3),
        ("efficientvit_b0", 96, 128, 3),
        ("coat_lite_tiny", 224, 320, 7),
        ("crossvit_9_240", 240, 256, 14),
        ("volo_d1_224", 224, 384, 14),
    ],
)
def test_models_that_cannot_be_built_without_pooling_give_the_map_before_it(name, size, channels, rows):
    backbone = build_backbone("timm", name, image_size=size).eval()
    assert (backbone.channels, backbone.map_size) == (channels, (rows, rows))
    plain = 0.1 * torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    side = size // rows
    with torch.no_grad():
        for row, column in ((0, rows - 1), (rows - 1, 0)):
            bright = plain.clone()
            bright[:, :, row * side : (row + 1) * side, column * side : (column + 1) * side] += 3.0
            change = (backbone(bright) - backbone(plain)).norm(dim=1)[0]
            found = divmod(int(change.argmax()), rows)
            assert max(abs(found[0] - row), abs(found[1] - column)) <= 1


def test_a_distilled_vits_published_file_fills_it(tmp_path):
    published = timm.create_model("deit_tiny_distilled_patch16_224")
    torch.save({"model": published.state_dict()}, tmp_path / "deit.pth")
    backbone = build_backbone("timm", "deit_tiny_distilled_patch16_224", image_size=224).eval()
    report = load_backbone_weights(
        backbone,
        backbone_type="timm",
        model_name="deit_tiny_distilled_patch16_224",
        weights_file=tmp_path / "deit.pth",
    )
    assert set(report.ignored) == {"head.weight", "head.bias", "head_dist.weight", "head_dist.bias"}
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        tokens = published.eval().forward_features(images)[:, 2:]
        torch.testing.assert_close(backbone(images).flatten(2).transpose(1, 2), tokens)


def test_convnext_ends_in_a_norm_over_channels():
    backbone = build_backbone("timm", "test_convnext", image_size=96).eval()
    feat = backbone(torch.randn(2, 3, 96, 96))
    torch.testing.assert_close(feat.mean(dim=1), torch.zeros(2, 3, 3), atol=1e-4, rtol=0)
    torch.testing.assert_close(feat.var(dim=1, correction=0), torch.ones(2, 3, 3), atol=0.05, rtol=0)


def test_channels_last_maps_and_tokens_are_put_in_the_right_order():
    for name in ("test_mambaout", "test_vit"):
        backbone = build_backbone("timm", name, image_size=64).eval()
        images = torch.randn(1, 3, 64, 64)
        output = backbone.net(images)
        tokens = output.flatten(1, 2) if output.ndim == 4 else output[:, backbone.net.num_prefix_tokens :]
        torch.testing.assert_close(backbone(images).flatten(2).transpose(1, 2), tokens)


def test_names_of_the_command_line_default_to_the_family():
    assert build_backbone("resnet50", "facebook/vit-mae-base", image_size=64).model_name == "resnet50"
    with torch.device("meta"):
        vit = build_backbone("vit", "facebook/vit-mae-base", image_size=32)
    assert vit.model_name == "vit_base_patch16_224"


@pytest.mark.parametrize(
    ("backbone_type", "name", "size", "message"),
    [
        ("timm", "facebook/vit-mae-base", 64, "--model_name convnext_tiny"),
        ("timm", "convnext_tin", 64, "did you mean convnext_tiny"),
        ("timm", "hf-hub:timm/resnet18.a1_in1k", 64, "no such model"),
        ("timm", "weights.pth", 64, "--backbone_weights"),
        ("resnet50", "vit_tiny_patch16_224", 64, "--backbone_type timm"),
        ("vit", "resnet18", 64, "--backbone_type timm"),
        ("timm", "test_resnet", 32, "1x1"),
        ("timm", "vgg11", 64, "1x1"),
        ("timm", "test_vit", 100, "96 or 112"),
    ],
)
def test_what_gives_no_map_is_refused_in_one_line(backbone_type, name, size, message):
    with torch.device("meta" if name == "vgg11" else "cpu"):
        with pytest.raises(InputError, match=message) as caught:
            build_backbone(backbone_type, name, image_size=size)
    assert "\n" not in str(caught.value)


def test_a_network_that_pools_whatever_it_is_told_is_refused(monkeypatch):
    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            return self.conv(x).mean(dim=(2, 3))

    monkeypatch.setattr(timm, "create_model", lambda *args, **kwargs: Pooled())
    with pytest.raises(InputError, match="pooled"):
        build_backbone("timm", "resnet18", image_size=64)


def test_parameters_that_the_map_does_not_depend_on_are_frozen(monkeypatch):
    class Extra(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

        def forward(self, x):
            return self.conv(x)

    monkeypatch.setattr(timm, "create_model", lambda *args, **kwargs: Extra())
    backbone = build_backbone("timm", "resnet18", image_size=16)
    frozen = [n for n, p in backbone.named_parameters() if not p.requires_grad]
    assert frozen == ["net.head.weight", "net.head.bias"]


def test_measuring_the_map_moves_no_statistics_and_keeps_the_mode():
    backbone = build_backbone("timm", "test_resnet", image_size=64)
    assert backbone.training
    assert all(int(m.num_batches_tracked) == 0 for m in backbone.modules() if isinstance(m, nn.BatchNorm2d))


def test_nothing_in_a_timm_model_is_random_in_training():
    """Swin has stochastic depth by default: steps would depend on the ranks and on what else drew numbers."""
    net = build_backbone("timm", "swin_tiny_patch4_window7_224", image_size=224).net.train()
    image = torch.rand(2, 3, 224, 224)
    with torch.no_grad():
        assert torch.equal(net.forward_features(image), net.forward_features(image))
