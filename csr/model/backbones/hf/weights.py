"""Weights of an encoder of transformers: by transformers' own renaming between versions, strictly counted."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from csr.model import hub_download
from csr.model.backbones.base import Backbone
from csr.model.backbones.candidates import State
from csr.model.backbones.prepare_state import COUNTER, Prepared
from csr.model.tensor_file import read_tensors
from csr.runtime.errors import InputError
from csr.runtime.json_file import read_json

_INDEX = tuple(f"{name}.index.json" for name in hub_download.WEIGHT_NAMES)
_NO_ENCODER = re.compile(
    r"(^|\.)(decoder|classifier|distillation_classifier|cls_classifier|head|lm_head|pooler|fc_norm|mask_token"
    r"|text_model|text_projection|visual_projection|logit_scale|logit_bias|decode_head|projection_head)(\.|$)"
)


def find_hf_weights(model_name: str) -> Path:
    """Return the weights file, or the index of its shards, of a local folder or hub id.

    Raises:
        InputError: none there, or the hub cannot be reached.
    """
    names = (hub_download.WEIGHT_NAMES[0], _INDEX[0], hub_download.WEIGHT_NAMES[1], _INDEX[1])
    folder = Path(model_name)
    if not folder.is_dir():
        found = hub_download.fetch(model_name, names)
        if found.name in _INDEX:
            for shard in _shards(found):
                hub_download.fetch(model_name, (shard,))
        return found
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise InputError(f"{folder}: holds neither {' nor '.join(names)}")


def is_index(path: Path) -> bool:
    return path.name in _INDEX


def read_shards(index: Path) -> State:
    """Return the tensors of all files that an index names; they lie beside it.

    Raises:
        InputError: an index of another form, a shard that is missing, or lacks a tensor that the index
            promises.
    """
    state: State = {}
    for name in _shards(index):
        if not (index.parent / name).is_file():
            raise InputError(f"{index}: names {name}, which is not beside it: the download is not whole")
        state |= read_tensors(index.parent / name)
    missing = [key for key in read_json(index)["weight_map"] if key not in state]
    if missing:
        raise InputError(f"{index}: {len(missing)} tensors are in none of its files: {missing[0][:80]}")
    return state


def _shards(index: Path) -> list[str]:
    try:
        names = sorted({str(name) for name in read_json(index)["weight_map"].values()})
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError(f"{index}: no index of weights files") from error
    outside = [name for name in names if Path(name).name != name]
    if outside:
        raise InputError(f"{index}: {outside[0][:80]!a} is no name of a file beside it")
    return names


def prepare_hf(backbone: Backbone, state: State, source: str) -> Prepared:
    """Bring the weights of a file under the names of the installed transformers.

    Weights that the map does not depend on may be missing: they are frozen, and stay random.

    Raises:
        InputError: transformers makes nothing of them.
    """
    net: Any = backbone.net
    own = net.state_dict()
    with _quietly(), torch.random.fork_rng(devices=[]):
        try:
            loaded, info = type(net).from_pretrained(
                None, config=net.config, state_dict=dict(state), output_loading_info=True
            )
        except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
            text = " ".join(str(error).split())[:160]
            raise InputError(f"{source}: not weights of this encoder ({text})") from error
    unexpected = sorted(info["unexpected_keys"])
    ignored = tuple(key for key in unexpected if _NO_ENCODER.search(key))
    missing = {*info["missing_keys"], *(entry[0] for entry in info["mismatched_keys"])}
    given = {key: value for key, value in loaded.state_dict().items() if key in own and key not in missing}
    # what is no encoder's weight and yet in the file is reported under its name there
    given |= {key: state[key] for key in unexpected if key not in ignored and key in state}
    unused = [key for key in missing & set(own) if key in _idle(net) or key.endswith(COUNTER)]
    given |= {key: own[key] for key in unused}
    notes = tuple(
        f"{key} is not in the file, and the map does not depend on it" for key in sorted(unused)[:2]
    )
    return Prepared(given, ignored, (), notes)


def _idle(net: nn.Module) -> set[str]:
    """Return the parameters that the map does not depend on: frozen when the backbone was built."""
    return {name for name, parameter in net.named_parameters() if not parameter.requires_grad}


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep transformers' bars and its table of keys off the terminal: csr reports them itself."""
    from transformers.utils import logging

    verbosity, has_bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if has_bar:
            logging.enable_progress_bar()
