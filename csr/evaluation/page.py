"""The evaluation as one HTML page that carries everything inside it and reads well in light and dark."""

from __future__ import annotations

from typing import Any

from csr.model.interaction import DOCTOR_GAP
from csr.report import charts
from csr.report.charts import Mark, escaped
from csr.report.page import page, table

Results = dict[str, Any]
_HEADS = {
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "f1": "F1",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "brier": "Brier",
    "ece": "ECE",
}
_POINTS = {
    "cam_hit": "CAM hits",
    "similarity_hit": "similarity hits",
    "centre_hit": "centre hits",
    "chance": "chance",
    "reachable": "reachable",
    "cam_iou": "CAM IoU",
    "similarity_iou": "similarity IoU",
}
_COUNTS = ("edited", "decisions", "right_before", "right_after", "fixed", "broken")


def write_report(results: Results) -> str:
    """HTML of everything that `csr.evaluation.measure` returns."""
    sections = {
        "Diagnoses": _labels(results["targets"], "diagnosis"),
        "Concepts": _labels(results["concepts"], "concept"),
        "Calibration": _calibration(results),
        "Where it looks": _localisation(results["localisation"]),
        "Prototypes": _prototypes(results["prototypes"]),
        "Subgroups": _groups(results),
        "Simulated doctor": _simulation(results["simulation"]),
        "How this was measured": _method(results),
    }
    below = f"{_notices(results)}{_tiles(results)}"
    return page(f"Evaluation of {results['model']}", sections, above=_facts(results), below=below)


def _facts(results: Results) -> str:
    data = results["data"]
    facts = [f"{data['images']} images of {data['csv']}"]
    if results["checkpoint"]:
        facts.append(f"checkpoint {results['checkpoint']}")
    facts.append(f"readers merged by '{data['reader_merge']}'")
    if data["boxes_csv"]:
        facts.append(f"boxes of {data['boxes_csv']}")
    return f'<p class="soft">{escaped(", ".join(facts))}</p>'


def _notices(results: Results) -> str:
    return "".join(f'<p class="note">{escaped(line)}</p>' for line in results["notices"])


def _tiles(results: Results) -> str:
    """The numbers that one looks for first."""
    tiles = [
        ("AUROC of diagnoses, macro", results["targets"]["macro"]["auroc"]),
        ("F1 of diagnoses, macro", results["targets"]["macro"]["f1"]),
        ("AUROC of concepts, macro", results["concepts"]["macro"]["auroc"]),
    ]
    if results["localisation"]:
        tiles.append(("pointing game, similarity", results["localisation"]["micro"]["similarity_hit"]))
    body = [f"<div><b>{_number(s['value'])}</b><span>{name} {_range(s)}</span></div>" for name, s in tiles]
    alive = results["prototypes"]
    body.append(f"<div><b>{alive['alive']}/{alive['total']}</b><span>prototypes alive</span></div>")
    return f'<div class="tiles">{"".join(body)}</div>'


def _labels(scores: Results, noun: str) -> str:
    rows = [(name, [_mark(row["auroc"], name="AUROC")]) for name, row in scores["labels"].items()]
    rows.append(("macro", [_mark(scores["macro"]["auroc"], name="AUROC")]))
    chart = charts.dot_plot(rows, title=f"AUROC of every {noun} with 95 % intervals", reference=0.5)
    body = [
        [_name(name), str(row["n"]), str(row["positives"]), _number(row["threshold"])]
        + [_cell(row[score]) for score in _HEADS]
        for name, row in scores["labels"].items()
    ]
    ends = [
        [kind, "", "", ""] + [_cell(scores[kind][score]) for score in _HEADS] for kind in ("macro", "micro")
    ]
    heads = [noun, "images", "positive", "threshold", *_HEADS.values()]
    return f"<h3>AUROC</h3>{chart}{table(heads, body, ends=ends)}"


def _calibration(results: Results) -> str:
    found = results["reliability"]
    pooled = [
        charts.reliability_plot(found[kind]["pooled"], title=f"all {name}")
        for kind, name in (("targets", "diagnoses"), ("concepts", "concepts"))
    ]
    each = [
        charts.reliability_plot(bins, title=name)
        for kind in ("targets", "concepts")
        for name, bins in found[kind]["labels"].items()
    ]
    return (
        "<p>Share of positive images over the predicted probability, in ten bins; larger discs hold "
        "more images. On the dashed line a probability means what it says. Training that weights rare "
        "labels up makes probabilities too high without harming the ranking.</p>"
        f'<div class="row">{"".join(pooled)}</div><details><summary>Every label</summary>'
        f'<div class="row">{"".join(each)}</div></details>'
    )


def _localisation(found: Results | None) -> str:
    if found is None:
        return ""
    if not found["n"]:
        return "<p>No box belongs to a concept that is labelled present.</p>"
    rows = [*found["labels"].items(), ("all pairs", found["micro"])]
    marks = [
        (
            name,
            [
                _mark(row["cam_hit"], name="CAM"),
                _mark(row["similarity_hit"], series=1, name="similarity map"),
                Mark(row["chance"]["value"], series=2, name="chance"),
                Mark(row["centre_hit"]["value"], series=3, name="image centre"),
            ],
        )
        for name, row in rows
    ]
    key = charts.legend(
        [(0, "CAM"), (1, "similarity map"), (2, "chance (area of the boxes)"), (3, "image centre")]
    )
    body = [
        [_name(name), str(row["n"])] + [_cell(row[score]) for score in _POINTS]
        for name, row in found["labels"].items()
    ]
    ends = [
        [name, str(found["n"]) if kind == "micro" else ""] + [_cell(found[kind][score]) for score in _POINTS]
        for kind, name in (("macro", "mean of concepts"), ("micro", "all pairs"))
    ]
    left_out = found["left_out"]
    more = f" {left_out} pairs are left out: their concept is not labelled present." if left_out else ""
    return (
        "<p>Pointing game: how often the highest cell of a concept's map lies in one of the concept's "
        "boxes. A pair is an image and a concept it has boxes of; similarity maps are those of the "
        "best prototype. Reachable: pairs whose boxes hold the centre of any cell; no map can hit the "
        "others. IoU: overlap of the boxes with the map cut half-way between its lowest and highest "
        f"value; of the whole image it is the share in the column 'chance'.{more}</p>"
        f"<h3>Pointing game</h3>{key}{charts.dot_plot(marks, title='Pointing game hit rates')}"
        f"{table(['concept', 'pairs', *_POINTS.values()], body, ends=ends)}"
    )


def _prototypes(alive: Results) -> str:
    body = []
    for name, row in alive["labels"].items():
        wins = sorted(row["wins"], reverse=True)
        top = f"{max(wins) / row['images']:.2f}" if row["images"] else "-"
        body.append([_name(name), str(row["images"]), f"{row['alive']} of {row['total']}", top])
    ends = [["all", "", f"{alive['alive']} of {alive['total']}", ""]]
    return (
        "<p>A prototype is alive if it has its concept's highest score in at least one image with the "
        "concept. The last column is the share of those images that one prototype wins.</p>"
        + table(["concept", "images", "alive", "largest share"], body, ends=ends)
    )


def _groups(results: Results) -> str:
    groups = results["groups"]
    if groups is None:
        return ""
    parts = [f"<p>By the column '{escaped(results['data']['group_by'])}' of the label table.</p>"]
    for kind, noun in (("targets", "diagnoses"), ("concepts", "concepts")):
        everyone = [("all images", results)] + list(groups.items())
        marks = [(name, [_mark(scores[kind]["macro"]["auroc"], name="AUROC")]) for name, scores in everyone]
        body = [
            [_name(name), str(scores["images"] if "images" in scores else results["data"]["images"])]
            + [_cell(scores[kind]["macro"][score]) for score in _HEADS]
            for name, scores in everyone
        ]
        chart = charts.dot_plot(marks, title=f"Macro AUROC of {noun} by group", reference=0.5)
        heads = ["group", "images", *(f"{head}, macro" for head in _HEADS.values())]
        parts.append(f"<h3>Macro AUROC of {noun}</h3>{chart}{table(heads, body)}")
    parts.append(
        '<p class="soft">A macro mean leaves out labels that a group has one class of: compare groups label '
        "by label in evaluation.csv where they are small.</p>"
    )
    return "".join(parts)


def _simulation(plays: Results | None) -> str:
    if plays is None:
        return ""
    bars, body = [], []
    for play, subsets in plays.items():
        for subset, row in subsets.items():
            name = f"{play} ({subset})"
            bars.append((name, row["fixed"], row["broken"]))
            images = f"{row['images_fixed']} / {row['images_broken']}"
            counts = [str(row[count]) for count in ("images", *_COUNTS)]
            body.append([_name(name), *counts, _cell(row["net"], signed=True), images])
    heads = [
        "corrections",
        "images",
        "edited",
        "decisions",
        "right before",
        "right after",
        "fixed",
        "broken",
        "net share",
        "images fixed / broken",
    ]
    return (
        "<p>A doctor is played from labels and boxes: rejects concepts that the model called and the "
        "labels deny, confirms those it missed, draws the boxes as regions to look at. A decision is "
        "one diagnosis of one image; fixed: wrong before and right after; broken: right before and "
        "wrong after. 'zero' (the paper) sets rejected concepts to 0 and multiplies similarities "
        "outside of the boxes; 'medians' takes both to what images without the concept have, and raises "
        "confirmed ones to what images with it have. Doubtful: "
        f"the two most likely diagnoses differ by less than {DOCTOR_GAP}. This doctor knows the "
        "labels and makes no mistakes.</p>"
        f"{charts.balance_plot(bars, title='Decisions fixed and broken')}{table(heads, body)}"
    )


def _method(results: Results) -> str:
    options = results["options"]
    intervals = (
        f"Intervals: 95 %, percentiles of {options['bootstrap']} resamples of the images (seed "
        f"{options['seed']}); the same resamples for every number. None where fewer than half of the "
        "resamples have a value."
        if options["bootstrap"]
        else "No intervals were asked for."
    )
    return (
        f"<p>{intervals}</p><p>Thresholds come with the model and are never chosen on these images. "
        "Labels that are not annotated are left out; a label that readers disagree on counts as "
        "positive from one half, and as the fraction it is in Brier score and ECE. Macro: mean over "
        "labels that have a value; micro: all image-label pairs as one.</p>"
    )


def _mark(score: dict[str, float | None], *, series: int = 0, name: str = "") -> Mark:
    return Mark(score["value"], score["low"], score["high"], series, name)


def _name(text: str) -> str:
    return escaped(text)


def _number(value: float | None, *, signed: bool = False) -> str:
    return "&ndash;" if value is None else f"{value:+.3f}" if signed else f"{value:.3f}"


def _range(score: dict[str, float | None]) -> str:
    return (
        ""
        if score["low"] is None or score["high"] is None
        else f"({score['low']:.3f} to {score['high']:.3f})"
    )


def _cell(score: dict[str, float | None], *, signed: bool = False) -> str:
    if score["low"] is None:
        return _number(score["value"], signed=signed)
    low, high = (_number(score[end], signed=signed) for end in ("low", "high"))
    return f"{_number(score['value'], signed=signed)}<small>{low} to {high}</small>"
