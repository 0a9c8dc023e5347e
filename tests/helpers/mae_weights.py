"""A tiny masked autoencoder as its original code saves it, and its encoder written out by hand."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from csr.model.backbones.build import build_backbone
from csr.model.backbones.weights import load_backbone_weights

WIDTH, LAYERS, PATCH, SIDE = 32, 2, 8, 4
# config.json of a smaller one, as transformers writes it
HF = {
    "model_type": "vit_mae",
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "intermediate_size": 32,
    "patch_size": 16,
}


def mae_state(side: int = SIDE) -> dict[str, torch.Tensor]:
    """A checkpoint as the original MAE code writes it: 32 wide, 2 layers, patches of 8, decoder and all."""
    generator = torch.Generator().manual_seed(3)

    def random(*shape: int) -> torch.Tensor:
        return 0.3 * torch.randn(*shape, generator=generator)

    state = {
        "cls_token": random(1, 1, WIDTH),
        "pos_embed": random(1, 1 + side * side, WIDTH),
        "mask_token": random(1, 1, 16),
        "decoder_pos_embed": random(1, 1 + side * side, 16),
        "patch_embed.proj.weight": random(WIDTH, 3, PATCH, PATCH),
        "patch_embed.proj.bias": random(WIDTH),
        "decoder_embed.weight": random(16, WIDTH),
        "decoder_blocks.0.attn.qkv.weight": random(48, 16),
        "decoder_norm.weight": random(16),
    }
    shapes = {
        "norm1": (WIDTH,),
        "norm2": (WIDTH,),
        "attn.qkv": (3 * WIDTH, WIDTH),
        "attn.proj": (WIDTH, WIDTH),
        "mlp.fc1": (64, WIDTH),
        "mlp.fc2": (WIDTH, 64),
    }
    for n in range(LAYERS):
        for name, shape in shapes.items():
            state[f"blocks.{n}.{name}.weight"] = random(*shape)
            state[f"blocks.{n}.{name}.bias"] = random(shape[0])
    return {**state, "norm.weight": 1 + random(WIDTH), "norm.bias": random(WIDTH)}


def mae_features(state: dict[str, torch.Tensor], images: torch.Tensor) -> torch.Tensor:
    """The encoder of the MAE paper without masking, one head, written out by hand: feat_BCHW."""
    s = state
    patches = F.conv2d(images, s["patch_embed.proj.weight"], s["patch_embed.proj.bias"], stride=PATCH)
    batch, _, rows, columns = patches.shape
    x = patches.flatten(2).transpose(1, 2) + s["pos_embed"][:, 1:]
    x = torch.cat([(s["cls_token"] + s["pos_embed"][:, :1]).expand(batch, -1, -1), x], dim=1)
    for n in range(LAYERS):
        w = {k.removeprefix(f"blocks.{n}."): v for k, v in s.items() if k.startswith(f"blocks.{n}.")}
        y = F.layer_norm(x, (WIDTH,), w["norm1.weight"], w["norm1.bias"], 1e-6)
        q, k, v = F.linear(y, w["attn.qkv.weight"], w["attn.qkv.bias"]).split(WIDTH, dim=-1)
        attention = (q @ k.transpose(1, 2) / WIDTH**0.5).softmax(dim=-1)
        x = x + F.linear(attention @ v, w["attn.proj.weight"], w["attn.proj.bias"])
        y = F.layer_norm(x, (WIDTH,), w["norm2.weight"], w["norm2.bias"], 1e-6)
        y = F.gelu(F.linear(y, w["mlp.fc1.weight"], w["mlp.fc1.bias"]))
        x = x + F.linear(y, w["mlp.fc2.weight"], w["mlp.fc2.bias"])
    x = F.layer_norm(x, (WIDTH,), s["norm.weight"], s["norm.bias"], 1e-6)
    return x[:, 1:].transpose(1, 2).unflatten(2, (rows, columns))


def images(size: int = SIDE * PATCH) -> torch.Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))


def check_features(backbone, state: dict[str, torch.Tensor], *, size: int = SIDE * PATCH) -> None:
    expected = mae_features(state, images(size))
    torch.testing.assert_close(backbone(images(size)), expected, atol=1e-5, rtol=1e-5)


def mae_file(folder: Path, *, state=None, name: str = "mae.pth", wrap: bool = True) -> Path:
    state = mae_state() if state is None else state
    path = folder / name
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save({"model": state, "epoch": 7, "args": argparse.Namespace(lr=1e-3)} if wrap else state, path)
    return path


def loaded(path: Path, *, size: int = SIDE * PATCH):
    backbone = build_backbone("medmae", str(path), image_size=size).eval()
    return backbone, load_backbone_weights(backbone, backbone_type="medmae", model_name=str(path))
