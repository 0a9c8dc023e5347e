"""One name for each weight of a ViT encoder, whoever wrote the file.

Understood: the original MAE code (`blocks.0.norm1.weight`, fused `attn.qkv`), transformers 4
(`vit.encoder.layer.0.attention.attention.query.weight`) and transformers 5 (`vit.layers.0.attention.q_proj`).
The names made here are those of transformers 5 without the leading `vit.`.
"""

from __future__ import annotations

import re

import torch

_RENAMES = [
    (r"^(module\.|model\.|vit\.)+", ""),
    # original MAE
    (r"^cls_token$", "embeddings.cls_token"),
    (r"^mask_token$", "embeddings.mask_token"),
    (r"^pos_embed$", "embeddings.position_embeddings"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embeddings.projection."),
    (r"^blocks\.(\d+)\.norm1\.", r"layers.\1.layernorm_before."),
    (r"^blocks\.(\d+)\.norm2\.", r"layers.\1.layernorm_after."),
    (r"^blocks\.(\d+)\.attn\.proj\.", r"layers.\1.attention.o_proj."),
    (r"^blocks\.(\d+)\.attn\.([qkv])\.", r"layers.\1.attention.\2_proj."),
    (r"^blocks\.(\d+)\.mlp\.", r"layers.\1.mlp."),
    (r"^norm\.", "layernorm."),
    # transformers 4
    (r"^encoder\.layer\.", "layers."),
    (r"^(layers\.\d+\.attention)\.attention\.query\.", r"\1.q_proj."),
    (r"^(layers\.\d+\.attention)\.attention\.key\.", r"\1.k_proj."),
    (r"^(layers\.\d+\.attention)\.attention\.value\.", r"\1.v_proj."),
    (r"^(layers\.\d+\.attention)\.output\.dense\.", r"\1.o_proj."),
    (r"^(layers\.\d+)\.intermediate\.dense\.", r"\1.mlp.fc1."),
    (r"^(layers\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
]
_NOT_ENCODER = re.compile(r"^(decoder|pooler\.|head\.|classifier\.|fc_norm\.|embeddings\.mask_token$)")


def canonical_key(key: str) -> str:
    """Return the common name of a weight; an unknown name as it is, without prefix."""
    for pattern, replacement in _RENAMES:
        key = re.sub(pattern, replacement, key)
    return key


def is_encoder(canonical: str) -> bool:
    """Return whether a weight is the encoder's, not the decoder's, mask token, pooler or classifier."""
    return not _NOT_ENCODER.match(canonical)


def canonical_state(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return a state dict under common names, fused query-key-value weights split into three."""
    split: dict[str, torch.Tensor] = {}
    for key, value in state.items():
        base, dot, kind = key.rpartition(".attn.qkv.")
        if dot and "decoder" not in base and value.ndim and value.shape[0] % 3 == 0:
            for letter, part in zip("qkv", value.chunk(3, dim=0), strict=True):
                split[canonical_key(f"{base}.attn.{letter}.{kind}")] = part
        else:
            split[canonical_key(key)] = value
    return split
