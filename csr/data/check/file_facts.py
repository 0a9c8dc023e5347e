"""Image files of a split beside those of the other: kinds, greys, borders, links.

Letters: N images, S side of the thumbnails.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from csr.data.check.brightness import Brightness, brightness_notices
from csr.data.check.facts import Split
from csr.runtime.errors import InputError

WHITE_BORDER, BLACK_BORDER = 240, 15  # of 255: median grey of an image's border
COMMON, RARE = 0.5, 0.05  # shares of a kind in the splits


def grey_facts(split: Split) -> dict[str, Any] | None:
    """Return mean greys (of 255: 10, 50 and 90 % of the images lie below) and white and black borders.

    None without a readable image.
    """
    thumb_NSS = split.thumbnails
    if not len(thumb_NSS):
        return None
    low, median, high = np.percentile(_means(thumb_NSS), [10, 50, 90]).tolist()
    border_N = border_greys(thumb_NSS)
    return {
        "mean_grey": {"low": low, "median": median, "high": high},
        "white_borders": int((border_N >= WHITE_BORDER).sum()),
        "black_borders": int((border_N <= BLACK_BORDER).sum()),
    }


def border_greys(thumbnail_NSS: np.ndarray) -> np.ndarray:
    """Return the median grey of the outermost pixels of each image, float64 (N,)."""
    inner_SS = np.zeros(thumbnail_NSS.shape[1:], dtype=bool)
    inner_SS[1:-1, 1:-1] = True
    return np.median(thumbnail_NSS[:, ~inner_SS], axis=1)


def link_facts(paths: list[Path]) -> dict[str, int]:
    """Return the images of a split, those that are symbolic links, and the files behind all of them.

    Raises:
        InputError: a file is gone.
    """
    files = set()
    for path in paths:
        try:
            status = os.stat(path)
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror}); check the file") from None
        files.add((status.st_dev, status.st_ino))
    return {"images": len(paths), "symbolic": sum(path.is_symlink() for path in paths), "files": len(files)}


def file_warnings(splits: list[Split], links: dict[str, dict[str, int]]) -> list[str]:
    """Return lines on greys, kinds and links; exact and near copies are judged elsewhere."""
    lines = []
    for name, found in links.items():
        if found["files"] < found["images"]:
            lines.append(
                f"{found['images']} {name} images are links to {found['files']} files: images of one file "
                "are copies of each other"
            )
    readable = [split for split in splits if split.scanned]
    greys = []
    for split in readable:
        thumb_NP = split.thumbnails.reshape(len(split.scanned), -1)
        greys.append(Brightness(split.name, _means(thumb_NP), thumb_NP.max(axis=1), thumb_NP.min(axis=1)))
    lines += brightness_notices(greys, in_check=True)
    if len(readable) == 2:
        lines += _kind_warnings(readable)
    return lines


def _kind_warnings(splits: list[Split]) -> list[str]:
    """Return a line if most images of one split are of a kind that the other hardly has."""
    for split, beside in (splits, splits[::-1]):
        own, other = (Counter(one.kind for one in part.scanned.values()) for part in (split, beside))
        kind, number = own.most_common(1)[0]
        here, there = number / own.total(), other[kind] / other.total()
        if here > COMMON and there < RARE:
            return [
                f"{here:.0%} of the {split.name} images are {kind}, and {there:.0%} of the {beside.name} "
                "images: another export of one split can change greys and scores"
            ]
    return []


def _means(thumbnail_N: np.ndarray) -> np.ndarray:
    return thumbnail_N.reshape(len(thumbnail_N), -1).mean(axis=1, dtype=np.float64)
