"""A few positive images of each label, and their small pictures in the report's page."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
from PIL import Image

from csr.data.check.facts import Found, Split, labels_of
from csr.data.images.decode import read_image
from csr.data.labels.positive import is_positive
from csr.runtime.errors import InputError

EXAMPLES = 4  # images of a label
PICTURED = 40  # labels on the page: decoding takes time, and the page must stay small
PAGE_BYTES = 2 * 2**20  # of all these pictures
PICTURE_PX, QUALITY = 96, 80


def examples(split: Split) -> Found:
    """Return ids and files of up to `EXAMPLES` readable positive images of each label, evenly spaced."""
    readable = np.zeros(len(split.table), dtype=bool)
    readable[[*split.scanned]] = True
    found: Found = {}
    for names, label_NL in labels_of(split.table):
        for name, label_N in zip(names, label_NL.T, strict=True):
            rows = np.flatnonzero(is_positive(label_N) & readable)
            places = np.unique(np.linspace(0, len(rows) - 1, min(EXAMPLES, len(rows))).round().astype(int))
            chosen = rows[places].tolist()
            found[name] = {
                "images": [split.table.image_ids[row] for row in chosen],
                "files": [str(split.paths[row]) for row in chosen],
            }
    return found


def pictured(found: Found) -> Found | None:
    """Return what the page shows of `examples`; None where no image can be read."""
    labels: list[Found] = []
    of_file: dict[str, str | None] = {}
    left = PAGE_BYTES
    for name, row in found.items():
        if len(labels) == PICTURED or left <= 0:
            break
        figures = []
        for image, file in zip(row["images"], row["files"], strict=True):
            if file not in of_file:
                of_file[file] = small_picture(Path(file), PICTURE_PX, "JPEG")
            picture = of_file[file]
            left -= len(picture or "")
            figures.append({"name": image, "picture": picture})
        if figures:
            labels.append({"name": name, "figures": figures})
    some = sum(bool(row["images"]) for row in found.values())
    return {"labels": labels, "more": some - len(labels)} if labels else None


def small_picture(path: Path, side_px: int, form: str) -> str | None:
    """Return a small copy as a data address; None where the file has gone since it was read.

    Args:
        path: of an image.
        side_px: of the longest side.
        form: PNG or JPEG.
    """
    try:
        image = Image.fromarray(read_image(path, min_size=2 * side_px))
    except InputError:
        return None
    image.thumbnail((side_px, side_px))
    buffer = io.BytesIO()
    image.save(buffer, format=form, **({"quality": QUALITY} if form == "JPEG" else {}))
    return f"data:image/{form.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"
