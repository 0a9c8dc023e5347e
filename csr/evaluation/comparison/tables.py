"""A comparison as tables: the same cells as Markdown, as LaTeX and, one number a line, as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from csr.evaluation.label_scores import SCORES

Results = dict[str, Any]
HEADS = {
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "f1_at_threshold": "F1 at threshold",
    "sensitivity": "Sens.",
    "specificity": "Spec.",
    "brier": "Brier",
    "ece": "ECE",
}
NOUNS = {"targets": "diagnoses", "concepts": "concepts"}
COLUMNS = (
    *("part", "kind", "label", "score", "group", "reference", "value", "sd", "low", "high", "interval_over"),
    *("p", "p_holm", "p_delong", "p_delong_holm", "p_runs", "p_runs_holm", "runs_test"),
)
_TEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
_TEX |= {letter: f"\\{letter}" for letter in "&%$#_{}"}
_MARKDOWN = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "\n": " "}
_MARKDOWN |= {letter: f"\\{letter}" for letter in "\\`*_[]|"}


class Table(NamedTuple):
    """A title, heads, and rows of text; the first column is left-aligned."""

    title: str
    heads: list[str]
    rows: list[list[str]]


def tables_of(results: Results) -> list[Table]:
    """Return the tables that a paper shows: groups, labels, tests, runs, options."""
    tables = [table for kind in NOUNS if (table := _groups(results, kind)) is not None]
    tables += [table for kind in NOUNS if (table := _labels(results, kind)) is not None]
    tables += _curves(results)
    if results["pairs"]:
        tables.append(_tests(results))
    tables.append(_runs(results))
    if results["differences"]:
        heads = ["option", *(run["name"] for run in results["runs"])]
        rows = [[name, *values] for name, values in results["differences"].items()]
        tables.append(Table("Options that differ", heads, rows))
    return tables


def _groups(results: Results, kind: str) -> Table | None:
    rows = []
    for group, scores in zip(results["groups"], results["kinds"][kind]["groups"], strict=True):
        if scores is not None:
            cells = [score_text(scores["macro"][score]) for score in HEADS]
            rows.append([group["name"], str(len(group["runs"])), *cells])
    if not rows:
        return None
    return Table(f"Macro scores of {NOUNS[kind]}", ["", "runs", *HEADS.values()], rows)


def _labels(results: Results, kind: str) -> Table | None:
    measured = results["kinds"][kind]
    shown = [
        (group["name"], scores)
        for group, scores in zip(results["groups"], measured["groups"], strict=True)
        if scores is not None
    ]
    if not shown:
        return None
    rows = [
        [name, f"{positives}/{known}", *(score_text(s["labels"][name]["auroc"]) for _, s in shown)]
        for name, positives, known in zip(
            measured["names"], measured["positives"], measured["annotated"], strict=True
        )
    ]
    heads = ["", "positive", *(name for name, _ in shown)]
    return Table(f"AUROC of {NOUNS[kind]}", heads, rows)


def _curves(results: Results) -> list[Table]:
    """Return a table of each kind that has learning curves: a row a number of images, a column a curve."""
    tables = []
    for kind, curves in (results["learning_curves"] or {}).items():
        numbers = sorted({point["images"] for curve in curves for point in curve["points"]})
        cells = [{point["images"]: score_text(point) for point in curve["points"]} for curve in curves]
        rows = [[f"{number:g}", *(of_curve.get(number, "-") for of_curve in cells)] for number in numbers]
        if rows:
            heads = ["training images", *(curve["name"] for curve in curves)]
            tables.append(Table(f"Learning curve: macro AUROC of {NOUNS[kind]}", heads, rows))
    return tables


def _tests(results: Results) -> Table:
    heads = ["against " + results["reference"], "label", "score", "difference", *P_HEADS.values()]
    rows = [
        [
            row["second"],
            row["label"]
            if row["label"] not in ("macro", "micro")
            else f"{row['label']} of {NOUNS[row['kind']]}",
            HEADS[row["score"]],
            interval_text(row["difference"], row["low"], row["high"], signed=True),
            *(p_text(row[name]) for name in P_HEADS),
        ]
        for row in results["pairs"]
    ]
    return Table("Paired tests, p-values corrected by Holm", heads, rows)


P_HEADS = {"p_holm": "p, images", "p_delong_holm": "p, DeLong", "p_runs_holm": "p, runs"}


def _runs(results: Results) -> Table:
    rows = [
        [
            run["name"],
            number_text(run["target_auroc"]),
            "-" if run["seconds"] is None else f"{run['seconds']:.0f}",
            "-" if run["ranks"] is None else str(run["ranks"]),
            "-" if run["memory_mib"] is None else f"{run['memory_mib']:.0f}",
        ]
        for run in results["runs"]
    ]
    heads = ["", "macro AUROC of diagnoses", "training, s", "ranks", "peak memory of a rank, MiB"]
    return Table("Runs", heads, rows)


def number_text(value: float | None, *, signed: bool = False) -> str:
    """Return a number with three decimals; a dash for none."""
    return "-" if value is None else f"{value:+.3f}" if signed else f"{value:.3f}"


def p_text(p: float | None) -> str:
    """Return a p-value; a dash for none."""
    return "-" if p is None else "<0.001" if p < 0.001 else f"{p:.3f}"


def interval_text(value: float | None, low: float | None, high: float | None, *, signed: bool = False) -> str:
    """Return `value (low to high)`, or the value alone."""
    if low is None or high is None:
        return number_text(value, signed=signed)
    ends = " to ".join(number_text(end, signed=signed) for end in (low, high))
    return f"{number_text(value, signed=signed)} ({ends})"


def score_text(score: Results) -> str:
    """Return a score: mean, sd over runs where there is one, and its interval."""
    text = interval_text(score["value"], score["low"], score["high"])
    if score["sd"] is None:
        return text
    mean, _, interval = text.partition(" ")
    return f"{mean} sd {score['sd']:.3f} {interval}".rstrip()


def markdown(results: Results, *, method: Sequence[str]) -> str:
    """Return all tables as Markdown, with the lines on how they came about."""
    parts = [f"# Comparison of {len(results['runs'])} runs on {results['images']} test images", ""]
    parts += [line for notice in results["notices"] for line in (_escaped(notice, _MARKDOWN), "")]
    for table in tables_of(results):
        parts += [f"## {_escaped(table.title, _MARKDOWN)}", "", *markdown_rows(table), ""]
    return "\n".join([*parts, *(f"- {_escaped(line, _MARKDOWN)}" for line in method)]) + "\n"


def markdown_rows(table: Table) -> list[str]:
    """Return heads and rows of a table as Markdown, without its title."""
    heads = [_markdown_row(table.heads), _markdown_row(["---"] * len(table.heads), escaped=True)]
    return [*heads, *(_markdown_row(row) for row in table.rows)]


def _markdown_row(cells: Sequence[str], *, escaped: bool = False) -> str:
    return f"| {' | '.join(cell if escaped else _escaped(cell, _MARKDOWN) for cell in cells)} |"


def latex(results: Results) -> str:
    """Return all tables as LaTeX, without packages: a `table` with a `tabular` each."""
    return "\n".join(latex_table(table) for table in tables_of(results))


def latex_table(table: Table) -> str:
    """Return a `table` with a `tabular`."""
    tex: Callable[[str], str] = lambda cell: _escaped(cell, _TEX)  # noqa: E731
    rows = [" & ".join(map(tex, row)) + r" \\" for row in (table.heads, *table.rows)]
    columns = "l" + "r" * (len(table.heads) - 1)
    head = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{tex(table.title)}}}",
        rf"\begin{{tabular}}{{{columns}}}",
    ]
    body = [r"\hline", rows[0], r"\hline", *rows[1:], r"\hline"]
    return "\n".join([*head, *body, r"\end{tabular}", r"\end{table}", ""])


def _escaped(text: str, signs: dict[str, str]) -> str:
    return "".join(signs.get(letter, letter) for letter in text)


def csv_text(results: Results) -> str:
    """Return CSV text with `COLUMNS`, one number a line.

    `part` is score (of a group; with sd, interval and what the interval covers), test (a group against the
    reference: `value` is the difference), or cost (of a run: seconds, memory_mib, ranks).
    """
    text = io.StringIO()
    table = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    table.writeheader()
    for line in _lines(results):
        table.writerow({name: "" if value is None else value for name, value in line.items()})
    return text.getvalue()


def _lines(results: Results) -> Iterator[Results]:
    for kind, measured in results["kinds"].items():
        for group, scores in zip(results["groups"], measured["groups"], strict=True):
            for label, row in _rows_of(scores):
                for score in SCORES:
                    numbers = {name: row[score][name] for name in ("value", "sd", "low", "high")}
                    place = {"part": "score", "kind": kind, "label": label, "score": score}
                    yield {**place, "group": group["name"], **numbers, "interval_over": row[score]["over"]}
    for row in results["pairs"]:
        copied = {name: row[name] for name in COLUMNS if name in row}
        sides = {"group": row["second"], "reference": row["first"], "value": row["difference"]}
        yield {"part": "test", **copied, **sides, "interval_over": "images"}
    for run in results["runs"]:
        for name in ("seconds", "memory_mib", "ranks"):
            yield {"part": "cost", "score": name, "group": run["name"], "value": run[name]}


def _rows_of(scores: Results | None) -> list[tuple[str, Results]]:
    if scores is None:
        return []
    return [*scores["labels"].items(), *((name, scores[name]) for name in ("macro", "micro"))]
