"""The architecture of an image encoder of transformers: the values of its configuration that shape it.

A configuration comes from others: only values that the configuration class knows are kept, only plain ones,
and only of encoders that are known here. Nothing that it names is imported, fetched or run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from csr.model import hub_download
from csr.model.backbones.names import is_weights_file
from csr.model.backbones.vit_architecture import cached_config
from csr.runtime.errors import InputError
from csr.runtime.json_file import read_json

# token sequences
_TOKENS = (
    *("vit", "vit_mae", "vit_msn", "deit", "beit", "data2vec-vision", "ijepa", "pixio", "vitdet"),
    *("dinov2", "dinov2_with_registers", "dinov3_vit", "dinov3_convnext"),
    *("clip_vision_model", "siglip_vision_model", "siglip2_vision_model", "aimv2_vision_model"),
    *("mlcd_vision_model", "swin", "swinv2", "pvt", "hiera", "focalnet"),
)
# maps
_MAPS = (
    *(
        "convnext",
        "convnextv2",
        "resnet",
        "regnet",
        "bit",
        "pvt_v2",
        "segformer",
        "poolformer",
        "swiftformer",
    ),
    *("mobilevit", "mobilevitv2", "mobilenet_v1", "mobilenet_v2", "efficientnet", "cvt", "sam_vision_model"),
)
ENCODERS = tuple(sorted((*_TOKENS, *_MAPS)))
# two towers: the image's is taken
_TWO_TOWERS = ("clip", "siglip", "siglip2", "aimv2")
MODEL_TYPE = "model_type"
_LARGEST = 2**16  # of a whole number
_LONGEST = 64  # of a list
_DEEPEST = 512  # layers in all
# which outputs are asked for, and how random weights are drawn
_SHAPELESS = {
    *("out_features", "out_indices", "stage_names", "reshape_hidden_states", "num_labels"),
    *("initializer_range", "initializer_factor"),
}
_HEADS = ("vision_use_head", "use_head")  # what is behind the map
_DEPTH_WORDS = ("layers", "depth", "blocks")


def find_hf_architecture(model_name: str, *, fetch: bool = False) -> dict[str, Any]:
    """Return the values that shape the encoder of a folder or hub id.

    Args:
        model_name: local folder with a config.json, or a hub id.
        fetch: ask the hub for the config of an id that its cache does not hold.

    Raises:
        InputError: no config, or none of an image encoder.
    """
    if is_weights_file(model_name):
        raise InputError(
            f"--model_name {model_name}: a file does not tell which encoder of transformers it is; give the "
            "folder with its config.json, or its hub id, there and the file in --backbone_weights"
        )
    folder = Path(model_name)
    if folder.is_dir():
        return architecture_of_config(folder / "config.json")
    if fetch:
        return architecture_of_config(hub_download.fetch(model_name, ("config.json",)))
    cached = cached_config(model_name)
    if cached is None:
        raise InputError(
            f"--model_name {model_name}: no local folder, and not in the hub's cache; give a folder with a "
            "config.json and the weights"
        )
    return architecture_of_config(cached)


def architecture_of_config(path: Path) -> dict[str, Any]:
    """Return the values in a config.json of transformers that shape its image encoder.

    Raises:
        InputError: unreadable, or of no image encoder.
    """
    try:
        given = read_json(path)
    except FileNotFoundError:
        raise InputError(f"{path}: not there; the folder of a Hugging Face model has one") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not readable as JSON ({str(error)[:120]})") from error
    kind: Any = given.get(MODEL_TYPE) if isinstance(given, dict) else None
    if kind in _TWO_TOWERS:
        tower = f"{kind}_vision_model"
        inner = given.get("vision_config")
        inner = inner if isinstance(inner, dict) else {}
        given, kind = {**inner, MODEL_TYPE: tower}, tower
    _check_kind(kind, str(path))
    values = {k: v for k, v in given.items() if k not in _common_keys() and not k.startswith("_")}
    problem = _not_plain(values)
    if problem:
        raise InputError(f"{path}: {problem}")
    # through the class, which knows the names that older versions wrote
    own = _own_keys(kind)
    sizes = {k: v for k, v in _config(kind, values, str(path)).to_dict().items() if k in own}
    described = {MODEL_TYPE: kind, **json.loads(json.dumps(sizes))}
    problem = hf_architecture_problem(described)
    if problem:
        raise InputError(f"{path}: {problem}")
    return described


def hf_architecture_problem(sizes: dict[str, Any]) -> str | None:
    """Return why a description is that of no image encoder, or None; builds nothing."""
    kind = sizes.get(MODEL_TYPE)
    if kind not in ENCODERS:
        return f"{MODEL_TYPE} {str(kind)[:40]!r}: one of {', '.join(ENCODERS)}"
    unknown = [key for key in sizes if key != MODEL_TYPE and key not in _own_keys(kind)]
    if unknown:
        return f"{kind} has no {', '.join(map(str, unknown))[:80]}"
    patch = sizes.get("patch_size", 1)
    if isinstance(patch, int) and patch < 1:
        return f"patch_size is {patch}: at least 1"
    if sizes.get("num_channels", 3) != 3:
        return f"num_channels is {str(sizes['num_channels'])[:40]}: csr's images have 3"
    return _not_plain(sizes)


def _not_plain(values: dict[str, Any]) -> str | None:
    """Return which value is none that a published encoder has, or None."""
    layers = 0
    for key, value in values.items():
        if isinstance(value, list | dict) and len(value) > _LONGEST:
            return f"{key} has more than {_LONGEST} values"
        for item in _items(value):
            if not isinstance(item, int | float | str | bool | type(None)):
                return f"{key} is no plain value"
            if isinstance(item, str) and len(item) > _LONGEST:
                return f"{key} is longer than {_LONGEST}"
            if isinstance(item, int | float) and not abs(item) <= _LARGEST:
                return f"{key} is {str(item)[:40]}: at most {_LARGEST}"
            if type(item) is int and any(word in key for word in _DEPTH_WORDS):
                layers += item
    return f"{layers} layers: at most {_DEEPEST}" if layers > _DEEPEST else None


def hf_config(sizes: dict[str, Any], *, model_name: str) -> Any:
    """Return transformers' configuration of these values, nothing in it random in training.

    Stochastic depth and dropout are off, as they are for timm's models: a step depends on its images alone,
    whatever the number of ranks.

    Raises:
        InputError: values that are none of an encoder, or that contradict each other.
    """
    problem = hf_architecture_problem(sizes)
    if problem:
        raise InputError(f"architecture of {model_name}: {problem}")
    values = {key: value for key, value in sizes.items() if key != MODEL_TYPE}
    kind = sizes[MODEL_TYPE]
    calm = {k: _nothing(v) for k, v in {**_defaults(kind), **values}.items() if "drop" in k}
    headless = {key: False for key in _HEADS if key in _own_keys(kind)}
    return _config(kind, {**values, **calm, **headless}, f"architecture of {model_name}")


def _nothing(value: Any) -> Any:
    """Return a rate of zero; where there is one for each stage, a list of them."""
    if isinstance(value, list):
        return [_nothing(item) for item in value]
    return 0.0 if isinstance(value, float) else value


def _config(kind: str, values: dict[str, Any], where: str) -> Any:
    from transformers import AutoConfig

    try:
        return AutoConfig.for_model(kind, **values)
    except (TypeError, ValueError, LookupError, AttributeError) as error:
        text = " ".join(str(error).split())[:160] or type(error).__name__
        raise InputError(f"{where}: transformers takes it for none ({text})") from error


def _check_kind(kind: Any, where: str) -> None:
    if kind == "timm_wrapper":
        raise InputError(f"{where}: a timm model: --backbone_type timm --model_name NAME takes it")
    if kind not in ENCODERS:
        raise InputError(
            f"{where}: {MODEL_TYPE} {str(kind)[:40]!r} is no image encoder that csr takes: "
            f"{', '.join(ENCODERS)}"
        )


def _items(value: Any) -> Iterator[Any]:
    if isinstance(value, list | tuple):
        for item in value:
            yield from _items(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield str(key)
            yield from _items(item)
    else:
        yield value


def _defaults(kind: str) -> dict[str, Any]:
    from transformers import AutoConfig

    return AutoConfig.for_model(kind).to_dict()


def _common_keys() -> set[str]:
    """Return the names of the values of every configuration: names of labels, types, code to fetch."""
    from transformers import PreTrainedConfig

    return {*PreTrainedConfig().to_dict(), "auto_map", "quantization_config", "attn_implementation", "dtype"}


def _own_keys(kind: str) -> set[str]:
    """Return the names of the values that shape this kind of encoder."""
    return set(_defaults(kind)) - _common_keys() - _SHAPELESS - {MODEL_TYPE}
