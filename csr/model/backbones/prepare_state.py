"""A file's weights under the names and in the shapes of a backbone."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from torch import nn

from csr.model.backbones.base import Backbone
from csr.model.backbones.candidates import State
from csr.model.backbones.positions import resize_positions
from csr.model.backbones.vit_keys import canonical_key, canonical_state, is_encoder
from csr.runtime.errors import InputError

COUNTER = "num_batches_tracked"


@dataclass(frozen=True, eq=False)
class Prepared:
    """A state dict under the backbone's own names and shapes, and what was done to it."""

    state: State
    ignored: tuple[str, ...] = ()
    resized: tuple[str, ...] = ()
    renamed: tuple[str, ...] = ()


def prepare_vit(backbone: Backbone, state: State, source: str) -> Prepared:
    """Bring a ViT encoder's weights under the names and to the grid of a `medmae` backbone."""
    own = {canonical_key(key): key for key in backbone.net.state_dict()}
    given = canonical_state(state)
    renamed = _norm_after_pooling(given, "layernorm", wanted="layernorm.weight" in own)
    ignored = tuple(key for key in given if not is_encoder(key))
    wanted = {own.get(key, key): value for key, value in given.items() if is_encoder(key)}
    positions = own["embeddings.position_embeddings"]
    resized = _resize(wanted, positions, num_prefix=1, grid=backbone.map_size)
    return Prepared(wanted, ignored, resized, renamed)


def prepare_timm(backbone: Backbone, state: State, source: str) -> Prepared:
    """Bring the weights of a timm model, or of the code that it came from, under the names of `backbone.net`.

    Raises:
        InputError: the family's own conversion makes nothing of them.
    """
    net = backbone.net
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    own = set(net.state_dict())
    converted = _converted(net, state, source)
    dropped = tuple(k for k in converted if k not in own and k.startswith(_no_encoder(net)))
    removed = tuple(k for k in state if k not in converted and k.startswith(_no_encoder(net)))
    state = {key: value for key, value in converted.items() if key not in dropped}
    renamed = _norm_after_pooling(state, "norm", wanted="norm.weight" in own)
    prefix = getattr(net, "num_prefix_tokens", 0)
    if "pos_embed" in own and getattr(net, "no_embed_class", False):
        prefix = 0
    _resize(state, "pos_embed", num_prefix=prefix, grid=backbone.map_size)
    resized = tuple(
        f"{key} {shapes[key]} -> {tuple(value.shape)}"
        for key, value in state.items()
        if key in shapes and shapes[key] != tuple(value.shape)
    )
    own_state = net.state_dict()
    for key in own:
        if key.endswith(COUNTER):  # absent in files of before torch 0.4.1, and of no effect
            state.setdefault(key, own_state[key])
    return Prepared(state, (*dropped, *removed), resized, renamed)


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


def _norm_after_pooling(state: State, norm: str, *, wanted: bool) -> tuple[str, ...]:
    """Move the last norm of models published with average pooling: here it acts on the map."""
    if not wanted or f"{norm}.weight" in state or "fc_norm.weight" not in state:
        return ()
    for kind in ("weight", "bias"):
        if f"fc_norm.{kind}" in state:
            state[f"{norm}.{kind}"] = state.pop(f"fc_norm.{kind}")
    return ("fc_norm, which stood behind the pooling, is the norm of the map",)


def _resize(state: State, key: str, *, num_prefix: int, grid: tuple[int, int]) -> tuple[str, ...]:
    value = state.get(key)
    if value is None or value.ndim != 3:
        return ()
    state[key] = resize_positions(value, num_prefix=num_prefix, grid=grid)
    if state[key].shape == value.shape:
        return ()
    return (f"{key} {tuple(value.shape)} -> {tuple(state[key].shape)}",)
