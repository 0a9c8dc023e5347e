"""The pages of an atlas: an index and one page for each concept. Plain HTML and CSS, no script, relative links.

Letters: K concepts, M prototypes, T targets, H W map.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import numpy as np

from csr.explain.atlas.layout import INDEX, KEEP, NUMBERS, page_name
from csr.explain.atlas.pictures import map_address
from csr.explain.atlas.regions import Place, Sight
from csr.report.charts import escaped

Record = dict[str, Any]
_FIRST_LOOKS = 60
_STYLE = """
:root { color-scheme: light dark; --page: #fff; --ink: #1b1e23; --soft: #5c6570; --line: #d9dde2;
  --link: #1f6fb2; --up: #1f6fb2; --down: #b3541e; --box: #00c2ff; --note: #fdf3e4; --edge: #c2571a; }
@media (prefers-color-scheme: dark) { :root { --page: #14171b; --ink: #e7eaee; --soft: #a3adb8;
  --line: #363c44; --link: #6cb6f0; --up: #7db8ee; --down: #f0a070; --note: #33291a; --edge: #f2a065; } }
* { box-sizing: border-box; }
body { background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; max-width: 84rem;
  margin: 1rem auto 4rem; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin: .5rem 0; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2rem 0 .4rem; overflow-wrap: anywhere; }
p, ul { max-width: 52rem; } a { color: var(--link); } .soft { color: var(--soft); }
a:focus-visible, input:focus-visible, summary:focus-visible, .wide:focus-visible {
  outline: 3px solid var(--link); outline-offset: 2px; }
nav { display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; border-bottom: 1px solid var(--line);
  padding: .4rem 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid var(--line); text-align: right;
  vertical-align: top; }
th:first-child, td:first-child, td.text, th.text { text-align: left; }
td.text { min-width: 14rem; max-width: 26rem; overflow-wrap: anywhere; }
td img { display: inline-block; height: 48px; max-width: 72px; object-fit: contain; vertical-align: middle; }
section { border-top: 2px solid var(--line); margin-top: 1.6rem; }
section h2 { margin-top: .8rem; }
.row { display: flex; flex-wrap: wrap; gap: .9rem; align-items: flex-start; }
figure { margin: .4rem 0; max-width: 228px; } figcaption { font-size: .82rem; overflow-wrap: anywhere; }
.pic { position: relative; line-height: 0; } .pic img { width: 100%; height: auto; display: block; }
.pic img.map { position: absolute; inset: 0; height: 100%; }
.pic i { position: absolute; border: 2px solid var(--box); box-shadow: 0 0 0 1px #0009; }
#maps:not(:checked) ~ main img.map, #frames:not(:checked) ~ main .pic i { display: none; }
label { margin: 0 1.2rem 0 .3rem; }
.up { color: var(--up); } .down { color: var(--down); }
.hint { background: var(--note); border-left: 4px solid var(--edge); padding: .15rem .6rem;
  margin: .3rem 0; max-width: 52rem; }
.dead { color: var(--soft); }
@media print { nav, label, input { display: none; } section { break-inside: avoid; } }
"""


def write_index(atlas: Record) -> str:
    """The first page: what to look at first, and all concepts."""
    rows = []
    for concept in atlas["concepts"]:
        prototypes = concept["prototypes"]
        best = sorted((p for p in prototypes if p["crop"]), key=lambda p: -p["wins"])[:6]
        crops = "".join(
            f'<a href="{page_name(concept["concept"])}#p{p["prototype"]}"><img loading="lazy" '
            f'src="{_address(p["crop"])}" alt="prototype {p["prototype"]}"></a> '
            for p in best
        )
        dropped = f", {len(concept['dropped'])} dropped" if concept["dropped"] else ""
        rows.append(
            [
                f'<a href="{page_name(concept["concept"])}">{escaped(concept["name"])}</a>',
                str(concept["images"]),
                _percent(concept["prevalence"]),
                f"{concept['alive']} of {len(prototypes)}{dropped}",
                str(sum(bool(_worth_a_look(p)) for p in prototypes)),
                crops,
            ]
        )
    heads = ["concept", "images with it", "share", "prototypes alive", "with hints", "most wins"]
    body = (
        f"<h1>Atlas of {escaped(atlas['model'])}</h1>"
        f'<p class="soft">{atlas["images"]} training images of {escaped(atlas["csv"])}; '
        f"{len(atlas['concepts'])} concepts, {atlas['num_prototypes']} prototypes each.</p>"
        "<p>Every prototype is shown with the training images that are nearest to it. Reject what is no "
        f'finding (a mark, a tube, an edge of the image): write 0 in the column <code>keep</code> of <a href="{KEEP}">'
        f"{KEEP}</a> and run <code>csr refine RUN --keep {KEEP}</code>. All numbers are in "
        f'<a href="{NUMBERS}">{NUMBERS}</a>.</p>'
        f"{_first_looks(atlas)}<h2>Concepts</h2>{_table(heads, rows, text=(5,))}"
    )
    return _page(f"Atlas of {atlas['model']}", body)


def _first_looks(atlas: Record) -> str:
    """Links to prototypes with hints; those that move a diagnosis the most come first."""
    flagged = [
        (p, concept) for concept in atlas["concepts"] for p in concept["prototypes"] if _worth_a_look(p)
    ]
    flagged.sort(key=lambda pair: -abs(_top_effect(pair[0])))
    if not flagged:
        return (
            "<h2>Look at these first</h2><p>No prototype gave rise to a hint; look at them all the same.</p>"
        )
    items = [
        f'<li><a href="{page_name(concept["concept"])}#p{p["prototype"]}">{escaped(concept["name"])}, prototype '
        f"{p['prototype']}</a>: {escaped('; '.join(_worth_a_look(p)))} "
        f'<span class="soft">({_effect(p)})</span></li>'
        for p, concept in flagged[:_FIRST_LOOKS]
    ]
    more = len(flagged) - len(items)
    rest = f'<p class="soft">and {more} more, on the pages of their concepts.</p>' if more else ""
    return (
        "<h2>Look at these first</h2><p>Numbers raised a doubt. Each may have a good reason: a heart is in the "
        f"same place in every image too.</p><ul>{''.join(items)}</ul>{rest}"
    )


def _worth_a_look(record: Record) -> list[str]:
    """Hints of a prototype that is alive; a dead one does little harm."""
    return record["hints"] if record["alive"] else []


def write_concept(
    atlas: Record,
    k: int,
    *,
    sights: Mapping[Place, Sight],
    position_of: Mapping[int, int],
    sizes: Mapping[str, tuple[int, int]],
) -> str:
    """The page of a concept.

    Args:
        atlas: all records.
        k: of the concept.
        sights: maps of nearest vectors.
        position_of: row of the label table -> position that `sights` counts in.
        sizes: of the pictures, pixels.
    """
    concept = atlas["concepts"][k]
    sections = []
    for record in concept["prototypes"]:
        places = [(k, record["prototype"], position_of[one["row"]]) for one in record["nearest"]]
        sections.append(_prototype(atlas, record, [sights[place] for place in places], sizes))
    dropped = ", ".join(map(str, concept["dropped"]))
    body = (
        f"{_links(atlas, k)}<h1>{escaped(concept['name'])}</h1>"
        f'<p class="soft">{concept["images"]} training images with it ({_percent(concept["prevalence"])}); '
        f"{concept['alive']} of {len(concept['prototypes'])} prototypes alive"
        f"{f'; dropped before: {dropped}' if dropped else ''}.</p>{_LEGEND}"
        '<input type="checkbox" id="maps" checked><label for="maps">maps</label>'
        '<input type="checkbox" id="frames" checked><label for="frames">regions</label>'
        f"<main>{_overview(concept)}{''.join(sections)}</main>{_links(atlas, k)}"
    )
    return _page(f"{concept['name']} - atlas of {atlas['model']}", body)


_LEGEND = """<details><summary>How to read this page</summary><ul>
<li>Pictures: training images with the concept whose local concept vectors are nearest to the prototype, most
 similar first. Frame: the region around the highest cell of the prototype's map. Colour: its map, one scale
 for each prototype.</li>
<li><b>wins</b>: training vectors of the concept that no other prototype is nearer to. <b>highest</b>: images
 with the concept (in brackets: all images) in which it has the concept's highest score. Neither: dead.</li>
<li><b>effect</b>: how far the logit of a diagnosis moves when the score rises by one standard deviation;
 <b>weight</b>: by 1.</li>
<li><b>attention in region</b>: how much of the local vector came from there. Where it is small, the vector
 speaks of another place than the frame.</li>
<li><b>most similar images</b>: those with the highest scores of all training images, with or without the
 concept. If they lack the concept or always look at one place, the prototype may be a shortcut.</li>
</ul></details>"""


def _links(atlas: Record, k: int) -> str:
    last = len(atlas["concepts"]) - 1
    parts = [f'<a href="{INDEX}">All concepts</a>']
    for place, word in ((k - 1, "Previous"), (k + 1, "Next")):
        if 0 <= place <= last:
            name = escaped(atlas["concepts"][place]["name"])
            rel = "prev" if place < k else "next"
            parts.append(f'<a rel="{rel}" href="{page_name(place)}">{word}: {name}</a>')
    return f'<nav aria-label="concepts">{"".join(parts)}</nav>'


def _overview(concept: Record) -> str:
    rows = []
    for p in concept["prototypes"]:
        crop = "" if p["crop"] is None else f'<img loading="lazy" src="{_address(p["crop"])}" alt="">'
        score = p["score"]
        rows.append(
            [
                f'<a href="#p{p["prototype"]}">{crop} prototype {p["prototype"]}</a>',
                str(p["wins"]),
                f"{p['max_present']} ({p['max_all']})",
                f"{score['mean']:.2f} &plusmn; {score['sd']:.2f}",
                f"{_number(score['mean_present'])} / {_number(score['mean_absent'])}",
                _effect(p),
                escaped("; ".join(p["hints"])),
            ]
        )
    heads = ["prototype", "wins", "highest", "score", "with / without", "largest effect", "hints"]
    return _table(heads, rows, text=(6,))


def _prototype(
    atlas: Record, record: Record, sights: Sequence[Sight], sizes: Mapping[str, tuple[int, int]]
) -> str:
    m, figures = record["prototype"], []
    if sights:
        low, high = _scale(sights)
        figures = [
            _figure(one, map_address(sight.map_HW, low=low, high=high), sizes[one["image"]])
            for one, sight in zip(record["nearest"], sights, strict=True)
        ]
    state = "alive" if record["alive"] else '<span class="dead">dead</span>'
    return (
        f'<section id="p{m}"><h2>Prototype {m} <span class="soft">{state}, {record["wins"]} wins</span></h2>'
        f"{''.join(f'<p class=hint>{escaped(hint)}</p>' for hint in record['hints'])}"
        f'<div class="row">{"".join(figures) or "<p>No training image has this concept.</p>"}</div>'
        f'<div class="row">{_weights(record)}{_similar(atlas, record)}</div></section>'
    )


def _scale(sights: Sequence[Sight]) -> tuple[float, float]:
    """One colour scale for a prototype's pictures: median to maximum of all its maps."""
    values = np.concatenate([sight.map_HW.ravel() for sight in sights]).astype(np.float32)
    return float(np.median(values)), float(values.max())


def _figure(one: Record, map_source: str, size: tuple[int, int]) -> str:
    left, top, right, bottom = (100 * value for value in one["box"])
    frame = f"left:{left:.2f}%;top:{top:.2f}%;width:{right - left:.2f}%;height:{bottom - top:.2f}%"
    inside = {True: ", in a box", False: ", outside of the boxes", None: ""}[one["in_box"]]
    targets = escaped(", ".join(one["targets"])) or "no diagnosis"
    return (
        f'<figure><div class="pic"><img loading="lazy" width="{size[0]}" height="{size[1]}" '
        f'src="{_address(one["image"])}" alt="{escaped(one["image_id"])}"><img class="map" src="{map_source}" '
        f'alt=""><i style="{frame}"></i></div><figcaption>{escaped(one["image_id"])}'
        f"<br>vector {one['similarity']:.3f}, score {one['score']:.3f}{inside}"
        f"<br>attention in region {one['cam_share']:.0%}<br>"
        f'<span class="soft">{targets}</span></figcaption></figure>'
    )


def _weights(record: Record) -> str:
    rows = [
        [escaped(name), _signed(value["effect"]), _signed(value["weight"])]
        for name, value in record["weights"].items()
    ]
    return _table(["diagnosis", "effect", "weight"], rows)


def _similar(atlas: Record, record: Record) -> str:
    similar = record["similar"]
    prevalence = atlas["concepts"][record["concept"]]["prevalence"]
    rows = [["the concept", _percent(similar["concept"]), "", _percent(prevalence)]]
    rows += [
        [
            escaped(name),
            _percent(value),
            _percent(similar["predicted"][name]),
            _percent(atlas["target_prevalence"][name]),
        ]
        for name, value in similar["targets"].items()
    ]
    x, y = similar["peak_mean"]
    place = f"Highest cell on average at {x:.2f}, {y:.2f}, scattered by {similar['peak_spread']:.2f}"
    boxed = (
        f"; in the concept's boxes in {similar['in_box']:.0%} of {similar['with_boxes']}"
        if similar["with_boxes"]
        else ""
    )
    heads = [
        f"of the {similar['images']} most similar images",
        "have it",
        "as the concept predicts",
        "of all images",
    ]
    return f'<div>{_table(heads, rows)}<p class="soft">{place}{boxed}.</p></div>'


def _top_effect(record: Record) -> float:
    return float(record["weights"][record["top_target"]]["effect"])


def _effect(record: Record) -> str:
    return f"{_top_effect(record):+.2f} {escaped(record['top_target'])}"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], *, text: Sequence[int] = ()) -> str:
    """Cells of `rows` are HTML; columns in `text` are set as text."""
    kind = [' class="text"' if i in text else "" for i in range(len(heads))]
    head = "".join(f"<th{kind[i]}>{escaped(name)}</th>" for i, name in enumerate(heads))
    body = "".join(
        f"<tr>{''.join(f'<td{kind[i]}>{cell}</td>' for i, cell in enumerate(row))}</tr>" for row in rows
    )
    # a box that scrolls must be reachable without a mouse
    return f'<div class="wide" tabindex="0"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _signed(value: float) -> str:
    return f'<span class="{"up" if value >= 0 else "down"}">{value:+.3f}</span>'


def _number(value: float | None) -> str:
    return "&ndash;" if value is None else f"{value:.2f}"


def _percent(value: float | None) -> str:
    return "&ndash;" if value is None else f"{value:.0%}"


def _address(name: str) -> str:
    return quote(name)


def _page(title: str, body: str) -> str:
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escaped(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
    )
