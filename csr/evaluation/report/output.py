"""Files of an evaluation (evaluation.json with everything, evaluation.csv, report.html), and its summary."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from csr.data.labels.names import cut_rows
from csr.evaluation import label_scores, pointing_game
from csr.evaluation.comparison import predictions
from csr.evaluation.information import shown
from csr.evaluation.report.page import origin_line, write_report
from csr.evaluation.simulation.edit_effects import FILE as EDIT_EFFECTS
from csr.runtime.errors import InputError
from csr.runtime.files import write_atomic, write_json

JSON, TABLE, REPORT = "evaluation.json", "evaluation.csv", "report.html"
COLUMNS = ("part", "group", "label", "score", "value", "low", "high", "n", "positives")
_COUNTS = (
    "images",
    "edited",
    "decisions",
    "right_before",
    "right_after",
    "fixed",
    "broken",
    "images_right_before",
    "images_right_after",
    "images_fixed",
    "images_broken",
)
Results = dict[str, Any]
Line = tuple[Any, ...]


def write_files(
    folder: Path,
    results: Results,
    *,
    pictures: Mapping[int, str],
    edit_effects: Results | None = None,
    predicted: predictions.Predictions | None = None,
) -> None:
    """Write the three files, each whole or not at all, the JSON last; other files stay.

    Args:
        folder: made where it does not exist.
        results: from `csr.evaluation.measure`, with a description of the data.
        pictures: of the worst errors, see `write_report`.
        edit_effects: of `csr.evaluation.simulation.edit_effects`, a file of its own; None: an older one goes.
        predicted: of each image, for test_predictions.csv; None: that of an earlier evaluation goes.

    Raises:
        InputError: they cannot be written.
    """
    page = write_report(results, pictures).encode("utf-8", "backslashreplace")
    table = write_table(results).encode("utf-8", "backslashreplace")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / REPORT, lambda file: file.write(page))
        write_atomic(folder / TABLE, lambda file: file.write(table))
        if predicted is not None:
            predictions.write_predictions(folder, predicted)
        elif (folder / JSON).is_file():
            (folder / predictions.FILE_NAME).unlink(missing_ok=True)
        if edit_effects is None:
            (folder / EDIT_EFFECTS).unlink(missing_ok=True)
        else:
            write_json(folder / EDIT_EFFECTS, edit_effects)
        write_json(folder / JSON, results)
    except OSError as error:
        raise InputError(f"--out {folder}: cannot be written ({error.strerror or error})") from None


def write_table(results: Results) -> str:
    """Return CSV text with `COLUMNS`, one number a line.

    `part` is targets, concepts, localisation, prototypes, information, flags or simulation; `group` a value
    of the column of --group_by (empty: all images), of information what a probe reads or, in a simulation,
    `all` or `doubtful`; `label` a name, `macro` or `micro`, or the simulated play.
    """
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    for line in lines(results):
        table.writerow("" if cell is None else cell for cell in line)
    return text.getvalue()


def lines(results: Results) -> Iterator[Line]:
    """Yield the rows of the table, cells in the order of `COLUMNS`."""
    yield from _label_lines(results, "")
    for group, scores in (results["groups"] or {}).items():
        yield from _label_lines(scores, group)
    for part in _kinds(results):
        for label, row in results["calibration"][part].items():
            for when in ("before", "after"):
                for score, value in row[when].items():
                    yield (part, "", label, f"{score} {when} calibration", value, None, None, None, None)
    if results["localisation"] is not None:
        yield from _score_lines("localisation", "", results["localisation"], pointing_game.SCORES)
    used = results["prototypes"]
    if used is not None:
        for label, row in used["labels"].items():
            yield ("prototypes", "", label, "used", row["used"], None, None, row["total"], None)
        yield ("prototypes", "", "all", "used", used["used"], None, None, used["total"], None)
    if results.get("information") is not None:
        yield from shown.table_lines(results["information"])
    for score, found in _doubt(results):
        interval = (found[key] for key in ("value", "low", "high"))
        yield ("flags", "", "needs a doctor", score, *interval, found["n"], found["hits"])
    novelty = results["novelty"]
    if novelty is not None:
        interval = (novelty[key] for key in ("value", "low", "high"))
        yield ("flags", "", "unlike the training images", "rate", *interval, novelty["n"], novelty["hits"])
    for play, subsets in (results["simulation"] or {}).items():
        for subset, row in subsets.items():
            for count in _COUNTS:
                yield ("simulation", subset, play, count, row[count], None, None, row["images"], None)
            net = (row["net"][key] for key in ("value", "low", "high"))
            yield ("simulation", subset, play, "net", *net, row["decisions"], None)


def _kinds(results: Results) -> list[str]:
    """Return the kinds of labels that were measured; a black box has no concepts."""
    return [kind for kind in ("targets", "concepts") if results[kind] is not None]


def _label_lines(scores: Results, group: str) -> Iterator[Line]:
    for part in _kinds(scores):
        yield from _score_lines(part, group, scores[part], label_scores.SCORES)


def _score_lines(part: str, group: str, scores: Results, names: tuple[str, ...]) -> Iterator[Line]:
    for label, row in [*scores["labels"].items(), ("macro", scores["macro"]), ("micro", scores["micro"])]:
        for name in names:
            score = row[name]
            counts = (row.get("n"), row.get("positives"))
            yield (part, group, label, name, score["value"], score["low"], score["high"], *counts)


def summary(results: Results) -> list[str]:
    """Return the lines that the terminal shows."""
    text = [f"=== {results['data']['images']} images of {results['data']['csv']} ===", origin_line(results)]
    for kind in _kinds(results):
        rows = [
            *results[kind]["labels"].items(),
            *((name, results[kind][name]) for name in ("macro", "micro")),
        ]
        width = max(len(name) for name, _ in rows) + 2
        text += ["", f"{kind:<{width}} {'AUROC':>21} {'AUPRC':>7} {'F1*':>7} {'sens.':>7} {'spec.':>7}"]
        lines = []
        for name, row in rows:
            rest = (
                f"{_number(row[score]['value']):>7}"
                for score in ("auprc", "f1_at_threshold", "sensitivity", "specificity")
            )
            lines.append(f"{name:<{width}} {_interval(row['auroc']):>21} {' '.join(rest)}")
        text += [*cut_rows(lines[:-2], rest="evaluation.csv"), *lines[-2:]]
    text.append(
        "* F1, sensitivity and specificity at the chosen thresholds; csr train's test table has F1 at 0.5"
    )
    return [*text, *_extra_lines(results), ""]


def _extra_lines(results: Results) -> list[str]:
    used = results["prototypes"]
    images = f"(on these {results['data']['images']} images)"
    text = [""]
    if used is not None:
        text.append(f"Prototypes used: {used['used']}/{used['total']} {images}")
    for (score, found), of in zip(_doubt(results), ("wrong flagged", "right left alone"), strict=True):
        counted = f"{found['hits']} of {found['n']} {of}"
        text.append(f"Images for a doctor, {score}: {counted}, {_interval(found)}")
    novelty = results["novelty"]
    if novelty is not None:
        text.append(
            f"Unlike the training images: {novelty['hits']} of {novelty['n']} images, {_interval(novelty)}"
        )
    pointing = results["localisation"]
    if pointing is not None:
        all_pairs = pointing["micro"]
        parts = [
            f"{name} {_interval(all_pairs[f'{key}_hit'])}"
            for name, key in (("CAM", "cam"), ("similarity", "similarity"), ("centre", "centre"))
        ]
        chance = _number(all_pairs["chance"]["value"])
        text.append(f"Pointing game, {pointing['n']} pairs: {', '.join(parts)}, chance {chance}")
    if results.get("information") is not None:
        text += shown.text_lines(results["information"])
    for play, subsets in (results["simulation"] or {}).items():
        parts = [
            f"{subset}: {row['fixed']} decisions fixed, {row['broken']} broken"
            for subset, row in subsets.items()
        ]
        harm = "" if subsets["all"]["helps"] is not False else " (does not help)"
        text.append(f"Simulated doctor ({play}): {'; '.join(parts)}{harm}")
    return text


def _doubt(results: Results) -> list[tuple[str, Results]]:
    return [(score, results["doubt"][score]) for score in ("sensitivity", "specificity")]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _interval(score: dict[str, float | None]) -> str:
    if score["low"] is None:
        return _number(score["value"])
    return f"{_number(score['value'])} ({_number(score['low'])}-{_number(score['high'])})"
