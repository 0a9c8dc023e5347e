"""The folder of an atlas: what is in it and under which names. Nothing in it leads outside.

    index.html              all concepts; concept_000.html, concept_001.html, .. one page for each
    nearest.json            the training regions behind each prototype, as `csr.explain.neighbours` reads them
    atlas.json              every number of the pages
    keep.csv                concept, prototype, keep (1 or 0: the column to edit), .., for `csr refine --keep`
    keep_old_1.csv, ..      those of earlier atlases in this folder that somebody had edited
    prototypes/c000_p000.png    concept 0, prototype 0: its nearest training region, cut out (`crop_name`)
    images/000012_ID.jpg    the training images that pages and nearest.json refer to, reduced (`image_name`)

Numbers in names have at least three (images: six) digits and count from 0, in the order of the model. A
prototype without any training vector (its concept is in no training image) has no crop; one that was
dropped by `csr refine` is in neither nearest.json nor prototypes/. In nearest.json every entry also has
`crop` (relative to the folder). Boxes are fractions of the image.

Letters: K concepts, M prototypes per concept.
"""

from __future__ import annotations

import re

INDEX, NUMBERS, KEEP, NEAREST = "index.html", "atlas.json", "keep.csv", "nearest.json"
OLD_KEEP = "keep_old_{}.csv"
CROPS, IMAGES = "prototypes", "images"
FORMAT, FORMAT_VERSION = "csr-atlas", 2
_MAX_ID = 60


def crop_name(k: int, m: int) -> str:
    """Return the place of a prototype's cut-out region, relative to the atlas."""
    return f"{CROPS}/c{k:03d}_p{m:03d}.png"


def page_name(k: int) -> str:
    """Return the page of a concept, relative to the atlas."""
    return f"concept_{k:03d}.html"


def image_name(row: int, image_id: str) -> str:
    """Return the place of a training image's reduced copy, relative to the atlas.

    Args:
        row: of the label table.
        image_id: any text; what no file or address should hold is replaced.
    """
    safe = re.sub(r"[^A-Za-z0-9.-]+", "-", image_id).strip("-.")[:_MAX_ID]
    return f"{IMAGES}/{row:06d}_{safe or 'image'}.jpg"
