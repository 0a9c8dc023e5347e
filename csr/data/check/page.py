"""The data check as one self-contained HTML page: what its template shows, out of what was found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from csr.data.check.columns import column_lines
from csr.data.check.examples import pictured, small_picture
from csr.data.check.facts import Found
from csr.data.check.text import agreement_lines, box_lines, copy_lines, number, split_lines, verdict
from csr.report import charts
from csr.report.charts import Mark
from csr.report.page import percent, render
from csr.runtime.errors import InputError
from csr.runtime.files import write_atomic

MAX_PICTURED_GROUPS, MAX_PICTURES, PICTURE_PX, MAX_LISTED = 8, 4, 160, 200
MAX_NAMES = 12  # images of a group
MAX_HEAT_MAP, MAX_PAIRS = 100, 50  # labels, pairs of labels
_PAIR_HEADS = ["label", "and", "images with both", "of those with the first", "of those with the second"]
_TWIN_HEADS = ["concept", "and", "which is a", "images with both", "images with either", "share"]
_NOUNS = {"concept": "concept", "target": "diagnosis"}
SPLIT_SERIES = {"train": 0, "test": 1}
_PREVALENCE_ENDS = (0.05, 0.1, 0.2, 0.5, 1.0)  # whose fifths are round


def write_page(path: Path, found: Found) -> None:
    """Write the report, whole or not at all.

    Raises:
        InputError: it cannot be written.
    """
    page = report_page(found).encode("utf-8", "backslashreplace")
    try:
        write_atomic(path, lambda file: file.write(page))
    except OSError as error:
        raise InputError(f"--out {path}: cannot be written ({error.strerror or error})") from None


def report_page(found: Found) -> str:
    """Return the HTML of everything that `csr.data.check.check.check_data` returns."""
    sections = {
        "Tables": _section("lines", _tables(found)),
        "Labels": _section("labels", _labels(found)),
        "Labels in pictures": _section("examples", pictured(found["examples"])),
        "Labels together": _section("together", _together(found)),
        "Readers": _section("readers", _readers(found)),
        "Images": _section("images", _images(found["splits"])),
        "Boxes": _section("boxes", _boxes(found["boxes"])),
        "Copies and leaks": _section("copies", _copies(found)),
    }
    return render(
        "data_check/page.html",
        title="Data check of " + " and ".join(split["csv"] for split in found["splits"].values()),
        verdict=verdict(found),
        tiles=_tiles(found),
        problems=found["problems"],
        warnings=found["warnings"],
        sections={heading: content for heading, content in sections.items() if content is not None},
    )


def _section(template: str, values: dict[str, Any] | None) -> dict[str, Any] | None:
    return None if values is None else {"template": f"data_check/{template}.html", **values}


def _tiles(found: Found) -> list[tuple[str, str]]:
    """Return the numbers that one looks for first, with their names."""
    tiles = [(str(split["images"]), f"{name} images") for name, split in found["splits"].items()]
    kinds = [row["kind"] for row in found["labels"].values()]
    tiles += [(str(kinds.count(kind)), f"{kind}s") for kind in ("concept", "target")]
    if found["agreement"] is not None:
        tiles.append((number(found["agreement"]["mean"]["cohen"]), "Cohen's kappa, mean"))
    leaks = sum(group["leak"] for kind in ("exact", "near") for group in found[f"{kind}_duplicates"])
    if len(found["splits"]) > 1:
        tiles.append((str(leaks), "images or groups in both splits"))
    return tiles


def _tables(found: Found) -> dict[str, Any]:
    lines = [line for name, split in found["splits"].items() for line in split_lines(name, split)]
    return {"lines": lines, "columns": column_lines(found["columns"])}


def _labels(found: Found) -> dict[str, Any]:
    splits = [*found["splits"]]
    kinds = []
    for kind, noun in (("concept", "concepts"), ("target", "diagnoses")):
        rows = {name: row for name, row in found["labels"].items() if row["kind"] == kind}
        marks = [
            (name, [_prevalence(row.get(split), split) for split in splits]) for name, row in rows.items()
        ]
        highest = max([0.0, *(m.value for _, row in marks for m in row if m.value is not None)])
        end = next(end for end in _PREVALENCE_ENDS if end >= highest)
        columns = ("positive", "share", "not annotated")
        kinds.append(
            {
                "noun": noun,
                "chart": charts.dot_plot(marks, title=f"Prevalence of {noun}", high=end),
                "heads": [kind, *(f"{split}: {column}" for split in splits for column in columns)],
                "rows": [
                    [name, *(cell for split in splits for cell in _counts(row.get(split), found, split))]
                    for name, row in rows.items()
                ],
            }
        )
    legend = charts.legend([(SPLIT_SERIES[split], split) for split in splits])
    return {"reader_merge": found["options"]["reader_merge"], "legend": legend, "kinds": kinds}


def _prevalence(counts: Found | None, split: str) -> Mark:
    share = counts["positive"] / counts["annotated"] if counts and counts["annotated"] else None
    return Mark(share, series=SPLIT_SERIES[split], name=split)


def _counts(counts: Found | None, found: Found, split: str) -> list[str]:
    if counts is None:
        return [percent(None)] * 3
    share = counts["positive"] / counts["annotated"] if counts["annotated"] else None
    unknown = found["splits"][split]["images"] - counts["annotated"]
    return [str(counts["positive"]), percent(share, 1), str(unknown)]


def _together(found: Found) -> dict[str, Any]:
    counts = found["cooccurrence"]
    names = counts["names"]
    twins = [
        [
            one["concept"],
            one["other"],
            _NOUNS[one["kind"]],
            one["both"],
            one["either"],
            percent(one["share"], 1),
        ]
        for one in found["twins"][:MAX_PAIRS]
    ]
    shown = {"twin_heads": _TWIN_HEADS, "twins": twins, "more_twins": len(found["twins"]) - len(twins)}
    if len(names) > MAX_HEAT_MAP:  # its size grows with the square
        return {**shown, "chart": None, "labels": len(names), "heads": _PAIR_HEADS, "rows": _pairs(counts)}
    return {**shown, "chart": charts.heat_map(names, counts["counts"], title="Labels that occur together")}


def _pairs(found: Found) -> list[list[str]]:
    """Return the pairs of labels that most images have both of, at most `MAX_PAIRS`."""
    names, count_LL = found["names"], np.asarray(found["counts"])
    first, second = np.triu_indices(len(names), k=1)
    both = count_LL[first, second]
    order = np.argsort(-both, kind="stable")[:MAX_PAIRS]
    return [
        [
            names[i],
            names[j],
            str(count),
            *(percent(count / int(count_LL[k, k]), 1) for k in (i, j)),
        ]
        for i, j, count in zip(*(values[order].tolist() for values in (first, second, both)), strict=True)
        if count
    ]


def _readers(everything: Found) -> dict[str, Any] | None:
    found = everything["agreement"]
    if found is None:
        return None
    marks = [
        (name, [Mark(row["cohen"], name="Cohen"), Mark(row["fleiss"], series=1, name="Fleiss")])
        for name, row in found["labels"].items()
    ]
    lowest = min([0.0, *(m.value for _, row in marks for m in row if m.value is not None)])
    low = -0.2 * -(-(-lowest) // 0.2)
    keys = ("agree", "cohen", "fleiss")
    return {
        "lines": [*agreement_lines(everything)],
        "legend": charts.legend([(0, "Cohen"), (1, "Fleiss")]),
        "chart": charts.dot_plot(marks, title="Kappa of each label", low=low, high=1.0, reference=0.0),
        "heads": [
            "label",
            "agree",
            "Cohen's kappa",
            "Fleiss' kappa",
            "pairs of readers",
            "images for Fleiss",
        ],
        "rows": [
            [name, *(number(row[key]) for key in keys), row["pairs"], row["fleiss_images"]]
            for name, row in found["labels"].items()
        ],
        "ends": [["mean", *(number(found["mean"][key]) for key in keys), "", ""]],
    }


def _images(splits: dict[str, Found]) -> dict[str, Any]:
    kinds = dict.fromkeys(kind for split in splits.values() for kind in split["kinds"])
    sizes = {name: split["sizes"] for name, split in splits.items()}
    return {
        "legend": charts.legend([(SPLIT_SERIES[name], name) for name in splits]),
        "chart": charts.size_plot(sizes, title="Image sizes"),
        "heads": ["kind", *splits],
        "rows": [[kind, *(split["kinds"].get(kind, 0) for split in splits.values())] for kind in kinds],
        "lists": [
            (f"{name}: {state}", split[state])
            for name, split in splits.items()
            for state in ("missing", "unreadable")
        ],
        "longest": MAX_LISTED,
    }


def _boxes(found: Found | None) -> dict[str, Any] | None:
    if found is None:
        return None
    counts = ("boxes", "images", "positive_without", "on_absent")
    return {
        "csv": found["csv"],
        "lines": [*box_lines(found)],
        "heads": [
            "concept",
            "boxes",
            "images",
            "positive images without",
            "on images without it",
            "median area",
        ],
        "rows": [
            [name, *(row[count] for count in counts), percent(row["median_area"], 1)]
            for name, row in found["classes"].items()
        ],
    }


def _copies(found: Found) -> dict[str, Any]:
    kinds = []
    for kind, title in (("exact", "The same bytes"), ("near", "Look the same")):
        groups = sorted(found[f"{kind}_duplicates"], key=lambda group: not group["leak"])
        kinds.append(
            {
                "title": title,
                "number": len(groups),
                "groups": [_group(group) for group in groups[:MAX_PICTURED_GROUPS]],
                "further": [_names(group["images"]) for group in groups[MAX_PICTURED_GROUPS:]],
            }
        )
    return {"lines": [*copy_lines(found)], "kinds": kinds, "longest": MAX_LISTED}


def _names(images: list[str]) -> str:
    more = len(images) - MAX_NAMES
    return " = ".join(images[:MAX_NAMES]) + (f" and {more} more" if more > 0 else "")


def _group(group: Found) -> dict[str, Any]:
    notes = ["in training and test"] if group["leak"] else []
    notes += [] if group["labels_agree"] else ["labels differ"]
    shown = zip(group["images"][:MAX_PICTURES], group["files"][:MAX_PICTURES], strict=True)
    figures = [
        {"name": name, "picture": small_picture(Path(path), PICTURE_PX, "PNG")} for name, path in shown
    ]
    return {"notes": notes, "figures": figures, "more": len(group["images"]) - MAX_PICTURES}
