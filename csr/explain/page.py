"""An explanation as a picture and as a self-contained HTML page, without any outside address.

Letters: K concepts, T targets, H W pixels of the picture.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np

from csr.data.images.decode import decode_image
from csr.explain.explanation import Explanation, map_scales
from csr.explain.neighbours import Neighbour, Neighbours
from csr.model.contributions import NO_MEDIANS
from csr.model.sharing.origin import Origin
from csr.report.page import render
from csr.report.pictures import (
    TILE_PX,
    captioned,
    colour_ramp,
    column,
    data_address,
    framed,
    overlay,
    picture_of,
    row,
)
from csr.runtime.errors import InputError


def map_picture(
    image_HW3: np.ndarray,
    explanation: Explanation,
    k: int,
    *,
    scale: tuple[float, float],
    smooth: bool = True,
) -> np.ndarray:
    """Return the best prototype's map of a concept over the image, its highest cell framed, (H,W,3) uint8.

    Args:
        image_HW3: from `picture_of`.
        explanation: of this image.
        k: the concept.
        scale: cosines between which the map is coloured.
        smooth: see `csr.report.pictures.overlay`.
    """
    map_hw = explanation.map_KHW[k].numpy()
    shown = overlay(image_HW3, map_hw, low=scale[0], high=scale[1], frame=explanation.frame, smooth=smooth)
    x, y = explanation.peak(k)
    half_x, half_y = (side / 2 for side in explanation.cell)
    return framed(shown, (x - half_x, y - half_y, x + half_x, y + half_y))


def neighbour_picture(neighbour: Neighbour, *, show_ids: bool = False) -> tuple[np.ndarray | None, str]:
    """Return a training image with its region framed, (H,W,3) uint8 or None, and its caption.

    Args:
        neighbour: the region.
        show_ids: name the training image in the caption: its id is often a patient's.
    """
    name = f"{neighbour.image_id or neighbour.image.name}, " if show_ids else ""
    caption = f"{name}cosine {neighbour.similarity:.2f}"
    try:
        pixels = decode_image(neighbour.image, min_size=2 * TILE_PX).pixels
    except InputError:  # its message names a path of this machine, which a page may not carry away
        return None, f"{caption}: the file is gone or cannot be read"
    return framed(picture_of(pixels), neighbour.box), caption


def draw_sheet(
    image_HW3: np.ndarray,
    explanation: Explanation,
    *,
    concepts: Sequence[int],
    target: int,
    neighbours: Neighbours,
    show_ids: bool = False,
    origin: Origin,
) -> np.ndarray:
    """Return one picture: the image, then beside it each concept's map, the training region below, with
    captions that say what the concept adds to the diagnosis `target`, and where the numbers come from.
    """
    e, name = explanation, explanation.card.target_names[target]
    likely = e.probability_T.argsort(descending=True).tolist()[:4]
    lines = [f"{e.card.target_names[t]}: {float(e.probability_T[t]):.2f}" for t in likely]
    num = len(e.card.concept_names) - len(concepts)
    if num:
        lines.append(f"{num} other {_concepts(num)}: {e.rest(list(concepts), target=target):+.2f} to {name}")
    scales = map_scales(e, list(concepts))
    scale = captioned(colour_ramp(TILE_PX // 2, 16), [_legend(e), cells_text(e)])
    columns = [column([captioned(image_HW3, [*lines, *_origin_lines(origin)]), scale])]
    for k in concepts:
        best = int(e.best_K[k])
        word = "probability" if e.card.concept_calibration_K[k].is_probability else "score"
        said = "" if bool(e.active_K[k]) else ", not called"
        lines = [
            f"{e.card.concept_names[k]}: {float(e.share_TKM[target, k].sum()):+.2f} to {name}",
            f"{word} {float(e.concept_probability_K[k]):.2f}{said}",
            f"prototype {best}, cosine {float(e.score_KM[k, best]):.2f}",
            f"clear at {scales[k][0]:.2f}, brightest at {scales[k][1]:.2f}",
        ]
        tiles = [captioned(map_picture(image_HW3, e, k, scale=scales[k]), lines)]
        for neighbour in neighbours.get((k, best), [])[:1]:
            picture, caption = neighbour_picture(neighbour, show_ids=show_ids)
            if picture is not None:
                tiles.append(captioned(picture, ["training region behind it", caption, ""]))
        columns.append(column(tiles))
    return row(columns)


def _origin_lines(origin: Origin) -> list[str]:
    """Return the origin in lines as narrow as a picture; the font has 6 pixels a letter."""
    return textwrap.wrap(origin.line, TILE_PX // 6 - 1)


def _concepts(num: int) -> str:
    return "concept" if num == 1 else "concepts"


def cells_text(e: Explanation) -> str:
    """Return how coarse the maps are: what lies between two cells is drawn, not seen."""
    height, width = e.map_KHW.shape[1:]
    return f"map of {height} x {width} cells"


def _legend(e: Explanation) -> str:
    return " .. ".join(_scale_ends(e))


def _scale_ends(e: Explanation) -> tuple[str, str]:
    """Return what the clear and the brightest end of the colours mean."""
    return ("without the concept", "with it") if e.is_centred else ("middle cosine", "highest cosine")


def write_page(
    image_HW3: np.ndarray,
    explanation: Explanation,
    *,
    concepts: Sequence[int],
    target: int,
    neighbours: Neighbours,
    title: str,
    has_atlas: bool,
    show_ids: bool = False,
    origin: Origin,
) -> str:
    """Return the HTML of an explanation, with everything inside it.

    Args:
        image_HW3: from `picture_of`.
        explanation: of this image.
        concepts: to show with pictures, in this order; the table has all.
        target: the diagnosis that they are shown for.
        neighbours: training regions, may be empty.
        title: the image's name.
        has_atlas: whether an atlas was asked for training regions.
        show_ids: see `neighbour_picture`.
        origin: of the model and of this page.
    """
    e = explanation
    scales = map_scales(e, list(concepts))
    return render(
        "explanation.html",
        title=title,
        origin=origin.line,
        scale_ends=_scale_ends(e),
        novelty_note=None if e.seen is None else e.seen.note,
        notices=e.card.notices(),
        image=data_address(image_HW3),
        exactly_one=e.card.exactly_one,
        diagnoses=_diagnoses(e),
        doubt=e.doubt,
        ramp=data_address(colour_ramp(TILE_PX // 2, 16)),
        cells=cells_text(e),
        chosen={
            "name": e.card.target_names[target],
            "called": bool(e.present_T[target]),
            "base": float(e.base_T[target]),
            "logit": float(e.logit_T[target]),
        },
        concepts=[_concept(image_HW3, e, k, scales[k], neighbours, target, show_ids) for k in concepts],
        others=_others(e, concepts, target),
        centred=e.is_centred,
        no_medians=NO_MEDIANS,
        raw=_raw(e),
        has_atlas=has_atlas,
        diagnosis_names=e.card.target_names,
        shares=_shares(e),
    )


def _diagnoses(e: Explanation) -> list[dict[str, Any]]:
    return [
        {
            "name": e.card.target_names[t],
            "probability": float(e.probability_T[t]),
            "word": "" if e.card.target_calibration_T[t].is_probability else "score",
            "threshold": None if e.card.exactly_one else float(e.card.target_threshold_T[t]),
            "called": bool(e.present_T[t]),
        }
        for t in e.probability_T.argsort(descending=True).tolist()
    ]


def _concept(
    image_HW3: np.ndarray,
    e: Explanation,
    k: int,
    scale: tuple[float, float],
    neighbours: Neighbours,
    target: int,
    show_ids: bool,
) -> dict[str, Any]:
    best = int(e.best_K[k])
    regions = []
    for neighbour in neighbours.get((k, best), [])[:1]:
        picture, caption = neighbour_picture(neighbour, show_ids=show_ids)
        regions.append({"picture": None if picture is None else data_address(picture), "caption": caption})
    return {
        "name": e.card.concept_names[k],
        "picture": data_address(map_picture(image_HW3, e, k, scale=scale)),
        "cells": data_address(map_picture(image_HW3, e, k, scale=scale, smooth=False)),
        "probability": float(e.concept_probability_K[k]),
        "word": "probability" if e.card.concept_calibration_K[k].is_probability else "score",
        "called": bool(e.active_K[k]),
        "added": float(e.share_TKM[target, k].sum()),
        "scale": scale,
        "prototype": best,
        "score": float(e.score_KM[k, best]),
        "regions": regions,
        "shares": [
            {"name": name, "share": float(e.share_TKM[t, k].sum())}
            for t, name in enumerate(e.card.target_names)
        ],
    }


def _others(e: Explanation, concepts: Sequence[int], target: int) -> dict[str, Any]:
    """Return how many concepts have no picture, what they add together, and which of them are called."""
    left = [k for k in range(len(e.card.concept_names)) if k not in concepts]
    return {
        "number": len(left),
        "word": _concepts(len(left)),
        "together": e.rest(list(concepts), target=target),
        "called": [e.card.concept_names[k] for k in left if bool(e.active_K[k])],
    }


def _shares(e: Explanation) -> list[dict[str, Any]]:
    """Return rows of the table: an image without findings, each concept, their sum."""
    share_TK = e.share_TKM.sum(2)
    base = "an image without findings" if e.is_centred else "bias"
    rows = [{"name": base, "values_T": e.base_T.tolist(), "is_sum": False}]
    rows += [
        {"name": _marked(e, k), "values_T": share_TK[:, k].tolist(), "is_sum": False}
        for k in range(len(e.card.concept_names))
    ]
    total_T = share_TK.sum(1) + e.base_T
    return [*rows, {"name": "sum = logit", "values_T": total_T.tolist(), "is_sum": True}]


def _raw(e: Explanation) -> list[dict[str, Any]]:
    """Return rows of the details: best prototype, cosine, absent median and weights of each concept."""
    rows = []
    for k, best in enumerate(e.best_K.tolist()):
        if best < 0:
            continue
        rows.append(
            {
                "name": _marked(e, k),
                "prototype": best,
                "score": float(e.score_KM[k, best]),
                "usual": float(e.usual_KM[k, best]) if e.is_centred else None,
                "weights_T": e.weight_TKM[:, k, best].tolist(),
                "raw_T": e.raw_TK[:, k].tolist(),
            }
        )
    return rows


def _marked(e: Explanation, k: int) -> str:
    return f"{e.card.concept_names[k]}{' *' if bool(e.active_K[k]) else ''}"
