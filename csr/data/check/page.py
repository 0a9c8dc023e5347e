"""The data check as one HTML page that carries everything inside it and reads well in light and dark."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from csr.data.check.facts import Found
from csr.data.check.text import number, verdict
from csr.data.images.decode import read_image
from csr.report import charts
from csr.report.charts import Mark, escaped, heat_map, size_plot
from csr.report.page import page, table
from csr.runtime.errors import InputError
from csr.runtime.files import write_atomic

MAX_PICTURED_GROUPS, MAX_PICTURES, PICTURE_PX, MAX_LISTED = 8, 4, 160, 200
_PREVALENCE_ENDS = (0.05, 0.1, 0.2, 0.5, 1.0)  # whose fifths are round
SPLIT_SERIES = {"train": 0, "test": 1}
_OWN_STYLE = """
.bad { background: var(--note); border-left: 4px solid #c0392b; padding: .4rem .8rem; max-width: 46rem; }
svg.chart .cell { fill: none; stroke: var(--line); } svg.chart .heat { fill: var(--c0); }
figure { display: inline-block; margin: .3rem .6rem .3rem 0; } figure img { display: block; max-height: 160px; }
figcaption { font-size: .8rem; color: var(--soft); max-width: 10rem; overflow-wrap: anywhere; }
h1, p { overflow-wrap: anywhere; }
.group { border-top: 1px solid var(--line); padding-top: .4rem; } li { overflow-wrap: anywhere; }
"""


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
    """HTML of everything that `csr.data.check.check.check_data` returns."""
    sections = {
        "Labels": _labels(found),
        "Labels together": _together(found["cooccurrence"]),
        "Readers": _readers(found["agreement"]),
        "Images": _images(found["splits"]),
        "Boxes": _boxes(found["boxes"]),
        "Copies and leaks": _copies(found),
    }
    title = "Data check of " + " and ".join(split["csv"] for split in found["splits"].values())
    notes = "".join(f'<p class="bad"><b>Problem.</b> {escaped(line)}</p>' for line in found["problems"])
    notes += "".join(f'<p class="note">{escaped(line)}</p>' for line in found["warnings"])
    above = f"<p><b>{escaped(verdict(found))}</b></p>\n{_tiles(found)}"
    return page(title, sections, above=above, below=notes, style=_OWN_STYLE)


def _tiles(found: Found) -> str:
    """The numbers that one looks for first."""
    tiles = [(str(split["images"]), f"{name} images") for name, split in found["splits"].items()]
    kinds = [row["kind"] for row in found["labels"].values()]
    tiles += [(str(kinds.count(kind)), f"{kind}s") for kind in ("concept", "target")]
    if found["agreement"] is not None:
        tiles.append((number(found["agreement"]["mean"]["cohen"]), "Cohen's kappa, mean"))
    leaks = sum(group["leak"] for kind in ("exact", "near") for group in found[f"{kind}_duplicates"])
    if len(found["splits"]) > 1:
        tiles.append((str(leaks), "images or groups in both splits"))
    return f'<div class="tiles">{"".join(f"<div><b>{n}</b><span>{escaped(t)}</span></div>" for n, t in tiles)}</div>'


def _labels(found: Found) -> str:
    splits = [*found["splits"]]
    parts = [charts.legend([(SPLIT_SERIES[split], split) for split in splits])]
    for kind, noun in (("concept", "concepts"), ("target", "diagnoses")):
        rows = {name: row for name, row in found["labels"].items() if row["kind"] == kind}
        marks = [
            (name, [_prevalence(row.get(split), split) for split in splits]) for name, row in rows.items()
        ]
        highest = max([0.0, *(m.value for _, row in marks for m in row if m.value is not None)])
        end = next(end for end in _PREVALENCE_ENDS if end >= highest)
        chart = charts.dot_plot(marks, title=f"Prevalence of {noun}", high=end)
        body = [
            [escaped(name), *(cell for split in splits for cell in _counts(row.get(split), found, split))]
            for name, row in rows.items()
        ]
        heads = [
            kind,
            *(f"{split}: {what}" for split in splits for what in ("positive", "share", "not annotated")),
        ]
        parts.append(f"<h3>Prevalence of {noun}</h3>{chart}{table(heads, body)}")
    merge = escaped(found["options"]["reader_merge"])
    return f"<p>Share of the annotated images that have a label, readers merged by '{merge}'.</p>" + "".join(
        parts
    )


def _prevalence(counts: Found | None, split: str) -> Mark:
    share = counts["positive"] / counts["annotated"] if counts and counts["annotated"] else None
    return Mark(share, series=SPLIT_SERIES[split], name=split)


def _counts(counts: Found | None, found: Found, split: str) -> tuple[str, str, str]:
    if counts is None:
        return ("&ndash;",) * 3
    share = f"{counts['positive'] / counts['annotated']:.1%}" if counts["annotated"] else "&ndash;"
    return str(counts["positive"]), share, str(found["splits"][split]["images"] - counts["annotated"])


def _together(found: Found) -> str:
    chart = heat_map(found["names"], found["counts"], title="Labels that occur together")
    return (
        "<p>Of the training images with the label of a row, the share that has the label of a column too. A row "
        "and a column that are dark at their crossing cannot be told apart by these images.</p>"
        f'<div class="wide">{chart}</div>'
    )


def _readers(found: Found | None) -> str:
    if found is None:
        return ""
    marks = [
        (name, [Mark(row["cohen"], name="Cohen"), Mark(row["fleiss"], series=1, name="Fleiss")])
        for name, row in found["labels"].items()
    ]
    lowest = min([0.0, *(m.value for _, row in marks for m in row if m.value is not None)])
    low = -0.2 * -(-(-lowest) // 0.2)
    chart = charts.dot_plot(marks, title="Kappa of each label", low=low, high=1.0, reference=0.0)
    keys = ("agree", "cohen", "fleiss")
    body = [
        [escaped(name), *(number(row[key]) for key in keys), str(row["pairs"]), str(row["fleiss_images"])]
        for name, row in found["labels"].items()
    ]
    ends = [["mean", *(number(found["mean"][key]) for key in keys), "", ""]]
    heads = ["label", "agree", "Cohen's kappa", "Fleiss' kappa", "pairs of readers", "images for Fleiss"]
    return (
        f"<p>{found['readers']} readers; {found['images']} images were read by two or more. Agree: share of the reads "
        "of two readers that are the same. Cohen's kappa takes out what chance alone would give: the mean over pairs "
        "of readers, each on the images that both read. Fleiss' kappa: all readers at once, on the images with the "
        "most common number of reads (three or more). None where all reads are the same.</p>"
        f"{charts.legend([(0, 'Cohen'), (1, 'Fleiss')])}{chart}{table(heads, body, ends=ends)}"
    )


def _images(splits: dict[str, Found]) -> str:
    plot = size_plot({name: split["sizes"] for name, split in splits.items()}, title="Image sizes")
    names = dict.fromkeys(kind for split in splits.values() for kind in split["kinds"])
    body = [
        [escaped(kind), *(str(split["kinds"].get(kind, 0)) for split in splits.values())] for kind in names
    ]
    parts = [
        f"<h3>Sizes</h3>{charts.legend([(SPLIT_SERIES[name], name) for name in splits])}{plot}",
        f"<h3>Kinds</h3>{table(['kind', *splits], body)}",
    ]
    for name, split in splits.items():
        parts += [_listed(f"{name}: {what}", split[what]) for what in ("missing", "unreadable")]
    return "".join(parts)


def _listed(title: str, lines: Sequence[str]) -> str:
    if not lines:
        return ""
    items = "".join(f"<li>{escaped(line)}</li>" for line in lines[:MAX_LISTED])
    more = f"<li>and {len(lines) - MAX_LISTED} more</li>" if len(lines) > MAX_LISTED else ""
    return f"<details open><summary>{escaped(title)} ({len(lines)})</summary><ul>{items}{more}</ul></details>"


def _boxes(found: Found | None) -> str:
    if found is None:
        return ""
    body = [
        [
            escaped(name),
            str(row["boxes"]),
            str(row["images"]),
            str(row["positive_without"]),
            str(row["on_absent"]),
            "&ndash;" if row["median_area"] is None else f"{row['median_area']:.1%}",
        ]
        for name, row in found["classes"].items()
    ]
    heads = ["concept", "boxes", "images", "positive images without", "on images without it", "median area"]
    ignored = [f"{count} of {name}" for name, count in found["ignored"].items()]
    more = f"<p>No concept, not used: {escaped(', '.join(ignored))}.</p>" if ignored else ""
    told = f"{found['boxes']} boxes on {found['images']} images of {found['csv']}."
    return f"<p>{escaped(told)}</p>{table(heads, body)}{more}"


def _copies(found: Found) -> str:
    parts = []
    for kind, title in (("exact", "The same bytes"), ("near", "Look the same")):
        groups = sorted(found[f"{kind}_duplicates"], key=lambda group: not group["leak"])
        if not groups:
            parts.append(f"<h3>{title}</h3><p>None.</p>")
            continue
        body = "".join(_group(group) for group in groups[:MAX_PICTURED_GROUPS])
        rest = [" = ".join(group["images"]) for group in groups[MAX_PICTURED_GROUPS:]]
        parts.append(f"<h3>{title} ({len(groups)} groups)</h3>{body}{_listed('further groups', rest)}")
    return (
        "<p>By the hash of the files, and by difference hashes and correlation of thumbnails (scaled, re-saved or "
        "brightened copies; not turned or mirrored ones). A copy in training and test makes test numbers too good.</p>"
        + "".join(parts)
    )


def _group(group: Found) -> str:
    told = ["in training and test"] if group["leak"] else []
    told += [] if group["labels_agree"] else ["labels differ"]
    figures = "".join(
        f"<figure>{_picture(Path(path))}<figcaption>{escaped(name)}</figcaption></figure>"
        for name, path in zip(group["images"][:MAX_PICTURES], group["files"][:MAX_PICTURES], strict=True)
    )
    more = len(group["images"]) - MAX_PICTURES
    rest = f"<p>and {more} more</p>" if more > 0 else ""
    note = f'<p class="note">{", ".join(told)}</p>' if told else ""
    return f'<div class="group">{note}{figures}{rest}</div>'


def _picture(path: Path) -> str:
    """A small copy inside the page; nothing where the file has gone since it was read."""
    try:
        image = Image.fromarray(read_image(path, min_size=2 * PICTURE_PX))
    except InputError:
        return ""
    image.thumbnail((PICTURE_PX, PICTURE_PX))
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return f'<img alt="" src="data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}">'
