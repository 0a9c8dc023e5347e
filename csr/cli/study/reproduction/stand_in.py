"""A stand-in for the doctor who refines the atlas: a rule on the boxes of the training images.

Huy et al. have a doctor look at every prototype and discard shortcuts. Without one, a prototype is rejected
where most of the training images with its highest scores are matched outside of the concept's boxes; of a
concept whose prototypes all are, the one that looks inside most often stays. Test images have no part in it.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from typing import Any

from csr.data.labels.csv_file import read_rows
from csr.explain.atlas.keep import COLUMNS

MIN_IMAGES, INSIDE = 5, 0.5
RULE = (
    "Atlas refinement without a doctor: a prototype is rejected if the best match lies outside of the "
    f"concept's boxes in more than {1 - INSIDE:.0%} of its (at least {MIN_IMAGES}) highest-scoring training "
    "images with boxes; each concept keeps its best prototype. Your own OUT/keep/NAME.csv is used instead."
)
Record = Mapping[str, Any]


def rejected(atlas: Record) -> set[tuple[str, int]]:
    """Return the prototypes that the rule rejects, as (concept, number).

    Args:
        atlas: atlas.json of `csr atlas --boxes_csv`.
    """
    found = set()
    for concept in atlas["concepts"]:
        inside = {
            p["prototype"]: p["similar"]["in_box"]
            for p in concept["prototypes"]
            if p["similar"]["with_boxes"] >= MIN_IMAGES
        }
        bad = [number for number, share in inside.items() if share < INSIDE]
        if len(bad) == len(concept["prototypes"]):
            bad.remove(max(bad, key=lambda number: inside[number]))
        found |= {(concept["name"], number) for number in bad}
    return found


def keep_text(keep_csv: str, atlas: Record) -> str:
    """Return keep.csv of an atlas with 0 in the rows that the rule rejects.

    Args:
        keep_csv: path of the atlas's own.
        atlas: its atlas.json.
    """
    gone = rejected(atlas)
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    rows = read_rows(keep_csv)
    next(rows)  # the header is COLUMNS: the atlas has just written it
    for _, cells in rows:
        concept, prototype, keep, *rest = cells
        table.writerow([concept, prototype, 0 if (concept, int(prototype)) in gone else keep, *rest])
    return text.getvalue()
