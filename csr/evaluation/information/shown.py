"""The information of concepts as lines of the terminal, rows of the table and a section of the page."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from csr.evaluation.information.leakage import BEYOND, MINUS
from csr.report import charts
from csr.report.charts import Mark

PART = "information"
NAMES = {MINUS: "minus true concepts", BEYOND: "beyond true concepts"}
Results = dict[str, Any]


def notices(found: Results) -> list[str]:
    """Return lines on what the numbers rest on."""
    lines = []
    if found["left_out"]:
        lines.append(
            f"Information: without {', '.join(found['left_out'])}: the training images have one class of it"
        )
    if found["unknown"]:
        lines.append(
            f"Information: {found['unknown']:.1%} of the concept labels of the training images are not "
            "annotated and stand at their mean: what a model knows of them reads as leakage"
        )
    return lines


def text_lines(found: Results) -> list[str]:
    """Return the lines that the terminal shows."""
    lines = ["", "Information on the diagnoses: macro AUROC of a linear probe"]
    width = max(len(name) for name in found["probes"])
    for name, row in found["probes"].items():
        lines.append(f"  {name:<{width}}  {_interval(row['macro'])}")
    for name, leaked in found["leakage"].items():
        parts = [f"{_interval(leaked[kind]['macro'], signed=True)} {NAMES[kind]}" for kind in (MINUS, BEYOND)]
        lines.append(f"Leakage of {name}: {', '.join(parts)}")
    return lines


def table_lines(found: Results) -> Iterator[tuple[Any, ...]]:
    """Yield rows as `csr.evaluation.output.COLUMNS` has them; `group` is the representation."""
    for name, row in found["probes"].items():
        yield from _score_rows(name, "probe auroc", row)
    for name, leaked in found["leakage"].items():
        for kind, row in leaked.items():
            yield from _score_rows(name, f"leakage {NAMES[kind]}", row)


def _score_rows(group: str, score: str, row: Results) -> Iterator[tuple[Any, ...]]:
    for label, value in [*row["labels"].items(), ("macro", row["macro"])]:
        yield (PART, group, label, score, value["value"], value["low"], value["high"], None, None)


def section(found: Results | None) -> Results | None:
    """Return what the page shows."""
    if found is None:
        return None
    probes = found["probes"]
    marks = [
        (name, [Mark(row["macro"]["value"], row["macro"]["low"], row["macro"]["high"], name="AUROC")])
        for name, row in probes.items()
    ]
    targets = list(next(iter(probes.values()))["labels"])
    leaks = [
        [f"{name} {NAMES[kind]}", *({**row["labels"][t], "signed": True} for t in targets), _signed(row)]
        for name, leaked in found["leakage"].items()
        for kind, row in leaked.items()
    ]
    return {
        "images": found["images"],
        "notices": notices(found),
        "chart": charts.dot_plot(marks, title="Macro AUROC of linear probes", low=0.4, reference=0.5),
        "heads": ["what the probe reads", "features", "C", *targets, "macro"],
        "rows": [
            [name, row["features"], f"{row['strength']:g}", *row["labels"].values(), row["macro"]]
            for name, row in probes.items()
        ],
        "leak_heads": ["AUROC of", *targets, "macro"],
        "leaks": leaks,
    }


def _signed(row: Results) -> Results:
    return {**row["macro"], "signed": True}


def _interval(score: Results, *, signed: bool = False) -> str:
    sign = "+" if signed else ""
    if score["value"] is None:
        return "-"
    text = f"{score['value']:{sign}.3f}"
    return text if score["low"] is None else f"{text} ({score['low']:{sign}.3f} to {score['high']:{sign}.3f})"
