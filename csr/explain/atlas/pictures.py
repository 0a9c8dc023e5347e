"""The pictures of an atlas: each training image once, reduced; each prototype's nearest region, cut out.

Letters: H W pixels or cells.
"""

from __future__ import annotations

import base64
import io
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from csr.data.images.decode import decode_image
from csr.report.pictures import heat_colours
from csr.runtime.files import write_atomic

SIDE_PX, CROP_PX = 640, 160  # longest sides
MAP_ALPHA = 0.55
_JPEG_QUALITY = 88
Record = dict[str, Any]


def write_pictures(
    folder: Path,
    concepts: Sequence[Record],
    paths: Sequence[Path],
    *,
    workers: int,
    progress: Callable[[int, int], None],
) -> dict[str, tuple[int, int]]:
    """Write every picture that the records name; each image is decoded once.

    Args:
        folder: of the atlas.
        concepts: records, as `Recorder.concept` gives them.
        paths: image files by row of the label table.
        workers: threads.
        progress: called as `progress(done, of)`.

    Returns:
        Width and height of each picture under images/, by its name.

    Raises:
        InputError: an image cannot be read any more.
        OSError: the folder cannot be written.
    """
    names: dict[int, str] = {}
    crops: dict[int, list[tuple[str, list[float]]]] = defaultdict(list)
    for record in (p for concept in concepts for p in concept["prototypes"]):
        for place, one in enumerate(record["nearest"]):
            names[one["row"]] = one["image"]
            if place == 0:
                crops[one["row"]].append((record["crop"], one["box"]))

    def draw(row: int) -> tuple[str, tuple[int, int]]:
        picture = Image.fromarray(decode_image(paths[row], min_size=2 * SIDE_PX).pixels).convert("RGB")
        for name, box in crops[row]:
            _write(folder / name, _resized(_cut(picture, box), CROP_PX), "PNG")
        small = _resized(picture, SIDE_PX)
        _write(folder / names[row], small, "JPEG", quality=_JPEG_QUALITY)
        return names[row], small.size

    sizes: dict[str, tuple[int, int]] = {}
    rows = sorted(names)
    with ThreadPoolExecutor(workers, thread_name_prefix="csr-atlas") as pool:
        for start in range(0, len(rows), 16 * workers):  # an error ends it soon
            sizes.update(pool.map(draw, rows[start : start + 16 * workers]))
            progress(len(sizes), len(rows))
    return sizes


def _cut(picture: Image.Image, box: Sequence[float]) -> Image.Image:
    width, height = picture.size
    left, top = int(box[0] * width), int(box[1] * height)
    right, bottom = max(left + 1, round(box[2] * width)), max(top + 1, round(box[3] * height))
    return picture.crop((left, top, min(right, width), min(bottom, height)))


def _resized(picture: Image.Image, longest: int) -> Image.Image:
    scale = longest / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.BILINEAR)


def _write(path: Path, picture: Image.Image, kind: str, **options: int) -> None:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    write_atomic(path, lambda file: file.write(buffer.getvalue()))


def map_address(map_HW: np.ndarray, *, low: float, high: float) -> str:
    """Return a map as a tiny picture that a page carries inside.

    Clear at `low` and below, strongest at `high`.
    """
    value_HW = np.clip((map_HW.astype(np.float32) - low) / max(high - low, 1e-6), 0, 1)
    alpha_HW1 = np.round(255 * MAP_ALPHA * value_HW).astype(np.uint8)[..., None]
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate([heat_colours(value_HW), alpha_HW1], axis=2), "RGBA").save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
