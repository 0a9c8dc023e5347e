"""Files of a comparison, its lines on the terminal, and how its numbers came about in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from csr.evaluation.comparison.page import page_of
from csr.evaluation.comparison.tables import (
    NOUNS,
    csv_text,
    interval_text,
    latex,
    markdown,
    p_text,
    score_text,
)
from csr.runtime.errors import InputError
from csr.runtime.files import write_atomic, write_json

JSON, TABLE, PAGE = "comparison.json", "comparison.csv", "comparison.html"
MARKDOWN, LATEX = "comparison.md", "comparison.tex"
Results = dict[str, Any]


def write_files(folder: Path, results: Results) -> None:
    """Write the five files, each whole or not at all, the JSON last; other files stay.

    Args:
        folder: made where it does not exist.
        results: of `compare`.

    Raises:
        InputError: they cannot be written.
    """
    method = method_lines(results)
    texts = {
        PAGE: page_of(results, method=method),
        MARKDOWN: markdown(results, method=method),
        LATEX: latex(results),
        TABLE: csv_text(results),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            _write(folder / name, text)
        write_json(folder / JSON, results)
    except OSError as error:
        raise InputError(f"--out {folder}: cannot be written ({error.strerror or error})") from None


def _write(path: Path, text: str) -> None:
    content = text.encode("utf-8", "backslashreplace")
    write_atomic(path, lambda file: file.write(content))


def method_lines(results: Results) -> list[str]:
    """Return sentences on what the numbers mean."""
    resamples, seed = results["options"]["bootstrap"], results["options"]["seed"]
    lines = [
        "Scores are those of csr evaluate: thresholds come with each model, chosen on its validation images; "
        "labels that are not annotated are left out; macro is the mean over labels that have a value.",
        f"Intervals of a single run: 95 %, percentiles of {resamples} resamples of the test images (seed "
        f"{seed}), the same resamples for all runs.",
        "Differences (a group minus the reference) have intervals and p-values by the same resamples: they "
        "say whether other test images could turn the difference around, with the models as they are.",
        "DeLong's test compares the AUROC of one label between two single runs.",
    ]
    if results["by"]:
        lines += [
            f"A group holds runs that differ in nothing but {', '.join(results['by'])}; its score is their "
            "mean, its sd and its 95 % interval (Student's t) are over these runs on one set of test images. "
            "Folds share most of their training images, so that intervals over folds are too narrow.",
            "p, runs: t-test over the runs of two groups, paired where both have the same seeds and folds, "
            "else Welch's.",
        ]
    return [
        *lines,
        "p-values are corrected by Holm over all tests of one kind of labels and one score: labels, macro "
        "and micro are families apart.",
        "Training time is the sum of the epochs' training and of what frozen layers computed, without "
        "validation and test, by the clock of rank 0; of a bottleneck that took over another run's first "
        "stage it is that of its own stages alone.",
    ]


def summary(results: Results) -> list[str]:
    """Return the lines that the terminal shows."""
    lines = [f"=== {len(results['runs'])} runs on {results['images']} test images ===", *results["notices"]]
    for kind, noun in NOUNS.items():
        measured = results["kinds"][kind]["groups"]
        shown = [(g["name"], s) for g, s in zip(results["groups"], measured, strict=True) if s is not None]
        if not shown:
            continue
        width = max(len(name) for name, _ in shown)
        lines += ["", f"Macro AUROC of {noun}"]
        lines += [f"  {name:<{width}}  {score_text(scores['macro']['auroc'])}" for name, scores in shown]
    tests = [row for row in results["pairs"] if row["label"] == "macro" and row["score"] == "auroc"]
    if tests:
        lines += ["", f"Against {results['reference']} (p corrected by Holm)"]
    for row in tests:
        difference = interval_text(row["difference"], row["low"], row["high"], signed=True)
        lines.append(f"  {row['second']}, {NOUNS[row['kind']]}: {difference}, p {p_text(row['p_holm'])}")
    return [*lines, ""]
