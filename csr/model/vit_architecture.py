"""The sizes of a ViT encoder: of known hub ids, out of a config.json, or read off the shapes in a file."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch

from csr.errors import InputError
from csr.model.names import is_weights_file
from csr.model.tensor_file import read_tensors
from csr.model.vit_keys import canonical_state

ARCHITECTURE_KEYS = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "patch_size",
    "layer_norm_eps",
    "hidden_act",
    "qkv_bias",
)
_COMMON = {"layer_norm_eps": 1e-12, "hidden_act": "gelu", "qkv_bias": True}


def _sizes(width: int, layers: int, heads: int, patch: int) -> dict[str, Any]:
    return {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": 4 * width,
        "patch_size": patch,
        **_COMMON,
    }


KNOWN = {
    "facebook/vit-mae-base": _sizes(768, 12, 12, 16),
    "facebook/vit-mae-large": _sizes(1024, 24, 16, 16),
    "facebook/vit-mae-huge": _sizes(1280, 32, 16, 14),
}


def find_architecture(model_name: str) -> dict[str, Any]:
    """The sizes behind a `medmae` model name, offline.

    Args:
        model_name: weights file, local folder, known hub id, or a hub id in the hub's local cache.

    Raises:
        InputError: nothing here tells the sizes, or what does is no ViT.
    """
    if is_weights_file(model_name):
        return architecture_of_tensors(read_tensors(Path(model_name)), source=model_name)
    folder = Path(model_name)
    if folder.is_dir():
        return architecture_of_config(folder / "config.json")
    if model_name in KNOWN:
        return dict(KNOWN[model_name])
    cached = _cached_config(model_name)
    if cached is not None:
        return architecture_of_config(cached)
    raise InputError(
        f"--model_name {model_name}: neither a local folder or file nor a known hub id "
        f"({', '.join(KNOWN)}); give a folder with config.json or a .pth/.safetensors file"
    )


def architecture_of_config(path: Path) -> dict[str, Any]:
    """The sizes in a Hugging Face config.json of a ViT or ViT-MAE.

    Raises:
        InputError: unreadable, another kind of model, or a size missing.
    """
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: not there; the folder of a Hugging Face model has one") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not readable as JSON ({error})") from error
    if not isinstance(config, dict) or config.get("model_type") not in ("vit", "vit_mae"):
        kind = config.get("model_type") if isinstance(config, dict) else None
        raise InputError(f"{path}: model_type {kind!r} is no vit or vit_mae")
    known = {**_COMMON, **config}
    missing = [key for key in ARCHITECTURE_KEYS if key not in known]
    if missing:
        raise InputError(f"{path}: {', '.join(missing)} missing")
    return {key: known[key] for key in ARCHITECTURE_KEYS}


def architecture_of_tensors(state: dict[str, torch.Tensor], *, source: str) -> dict[str, Any]:
    """The sizes read off a state dict's shapes; heads, which no shape tells, are the usual 64 wide.

    The original MAE code has norms with eps 1e-6, transformers' MAE with 1e-12.

    Raises:
        InputError: the tensors are not those of a ViT encoder.
    """
    weights = canonical_state(state)
    layers = {int(m[1]) for m in (re.match(r"layers\.(\d+)\.", key) for key in weights) if m}
    projection = weights.get("embeddings.patch_embeddings.projection.weight")
    hidden = weights.get("layers.0.mlp.fc1.weight")
    if not layers or projection is None or projection.ndim != 4 or hidden is None:
        raise InputError(f"{source}: its tensors are not those of a ViT encoder (first: {next(iter(state))})")
    width, original = projection.shape[0], any("blocks.0." in key for key in state)
    return {
        "hidden_size": width,
        "num_hidden_layers": max(layers) + 1,
        "num_attention_heads": 16 if width == 1280 else max(1, width // 64),
        "intermediate_size": hidden.shape[0],
        "patch_size": projection.shape[-1],
        "layer_norm_eps": 1e-6 if original else 1e-12,
        "hidden_act": "gelu",
        "qkv_bias": "layers.0.attention.q_proj.bias" in weights,
    }


def _cached_config(model_name: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(model_name, "config.json")
    except HFValidationError:
        return None
    return Path(found) if isinstance(found, str) else None
