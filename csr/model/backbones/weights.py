"""Pretrained weights into a backbone, completely or not at all.

Every weight of the encoder must be filled and every encoder weight in the file used; a decoder, mask token
or classifier in the file is left and reported. The network is touched only here and in
`csr.model.hub_download`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from csr.model import hub_download
from csr.model.backbones.base import Backbone
from csr.model.backbones.candidates import Candidate, State, with_prefixes_off
from csr.model.backbones.hf.architecture import find_hf_architecture
from csr.model.backbones.hf.weights import find_hf_weights, is_index, prepare_hf, read_shards
from csr.model.backbones.known_names import other_names, with_known_names
from csr.model.backbones.names import is_weights_file, split_name
from csr.model.backbones.prepare_state import COUNTER, Prepared, prepare_timm, prepare_vit
from csr.model.backbones.vit_architecture import (
    KNOWN,
    architecture_of_config,
    architecture_of_file,
    find_architecture,
)
from csr.model.tensor_file import read_state_dicts
from csr.runtime.errors import InputError
from csr.runtime.torch_file import not_finite, of_another_type

_SEEN = ("hidden_size", "num_hidden_layers", "intermediate_size", "patch_size", "qkv_bias")  # by shapes
_LOCAL_FILE = (  # a folder is no name of a timm model
    "Give a local copy, --backbone_weights FILE (.safetensors, .pth), or start from random weights with "
    "--no_pretrained"
)
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
            more = f" and {len(self.ignored) - _SHOWN} more" if len(self.ignored) > _SHOWN else ""
            first = ", ".join(self.ignored[:_SHOWN]) + more
            what = "tensor of the file is" if len(self.ignored) == 1 else "tensors of the file are"
            lines.append(f"  {len(self.ignored)} {what} not the encoder's: {first}")
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
        Sizes for `medmae`, the configuration's values for `hf`, None for timm models (their name says all).

    Raises:
        InputError: no source tells the sizes.
    """
    if backbone_type == "hf":
        return find_hf_architecture(model_name, fetch=True)
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
    sizes = architecture_of_file(file)
    if model_name is None or is_weights_file(model_name):
        return sizes
    named = find_architecture(model_name)
    if any(named[key] != sizes[key] for key in _SEEN):
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
        file = _find(backbone, backbone_type, model_name)
    groups = {"": read_shards(file)} if is_index(file) else read_state_dicts(file)
    prepare = _PREPARE.get(backbone_type, prepare_timm)
    found, prepared, notes = _choose(backbone, groups, prepare, str(file))
    bad = not_finite(prepared.state)
    if bad:
        raise InputError(f"{file}: {_named('not finite (NaN or infinity)', bad)}")
    backbone.net.load_state_dict(prepared.state)
    if backbone_type == "medmae" and _heads_are_assumed(backbone.net, model_name, weights_file):
        notes.append(_assumed_heads(backbone.net))
    return LoadReport(
        str(file),
        len(backbone.net.state_dict()),
        (*found.outside, *prepared.ignored),
        prepared.resized,
        (*notes, *prepared.renamed),
    )


Prepare = Callable[[Backbone, State, str], Prepared]
_PREPARE: dict[str, Prepare] = {"medmae": prepare_vit, "hf": prepare_hf}


def _choose(
    backbone: Backbone, groups: dict[str, State], prepare: Prepare, source: str
) -> tuple[Candidate, Prepared, list[str]]:
    """Return the one dict and prefix of a file that fits completely, prepared, with notes for the report.

    Raises:
        InputError: none fits, or several different ones do.
    """
    fitting: list[tuple[Candidate, Prepared]] = []
    nearest = (-1, "")
    for wrapper, state in groups.items():
        for candidate in _candidates(backbone.net, wrapper, state):
            try:
                prepared = prepare(backbone, candidate.state, source)
            except InputError as error:
                nearest = max(nearest, (0, str(error)), key=lambda pair: pair[0])
                continue
            matching, problem = _compare(backbone.net, prepared.state)
            if not problem:
                fitting.append((candidate, prepared))
                if not candidate.prefix:
                    break
            nearest = max(nearest, (matching, f"{source}: {problem}"), key=lambda pair: pair[0])
    if not fitting:
        raise InputError(nearest[1])
    (first, prepared), *more = fitting
    others = [c for c, _ in more if not first.equals(c)]
    if any("ema" not in c.wrapper.lower() or c.prefix != first.prefix for c in others):
        names = " and ".join(c.place for c in (first, *others))
        raise InputError(f"{source}: {names} both fit the backbone; save the one that is meant alone")
    notes = [f"{first.wrapper!r} is used; {c.wrapper!r} would fit as well" for c in others]
    if first.renaming:
        notes.insert(0, first.renaming)
    if first.prefix:
        notes.insert(0, f"all keys without {first.prefix!r}")
    return first, prepared, notes


def _candidates(net: nn.Module, wrapper: str, state: State) -> Iterator[Candidate]:
    own = net.state_dict()
    for candidate in with_prefixes_off(wrapper, state, num_tensors=len(own)):
        yield from with_known_names(candidate, own)


def _heads_are_assumed(net: nn.Module, model_name: str, weights_file: str | Path | None) -> bool:
    """Return whether `fetch_architecture` had the sizes from a file's shapes alone."""
    if is_weights_file(model_name):
        return True
    if weights_file is None:
        return False  # the config.json of the hub or of the folder
    if not (model_name in KNOWN or Path(model_name).is_dir()):
        return True
    named = find_architecture(model_name)
    return any(named[key] != getattr(net.config, key) for key in _SEEN)


def _assumed_heads(net: nn.Module) -> str:
    config: Any = net.config
    heads, width = config.num_attention_heads, config.hidden_size
    return (
        f"attention heads are assumed to be {heads} of {width // heads}, no shape tells them: "
        "a folder with config.json does"
    )


def _find(backbone: Backbone, backbone_type: str, model_name: str) -> Path:
    if backbone_type in ("hf", "medmae"):
        return find_hf_weights(model_name)
    return _find_timm(backbone.net)


def _find_timm(net: nn.Module) -> Path:
    config = getattr(net, "pretrained_cfg", None) or {}
    repo_id = config.get("hf_hub_id")
    if not repo_id:
        raise InputError(
            f"{config.get('architecture', 'this model')}: timm knows no pretrained weights on the hub; "
            "give --backbone_weights FILE, or start from random weights with --no_pretrained"
        )
    name = config.get("hf_hub_filename")
    names = (name,) if name else hub_download.WEIGHT_NAMES
    return hub_download.fetch(repo_id, names, advice=_LOCAL_FILE)


def _compare(net: nn.Module, state: State) -> tuple[int, str | None]:
    """Return how many weights of a network a state dict fills, and what keeps it from filling all."""
    own = net.state_dict()
    missing = [key for key in own if key not in state]
    unused = [key for key in state if key not in own]
    wrong = [k for k in own if k in state and state[k].shape != own[k].shape]
    kinds = of_another_type(own, state)
    weights = [key for key in own if not key.endswith(COUNTER)]
    num_matching = len(set(weights) - {*missing, *wrong, *kinds})
    if not (missing or unused or wrong or kinds):
        return num_matching, None
    other = other_names(own, state)
    if other is not None:
        return num_matching, f"does not fit the backbone: {other}"
    parts = [
        _named("not in the file", [key for key in missing if not key.endswith(COUNTER)]),
        _named("in the file but not in the model", unused),
        *(f"{k} is {tuple(state[k].shape)}, not {tuple(own[k].shape)}" for k in wrong[:_SHOWN]),
        _named("of another type than weights", kinds),
    ]
    return num_matching, (
        f"does not fit the backbone, {num_matching} of {len(weights)} tensors match; "
        f"{'; '.join(filter(None, parts))}"
    )


def _named(what: str, keys: list[str]) -> str:
    if not keys:
        return ""
    more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    return f"{what}: {', '.join(key[:80] for key in keys[:_SHOWN])}{more}"
