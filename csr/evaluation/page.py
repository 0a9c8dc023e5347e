"""The evaluation as one self-contained HTML page: what its template shows, out of what was measured."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from csr.model.edit_defaults import DOCTOR_GAP
from csr.model.image_statistics import STATISTICS
from csr.report import charts
from csr.report.charts import Mark
from csr.report.page import number, render

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
    """Return the HTML of everything that `csr.evaluation.measure` returns."""
    sections = {
        "Diagnoses": _section("labels", _labels(results["targets"], "diagnosis")),
        "Concepts": _section("labels", _labels(results["concepts"], "concept")),
        "Calibration": _section("calibration", _calibration(results)),
        "Where it looks": _section("localisation", _localisation(results["localisation"])),
        "Prototypes": _section("prototypes", _prototypes(results["prototypes"])),
        "Flags": _section("flags", _flags(results)),
        "Subgroups": _section("subgroups", _subgroups(results)),
        "Simulated doctor": _section("simulation", _simulation(results["simulation"])),
        "How this was measured": _section("method", results["options"]),
    }
    return render(
        "evaluation/page.html",
        title=f"Evaluation of {results['model']}",
        facts=_facts(results),
        notices=results["notices"],
        tiles=_tiles(results),
        sections={heading: content for heading, content in sections.items() if content is not None},
    )


def _section(template: str, values: Results | None) -> Results | None:
    return None if values is None else {"template": f"evaluation/{template}.html", **values}


def _facts(results: Results) -> list[str]:
    data = results["data"]
    facts = [f"{data['images']} images of {data['csv']}"]
    if results["checkpoint"]:
        facts.append(f"checkpoint {results['checkpoint']}")
    facts.append(f"readers merged by '{data['reader_merge']}'")
    if data["boxes_csv"]:
        facts.append(f"boxes of {data['boxes_csv']}")
    return facts


def _tiles(results: Results) -> list[tuple[str, str]]:
    """Return the numbers that one looks for first, with their names."""
    scores = [
        ("AUROC of diagnoses, macro", results["targets"]["macro"]["auroc"]),
        ("F1 of diagnoses, macro", results["targets"]["macro"]["f1"]),
    ]
    if results["concepts"]:
        scores.append(("AUROC of concepts, macro", results["concepts"]["macro"]["auroc"]))
    if results["localisation"]:
        scores.append(("pointing game, similarity", results["localisation"]["micro"]["similarity_hit"]))
    tiles = [(number(score["value"]), f"{name} {_interval(score)}".strip()) for name, score in scores]
    alive = results["prototypes"]
    if alive is None:
        return tiles
    return [*tiles, (f"{alive['alive']}/{alive['total']}", "prototypes alive")]


def _labels(scores: Results | None, noun: str) -> Results | None:
    if scores is None:
        return None
    marks = [(name, [_mark(row["auroc"], name="AUROC")]) for name, row in scores["labels"].items()]
    marks.append(("macro", [_mark(scores["macro"]["auroc"], name="AUROC")]))
    return {
        "chart": charts.dot_plot(marks, title=f"AUROC of every {noun} with 95 % intervals", reference=0.5),
        "heads": [noun, "images", "positive", "threshold", *_HEADS.values()],
        "rows": [
            [name, row["n"], row["positives"], number(row["threshold"]), *_picked(row, _HEADS)]
            for name, row in scores["labels"].items()
        ],
        "ends": [[kind, "", "", "", *_picked(scores[kind], _HEADS)] for kind in ("macro", "micro")],
    }


def _calibration(results: Results) -> Results:
    reliability = results["reliability"]
    kinds = [(k, n) for k, n in (("targets", "diagnoses"), ("concepts", "concepts")) if reliability[k]]
    errors = [("before", "ece"), ("after", "ece"), ("before", "brier"), ("after", "brier")]
    return {
        "heads": ["label", "calibration", "ECE before", "after", "Brier before", "after"],
        "rows": [
            [name, row["method"], *(number(row[when][score]) for when, score in errors)]
            for kind, _ in kinds
            for name, row in results["calibration"][kind].items()
        ],
        "pooled": [
            charts.reliability_plot(reliability[kind]["pooled"], title=f"all {name}") for kind, name in kinds
        ],
        "each": [
            charts.reliability_plot(bins, title=name)
            for kind, _ in kinds
            for name, bins in reliability[kind]["labels"].items()
        ],
    }


def _localisation(measured: Results | None) -> Results | None:
    if measured is None:
        return None
    if not measured["n"]:
        return {"pairs": 0}
    rows = [*measured["labels"].items(), ("all pairs", measured["micro"])]
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
    names = ["CAM", "similarity map", "chance (area of the boxes)", "image centre"]
    ends = (("macro", "mean of concepts", ""), ("micro", "all pairs", measured["n"]))
    return {
        "pairs": measured["n"],
        "left_out": measured["left_out"],
        "legend": charts.legend(list(enumerate(names))),
        "chart": charts.dot_plot(marks, title="Pointing game hit rates"),
        "heads": ["concept", "pairs", *_POINTS.values()],
        "rows": [[name, row["n"], *_picked(row, _POINTS)] for name, row in measured["labels"].items()],
        "ends": [[name, pairs, *_picked(measured[kind], _POINTS)] for kind, name, pairs in ends],
    }


def _prototypes(alive: Results | None) -> Results | None:
    if alive is None:
        return None
    rows = []
    for name, row in alive["labels"].items():
        share = f"{max(row['wins']) / row['images']:.2f}" if row["images"] else "-"
        rows.append([name, row["images"], f"{row['alive']} of {row['total']}", share])
    return {"rows": rows, "ends": [["all", "", f"{alive['alive']} of {alive['total']}", ""]]}


def _flags(results: Results) -> Results:
    novelty = results["novelty"]
    counted = {} if novelty is None else novelty["by"]
    by = [(STATISTICS[name][0], n) for name, n in counted.items() if n]
    return {"novelty": novelty, "by": by, "doubt": results["doubt"]}


def _subgroups(results: Results) -> Results | None:
    groups = results["groups"]
    if groups is None:
        return None
    everyone = [("all images", {**results, "images": results["data"]["images"]}), *groups.items()]
    kinds = []
    for kind, noun in (("targets", "diagnoses"), ("concepts", "concepts")):
        if results[kind] is None:
            continue
        marks = [(name, [_mark(scores[kind]["macro"]["auroc"], name="AUROC")]) for name, scores in everyone]
        chart = charts.dot_plot(marks, title=f"Macro AUROC of {noun} by group", reference=0.5)
        rows = [
            [name, scores["images"], *_picked(scores[kind]["macro"], _HEADS)] for name, scores in everyone
        ]
        kinds.append({"noun": noun, "chart": chart, "rows": rows})
    heads = ["group", "images", *(f"{head}, macro" for head in _HEADS.values())]
    return {"group_by": results["data"]["group_by"], "heads": heads, "kinds": kinds}


def _simulation(plays: Results | None) -> Results | None:
    if plays is None:
        return None
    bars, rows = [], []
    for play, subsets in plays.items():
        for subset, row in subsets.items():
            name = f"{play} ({subset})"
            bars.append((name, row["fixed"], row["broken"]))
            counts = [row[count] for count in ("images", *_COUNTS)]
            images = f"{row['images_fixed']} / {row['images_broken']}"
            rows.append([name, *counts, {**row["net"], "signed": True}, images])
    counted = [count.replace("_", " ") for count in _COUNTS]
    return {
        "doctor_gap": DOCTOR_GAP,
        "chart": charts.balance_plot(bars, title="Decisions fixed and broken"),
        "heads": ["corrections", "images", *counted, "net share", "images fixed / broken"],
        "rows": rows,
    }


def _picked(row: Results, names: Iterable[str]) -> list[Results]:
    return [row[name] for name in names]


def _mark(score: dict[str, float | None], *, series: int = 0, name: str = "") -> Mark:
    return Mark(score["value"], score["low"], score["high"], series, name)


def _interval(score: dict[str, float | None]) -> str:
    if score["low"] is None or score["high"] is None:
        return ""
    return f"({score['low']:.3f} to {score['high']:.3f})"
