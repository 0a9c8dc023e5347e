"""Tiny encoders of every family of transformers that csr takes, saved as published folders are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
VIT = {**TINY, "image_size": 64, "patch_size": 16}
SWIN = {
    "image_size": 64,
    "patch_size": 4,
    "embed_dim": 16,
    "depths": [1, 1, 1],
    "num_heads": [1, 2, 4],
    "window_size": 4,
}
FOUR = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
HEADS = {"num_attention_heads": [1, 1, 2, 2]}
FOUR_TIMES = {key: value for key, value in VIT.items() if key != "intermediate_size"}  # an mlp_ratio
DINO = {**FOUR_TIMES, "image_size": 56, "patch_size": 14}
# model_type -> values of its configuration
FAMILIES: dict[str, dict[str, Any]] = {
    "vit": VIT,
    "vit_mae": {
        **VIT,
        "decoder_hidden_size": 16,
        "decoder_num_hidden_layers": 1,
        "decoder_num_attention_heads": 2,
        "decoder_intermediate_size": 16,
    },
    "vit_msn": VIT,
    "deit": VIT,
    "beit": {**VIT, "use_relative_position_bias": True},
    "data2vec-vision": VIT,
    "ijepa": VIT,
    "pixio": FOUR_TIMES,
    "dinov2": DINO,
    "dinov2_with_registers": {**DINO, "num_register_tokens": 4},
    "dinov3_vit": {**VIT, "num_register_tokens": 4},
    "dinov3_convnext": FOUR,
    "clip_vision_model": VIT,
    "siglip_vision_model": VIT,
    "siglip2_vision_model": {**TINY, "num_patches": 16, "patch_size": 16},
    "aimv2_vision_model": VIT,
    "mlcd_vision_model": VIT,
    "vitdet": FOUR_TIMES,
    "swin": SWIN,
    "swinv2": SWIN,
    "hiera": {"image_size": [64, 64], "embed_dim": 16, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2]},
    "focalnet": {"image_size": 64, "embed_dim": 16, "depths": [1, 1, 1, 1]},
    "convnext": FOUR,
    "convnextv2": FOUR,
    "resnet": {**FOUR, "embedding_size": 8, "layer_type": "basic"},
    "regnet": {**FOUR, "embedding_size": 8, "groups_width": 8},
    "bit": {**FOUR, "embedding_size": 8, "num_groups": 4},
    "pvt": {**FOUR, **HEADS, "image_size": 64},
    "pvt_v2": {**FOUR, **HEADS, "image_size": 64},
    "segformer": {**FOUR, **HEADS},
    "poolformer": FOUR,
    "cvt": {"embed_dim": [8, 16, 32], "num_heads": [1, 1, 2], "depth": [1, 2, 3]},
    "mobilenet_v1": {"image_size": 64, "depth_multiplier": 0.25},
    "mobilenet_v2": {"image_size": 64, "depth_multiplier": 0.25},
    "mobilevit": {
        "image_size": 64,
        "hidden_sizes": [16, 24, 32],
        "neck_hidden_sizes": [8, 8, 16, 16, 24, 24, 32],
        "num_attention_heads": 2,
    },
    "mobilevitv2": {"image_size": 64, "width_multiplier": 0.25},
    "efficientnet": {
        "image_size": 64,
        "width_coefficient": 0.25,
        "depth_coefficient": 0.3,
        "hidden_dim": 320,  # 1280 times the width
    },
    "swiftformer": {"image_size": 64, "embed_dims": [8, 16, 16, 24], "depths": [1, 1, 1, 1]},
    "sam_vision_model": {
        **{key: value for key, value in TINY.items() if key != "intermediate_size"},
        "mlp_dim": 64,
        "output_channels": 16,
        "image_size": 64,
        "patch_size": 16,
        "window_size": 2,
        "global_attn_indexes": [1],
    },
}
IN_PATCHES_OF_14 = ("dinov2", "dinov2_with_registers")


def native_side(kind: str) -> int:
    """Pixels of the images that a family of this size was made for."""
    return 56 if kind in IN_PATCHES_OF_14 else 64


def shake(net: nn.Module, *, seed: int = 0) -> nn.Module:
    """Draw all weights anew, so that every token differs from every other, and most from its own input."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            is_matrix = parameter.ndim > 1
            scale = 0.5 * parameter[0].numel() ** -0.5 if is_matrix else 0.2
            drawn = scale * torch.randn(parameter.shape, generator=generator)
            parameter.copy_(drawn if is_matrix else 1.0 + drawn)
    return net


def encoder(kind: str, **more: Any) -> Any:
    """Transformers' own model of a family, with random weights."""
    config = transformers.AutoConfig.for_model(kind, **{**FAMILIES[kind], **more})
    return shake(transformers.AutoModel.from_config(config)).eval()


def saved(kind: str, folder: Path, **more: Any) -> Any:
    """Save a family's model with transformers; return it."""
    net = encoder(kind, **more)
    net.save_pretrained(folder)
    return net


def change_config(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
