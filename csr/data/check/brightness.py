"""Notices on decoded images: nearly black, of one grey alone, or brighter in one split than in the other.

Letters: B images, C channels, S side of the stored images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from csr.data.image_cache.store import ImageStore

SAMPLED = 64  # images of a split, evenly spaced
DARK = 63  # of 255: values of 14 bits and fewer in 16
_SOME = 0.02  # of the images: fewer may be what they look like
DIFFERENT = 25  # of 255: mean greys of two splits
_LOW, _HIGH = 10, 90  # percentiles of the images' mean greys: splits whose ranges do not meet differ


@dataclass(frozen=True, eq=False)
class Brightness:
    """Greys of some images of a split.

    Attributes:
        name: of the split.
        mean_B: mean grey, 0 to 255.
        high_B, low_B: brightest and darkest grey.
    """

    name: str
    mean_B: np.ndarray
    high_B: np.ndarray
    low_B: np.ndarray


def sample(name: str, store: ImageStore) -> Brightness:
    """Measure up to `SAMPLED` images of a store, the same ones in every run."""
    places = np.unique(np.linspace(0, len(store) - 1, min(SAMPLED, len(store))).round().astype(int))
    flat_BP = store.batch(places).flatten(1)
    means = flat_BP.float().mean(dim=1).numpy()
    return Brightness(name, means, flat_BP.amax(dim=1).numpy(), flat_BP.amin(dim=1).numpy())


def brightness_notices(splits: list[Brightness], *, in_check: bool = False) -> list[str]:
    """Return lines on splits of at least one image each.

    Args:
        splits: one or two.
        in_check: they are of `csr data check`, which lists images of one grey by name and needs no hint at
            itself.
    """
    lines, hint = [], "" if in_check else ": `csr data check` counts them"
    for split in splits:
        highest, number = int(split.high_B.max()), len(split.high_B)
        blank = int((split.high_B == split.low_B).sum())
        if blank and not in_check:
            lines.append(
                f"{blank} of {number} {split.name} images that were looked at show one grey alone (a window "
                "beside the pixels?): `csr data check` lists them"
            )
        if blank < number and highest <= DARK:
            lines.append(
                f"the {split.name} images are nearly black, the brightest grey of {number} is {highest} of "
                f"255 (12-bit values in 16-bit files?){hint}"
            )
        dark = int(((split.high_B <= DARK) & (split.high_B > split.low_B)).sum())
        if highest > DARK and dark >= max(2, _SOME * number):
            lines.append(
                f"{dark} of {number} {split.name} images that were looked at are nearly black, none of their "
                f"greys is above {DARK} of 255 (12-bit values in 16-bit files?){hint}"
            )
    if len(splits) == 2:
        darker, brighter = sorted(splits, key=lambda split: float(np.median(split.mean_B)))
        step = float(np.median(brighter.mean_B) - np.median(darker.mean_B))
        if step >= DIFFERENT and np.percentile(darker.mean_B, _HIGH) < np.percentile(brighter.mean_B, _LOW):
            lines.append(
                f"the {darker.name} images are darker than the {brighter.name} images (median of the mean "
                f"greys {np.median(darker.mean_B):.0f} and {np.median(brighter.mean_B):.0f} of 255): were "
                "they exported in another way?"
            )
    return lines
