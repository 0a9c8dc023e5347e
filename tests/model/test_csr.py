"""CSR as a whole: what it returns, what rebuilds it, and what it refuses."""

from __future__ import annotations

import json
import socket

import pytest
import torch
from torch.nn import functional as F

from csr.model import CSR, CSROutput
from csr.runtime.errors import InputError

TINY_VIT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "patch_size": 8,
    "layer_norm_eps": 1e-6,
    "hidden_act": "gelu",
    "qkv_bias": True,
}


def tiny(**changes) -> CSR:
    torch.manual_seed(0)
    options = {"architecture": TINY_VIT, "image_size": 32, "embedding_dim": 16, "model_name": "tiny"}
    return CSR(4, 3, 2, **{**options, **changes}).eval()


def images(num: int = 2, size: int = 32) -> torch.Tensor:
    return torch.randn(num, 3, size, size, generator=torch.Generator().manual_seed(1))


def test_the_output_reads_as_attributes_and_as_keys():
    output = tiny()(images())
    shapes = {
        "logits": (2, 3),
        "similarity_scores": (2, 4, 2),
        "similarity_maps": (2, 4, 2, 4, 4),
        "cams": (2, 4, 4, 4),
        "concept_logits": (2, 4),
    }
    assert isinstance(output, CSROutput) and tuple(output.keys()) == tuple(shapes)
    for name, shape in shapes.items():
        assert output[name] is getattr(output, name) and tuple(output[name].shape) == shape
        assert output[name].dtype == torch.float32
    assert dict(output)["cams"] is output.cams and len(output) == 5
    with pytest.raises(KeyError):
        output["keys"]


def test_the_fields_follow_from_one_another_as_the_equations_say():
    model = tiny()
    output = model(images())
    feat = model.features(images())
    torch.testing.assert_close(output.cams, F.conv2d(feat, model.concept_head.conv.weight))
    torch.testing.assert_close(output.concept_logits, output.cams.mean(dim=(2, 3)))
    embed = model.embed(feat)
    assert embed.shape == (2, 4, 4, 16)
    at_cell = model.prototypes.unit() @ embed[1, 2, 3]
    torch.testing.assert_close(output.similarity_maps[1, :, :, 2, 3], at_cell)
    torch.testing.assert_close(output.similarity_scores, output.similarity_maps.amax(dim=(3, 4)))
    torch.testing.assert_close(model.similarity_scores(feat), output.similarity_scores)
    linear = model.task_head.linear
    expected = F.linear(output.similarity_scores.flatten(1), linear.weight, linear.bias)
    torch.testing.assert_close(output.logits, expected)
    assert model.local_vectors(feat, output.cams).shape == (2, 4, 32)


def test_the_description_is_json_that_rebuilds_the_model():
    model = tiny(concept_pool="lse", projector_blocks=1)
    again = CSR(**json.loads(json.dumps(model.description()))).eval()
    again.load_state_dict(model.state_dict())
    torch.testing.assert_close(again(images()).logits, model(images()).logits, atol=0, rtol=0)
    assert again.description() == model.description()


def test_a_timm_model_is_rebuilt_by_its_description_too():
    model = CSR(4, 3, 2, backbone_type="timm", model_name="test_resnet", image_size=64)
    again = CSR(**json.loads(json.dumps(model.description())))
    again.load_state_dict(model.state_dict())


def test_the_defaults_are_those_of_the_command_line_and_building_opens_no_connection(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    with torch.device("meta"):
        model = CSR(num_concepts=14, num_classes=6, num_prototypes_per_concept=5)
    backbone = model.backbone
    assert (backbone.map_size, backbone.channels, backbone.stride) == ((14, 14), 768, 16)
    assert model.task_head.linear.weight.shape == (6, 70) and model.prototypes.proto_KMD.shape == (14, 5, 128)
    children = ["backbone", "concept_head", "projector", "prototypes", "task_head"]
    assert [name for name, _ in model.named_children()] == children


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_weights_take_fp32_images_and_give_fp32_results(dtype):
    exact = tiny()(images())
    model = tiny().to(dtype)
    output = model(images())
    assert all(value.dtype == torch.float32 for value in output.values())
    torch.testing.assert_close(output.similarity_maps, exact.similarity_maps, atol=0.05, rtol=0)


def test_autocast_leaves_similarities_close_to_fp32_and_of_its_type():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = tiny()(images())
    assert output.logits.dtype == output.similarity_maps.dtype == torch.float32
    torch.testing.assert_close(output.similarity_maps, tiny()(images()).similarity_maps, atol=0.05, rtol=0)


def test_every_trainable_parameter_gets_a_gradient():
    model = tiny()
    output = model(images())
    (output.logits.sum() + output.concept_logits.square().sum()).backward()
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


def test_weights_trained_at_one_image_size_load_at_another():
    small, large = tiny(), tiny(image_size=48)
    large.load_state_dict(small.state_dict())
    assert large(images(size=48)).cams.shape == (2, 4, 6, 6)
    key = "backbone.net.embeddings.position_embeddings"
    torch.testing.assert_close(large.state_dict()[key][:, 0], small.state_dict()[key][:, 0])


def test_an_image_of_another_size_than_built_for_gets_interpolated_positions():
    assert tiny()(images(size=48)).cams.shape == (2, 4, 6, 6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": 30}, "24 or 32"),
        ({"image_size": 8}, "1x1"),
        ({"concept_pool": "mean"}, "avg, max, lse"),
        ({"embedding_dim": 0}, "embedding_dim"),
        ({"image_size": 0}, "image_size"),
        ({"backbone_type": "mae"}, "medmae, resnet50, vit, timm"),
        ({"architecture": {"hidden_size": 32}}, "num_hidden_layers"),
        ({"architecture": {**TINY_VIT, "num_attention_heads": 5}}, "no multiple of 5"),
        ({"architecture": None, "model_name": "someone/unknown"}, "facebook/vit-mae-base"),
    ],
)
def test_what_cannot_be_built_is_refused_in_one_line(changes, message):
    with pytest.raises(InputError, match=message) as caught:
        tiny(**changes)
    assert "\n" not in str(caught.value)
