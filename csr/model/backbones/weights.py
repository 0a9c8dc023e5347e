"""Pretrained weights into a backbone, completely or not at all.

Every weight of the encoder must be filled and every encoder weight in the file used; a decoder, mask token
or classifier in the file is left and reported. The network is touched only here and in
`csr.model.hub_download`.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from csr.model import hub_download
from csr.model.backbones.base import Backbone
from csr.model.backbones.names import is_weights_file, split_name
from csr.model.backbones.positions import resize_positions
from csr.model.backbones.vit_architecture import (
    KNOWN,
    architecture_of_config,
    architecture_of_tensors,
    find_architecture,
)
from csr.model.backbones.vit_keys import canonical_key, canonical_state, is_encoder
from csr.model.tensor_file import read_tensors
from csr.runtime.errors import InputError
from csr.runtime.torch_file import not_finite, of_another_type

State = dict[str, torch.Tensor]
_SHOWN = 4  # names of weights in an error


@dataclass(frozen=True)
class LoadReport:
    """What became of a file of pretrained weights.

    Attributes:
        source: file or hub id.
        matched: tensors of the backbone that were filled.
        ignored: tensors of the file that are no part of the encoder.
        resized: tensors interpolated to the image size.
        renamed: notes on tensors that took another one's place.
    """

    source: str
    matched: int
    ignored: tuple[str, ...] = ()
    resized: tuple[str, ...] = ()
    renamed: tuple[str, ...] = ()

    @property
    def lines(self) -> list[str]:
        """For the user: what matched, what was left, what was changed."""
        lines = [f"Backbone weights: all {self.matched} tensors filled from {self.source}"]
        if self.ignored:
            first = ", ".join(self.ignored[:_SHOWN])
            lines.append(f"  {len(self.ignored)} tensors of the file are not the encoder's: {first}, ...")
        lines += [f"  interpolated to the image size: {note}" for note in self.resized]
        lines += [f"  {note}" for note in self.renamed]
        return lines


def fetch_architecture(
    backbone_type: str, model_name: str, *, weights_file: str | Path | None = None
) -> dict[str, Any] | None:
    """Return what `CSR(architecture=...)` needs; asks the hub for the config of an unknown id.

    Args:
        backbone_type, model_name: as for `build_backbone`.
        weights_file: for `medmae`, a file whose shapes tell the sizes (they win over model_name's).

    Returns:
        Sizes for `medmae`, None for timm models (their name says all).

    Raises:
        InputError: no source tells the sizes.
    """
    if backbone_type != "medmae":
        return None
    local = is_weights_file(model_name) or Path(model_name).is_dir() or model_name in KNOWN
    if weights_file is not None:
        return _architecture_of_file(Path(weights_file), model_name if local else None)
    if local or "/" not in model_name:
        return find_architecture(model_name)
    return architecture_of_config(hub_download.fetch(model_name, ("config.json",)))


def _architecture_of_file(file: Path, model_name: str | None) -> dict[str, Any]:
    """Return the sizes by a file's shapes, or by the name where widths and depths agree."""
    sizes = architecture_of_tensors(read_tensors(file), source=str(file))
    if model_name is None or is_weights_file(model_name):
        return sizes
    named = find_architecture(model_name)
    seen = ("hidden_size", "num_hidden_layers", "intermediate_size", "patch_size", "qkv_bias")
    if any(named[key] != sizes[key] for key in seen):
        return sizes
    return {**sizes, "num_attention_heads": named["num_attention_heads"]}


def load_backbone_weights(
    backbone: Backbone,
    *,
    backbone_type: str,
    model_name: str,
    weights_file: str | Path | None = None,
) -> LoadReport:
    """Fill a backbone, in place.

    Args:
        backbone: from `build_backbone`, or the `backbone` of a CSR.
        backbone_type, model_name: as for `build_backbone`; where the weights are if no file is given.
        weights_file: .pth, .bin or .safetensors; wins over model_name.

    Returns:
        What matched, what was left, and lines to print.

    Raises:
        InputError: not found, not reachable, not readable, or anything but a complete match; the
            backbone is then unchanged.
    """
    _, named_file = split_name(backbone_type, model_name)
    file = Path(weights_file) if weights_file is not None else named_file
    if file is None:
        file = _find_medmae(model_name) if backbone_type == "medmae" else _find_timm(backbone.net)
    state = read_tensors(file)
    fill = _fill_vit if backbone_type == "medmae" else _fill_timm
    return fill(backbone, state, str(file))


def _find_medmae(model_name: str) -> Path:
    folder = Path(model_name)
    if not folder.is_dir():
        return hub_download.fetch(model_name, hub_download.WEIGHT_NAMES)
    for name in hub_download.WEIGHT_NAMES:
        if (folder / name).is_file():
            return folder / name
    raise InputError(f"{folder}: holds neither {' nor '.join(hub_download.WEIGHT_NAMES)}")


def _find_timm(net: nn.Module) -> Path:
    config = getattr(net, "pretrained_cfg", None) or {}
    repo_id = config.get("hf_hub_id")
    if not repo_id:
        raise InputError(
            f"{config.get('architecture', 'this model')}: timm knows no pretrained weights on the hub; "
            "give --backbone_weights FILE, or start from random weights with --no_pretrained"
        )
    name = config.get("hf_hub_filename")
    return hub_download.fetch(repo_id, (name,) if name else hub_download.WEIGHT_NAMES)


def _fill_vit(backbone: Backbone, state: State, source: str) -> LoadReport:
    own = {canonical_key(key): key for key in backbone.net.state_dict()}
    given = canonical_state(state)
    ignored = tuple(key for key in given if not is_encoder(key))
    wanted = {own.get(key, key): value for key, value in given.items() if is_encoder(key)}
    positions = own["embeddings.position_embeddings"]
    resized = _resize(wanted, positions, num_prefix=1, grid=backbone.map_size)
    matched = _load_all(backbone.net, wanted, source)
    return LoadReport(source, matched, ignored, resized)


def _fill_timm(backbone: Backbone, state: State, source: str) -> LoadReport:
    net = backbone.net
    state = {key.removeprefix("module."): value for key, value in state.items()}
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    own = set(net.state_dict())
    ignored = tuple(key for key in state if key not in own and key.startswith(_no_encoder(net)))
    state = _converted(net, {key: value for key, value in state.items() if key not in ignored}, source)
    renamed = _norm_after_pooling(state, own)
    prefix = getattr(net, "num_prefix_tokens", 0)
    if "pos_embed" in own and getattr(net, "no_embed_class", False):
        prefix = 0
    _resize(state, "pos_embed", num_prefix=prefix, grid=backbone.map_size)
    resized = tuple(
        f"{key} {shapes[key]} -> {tuple(value.shape)}"
        for key, value in state.items()
        if key in shapes and shapes[key] != tuple(value.shape)
    )
    matched = _load_all(net, state, source)
    return LoadReport(source, matched, ignored, resized, renamed)


def _no_encoder(net: nn.Module) -> tuple[str, ...]:
    classifier = (getattr(net, "pretrained_cfg", None) or {}).get("classifier") or ()
    names = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    return (*(f"{name}." for name in names), "attn_pool.", "decoder", "mask_token")


def _converted(net: nn.Module, state: State, source: str) -> State:
    """Convert the state dict to timm's names, by each family's own filter for its published files."""
    convert = getattr(sys.modules[type(net).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return state
    try:
        return dict(convert(state, net))
    except (LookupError, RuntimeError, ValueError, AttributeError, AssertionError, TypeError) as error:
        raise InputError(f"{source}: not weights of this timm model ({type(error).__name__})") from error


def _norm_after_pooling(state: State, own: set[str]) -> tuple[str, ...]:
    """Move the last norm of models published with average pooling: here it acts on the map."""
    if "norm.weight" not in own or "norm.weight" in state or "fc_norm.weight" not in state:
        return ()
    for kind in ("weight", "bias"):
        if f"fc_norm.{kind}" in state:
            state[f"norm.{kind}"] = state.pop(f"fc_norm.{kind}")
    return ("fc_norm, which stood behind the pooling, is the norm of the map",)


def _resize(state: State, key: str, *, num_prefix: int, grid: tuple[int, int]) -> tuple[str, ...]:
    value = state.get(key)
    if value is None or value.ndim != 3:
        return ()
    state[key] = resize_positions(value, num_prefix=num_prefix, grid=grid)
    if state[key].shape == value.shape:
        return ()
    return (f"{key} {tuple(value.shape)} -> {tuple(state[key].shape)}",)


def _load_all(net: nn.Module, state: State, source: str) -> int:
    own = net.state_dict()
    for key, value in own.items():
        if key.endswith("num_batches_tracked"):  # absent in files of before torch 0.4.1, and of no effect
            state.setdefault(key, value)
    missing = [key for key in own if key not in state]
    unused = [key for key in state if key not in own]
    wrong = [k for k in own if k in state and state[k].shape != own[k].shape]
    kinds = of_another_type(own, state)
    if missing or unused or wrong or kinds:
        parts = [
            *(_named("not in the file", missing)),
            *(_named("in the file but not in the model", unused)),
            *(f"{k} is {tuple(state[k].shape)}, not {tuple(own[k].shape)}" for k in wrong[:_SHOWN]),
            *_named("of another type than weights", kinds),
        ]
        num_matching = len(own) - len({*missing, *wrong, *kinds})
        raise InputError(
            f"{source}: does not fit the backbone, {num_matching} of {len(own)} tensors match; "
            f"{'; '.join(parts)}"
        )
    bad = not_finite(state)
    if bad:
        raise InputError(f"{source}: {'; '.join(_named('not finite (NaN or infinity)', bad))}")
    net.load_state_dict(state)
    return len(own)


def _named(what: str, keys: list[str]) -> list[str]:
    if not keys:
        return []
    more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    return [f"{what}: {', '.join(key[:80] for key in keys[:_SHOWN])}{more}"]
