"""`medmae`: the ViT encoder of transformers without pooling and masking, its patch tokens as feat_BCHW.

A masked autoencoder's encoder is a plain ViT; nothing is masked here. The parameter names inside are those
of the installed transformers; state dicts with the names of another version load too
(`csr.model.backbones.vit_keys`).

Letters: B batch, C channels, H W feature map, N tokens.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from csr.model.backbones.base import Backbone
from csr.model.backbones.positions import resize_positions
from csr.model.backbones.vit_architecture import ARCHITECTURE_KEYS, find_architecture
from csr.model.backbones.vit_keys import canonical_key
from csr.runtime.errors import InputError

POSITIONS = "embeddings.position_embeddings"


class VitBackbone(Backbone):
    """transformers' ViTModel; images of another size than `image_size` get interpolated positions."""

    def maps(self, images_B3HW: torch.Tensor) -> torch.Tensor:
        height, width = images_B3HW.shape[-2:]
        resize = (height, width) != (self.image_size, self.image_size)
        output = self.net(pixel_values=images_B3HW, interpolate_pos_encoding=resize)
        patch_BNC = output.last_hidden_state[:, 1:]
        assert self.architecture is not None
        rows = height // self.architecture["patch_size"]
        return patch_BNC.transpose(1, 2).unflatten(2, (rows, -1))

    def _set_recomputing(self, enable: bool) -> None:
        net: Any = self.net
        if enable:
            net.gradient_checkpointing_enable({"use_reentrant": False})
        else:
            net.gradient_checkpointing_disable()


def build_vit(model_name: str, *, image_size: int, architecture: dict[str, Any] | None = None) -> VitBackbone:
    """Build a ViT with random weights, offline.

    Args:
        model_name: hub id, local folder or weights file that tells the sizes; a label if they are given.
        image_size: side of the square input, pixels; a multiple of the patch size.
        architecture: values for `ARCHITECTURE_KEYS`.

    Raises:
        InputError: sizes unknown or contradictory, or an image size that patches do not fill.
    """
    from transformers import ViTConfig, ViTModel  # heavy: 2 s

    sizes = dict(architecture) if architecture is not None else find_architecture(model_name)
    missing = [key for key in ARCHITECTURE_KEYS if key not in sizes]
    unknown = [key for key in sizes if key not in ARCHITECTURE_KEYS]
    if missing or unknown:
        raise InputError(f"architecture of {model_name}: missing {missing}, unknown {unknown}")
    _check(sizes, model_name, image_size)
    given: dict[str, Any] = {**sizes, "image_size": image_size, "attn_implementation": "sdpa"}
    net = ViTModel(ViTConfig(**given), add_pooling_layer=False)
    backbone = VitBackbone(
        net, backbone_type="medmae", model_name=model_name, image_size=image_size, architecture=sizes
    )
    backbone.register_load_state_dict_pre_hook(_adapt_state)
    return backbone


def _check(sizes: dict[str, Any], model_name: str, image_size: int) -> None:
    patch, width, heads = sizes["patch_size"], sizes["hidden_size"], sizes["num_attention_heads"]
    if image_size % patch:
        below = image_size - image_size % patch
        raise InputError(
            f"--image_size {image_size}: {model_name} cuts {patch} px patches; "
            f"take {max(below, 2 * patch)} or {below + patch}"
        )
    if width % heads:
        raise InputError(f"{model_name}: width {width} is no multiple of {heads} attention heads")


def _adapt_state(backbone: nn.Module, state: dict[str, torch.Tensor], prefix: str, *_: Any) -> None:
    """Rename keys of other transformers versions and interpolate positions, before a state dict is loaded."""
    assert isinstance(backbone, VitBackbone)
    inner = f"{prefix}net."
    own = {canonical_key(key): key for key in backbone.net.state_dict()}
    for key in [k for k in state if k.startswith(inner)]:
        renamed = own.get(canonical_key(key[len(inner) :]))
        if renamed is None:
            continue
        value = state.pop(key)
        if renamed.endswith(POSITIONS):
            value = resize_positions(value, num_prefix=1, grid=backbone.map_size)
        state[inner + renamed] = value
