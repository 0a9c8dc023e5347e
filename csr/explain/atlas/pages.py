"""The pages of an atlas: an index and one page for each concept; relative links, one script of their own.

Letters: K concepts, M prototypes, T targets, H W map.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from csr.explain.atlas.hints import place_words
from csr.explain.atlas.keep import page_table
from csr.explain.atlas.layout import INDEX, KEEP, NUMBERS, page_name
from csr.explain.atlas.pictures import map_address
from csr.explain.atlas.regions import Place, Sight
from csr.report.page import number, percent, render, script_hash
from csr.report.pictures import colour_ramp, data_address

Record = dict[str, Any]
_FIRST_LOOKS, _MOST_WINS = 5, 6
SCRIPT = "atlas/keep.js"
_INSIDE = {True: ", in a box", False: ", outside of the boxes", None: ""}


def write_index(atlas: Record) -> str:
    """Return the first page: what to look at first, and all concepts."""
    first = _first_looks(atlas)
    return render(
        "atlas/index.html",
        title=f"Atlas of {atlas['model']}",
        atlas=atlas,
        numbers=NUMBERS,
        table=page_table(atlas),
        index=None,
        **_common(atlas),
        first=first[:_FIRST_LOOKS],
        more=max(0, len(first) - _FIRST_LOOKS),
        concepts=[_summary(concept) for concept in atlas["concepts"]],
    )


def _common(atlas: Record) -> Record:
    """Return what every page needs: the origin, the script that may run, and a name for its decisions."""
    vectors = [p["vector"] for concept in atlas["concepts"] for p in concept["prototypes"]]
    return {
        "keep": KEEP,
        "origin": atlas["origin"],
        "script_hash": script_hash(SCRIPT),
        "atlas_id": hashlib.sha256(" ".join(vectors).encode()).hexdigest()[:16],
        "has_boxes": atlas["has_boxes"],
    }


def _summary(concept: Record) -> Record:
    """Return the row of a concept in the index."""
    prototypes = concept["prototypes"]
    best = sorted((p for p in prototypes if p["crop"]), key=lambda p: -p["wins"])
    dropped = f", {len(concept['dropped'])} dropped" if concept["dropped"] else ""
    return {
        "name": concept["name"],
        "page": page_name(concept["concept"]),
        "images": concept["images"],
        "prevalence": concept["prevalence"],
        "alive": f"{concept['alive']} of {len(prototypes)}{dropped}",
        "with_hints": sum(bool(_worth_a_look(p)) for p in prototypes),
        "best": best[:_MOST_WINS],
        "others": len(prototypes) - len(best[:_MOST_WINS]),
    }


def _first_looks(atlas: Record) -> list[Record]:
    """Return prototypes with hints; those that move a diagnosis the most come first."""
    flagged = [
        (p, concept) for concept in atlas["concepts"] for p in concept["prototypes"] if _worth_a_look(p)
    ]
    flagged.sort(key=lambda pair: -_top(pair[0])["spread"])
    return [
        {
            "page": page_name(concept["concept"]),
            "concept": concept["name"],
            "number": concept["concept"],
            "prototype": p["prototype"],
            "hints": _worth_a_look(p),
            "effect": _effect(p),
        }
        for p, concept in flagged
    ]


def _worth_a_look(record: Record) -> list[str]:
    """Return hints of a prototype that is alive; a dead one does little harm."""
    return record["hints"] if record["alive"] else []


def write_concept(
    atlas: Record,
    k: int,
    *,
    sights: Mapping[Place, Sight],
    position_of: Mapping[int, int],
    sizes: Mapping[str, tuple[int, int]],
) -> str:
    """Return the page of a concept.

    Args:
        atlas: all records.
        k: of the concept.
        sights: maps of nearest vectors.
        position_of: row of the label table -> position that `sights` counts in.
        sizes: of the pictures, (width, height), pixels.
    """
    concept = atlas["concepts"][k]
    prototypes = []
    for record in concept["prototypes"]:
        places = [(k, record["prototype"], position_of[one["row"]]) for one in record["nearest"]]
        prototypes.append(_prototype(atlas, record, [sights[place] for place in places], sizes))
    return render(
        "atlas/concept.html",
        title=f"{concept['name']} - atlas of {atlas['model']}",
        index=INDEX,
        table=None,
        **_common(atlas),
        neighbours=_links(atlas, k),
        concept=concept,
        prototypes=prototypes,
        effect_from=atlas["effect_from"],
        ramp=data_address(colour_ramp(120, 12)),
    )


def _links(atlas: Record, k: int) -> list[Record]:
    """Return the links to the concepts before and after."""
    words = ((k - 1, "Previous", "prev"), (k + 1, "Next", "next"))
    return [
        {"rel": rel, "word": word, "page": page_name(place), "name": atlas["concepts"][place]["name"]}
        for place, word, rel in words
        if 0 <= place < len(atlas["concepts"])
    ]


def _prototype(
    atlas: Record, record: Record, sights: Sequence[Sight], sizes: Mapping[str, tuple[int, int]]
) -> Record:
    """Return a prototype's record with what its section shows beside it."""
    figures = []
    if sights:
        low, high = record["map_scale"] or _scale(sights)
        figures = [
            _figure(one, map_address(sight.map_HW, low=low, high=high), sizes[one["image"]])
            for one, sight in zip(record["nearest"], sights, strict=True)
        ]
    heads, rows, place = _similar(atlas, record)
    return {
        **record,
        "figures": figures,
        "map_cells": _cells(sights),
        "largest_effect": _effect(record),
        "similar_heads": heads,
        "similar_rows": rows,
        "similar_place": place,
    }


def _cells(sights: Sequence[Sight]) -> str:
    return "map of {} x {} cells".format(*sights[0].map_HW.shape) if sights else ""


def _scale(sights: Sequence[Sight]) -> tuple[float, float]:
    """Return one colour scale for a prototype's pictures: median to maximum of all its maps."""
    values = np.concatenate([sight.map_HW.ravel() for sight in sights]).astype(np.float32)
    return float(np.median(values)), float(values.max())


def _figure(one: Record, map_source: str, size: tuple[int, int]) -> Record:
    inside = _INSIDE[one["in_box"]] + (", in the black beside the image" if one["in_black"] else "")
    places: Record = {"frame": _place(one["box"]), "map_place": _place(one["frame"])}
    places["known"] = [_place(box) for box in one["boxes"]]
    return {**one, "map": map_source, "size": size, **places, "inside": inside}


def _place(box: Sequence[float]) -> str:
    """Return where a box, fractions of a picture, lies on it, as a style."""
    left, top, right, bottom = (100 * value for value in box)
    return f"left:{left:.2f}%;top:{top:.2f}%;width:{right - left:.2f}%;height:{bottom - top:.2f}%"


def _similar(atlas: Record, record: Record) -> tuple[list[str], list[list[str]], str]:
    """Return the table of a prototype's most similar images, (heads, rows), and where they are alike."""
    similar = record["similar"]
    prevalence = atlas["concepts"][record["concept"]]["prevalence"]
    rows = [["the concept", percent(similar["concept"]), "", percent(prevalence)]]
    for name, value in similar["targets"].items():
        predicted, of_all = similar["predicted"][name], atlas["target_prevalence"][name]
        rows.append([name, percent(value), percent(predicted), percent(of_all)])
    x, y = similar["peak_mean"]
    scatter = f"scattered by {similar['peak_spread']:.0%} of the image's side"
    place = f"Highest cell on average {place_words(x, y)}, {scatter}"
    if similar["with_boxes"]:
        place += f"; in the concept's boxes in {similar['in_box']:.0%} of {similar['with_boxes']}"
    first = f"of the {similar['images']} most similar images"
    return [first, "have it", "as the concept predicts", "of all images"], rows, place


def _top(record: Record) -> Record:
    return dict(record["weights"][record["top_target"]])


def _effect(record: Record) -> str:
    top = _top(record)
    return f"{number(top['effect'], 2, signed=True)} {record['top_target']}, spread {top['spread']:.2f}"
