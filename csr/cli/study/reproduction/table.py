"""The table of a reproduction: methods beside each other and beside what was published, as files."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from csr.cli.study.reproduction.plan import Plan, Planned
from csr.cli.study.reproduction.protocols import METHODS, NAMES, Published, Start
from csr.cli.study.reproduction.stand_in import RULE
from csr.cli.study.reproduction.steps import refinement
from csr.evaluation.comparison.multiple_tests import over_runs
from csr.evaluation.comparison.output import JSON as COMPARISON
from csr.evaluation.comparison.output import PAGE as COMPARISON_PAGE
from csr.evaluation.comparison.tables import Table, latex_table, markdown_rows
from csr.explain.atlas.layout import INDEX
from csr.report.page import render
from csr.runtime.errors import InputError
from csr.runtime.files import write_atomic, write_json
from csr.runtime.json_file import parse_json, read_text

JSON, PAGE, MARKDOWN, LATEX = "table.json", "table.html", "table.md", "table.tex"
MAX_COMPARISON_BYTES = 2**28
MEASURED = {
    "f1": "macro F1",
    "auroc": "AUROC of diagnoses",
    "concept_auroc": "AUROC of concepts",
    "cam": "pointing game, CAM",
    "pointing": "pointing game",
    "refined": "refined: pointing game",
    "refined_f1": "refined: macro F1",
}
PUBLISHED = {
    "f1": "published: macro F1",
    "pointing": "published: pointing game",
    "refined": "published: refined",
}
METHOD = (
    "All numbers in per cent, on the test images: mean over seeds, in brackets its 95 % interval (Student's "
    "t), of a single seed that of resampled test images where csr compare has one. Macro F1 is the mean over "
    "the diagnoses, with thresholds chosen on validation images (of diagnoses that exclude each other the "
    "likeliest is called).",
    "Pointing game: share of all pairs of an image and a concept with boxes in which the highest cell of the "
    "best prototype's similarity map (CAM: of the concept's activation map) lies in a box.",
)
Score = dict[str, float | None]
Results = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """One method of one start.

    Attributes:
        method: of `METHODS`, or the name of one that was published and is not trained here.
        seeds: of its runs; empty where none was trained.
        scores: of `MEASURED`, in per cent: value, low, high.
        published: of the same method.
    """

    method: str
    seeds: tuple[int, ...]
    scores: dict[str, Score]
    published: Published | None

    @property
    def name(self) -> str:
        return NAMES.get(self.method, self.method)


def rows_of(plan: Plan, start: Start) -> list[Row]:
    """Return the rows of a start, CSR first, out of finished comparisons and refinements.

    Raises:
        InputError: a comparison cannot be read.
    """
    path = plan.comparison(start) / COMPARISON
    try:
        comparison = parse_json(read_text(path, max_bytes=MAX_COMPARISON_BYTES))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}): the same command writes it anew") from None
    published = plan.protocol.published
    rows = []
    for method in METHODS:
        mine = [one for one in plan.runs if one.start == start and one.method == method]
        if mine:
            scores = {**_compared(comparison, mine), **(_refined(plan, mine) if method == "csr" else {})}
            rows.append(Row(method, tuple(one.seed for one in mine), scores, published.get(method)))
    others = [name for name in published if name not in {row.method for row in rows}]
    return [*rows, *(Row(name, (), {}, published[name]) for name in others)]


def _compared(comparison: Results, mine: Sequence[Planned]) -> dict[str, Score]:
    names = {one.run.name for one in mine}
    places = [i for i, group in enumerate(comparison["groups"]) if names == set(group["runs"])]
    if not places:
        raise InputError(
            f"{', '.join(sorted(names))}: were not made in one way (ranks, precision or csr's version), so "
            "that csr compare keeps them apart (its page lists what differs): remove the folders of those to "
            "be made again, then give the same command"
        )
    (place,) = places
    kinds = {kind: found["groups"][place] for kind, found in comparison["kinds"].items()}
    wanted = {
        "f1": ("targets", "f1_at_threshold"),
        "auroc": ("targets", "auroc"),
        "concept_auroc": ("concepts", "auroc"),
    }
    return {
        name: _percent({key: kinds[kind]["macro"][score][key] for key in ("value", "low", "high")})
        for name, (kind, score) in wanted.items()
        if kinds[kind] is not None
    }


def _refined(plan: Plan, mine: Sequence[Planned]) -> dict[str, Score]:
    """Return the pointing game before and after refining, and F1 after it; {} without boxes."""
    records = [refinement(plan, one.run) for one in mine if plan.place("refined", one.run).is_dir()]
    if not records:
        return {}
    places = {
        "cam": ("before", "localisation", "micro", "cam_hit"),
        "pointing": ("before", "localisation", "micro", "similarity_hit"),
        "refined": ("after", "localisation", "micro", "similarity_hit"),
        "refined_f1": ("after", "targets", "macro", "f1_at_threshold"),
    }
    return {name: _percent(_mean([_at(record, path) for record in records])) for name, path in places.items()}


def _floors(plan: Plan) -> list[str]:
    """Return a line with what needs no model: a random point, the image's centre."""
    for one in plan.runs:
        if one.method == "csr" and plan.place("refined", one.run).is_dir():
            micro = (refinement(plan, one.run)["before"]["localisation"] or {}).get("micro", {})
            values = [micro.get(name, _NOTHING)["value"] for name in ("chance", "centre_hit")]
            if None not in values:
                chance, centre = (100 * value for value in values)
                return [
                    f"Floors of the pointing game on these boxes, without any model: a random point hits "
                    f"{chance:.1f}, the centre of the image {centre:.1f}."
                ]
            return []
    return []


def _at(record: Results, path: Sequence[str]) -> float | None:
    value: Any = record
    for key in path:
        if value is None:
            return None
        value = value[key]
    return None if value is None else value["value"]


def _mean(values: Sequence[float | None]) -> Score:
    """Return the mean over runs with Student's interval; None where any run has no value."""
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return {"value": None, "low": None, "high": None}
    _, low, high = over_runs(known)
    ends = (low, high) if np.isfinite(low) else (None, None)
    return {"value": float(np.mean(known)), "low": ends[0], "high": ends[1]}


def _percent(score: Score) -> Score:
    return {key: None if value is None else 100 * value for key, value in score.items()}


def table_of(rows: Sequence[Row], *, title: str) -> Table:
    """Return the table; columns that no row has a number for are left out."""
    measured = [
        name for name in MEASURED if any(row.scores.get(name, _NOTHING)["value"] is not None for row in rows)
    ]
    published = [
        name
        for name in PUBLISHED
        if any(getattr(row.published or Published(), name) is not None for row in rows)
    ]
    heads = ["", "runs", *(MEASURED[name] for name in measured), *(PUBLISHED[name] for name in published)]
    cells = [
        [
            row.name,
            str(len(row.seeds)) if row.seeds else "-",
            *(_text(row.scores.get(name, _NOTHING)) for name in measured),
            *(_number(getattr(row.published or Published(), name)) for name in published),
        ]
        for row in rows
    ]
    return Table(title, heads, cells)


_NOTHING: Score = {"value": None, "low": None, "high": None}


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _text(score: Score) -> str:
    if score["low"] is None:
        return _number(score["value"])
    return f"{_number(score['value'])} ({_number(score['low'])} to {_number(score['high'])})"


def write_tables(plan: Plan, *, edited: Sequence[Path]) -> list[str]:
    """Write the table as page, Markdown, LaTeX and JSON into the plan's folder; return the terminal's lines.

    Args:
        plan: with all steps done.
        edited: decisions on prototypes that a person changed.

    Raises:
        InputError: something cannot be read or written.
    """
    by_start = {start: rows_of(plan, start) for start in plan.starts}
    tables = [table_of(rows, title=start.title) for start, rows in by_start.items()]
    notes = [*METHOD, *plan.protocol.notes, *plan.left_out]
    if plan.flags:
        notes.append(f"Flags given, which win over what is said above: {shlex.join(plan.flags)}")
    if any("refined" in row.scores for rows in by_start.values() for row in rows):
        notes += [*_floors(plan), RULE]
        notes += [f"{path}: edited, it is not the rule's" for path in edited]
    title = plan.protocol.title
    text = [f"# {title}", ""]
    for table in tables:
        text += [f"## {table.title}", "", *markdown_rows(table), ""]
    text += [f"- {note}" for note in notes]
    content = {
        PAGE: _page(plan, tables, notes),
        MARKDOWN: "\n".join(text) + "\n",
        LATEX: "\n".join(latex_table(table) for table in tables),
    }
    try:
        for name, part in content.items():
            _write(plan.out / name, part)
        write_json(plan.out / JSON, _record(plan, by_start, notes))
    except OSError as error:
        raise InputError(f"--out {plan.out}: cannot be written ({error.strerror or error})") from None
    lines = [line for table in tables for line in (f"=== {title}: {table.title} ===", *_aligned(table), "")]
    return [*lines, f"Results: {plan.out / PAGE}, and as .md, .tex and .json"]


def _write(path: Path, text: str) -> None:
    content = text.encode("utf-8", "backslashreplace")
    write_atomic(path, lambda file: file.write(content))


def _aligned(table: Table) -> list[str]:
    """Return heads and rows in columns of one width."""
    rows = [table.heads, *table.rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(table.heads))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def _page(plan: Plan, tables: Sequence[Table], notes: Sequence[str]) -> str:
    sections = {}
    for start, table in zip(plan.starts, tables, strict=True):
        csr_runs = [one.run.name for one in plan.runs if one.start == start and one.method == "csr"]
        atlases = [name for name in csr_runs if (plan.out / "atlas" / name / INDEX).is_file()]
        sections[table.title] = {
            "template": "reproduction/table.html",
            "heads": table.heads,
            "rows": table.rows,
            "comparison": f"{plan.comparison(start).name}/{COMPARISON_PAGE}",
            "atlases": [(name, f"atlas/{name}/{INDEX}") for name in atlases],
        }
    sections["How this was measured"] = {"template": "comparison/method.html", "lines": list(notes)}
    return render("reproduction/page.html", title=plan.protocol.title, sections=sections)


def _record(plan: Plan, by_start: dict[Start, list[Row]], notes: Sequence[str]) -> Results:
    return {
        "format": "csr-reproduction",
        "format_version": 1,
        "name": plan.name,
        "starts": [
            {
                "key": start.key,
                "title": start.title,
                "rows": [
                    {
                        "method": row.method,
                        "seeds": list(row.seeds),
                        "scores": row.scores,
                        "published": None if row.published is None else vars(row.published),
                    }
                    for row in rows
                ],
            }
            for start, rows in by_start.items()
        ],
        "notes": list(notes),
    }
