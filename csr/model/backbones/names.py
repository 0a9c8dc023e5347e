"""What --model_name may be: a hub id, a local folder, a timm name, or a weights file."""

from __future__ import annotations

from pathlib import Path

from csr.runtime.errors import InputError

DEFAULT_NAME = "facebook/vit-mae-base"
FILE_SUFFIXES = (".pth", ".pth.tar", ".pt", ".ckpt", ".bin", ".safetensors")
_FAMILY_DEFAULT = {"resnet50": "resnet50", "vit": "vit_base_patch16_224"}
_FAMILY_PREFIX = {"resnet50": ("resnet50",), "vit": ("vit_", "deit")}


def is_weights_file(model_name: str) -> bool:
    """Return whether a name is that of a weights file: by its suffix, or as such a file is there."""
    if model_name.lower().endswith(FILE_SUFFIXES):
        return True
    return not model_name.lower().endswith(".json") and Path(model_name).is_file()


def split_name(backbone_type: str, model_name: str) -> tuple[str, Path | None]:
    """Return the name of the architecture, and the weights file if model_name is one.

    Raises:
        InputError: no timm name for `timm`, or one of another family for `resnet50` and `vit`.
    """
    file = Path(model_name) if is_weights_file(model_name) else None
    if backbone_type == "medmae":
        return model_name, file
    if backbone_type == "hf":
        return model_name, None
    if backbone_type == "timm":
        if file is not None:
            raise InputError(
                f"--model_name {model_name}: a file does not tell a timm architecture; "
                "give the timm name there and the file in --backbone_weights"
            )
        if model_name == DEFAULT_NAME:
            raise InputError("--backbone_type timm: name the timm model, such as --model_name convnext_tiny")
        return model_name, None
    if file is not None or model_name == DEFAULT_NAME:
        return _FAMILY_DEFAULT[backbone_type], file
    if not model_name.startswith(_FAMILY_PREFIX[backbone_type]):
        raise InputError(
            f"--model_name {model_name!r} is no {backbone_type} of timm; "
            "for any other timm model use --backbone_type timm"
        )
    return model_name, None
