"""The way from an image file to model input, as it is stored beside the weights."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from csr.data.images.square import RESIZES, SQUASH
from csr.data.transforms import IMAGENET_MEAN, IMAGENET_STD, EvalTransform
from csr.runtime.errors import InputError

MAX_SIDE_PX = 4096
_LARGEST = 1e30  # of a number that is computed with in float32


@dataclass(frozen=True)
class Preprocessing:
    """The way from an image file to model input: made square at `stored_size`, resized, normalised.

    Attributes:
        image_size: side of the square that the network takes, pixels.
        stored_size: side of the square that images are kept at, pixels.
        mean, std: of the three channels, on the scale 0 to 1.
        resize: how an image becomes square, see `csr.data.images.square`.
    """

    image_size: int
    stored_size: int
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    resize: str = SQUASH

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON; without `resize` where it is squash, as older cards are."""
        sizes = {"image_size": self.image_size, "stored_size": self.stored_size}
        # The hash by which records name a model covers this: that of a squashing model must not change.
        way = {} if self.resize == SQUASH else {"resize": self.resize}
        return {**sizes, "mean": list(self.mean), "std": list(self.std), **way}

    def transform(self) -> EvalTransform:
        """Return the step after `csr.data.images.resize`: uint8 (B, 1 or 3, S, S) -> float (B, 3, H, W)."""
        return EvalTransform(self.image_size, mean=self.mean, std=self.std)


def read_preprocessing(value: Any, where: str) -> Preprocessing:
    """Read and check what `Preprocessing.to_dict` wrote; `where` is the file, for messages.

    Raises:
        InputError: a key is missing, or holds what no image could be made with.
    """
    keys = [f.name for f in dataclasses.fields(Preprocessing) if f.name != "resize"]
    if not isinstance(value, dict) or sorted({*value} - {"resize"}) != sorted(keys):
        raise InputError(f"{where}: preprocessing must hold {', '.join(keys)}")
    for key in ("image_size", "stored_size"):
        if not is_count(value[key], MAX_SIDE_PX + MAX_SIDE_PX // 8):
            raise InputError(f"{where}: preprocessing {key} {str(value[key])[:40]}: give pixels")
    for key in ("mean", "std"):
        if not (isinstance(value[key], list) and len(value[key]) == 3 and all(map(_is_finite, value[key]))):
            raise InputError(f"{where}: preprocessing {key} must be three numbers")
    if min(value["std"]) <= 0:
        raise InputError(f"{where}: preprocessing std must be above 0")
    resize = value.get("resize", SQUASH)
    if resize not in RESIZES:
        raise InputError(f"{where}: preprocessing resize {str(resize)[:40]!r}: one of {', '.join(RESIZES)}")
    sizes = (value["image_size"], value["stored_size"])
    return Preprocessing(*sizes, tuple(value["mean"]), tuple(value["std"]), resize)


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LARGEST


def is_count(value: Any, maximum: int, *, minimum: int = 1) -> bool:
    """Return True for a JSON value that is a whole number in the range (True itself is none)."""
    return isinstance(value, int) and not isinstance(value, bool) and minimum <= value <= maximum
