"""An explanation as a picture and as a self-contained HTML page, without any outside address.

Letters: K concepts, T targets, H W pixels of the picture.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence

import numpy as np

from csr.data.images.decode import decode_image
from csr.explain.explanation import Explanation, map_range
from csr.explain.neighbours import Neighbour, Neighbours
from csr.model.interaction import DOCTOR_GAP
from csr.report.pictures import (
    TILE_PX,
    captioned,
    column,
    framed,
    heat_colours,
    overlay,
    picture_of,
    png_bytes,
    row,
)
from csr.runtime.errors import InputError

_NO_ATLAS = "<p>To see the training regions behind the prototypes give <code>--atlas DIR</code>.</p>"
_STYLE = """
:root { color-scheme: light dark; --line: #8886; --good: #2a6fb0; --bad: #b3541e; }
body { font: 15px/1.45 system-ui, sans-serif; max-width: 72rem; margin: 1.5rem auto; padding: 0 1rem; }
h1 { font-size: 1.3rem; overflow-wrap: anywhere; } h2 { font-size: 1.1rem; margin-top: 2rem; }
table { border-collapse: collapse; } .wide { overflow-x: auto; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid var(--line); text-align: right; }
th:first-child, td:first-child { text-align: left; }
tr.sum td { border-top: 2px solid var(--line); font-weight: 600; }
figure { display: inline-block; margin: 0 .8rem .8rem 0; vertical-align: top; max-width: 320px; }
figure { overflow-x: auto; } figure img { display: block; max-width: 100%; }
figcaption { font-size: .85rem; overflow-wrap: anywhere; }
.bar { display: inline-block; height: .7rem; background: var(--good); vertical-align: middle; }
.up { color: var(--good); } .down { color: var(--bad); }
.note { border-left: 4px solid var(--bad); padding-left: .7rem; }
@media (prefers-color-scheme: dark) { :root { --good: #7db8ee; --bad: #f0a070; } }
"""


def map_picture(
    image_HW3: np.ndarray, explanation: Explanation, k: int, *, scale: tuple[float, float]
) -> np.ndarray:
    """The best prototype's map of a concept over the image, its highest cell framed."""
    map_hw = explanation.map_KHW[k].numpy()
    shown = overlay(image_HW3, map_hw, low=scale[0], high=scale[1])
    x, y = explanation.peak(k)
    half_x, half_y = 0.5 / map_hw.shape[1], 0.5 / map_hw.shape[0]
    return framed(shown, (x - half_x, y - half_y, x + half_x, y + half_y))


def neighbour_picture(neighbour: Neighbour) -> tuple[np.ndarray | None, str]:
    """A training image with its region framed, or None, and what to say about it."""
    told = f"{neighbour.image_id or neighbour.image.name}, cosine {neighbour.similarity:.2f}"
    try:
        pixels = decode_image(neighbour.image, min_size=2 * TILE_PX).pixels
    except InputError:  # its message names a path of this machine, which a page may not carry away
        return None, f"{told}: the file is gone or cannot be read"
    return framed(picture_of(pixels), neighbour.box), told


def draw_sheet(
    image_HW3: np.ndarray, explanation: Explanation, *, concepts: Sequence[int], neighbours: Neighbours
) -> np.ndarray:
    """One picture: the image, then beside it each concept's map, the training region below, with captions."""
    e = explanation
    likely = e.probability_T.argsort(descending=True).tolist()[:4]
    said = [f"{e.card.target_names[t]}: {float(e.probability_T[t]):.2f}" for t in likely]
    low, high = map_range(e, list(concepts))
    scale = captioned(_ramp(), [f"cosine {low:.2f} to {high:.2f}"])
    columns = [column([captioned(image_HW3, said), scale])]
    for k in concepts:
        best = int(e.best_K[k])
        lines = [
            f"{e.card.concept_names[k]}: probability {float(e.concept_probability_K[k]):.2f}",
            f"prototype {best}, cosine {float(e.score_KM[k, best]):.2f}",
            _largest_share(e, k),
        ]
        tiles = [captioned(map_picture(image_HW3, e, k, scale=(low, high)), lines)]
        for neighbour in neighbours.get((k, best), [])[:1]:
            picture, told = neighbour_picture(neighbour)
            if picture is not None:
                tiles.append(captioned(picture, ["training region behind it", told, ""]))
        columns.append(column(tiles))
    return row(columns)


def _largest_share(e: Explanation, k: int) -> str:
    share_T = e.share_TKM[:, k].sum(1)
    t = int(share_T.abs().argmax())
    return f"{float(share_T[t]):+.2f} to {e.card.target_names[t]}"


def _ramp() -> np.ndarray:
    """The colour scale, as a picture of its own."""
    return heat_colours(np.repeat(np.linspace(0, 1, TILE_PX // 2)[None], 16, axis=0))


def write_page(
    image_HW3: np.ndarray,
    explanation: Explanation,
    *,
    concepts: Sequence[int],
    neighbours: Neighbours,
    title: str,
    has_atlas: bool,
) -> str:
    """HTML with everything inside it.

    Args:
        image_HW3: from `picture_of`.
        explanation: of this image.
        concepts: to show with pictures; the table has all.
        neighbours: training regions, may be empty.
        title: the image's name.
        has_atlas: whether an atlas was asked for training regions.
    """
    e = explanation
    scale = map_range(e, list(concepts))
    parts = [
        f"<h1>{_text(title)}</h1>",
        _figure(image_HW3, "the image"),
        _diagnoses(e),
        _doctor(e),
        "<h2>Concepts</h2>",
        _concepts_note(e, scale),
        *(_concept(image_HW3, e, k, scale, neighbours) for k in concepts),
        "" if has_atlas else _NO_ATLAS,
        "<h2>Shares of every logit</h2>",
        _shares(e),
    ]
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{_text(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style></head>\n<body>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


def _diagnoses(e: Explanation) -> str:
    rows = [
        f"<tr><td>{_text(e.card.target_names[t])}</td><td>{float(e.probability_T[t]):.3f}</td>"
        '<td style="text-align:left">'
        f'<span class="bar" style="width:{100 * float(e.probability_T[t]):.0f}px"></span></td>'
        f"<td>{float(e.card.target_threshold_T[t]):.3f}</td>"
        f"<td>{'yes' if bool(e.present_T[t]) else ''}</td></tr>"
        for t in e.probability_T.argsort(descending=True).tolist()
    ]
    rule = "the likeliest" if e.card.task_loss == "ce" else "called"
    return (
        '<h2>Diagnoses</h2><div class="wide"><table><tr><th>diagnosis</th><th>probability</th><th></th>'
        f"<th>threshold</th><th>{rule}</th></tr>{''.join(rows)}</table></div>"
    )


def _doctor(e: Explanation) -> str:
    if e.gap >= DOCTOR_GAP:
        return ""
    return (
        f'<p class="note">The two most likely diagnoses differ by {e.gap:.2f}, less than {DOCTOR_GAP}: '
        "a doctor should decide.</p>"
    )


def _concepts_note(e: Explanation, scale: tuple[float, float]) -> str:
    none = (
        ""
        if bool(e.active_K.any())
        else ("No concept reaches its threshold: the one with the largest share of a logit is shown. ")
    )
    return (
        f"<p>{none}Maps show the cosine between the image and the concept's best prototype; one colour scale "
        f"for all, clear at {scale[0]:.2f}, brightest at {scale[1]:.2f}. The frame is the highest cell: its "
        "cosine is the score that the diagnosis is computed from.</p>"
    )


def _concept(
    image_HW3: np.ndarray, e: Explanation, k: int, scale: tuple[float, float], neighbours: Neighbours
) -> str:
    best = int(e.best_K[k])
    said = (
        f"<b>{_text(e.card.concept_names[k])}</b>, probability {float(e.concept_probability_K[k]):.2f}<br>"
        f"prototype {best}, cosine {float(e.score_KM[k, best]):.2f}"
    )
    figures = [_figure(map_picture(image_HW3, e, k, scale=scale), said, alt=e.card.concept_names[k])]
    for neighbour in neighbours.get((k, best), [])[:1]:
        picture, told = neighbour_picture(neighbour)
        caption = f"training region behind the prototype: {_text(told)}"
        empty = f"<figure><figcaption>{caption}</figcaption></figure>"
        figures.append(empty if picture is None else _figure(picture, caption))
    cells = "".join(
        f"<tr><td>{_text(name)}</td>{_signed(float(e.share_TKM[t, k].sum()))}"
        + ("" if e.rejected_TK is None else _signed(float(e.rejected_TK[t, k])))
        + "</tr>"
        for t, name in enumerate(e.card.target_names)
    )
    moved = "" if e.rejected_TK is None else "<th>if rejected</th>"
    table = f"<table><tr><th>diagnosis</th><th>share of logit</th>{moved}</tr>{cells}</table>"
    return f"<section>{''.join(figures)}<figure>{table}</figure></section>"


def _shares(e: Explanation) -> str:
    head = "".join(f"<th>{_text(name)}</th>" for name in e.card.target_names)
    share_TK = e.share_TKM.sum(2)
    body = "".join(
        f"<tr><td>{_text(name)}{' *' if bool(e.active_K[k]) else ''}</td>"
        + "".join(_signed(value) for value in share_TK[:, k].tolist())
        + "</tr>"
        for k, name in enumerate(e.card.concept_names)
    )
    bias = "<tr><td>bias</td>" + "".join(_signed(v) for v in e.bias_T.tolist()) + "</tr>"
    total_T = share_TK.sum(1) + e.bias_T.double()
    total = '<tr class="sum"><td>sum = logit</td>' + "".join(_signed(v) for v in total_T.tolist()) + "</tr>"
    return (
        "<p>weight x cosine, summed over each concept's prototypes. * active concept.</p>"
        f'<div class="wide"><table><tr><th>concept</th>{head}</tr>{body}{bias}{total}</table></div>'
    )


def _signed(value: float) -> str:
    return f'<td class="{"up" if value >= 0 else "down"}">{value:+.3f}</td>'


def _figure(image_HW3: np.ndarray, caption: str, *, alt: str = "") -> str:
    """`caption` is HTML, `alt` is text."""
    address = "data:image/png;base64," + base64.b64encode(png_bytes(image_HW3)).decode()
    return f'<figure><img src="{address}" alt="{_text(alt)}"><figcaption>{caption}</figcaption></figure>'


def _text(value: str) -> str:
    # file names may hold bytes that are no text
    return html.escape(value.encode("utf-8", "backslashreplace").decode())
