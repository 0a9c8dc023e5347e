"""The sizes of a ViT encoder: of known hub ids, out of a config.json, or read off the shapes in a file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

from csr.model.backbones.candidates import with_prefixes_off
from csr.model.backbones.names import is_weights_file
from csr.model.backbones.vit_keys import canonical_state
from csr.model.tensor_file import read_state_dicts
from csr.runtime.errors import InputError
from csr.runtime.json_file import read_json

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
# above the largest published ViT (22 billion weights)
LARGEST = {
    "hidden_size": 8192,
    "num_hidden_layers": 128,
    "num_attention_heads": 256,
    "intermediate_size": 32_768,
    "patch_size": 1024,
}
ACTIVATIONS = (
    "gelu",
    "gelu_new",
    "gelu_fast",
    "gelu_pytorch_tanh",
    "quick_gelu",
    "relu",
    "silu",
    "swish",
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
    """Return the sizes behind a `medmae` model name, offline.

    Args:
        model_name: weights file, local folder, known hub id, or a hub id in the hub's local cache.

    Raises:
        InputError: nothing here tells the sizes, or what does is no ViT.
    """
    if is_weights_file(model_name):
        return architecture_of_file(Path(model_name))
    folder = Path(model_name)
    if folder.is_dir():
        return architecture_of_config(folder / "config.json")
    if model_name in KNOWN:
        return dict(KNOWN[model_name])
    cached = cached_config(model_name)
    if cached is not None:
        return architecture_of_config(cached)
    raise InputError(
        f"--model_name {model_name}: neither a local folder or file nor a known hub id "
        f"({', '.join(KNOWN)}); give a folder with config.json or a .pth/.safetensors file"
    )


def architecture_of_config(path: Path) -> dict[str, Any]:
    """Return the sizes in a Hugging Face config.json of a ViT or ViT-MAE.

    Raises:
        InputError: unreadable, another kind of model, or a size missing.
    """
    try:
        config = read_json(path)
    except FileNotFoundError:
        raise InputError(f"{path}: not there; the folder of a Hugging Face model has one") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not readable as JSON ({str(error)[:120]})") from error
    if not isinstance(config, dict) or config.get("model_type") not in ("vit", "vit_mae"):
        kind = config.get("model_type") if isinstance(config, dict) else None
        raise InputError(
            f"{path}: model_type {str(kind)[:40]!r} is no vit or vit_mae: --backbone_type hf takes "
            "encoders of other kinds"
        )
    known = {**_COMMON, **config}
    missing = [key for key in ARCHITECTURE_KEYS if key not in known]
    if missing:
        raise InputError(f"{path}: {', '.join(missing)} missing")
    sizes = {key: known[key] for key in ARCHITECTURE_KEYS}
    problem = architecture_problem(sizes)
    if problem:
        raise InputError(f"{path}: {problem}")
    return sizes


def architecture_problem(sizes: dict[str, Any]) -> str | None:
    """Return which of the `ARCHITECTURE_KEYS` has a value that no ViT has, or None."""
    for key, largest in LARGEST.items():
        value = sizes[key]
        if type(value) is not int or not 1 <= value <= largest:
            return f"{key} is {str(value)[:40]}: a whole number from 1 to {largest} belongs there"
    eps = sizes["layer_norm_eps"]
    if not isinstance(eps, float) or not 0 < eps < 1:
        return "layer_norm_eps is no small number"
    if sizes["hidden_act"] not in ACTIVATIONS:
        return f"hidden_act: one of {', '.join(ACTIVATIONS)}"
    if not isinstance(sizes["qkv_bias"], bool):
        return "qkv_bias is neither true nor false"
    return None


def architecture_of_file(path: Path) -> dict[str, Any]:
    """Return the sizes by the shapes of the first dict in a file that is a ViT encoder's, prefixes off.

    Raises:
        InputError: not readable, or no ViT encoder in it.
    """
    first_error: InputError | None = None
    for wrapper, state in read_state_dicts(path).items():
        for candidate in with_prefixes_off(wrapper, state, num_tensors=len(state)):
            try:
                return architecture_of_tensors(candidate.state, source=str(path))
            except InputError as error:
                first_error = first_error or error
    raise first_error or InputError(f"{path}: holds no named tensors")


def architecture_of_tensors(state: dict[str, torch.Tensor], *, source: str) -> dict[str, Any]:
    """Return the sizes by a state dict's shapes; heads, which no shape gives, are the usual 64 wide.

    The original MAE code has norms with eps 1e-6, transformers' MAE with 1e-12.

    Raises:
        InputError: the tensors are not those of a ViT encoder.
    """
    weights = canonical_state(state)
    layers = {int(m[1]) for m in (re.match(r"layers\.(\d+)\.", key) for key in weights) if m}
    projection = weights.get("embeddings.patch_embeddings.projection.weight")
    hidden = weights.get("layers.0.mlp.fc1.weight")
    matrices = projection is not None and projection.ndim == 4 and hidden is not None and hidden.ndim == 2
    if projection is None or hidden is None or not matrices or layers != set(range(len(layers))):
        raise InputError(
            f"{source}: its tensors are not those of a ViT encoder (first: {next(iter(state))[:80]!a})"
        )
    width, original = projection.shape[0], any("blocks.0." in key for key in state)
    sizes = {
        "hidden_size": width,
        "num_hidden_layers": len(layers),
        "num_attention_heads": 16 if width == 1280 else max(1, width // 64),
        "intermediate_size": hidden.shape[0],
        "patch_size": projection.shape[-1],
        "layer_norm_eps": 1e-6 if original else 1e-12,
        "hidden_act": "gelu",
        "qkv_bias": "layers.0.attention.q_proj.bias" in weights,
    }
    problem = architecture_problem(sizes)
    if problem:
        raise InputError(f"{source}: {problem}")
    return sizes


def cached_config(model_name: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(model_name, "config.json")
    except HFValidationError:
        return None
    return Path(found) if isinstance(found, str) else None
