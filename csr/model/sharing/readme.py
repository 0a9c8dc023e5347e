"""The README.md of a shared model: what it is, what it saw, how good it was, what it must not be used for."""

from __future__ import annotations

import html
import json
from typing import Any

from csr.model.doubt import doubt_sentence
from csr.model.sharing.card import Card

_FRONT = """---
library_name: csr
pipeline_tag: image-classification
tags:
- medical-imaging
- concept-based
- interpretability
---
"""
_USE = """## Intended use

Research on concept-based, interactive diagnosis: the model names findings (concepts), shows where it sees
them, and computes each diagnosis as one linear map on similarities to learned prototypes, which a doctor
can inspect and correct. Images must be of the kind it was trained on.

## Limits

- Not a medical device. No diagnosis may rest on its output alone.
- It knows the concepts and diagnoses listed here and nothing else; an image without any of them, of another
  organ or from another modality still gets an answer.
- Scores hold for images like those it was tested on. Other scanners, hospitals, ages or prevalences need a
  test of their own (`csr evaluate`) and thresholds of their own.
- A prototype may be a shortcut (a text mark, a tube): look at the training region behind it before you
  believe a map."""
_LOAD = """## Load it

    from csr.model import CSR

    model = CSR.from_pretrained("this/folder")  # eval mode; model.card holds names and thresholds
    output = model(images)                      # logits, similarity_scores, similarity_maps, cams, ...

or without any code: `csr predict this/folder IMAGES.. --out predictions.csv` and
`csr explain this/folder IMAGE --out explanation/`."""


def write_readme(card: Card, architecture: dict[str, Any]) -> str:
    """Write a model's card as Markdown.

    Args:
        card: of the model.
        architecture: its constructor arguments.
    """
    title = ", ".join(card.target_names[:6]) + (", ..." if len(card.target_names) > 6 else "")
    parts = [
        _FRONT,
        f"# CSR: {_text(title)}",
        _what(card, architecture),
        f"{_USE}\n- {_text(doubt_sentence(card))}",
        *_untrained(card),
        "## Data\n\n" + _data(card),
        "## Metrics\n\n" + _metrics(card),
        "## Labels\n\n" + _labels(card),
        "## Input\n\n" + _input(card),
        _LOAD,
        "## How it was trained\n\n",
        _json("Method options", card.method),
        _json("Provenance", card.provenance),
        "Method: Huy et al., Interactive Medical Image Analysis with Concept-based Similarity Reasoning, "
        "CVPR 2025 (arXiv 2503.06873).",
    ]
    return "\n\n".join(part.strip() for part in parts if part.strip()) + "\n"


def _what(card: Card, architecture: dict[str, Any]) -> str:
    exclusive = "exactly one of" if card.task_loss == "ce" else "any number of"
    num_prototypes = architecture["num_prototypes_per_concept"]
    return (
        f"Backbone `{_text(architecture['backbone_type'])}` {_text(architecture['model_name'])}, "
        f"{len(card.concept_names)} concepts with {num_prototypes} prototypes each, "
        f"{exclusive} {len(card.target_names)} diagnoses (task loss {card.task_loss})."
    )


def _untrained(card: Card) -> list[str]:
    """Return the warning for weights of an early stage."""
    name = str(card.provenance.get("checkpoint") or "")
    if not name.startswith(("best_model_stage1", "model_stage2")):
        return []
    return [f"**The diagnoses of this model mean nothing: `{_text(name)}` is from before the task stage.**"]


def _data(card: Card) -> str:
    if not card.data:
        return "Not recorded."
    facts = {key: value for key, value in card.data.items() if key != "labels"}
    parts = [_table(["", ""], [[key.replace("_", " "), _fact(value)] for key, value in facts.items()])]
    labels = card.data.get("labels")
    if isinstance(labels, dict) and labels:
        parts.append("Images with each label, of those where it is annotated:")
        parts.append(_prevalence(labels))
    return "\n\n".join(parts)


def _fact(value: Any) -> str:
    """Format a value: a number for each split as a sentence, anything else as JSON."""
    plain = isinstance(value, dict) and all(isinstance(v, int | float | str) for v in value.values())
    return ", ".join(f"{v} {k}" for k, v in value.items()) if plain else _short(value)


def _prevalence(labels: dict[str, Any]) -> str:
    rows = {name: row for name, row in labels.items() if isinstance(row, dict)}
    splits = list(dict.fromkeys(k for row in rows.values() for k, v in row.items() if isinstance(v, dict)))
    body = [
        [name, row.get("kind", ""), *(_share(row.get(split)) for split in splits)]
        for name, row in rows.items()
    ]
    return _table(["label", "kind", *splits], body)


def _share(counts: Any) -> str:
    values = (counts.get("positive"), counts.get("annotated")) if isinstance(counts, dict) else (None, None)
    if not all(isinstance(v, int) and not isinstance(v, bool) for v in values):
        return "n/a"
    positive, annotated = values
    return f"{positive} of {annotated} ({positive / annotated:.1%})" if annotated else "not annotated"


def _metrics(card: Card) -> str:
    groups = {key: card.metrics.get(key) for key in ("concepts", "targets")}
    if not any(isinstance(group, dict) and group for group in groups.values()):
        return "Not measured, or measured on other weights than these."
    num_images = card.metrics.get("num_images")
    size = f" ({num_images} images)" if isinstance(num_images, int) else ""
    lines = [f"On the test set of its run{size}."]
    for title, group in groups.items():
        rows = [
            [name, *(_number(values.get(key)) for key in ("auc", "ap", "f1"))]
            for name, values in (group or {}).items()
            if isinstance(values, dict)
        ]
        lines.append(_table([title, "AUROC", "AP", "F1 at 0.5"], rows))
    summary = card.metrics.get("summary")
    if isinstance(summary, dict):
        lines.append(_table(["summary", ""], [[key, _number(value)] for key, value in summary.items()]))
    return "\n\n".join(lines)


def _labels(card: Card) -> str:
    chosen = card.reference
    kinds = (
        ("diagnosis", card.target_names, card.target_threshold_T, card.target_calibration_T),
        ("concept", card.concept_names, card.concept_threshold_K, card.concept_calibration_K),
    )
    rows = [
        [name, kind, "" if kind == "diagnosis" and card.exactly_one else f"{value:.4f}", one.method]
        for kind, names, thresholds, calibrations in kinds
        for name, value, one in zip(names, thresholds.tolist(), calibrations, strict=True)
    ]
    measured = chosen.concept_threshold_K is not None and (
        card.exactly_one or chosen.target_threshold_T is not None
    )
    said = "Chosen for F1 on validation images." if measured else "0.5 is a default, not chosen on images."
    if card.exactly_one:
        said += " Exactly one diagnosis holds: the likeliest is called, without a threshold."
    notice = card.scores_notice() or "Probabilities are calibrated on validation images."
    return f"{said} {_text(notice)}\n\n" + _table(["label", "kind", "threshold", "calibration"], rows)


_AS_SQUARE = {
    "squash": "aspect not kept",
    "letterbox": "aspect kept, the rest of the square black",
    "crop": "aspect kept, the central square alone",
}


def _input(card: Card) -> str:
    pre = card.preprocessing
    return (
        f"Decoded to what a viewer shows, resized to {pre.stored_size} x {pre.stored_size} pixels "
        f"(bilinear, antialiased, {_AS_SQUARE[pre.resize]}), "
        f"resized to {pre.image_size} x {pre.image_size}, scaled to 0..1, "
        f"minus {list(pre.mean)}, divided by {list(pre.std)}; grey images have three equal channels. "
        f"`csr.data.images.resize.resize_file(path, {pre.stored_size}, resize={pre.resize!r})` and "
        "`model.card.preprocessing.transform()` do just this."
    )


def _json(title: str, value: dict[str, Any]) -> str:
    if not value:
        return ""
    text = json.dumps(value, indent=1, ensure_ascii=True)
    return f"{title}:\n\n" + "\n".join(f"    {line}" for line in text.splitlines()) + "\n\n"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_text(cell) for cell in line) + " |" for line in lines)


def _text(value: Any) -> str:
    """Escape a name, which is data: no HTML, table cell, link or emphasis comes out of it."""
    escaped = html.escape(" ".join(str(value).split()), quote=False)
    return "".join(f"\\{letter}" if letter in "\\`*_[]|" else letter for letter in escaped)


def _number(value: Any) -> str:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return f"{value:.4f}" if is_number else "n/a"


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 400 else text[:400] + "..."
