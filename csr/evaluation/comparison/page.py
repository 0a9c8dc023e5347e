"""A comparison as one self-contained HTML page: what its templates show, out of what was compared."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from csr.evaluation.comparison.tables import HEADS, NOUNS, P_HEADS, Table, p_text, tables_of
from csr.report import charts, square_charts
from csr.report.charts import Mark
from csr.report.curve_plot import curve_plot
from csr.report.page import number, render

Results = dict[str, Any]


def page_of(results: Results, *, method: Sequence[str]) -> str:
    """Return the HTML of what `compare` returns, and of the lines on how it was measured."""
    tables = {table.title: table for table in tables_of(results)}
    options = tables.get("Options that differ")
    sections = {
        "Diagnoses": _scores(results, "targets"),
        "Concepts": _scores(results, "concepts"),
        "Learning curve": _curves(results, tables),
        "Tests": _tests(results),
        "Calibration": _calibration(results),
        "Training": {"template": "comparison/table.html", **_plain(tables["Runs"])},
        "Options that differ": options and {"template": "comparison/table.html", **_plain(options)},
        "How this was measured": {"template": "comparison/method.html", "lines": list(method)},
    }
    return render(
        "comparison/page.html",
        title=f"Comparison of {len(results['runs'])} runs",
        images=results["images"],
        groups=results["groups"],
        notices=results["notices"],
        sections={heading: content for heading, content in sections.items() if content},
    )


def _plain(table: Any) -> Results:
    return {"heads": table.heads, "rows": table.rows}


def _scores(results: Results, kind: str) -> Results | None:
    """Return a chart and a table of the macro scores, and a chart of every label."""
    measured = results["kinds"][kind]
    shown = [
        (group, scores)
        for group, scores in zip(results["groups"], measured["groups"], strict=True)
        if scores is not None
    ]
    if not shown:
        return None
    by_label = {
        name: [(group["name"], scores["labels"][name]["auroc"]) for group, scores in shown]
        for name in measured["names"]
    }
    return {
        "template": "comparison/scores.html",
        "chart": _dots(
            [(group["name"], scores["macro"]["auroc"]) for group, scores in shown],
            title=f"Macro AUROC of {NOUNS[kind]} with 95 % intervals",
        ),
        "heads": ["", "runs", *HEADS.values()],
        "rows": [
            [group["name"], len(group["runs"]), *(scores["macro"][score] for score in HEADS)]
            for group, scores in shown
        ],
        "sds": [
            [group["name"], *(number(scores["macro"][score]["sd"]) for score in HEADS)]
            for group, scores in shown
            if len(group["runs"]) > 1
        ],
        "labels": [
            {"name": name, "chart": _dots(rows, title=f"AUROC of {name}")} for name, rows in by_label.items()
        ],
        "label_heads": ["", "positive", *(group["name"] for group, _ in shown)],
        "label_rows": [
            [name, f"{positives}/{known}", *(score for _, score in by_label[name])]
            for name, positives, known in zip(
                measured["names"], measured["positives"], measured["annotated"], strict=True
            )
        ],
    }


def _curves(results: Results, tables: dict[str, Table]) -> Results | None:
    """Return a chart and a table of each kind whose groups differ in the number of training images."""
    parts = []
    for kind, curves in (results["learning_curves"] or {}).items():
        if not curves:
            continue
        low, high = charts.fitted_ends([_point(point)[1] for curve in curves for point in curve["points"]])
        title = f"Learning curve: macro AUROC of {NOUNS[kind]}"
        series = [(curve["name"], [_point(point) for point in curve["points"]]) for curve in curves]
        chart = curve_plot(series, title=title, below="training images", low=low, high=high)
        legend = charts.legend([(i % charts.NUM_SERIES, name) for i, (name, _) in enumerate(series)])
        parts.append({"noun": NOUNS[kind], "chart": chart, "legend": legend, **_plain(tables[title])})
    return {"template": "comparison/curves.html", "kinds": parts} if parts else None


def _point(point: Results) -> tuple[float, Mark]:
    caption = f"{point['images']:g} images, AUROC"
    return point["images"], Mark(point["value"], point["low"], point["high"], name=caption)


def _dots(rows: Sequence[tuple[str, Results]], *, title: str) -> Markup:
    """Return dots with intervals on a scale that fits them."""
    marks = [(name, [Mark(s["value"], s["low"], s["high"], name="AUROC")]) for name, s in rows]
    return charts.dot_plot(marks, title=title, fit=True, reference=0.5)


def _tests(results: Results) -> Results | None:
    pairs = results["pairs"]
    if not pairs:
        return None
    reach = max([0.01, *(abs(row[key]) for row in pairs for key in ("low", "high") if row[key] is not None)])
    reach = math.ceil(reach * 50) / 50
    overall = [row for row in pairs if row["label"] == "macro" and row["score"] == "auroc"]
    marks = [
        (
            f"{row['second']}, {NOUNS[row['kind']]}",
            [Mark(row["difference"], row["low"], row["high"], name="difference of macro AUROC")],
        )
        for row in overall
    ]
    return {
        "template": "comparison/tests.html",
        "reference": results["reference"],
        "chart": charts.dot_plot(
            marks, title="Differences of macro AUROC", low=-reach, high=reach, reference=0.0
        ),
        "heads": ["", "label", "score", "difference", *P_HEADS.values()],
        "overall": [_test_row(row) for row in pairs if row["label"] in ("macro", "micro")],
        "labels": [_test_row(row) for row in pairs if row["label"] not in ("macro", "micro")],
    }


def _test_row(row: Results) -> list[Any]:
    difference = {"value": row["difference"], "low": row["low"], "high": row["high"], "signed": True}
    label = f"{row['label']}, {NOUNS[row['kind']]}"
    return [row["second"], label, HEADS[row["score"]], difference, *(p_text(row[name]) for name in P_HEADS)]


def _calibration(results: Results) -> Results:
    return {
        "template": "comparison/calibration.html",
        "charts": [
            square_charts.reliability_plot(row["bins"], title=row["group"]) for row in results["reliability"]
        ],
    }
