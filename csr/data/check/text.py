"""The lines that `csr data check` prints."""

from __future__ import annotations

from collections.abc import Iterator

from csr.data.check.columns import column_lines
from csr.data.check.facts import Found
from csr.data.labels.names import cut_rows, show
from csr.data.labels.vocabulary import AVERAGE_READERS

MAX_KINDS = 6


def text_lines(found: Found) -> list[str]:
    """Return lines for a terminal: counts, labels, readers, boxes, copies, then warnings and problems."""
    lines = [line for name, split in found["splits"].items() for line in split_lines(name, split)]
    lines += [
        "Columns:",
        *column_lines(found["columns"]),
        "",
        *_label_lines(found),
        *agreement_lines(found),
        *box_lines(found["boxes"]),
        *copy_lines(found),
    ]
    lines += ["", *(f"Warning: {line}" for line in found["warnings"])]
    lines += [f"Problem: {line}" for line in found["problems"]]
    return [*lines, verdict(found)]


def many(count: int, noun: str) -> str:
    """Return a count with its noun: 1 image, 2 images."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def verdict(found: Found) -> str:
    """Return the sentence whether `csr train` can use the data."""
    if found["problems"]:
        return f"Not usable for training: {many(len(found['problems']), 'problem')}."
    warned = f", with {many(len(found['warnings']), 'warning')}" if found["warnings"] else ""
    return f"Usable for training{warned}."


def split_lines(name: str, split: Found) -> Iterator[str]:
    """Yield what is in a split, its cells, groups, greys and links."""
    readers = ", ".join(f"{count} by {number}" for number, count in split["readers_per_image"].items())
    counts = f"{split['images']} images in {split['csv']}"
    counts += "" if readers == f"{split['images']} by 1" else f" (readers: {readers})"
    counts += "" if split["patients"] is None else f", {split['patients']} patients"
    yield f"{name}: {counts}; {split['readable']} readable"
    if split["averages"]:
        yield (
            f"  {many(split['averages'], 'image')} with a labeler's -1, written as 2 of 3 in rows of "
            f"{show(AVERAGE_READERS[0])} and so on: an average, no readers, and not in any agreement"
        )
    kinds = [f"{count} {kind}" for kind, count in split["kinds"].items()]
    if kinds:
        more = f", {len(kinds) - MAX_KINDS} other kinds" if len(kinds) > MAX_KINDS else ""
        yield f"  {', '.join(kinds[:MAX_KINDS])}{more}"
        width, height = split["width"], split["height"]
        yield (
            f"  width {width['min']} to {width['max']} (median {width['median']:g}), "
            f"height {height['min']} to {height['max']} (median {height['median']:g}) pixels"
        )

    cells, groups, greys, links = (split[key] for key in ("cells", "groups", "greys", "links"))
    share = cells["empty"] / max(1, cells["of"])
    yield (
        f"  {cells['empty']} of {cells['of']} cells ({share:.1%}) are empty in {len(cells['by_label'])} "
        "columns; an empty cell counts as not annotated, neither positive nor negative"
    )
    if groups is not None:
        unknown = f", {groups['unknown']} images without" if groups["unknown"] else ""
        yield (
            f"  {groups['groups']} groups, {groups['several']} of several images, the largest of "
            f"{groups['largest_images']} ({show(groups['largest'])}){unknown}; a group stays on one side of "
            "the validation split"
        )
    if greys is not None:
        grey = greys["mean_grey"]
        yield (
            f"  mean grey {grey['low']:.0f} to {grey['high']:.0f} (10 to 90 % of the images, median "
            f"{grey['median']:.0f}) of 255; borders: {greys['white_borders']} white, "
            f"{greys['black_borders']} black"
        )
    if links["symbolic"] or links["files"] < links["images"]:
        yield f"  {links['symbolic']} images are symbolic links; {links['files']} files in all"


def _label_lines(found: Found) -> Iterator[str]:
    splits, agreed = [*found["splits"]], found["agreement"]
    width = max(map(len, found["labels"])) + 2
    head = "".join(f"{split:>18}" for split in splits)
    yield (
        f"{'images with':<{width}}{head}{'kappa':>8}{'Fleiss':>8}"
        if agreed
        else f"{'images with':<{width}}{head}"
    )
    for kind in ("concept", "target"):
        rows = []
        for name, row in found["labels"].items():
            if row["kind"] == kind:
                cells = "".join(f"{_share(row.get(split)):>18}" for split in splits)
                kappas = agreed["labels"][name] if agreed else {}
                scores = "".join(f"{number(kappas[key]):>8}" for key in ("cohen", "fleiss") if agreed)
                rows.append(f"{name:<{width}}{cells}{scores}")
        yield from cut_rows(rows, rest="--json, or the page of --out")
        yield ""


def _share(counts: Found | None) -> str:
    if counts is None or not counts["annotated"]:
        return "-"
    return f"{counts['positive']} of {counts['annotated']} {counts['positive'] / counts['annotated']:>5.1%}"


def number(value: float | None) -> str:
    """Return a score with three digits, or - for None."""
    return "-" if value is None else f"{value:.3f}"


def agreement_lines(found: Found) -> Iterator[str]:
    """Yield the agreement of readers, if there are several."""
    agreed = found["agreement"]
    if agreed is None:
        return
    mean = agreed["mean"]
    yield (
        f"Readers: {agreed['readers']}, {agreed['images']} images with two or more; mean over labels: "
        f"they agree on {number(mean['agree'])}, Cohen's kappa {number(mean['cohen'])}, "
        f"Fleiss' kappa {number(mean['fleiss'])}"
    )


def box_lines(boxes: Found | None) -> Iterator[str]:
    """Yield the counts of boxes, and of those that may not be what they should be."""
    if boxes is None:
        return
    absent = sum(row["on_absent"] for row in boxes["classes"].values())
    yield (
        f"Boxes: {boxes['boxes']} on {boxes['images']} images; "
        f"{absent} on images without that finding are not used"
    )
    yield (
        f"  {boxes['large']} nearly as large as their image, {boxes['small']} tiny, {boxes['repeated']} "
        f"there twice; --resize crop cuts {boxes['crop']['cut']} and leaves {boxes['crop']['left_out']} out"
    )
    for name, count in boxes["ignored"].items():
        yield f"  {count} of {name!r}, which is no concept, are not used"


def copy_lines(found: Found) -> Iterator[str]:
    """Yield the counts of copies."""
    exact, near = (many(len(found[f"{kind}_duplicates"]), "group") for kind in ("exact", "near"))
    yield f"Copies: {exact} of files with the same bytes, {near} of images that look the same"
