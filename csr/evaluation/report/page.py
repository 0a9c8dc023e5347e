"""The evaluation as one self-contained HTML page: what its template shows, out of what was measured."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from markupsafe import Markup

from csr.evaluation.information import shown
from csr.evaluation.report.gallery import errors_section
from csr.model.image_statistics import STATISTICS
from csr.model.sharing.origin import Origin
from csr.report import charts, square_charts
from csr.report.charts import Mark
from csr.report.page import number, render

Results = dict[str, Any]
_HEADS = {
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "f1_at_threshold": "F1 at threshold",
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


def write_report(results: Results, pictures: Mapping[int, str]) -> str:
    """Return the HTML of everything that `csr.evaluation.measure` returns.

    Args:
        results: with a description of the data.
        pictures: of `csr.evaluation.report.gallery.error_pictures`, by place in the table.
    """
    sections = {
        "Diagnoses": _section("labels", _labels(results["targets"], "diagnosis")),
        "Concepts": _section("labels", _labels(results["concepts"], "concept")),
        "Curves": _section("curves", _curves(results["curves"])),
        "Worst errors": _section("worst_errors", errors_section(results, pictures)),
        "Calibration": _section("calibration", _calibration(results)),
        "Where it looks": _section("localisation", _localisation(results["localisation"])),
        "Prototypes": _section("prototypes", _prototypes(results["prototypes"])),
        "Information of concepts": _section("information", shown.section(results.get("information"))),
        "Flags": _section("flags", _flags(results)),
        "Subgroups": _section("subgroups", _subgroups(results)),
        "Simulated doctor": _section("simulation", _simulation(results["simulation"])),
        "How this was measured": _section("method", results["options"]),
    }
    return render(
        "evaluation/page.html",
        title=f"Evaluation of {results['model']}",
        facts=_facts(results),
        origin=origin_line(results),
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


def origin_line(results: Results) -> str:
    """Return what model, csr and day the numbers are of, one line."""
    names = (field.name for field in dataclasses.fields(Origin))
    return Origin(**{name: results[name] for name in names}).line


def _tiles(results: Results) -> list[tuple[str, str]]:
    """Return the numbers that one looks for first, with their names."""
    scores = [
        ("AUROC of diagnoses, macro", results["targets"]["macro"]["auroc"]),
        ("F1 of diagnoses at their thresholds, macro", results["targets"]["macro"]["f1_at_threshold"]),
    ]
    if results["concepts"]:
        scores.append(("AUROC of concepts, macro", results["concepts"]["macro"]["auroc"]))
    if results["localisation"]:
        scores.append(("pointing game, similarity", results["localisation"]["micro"]["similarity_hit"]))
    tiles = [(number(score["value"]), f"{name} {_interval(score)}".strip()) for name, score in scores]
    used = results["prototypes"]
    if used is None:
        return tiles
    return [*tiles, (f"{used['used']}/{used['total']}", "prototypes used by these images")]


def _labels(scores: Results | None, noun: str) -> Results | None:
    if scores is None:
        return None
    marks = [(name, [_mark(row["auroc"], name="AUROC")]) for name, row in scores["labels"].items()]
    marks.append(("macro", [_mark(scores["macro"]["auroc"], name="AUROC")]))
    return {
        "chart": charts.dot_plot(
            marks, title=f"AUROC of every {noun} with 95 % intervals", fit=True, reference=0.5
        ),
        "heads": [noun, "images", "positive", "threshold", *_HEADS.values()],
        "rows": [
            [name, row["n"], row["positives"], number(row["threshold"]), *_picked(row, _HEADS)]
            for name, row in scores["labels"].items()
        ],
        "ends": [[kind, "", "", "", *_picked(scores[kind], _HEADS)] for kind in ("macro", "micro")],
    }


def _calibration(results: Results) -> Results:
    reliability = results["reliability"]
    kinds = [(k, n) for k, n in _NOUNS if reliability[k]]
    errors = [("before", "ece"), ("after", "ece"), ("before", "brier"), ("after", "brier")]
    return {
        "heads": ["label", "calibration", "ECE before", "after", "Brier before", "after"],
        "rows": [
            [name, row["method"], *(number(row[when][score]) for when, score in errors)]
            for kind, _ in kinds
            for name, row in results["calibration"][kind].items()
        ],
        "pooled": [
            square_charts.reliability_plot(reliability[kind]["pooled"], title=f"all {name}")
            for kind, name in kinds
        ],
        "each": [
            square_charts.reliability_plot(bins, title=name)
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
        "chart": charts.dot_plot(marks, title="Pointing game hit rates", fit=True),
        "heads": ["concept", "pairs", *_POINTS.values()],
        "rows": [[name, row["n"], *_picked(row, _POINTS)] for name, row in measured["labels"].items()],
        "ends": [[name, pairs, *_picked(measured[kind], _POINTS)] for kind, name, pairs in ends],
    }


def _prototypes(used: Results | None) -> Results | None:
    if used is None:
        return None
    rows = []
    for name, row in used["labels"].items():
        share = f"{max(row['wins']) / row['images']:.2f}" if row["images"] else "-"
        rows.append([name, row["images"], f"{row['used']} of {row['total']}", share])
    return {"rows": rows, "ends": [["all", "", f"{used['used']} of {used['total']}", ""]]}


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
    for kind, noun in _NOUNS:
        if results[kind] is None:
            continue
        marks = [(name, [_mark(scores[kind]["macro"]["auroc"], name="AUROC")]) for name, scores in everyone]
        chart = charts.dot_plot(marks, title=f"Macro AUROC of {noun} by group", fit=True, reference=0.5)
        rows = [
            [name, scores["images"], *_picked(scores[kind]["macro"], _HEADS)] for name, scores in everyone
        ]
        kinds.append({"noun": noun, "chart": chart, "rows": rows})
    heads = ["group", "images", *(f"{head}, macro" for head in _HEADS.values())]
    return {"group_by": results["data"]["group_by"], "heads": heads, "kinds": kinds}


def _simulation(plays: Results | None) -> Results | None:
    if plays is None:
        return None
    bars, rows, harmful = [], [], []
    for play, subsets in plays.items():
        for subset, row in subsets.items():
            name = f"{play} ({subset})"
            bars.append((name, row["fixed"], row["broken"]))
            counts = [row[count] for count in ("images", *_COUNTS)]
            images = f"{row['images_fixed']} / {row['images_broken']}"
            rows.append([name, *counts, {**row["net"], "signed": True}, images, _HELPS[row["helps"]]])
        if subsets["all"]["helps"] is False:
            harmful.append(f"{play}: {subsets['all']['fixed']} fixed, {subsets['all']['broken']} broken")
    counted = [count.replace("_", " ") for count in _COUNTS]
    return {
        "chart": charts.balance_plot(bars, title="Decisions fixed and broken"),
        "heads": ["corrections", "images", *counted, "net share", "images fixed / broken", "helps"],
        "rows": rows,
        "harmful": harmful,
    }


_HELPS = {True: "yes", False: "no", None: "-"}


def _curves(measured: Results) -> Results:
    kinds = [(kind, noun) for kind, noun in _NOUNS if measured[kind] is not None]
    return {
        "kinds": [
            {
                "noun": noun,
                "charts": [
                    chart for name, row in measured[kind]["labels"].items() for chart in _pair(name, row)
                ],
                "left_out": measured[kind]["left_out"],
            }
            for kind, noun in kinds
        ]
    }


_NOUNS = (("targets", "diagnoses"), ("concepts", "concepts"))


def _pair(name: str, row: Results) -> list[Markup]:
    """Return the ROC and the precision-recall curve of a label."""
    share = row["prevalence"]
    kinds = (
        ("roc", ("1 - specificity", "sensitivity"), ((0, 0), (1, 1))),
        ("pr", ("sensitivity (recall)", "precision"), ((0, share), (1, share))),
    )
    return [
        square_charts.square_curve(
            row[kind],
            title=name,
            axes=axes,
            ideal=ideal,
            mark=row[f"called_{kind}"],
            caption=f"decisions of the model, {axes[0]} and {axes[1]}",
        )
        for kind, axes, ideal in kinds
    ]


def _picked(row: Results, names: Iterable[str]) -> list[Results]:
    return [row[name] for name in names]


def _mark(score: dict[str, float | None], *, series: int = 0, name: str = "") -> Mark:
    return Mark(score["value"], score["low"], score["high"], series, name)


def _interval(score: dict[str, float | None]) -> str:
    if score["low"] is None or score["high"] is None:
        return ""
    return f"({score['low']:.3f} to {score['high']:.3f})"
