"""Mean and sd that images are normalised by: those that the weights of a backbone were trained on.

timm has them in a model's `pretrained_cfg`, transformers in the preprocessor_config.json of a folder.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from csr.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from csr.model import hub_download
from csr.model.backbones.names import is_weights_file, split_name
from csr.model.backbones.vit_architecture import KNOWN
from csr.runtime.errors import InputError
from csr.runtime.json_file import read_json

FILE_NAME = "preprocessor_config.json"
_LARGEST = 1e3
_RESCALING = 1 / 255


@dataclass(frozen=True)
class Normalisation:
    """How the three channels of an image, on the scale 0 to 1, become the network's input.

    Attributes:
        mean, std: of the three channels (default: ImageNet's).
        source: who says so.
        native_size: side in pixels of the images that the weights were trained on; None: not known.
    """

    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    source: str = "ImageNet"
    native_size: int | None = None

    @property
    def line(self) -> str:
        """Return what is told to the user."""
        mean, std = (" ".join(f"{value:.4g}" for value in values) for values in (self.mean, self.std))
        size = f"; the weights saw images of {self.native_size} px" if self.native_size else ""
        return f"Images are normalised by mean {mean}, sd {std} ({self.source}{size})"


def find_normalisation(
    backbone_type: str, model_name: str, *, net: nn.Module, is_pretrained: bool
) -> Normalisation:
    """Return the normalisation that belongs to a backbone's weights; ImageNet's for random ones.

    Args:
        backbone_type, model_name: as for `build_backbone`.
        net: the network, whose timm config is read.
        is_pretrained: whether it starts from pretrained weights.

    Raises:
        InputError: a preprocessor_config.json that holds none.
    """
    if not is_pretrained:
        return Normalisation()
    if backbone_type not in ("medmae", "hf"):
        return _of_timm(net)
    if is_weights_file(model_name) or (backbone_type == "medmae" and model_name in KNOWN):
        return Normalisation(source="ImageNet's, as MAE's code has it")
    folder = Path(model_name)
    if folder.is_dir():
        file = folder / FILE_NAME
        if not file.is_file():
            return Normalisation(source=f"ImageNet's: {folder} has no {FILE_NAME}")
        return read_preprocessor(file)
    try:
        return read_preprocessor(hub_download.fetch(model_name, (FILE_NAME,)))
    except hub_download.Unobtainable:
        return Normalisation(source=f"ImageNet's: no {FILE_NAME} of {model_name} could be had")


def find_native_size(backbone_type: str, model_name: str) -> int:
    """Return the side in pixels of the images that a backbone's weights were trained on.

    Args:
        backbone_type, model_name: as for `build_backbone`.

    Raises:
        InputError: nothing tells it.
    """
    name, _ = split_name(backbone_type, model_name)
    if backbone_type in ("medmae", "hf"):
        found = find_normalisation(backbone_type, name, net=nn.Identity(), is_pretrained=True).native_size
        size = 224 if found is None and backbone_type == "medmae" and name in KNOWN else found
    else:
        import timm

        config = timm.get_pretrained_cfg(name) if timm.is_model(name.split(".")[0]) else None
        size = None if config is None else config.input_size[-1]
    if size is None:
        raise InputError(f"--image_size auto: nothing tells the image size of {model_name}: give pixels")
    return size


def read_preprocessor(path: Path) -> Normalisation:
    """Return what a preprocessor_config.json of transformers says.

    Raises:
        InputError: unreadable, or numbers that are none of a normalisation.
    """
    try:
        config = read_json(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not readable as JSON ({str(error)[:120]})") from error
    if not isinstance(config, dict):
        raise InputError(f"{path}: no JSON object")
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    kind, source = (
        str(config.get("image_processor_type") or config.get("feature_extractor_type") or ""),
        FILE_NAME,
    )
    normalises = config.get("do_normalize")
    if normalises is None:
        normalises = not kind.startswith("MobileViT")  # the only processors that do not by themselves
    if config.get("do_flip_channel_order", kind.startswith("MobileViT")):
        source += " (its order of colours, BGR, is not followed: of no matter for grey images)"
    if normalises is not False:
        mean = _three(config.get("image_mean"), IMAGENET_MEAN, f"{path}: image_mean")
        std = _three(config.get("image_std"), IMAGENET_STD, f"{path}: image_std")
        if kind.startswith("EfficientNet") and config.get("include_top", True):
            std = tuple(
                value**2 for value in std
            )  # transformers divides twice, as these weights were trained
    if min(std) <= 0:
        raise InputError(f"{path}: image_std must be above 0")
    factor = config.get("rescale_factor", _RESCALING)
    rescaled = config.get("do_rescale", True) is not False
    if (
        not rescaled
        or not isinstance(factor, int | float)
        or not math.isclose(factor, _RESCALING, rel_tol=1e-3)
    ):
        raise InputError(f"{path}: rescale_factor is not 1/255: csr's images are on the scale 0 to 1")
    return Normalisation(mean, std, source, _side(config.get("crop_size")) or _side(config.get("size")))


def _of_timm(net: nn.Module) -> Normalisation:
    config: dict[str, Any] = getattr(net, "pretrained_cfg", None) or {}
    mean, std = config.get("mean"), config.get("std")
    if not mean or not std:
        return Normalisation(source="ImageNet's: timm names none")
    size = config.get("input_size") or (None,)
    return Normalisation(tuple(map(float, mean)), tuple(map(float, std)), "of the timm model", size[-1])


def _three(value: Any, default: tuple[float, ...], where: str) -> tuple[float, ...]:
    if value is None:
        return default
    values = value if isinstance(value, list) else [value] * 3
    numbers = [
        v for v in values if isinstance(v, int | float) and not isinstance(v, bool) and abs(v) < _LARGEST
    ]
    if len(values) == 1:
        numbers *= 3
    if len(numbers) != 3:
        raise InputError(f"{where} must be one number or three")
    return tuple(map(float, numbers))


def _side(value: Any) -> int | None:
    """Return the side of a square size, as the versions of transformers have written it."""
    if isinstance(value, dict):
        sides = {value[key] for key in ("height", "width", "shortest_edge") if key in value}
        value = sides.pop() if len(sides) == 1 else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None
