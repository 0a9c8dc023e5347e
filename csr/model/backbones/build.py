"""Which backbone a name means: `medmae`, `resnet50`, `vit`, `timm` and `hf` behind one contract."""

from __future__ import annotations

from typing import Any

from csr.model.backbones.base import Backbone
from csr.model.backbones.hf.backbone import build_hf
from csr.model.backbones.names import split_name
from csr.model.backbones.timm_backbone import build_timm
from csr.model.backbones.vit_backbone import build_vit
from csr.runtime.errors import InputError

BACKBONE_TYPES = ("medmae", "resnet50", "vit", "timm", "hf")


def build_backbone(
    backbone_type: str,
    model_name: str,
    *,
    image_size: int = 224,
    architecture: dict[str, Any] | None = None,
) -> Backbone:
    """Build a backbone with random weights, offline.

    Args:
        backbone_type: `medmae` (a ViT of transformers), `resnet50` or `vit` (timm models of that family),
            `timm` (any timm model with a spatial map), `hf` (any image encoder of transformers).
        model_name: for `hf` a local folder with a config.json, or a hub id that the hub's cache holds; for
            `medmae` also a known hub id, or a .pth/.safetensors file whose shapes tell the sizes; else a timm
            name or a file. `facebook/vit-mae-base`, the default of the command line, stands for the default
            of each type.
        image_size: side of the square input, pixels.
        architecture: sizes of a `medmae` ViT, or the configuration's values of an `hf` encoder; model_name is
            then only a label. None for the others.

    Returns:
        A module: images (B, 3, H, W) of any floating type -> feat_BCHW. Parameters that the map does not
        depend on are frozen.

    Raises:
        InputError: unknown type or name, images that do not fit, a pooled or a 1x1 map.
    """
    if backbone_type not in BACKBONE_TYPES:
        raise InputError(f"--backbone_type {backbone_type!r}: one of {', '.join(BACKBONE_TYPES)}")
    name, _ = split_name(backbone_type, model_name)
    if backbone_type == "medmae":
        return build_vit(name, image_size=image_size, architecture=architecture)
    if backbone_type == "hf":
        return build_hf(name, image_size=image_size, architecture=architecture)
    return build_timm(backbone_type, name, image_size=image_size)
