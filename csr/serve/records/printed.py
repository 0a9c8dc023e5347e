"""The record as one page to print: image, maps, diagnoses before and after, every step in words.

Letters: K concepts, T targets, H W pixels of a picture.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from csr.explain.page import cells_text, map_picture
from csr.model.contributions import NO_MEDIANS
from csr.report.page import render
from csr.report.pictures import TILE_PX, colour_ramp, data_address, picture_of
from csr.serve.answers import result_of
from csr.serve.case import Outcome
from csr.serve.records.schemas import Record
from csr.serve.records.words import region_in_words, region_name, step_in_words
from csr.serve.schemas import Box, Diagnosis, Result
from csr.serve.session import Session

MAX_MAPS = 6  # besides those of concepts that were decided on
_IMAGE_PX = 720
_COLOURS = {"positive": (61, 220, 132), "negative": (255, 122, 217)}
_MOVED = 5e-4  # of a probability: less rounds to nothing


def print_record(record: Record, session: Session, outcome: Outcome, *, target: int | None) -> str:
    """Return the HTML of a record, with everything inside it and no address outside.

    Args:
        record: up to now.
        session: of the record.
        outcome: its last one.
        target: the diagnosis that maps are shown for; None: the one that was chosen before any edit.
    """
    case, result = session.case, result_of(session.case, outcome)
    t = case.plain.chosen if target is None else target
    with Image.open(io.BytesIO(session.view)) as opened:
        whole = opened.convert("RGB")
    tile_HW3 = picture_of(np.asarray(whole))
    decided = [k for k, name in enumerate(record.concepts) if name in outcome.edits.decisions]
    shown = [k for k in case.plain.shown(MAX_MAPS, target=t) if int(outcome.explanation.best_K[k]) >= 0]
    shown += [k for k in decided if k not in shown and int(outcome.explanation.best_K[k]) >= 0]
    return render(
        "record.html",
        title=f"Record of {record.image.name}",
        record=record,
        image=data_address(with_regions(whole, outcome.edits.boxes)),
        regions=[
            {"name": region_name(i, box), "words": region_in_words(box)}
            for i, box in enumerate(outcome.edits.boxes)
        ],
        diagnoses=[_diagnosis(d) for d in result.diagnoses],
        exactly_one=case.card.exactly_one,
        notes=_notes(result),
        notices=case.card.notices(),
        target=record.targets[t],
        ramp=data_address(colour_ramp(TILE_PX // 2, 16)),
        cells=cells_text(outcome.explanation),
        centred=outcome.explanation.is_centred,
        no_medians=NO_MEDIANS,
        base=result.diagnoses[t].base,
        logit=result.diagnoses[t].logit,
        maps=[_map(tile_HW3, session, outcome, result, k, t) for k in shown],
        concepts=[_concept(result, k, t, outcome) for k in range(len(record.concepts))],
        steps=_steps(record),
    )


def with_regions(image: Image.Image, boxes: Sequence[Box]) -> np.ndarray:
    """Return an image of at most `_IMAGE_PX` a side with the regions drawn on it, (H,W,3) uint8."""
    scale = min(1.0, _IMAGE_PX / max(image.size))
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    picture = image.resize(size, Image.Resampling.BILINEAR)
    draw = ImageDraw.Draw(picture)
    for number, box in enumerate(boxes):
        corners = [box.x_min * size[0], box.y_min * size[1], box.x_max * size[0] - 1, box.y_max * size[1] - 1]
        corners[2:] = [max(low, high) for low, high in zip(corners[:2], corners[2:], strict=True)]
        draw.rectangle(corners, outline=(0, 0, 0), width=4)
        draw.rectangle(corners, outline=_COLOURS[box.kind], width=2)
        place, name = (corners[0] + 5, corners[1] + 3), region_name(number, box)
        draw.text(place, name, fill=_COLOURS[box.kind], stroke_width=2, stroke_fill=(0, 0, 0))
    return np.asarray(picture)


def _word(calibration: str) -> str:
    return "score" if calibration == "score" else ""


def _diagnosis(d: Diagnosis) -> dict[str, Any]:
    return {
        "name": d.name,
        "before": d.before.probability,
        "after": d.probability,
        "points": 100 * (d.probability - d.before.probability),
        "called_before": d.before.present,
        "called": d.present,
        "threshold": d.threshold,
        "word": _word(d.calibration),
    }


def _map(
    tile_HW3: np.ndarray, session: Session, outcome: Outcome, result: Result, k: int, t: int
) -> dict[str, Any]:
    low, high = session.case.scale_of(k, int(outcome.explanation.best_K[k]))
    picture = map_picture(tile_HW3, outcome.explanation, k, scale=(low, high))
    row = _concept(result, k, t, outcome)
    return {**row, "picture": data_address(picture), "low": low, "high": high}


def _concept(result: Result, k: int, t: int, outcome: Outcome) -> dict[str, Any]:
    concept = result.concepts[k]
    return {
        "name": concept.name,
        "probability": concept.probability,
        "word": _word(concept.calibration),
        "called": concept.active,
        "decision": outcome.edits.decisions.get(concept.name, ""),
        "before": concept.contribution_before[t],
        "after": concept.contribution[t],
    }


def _notes(result: Result) -> list[str]:
    """Return what the page warns of beside the diagnoses."""
    lines = [] if result.novelty_note is None else [result.novelty_note]
    if result.safety.warn:
        moved = f"{100 * result.safety.regions_moved:.0f} percentage points"
        lines.append(f"The regions alone change a probability by {moved}: check them.")
    for number, box in enumerate(result.safety.boxes, start=1):
        if box.contradicts:
            lines.append(f"Region {number} contradicts the map of {box.concept}.")
    if result.safety.flips:
        lines.append("The edits change the most likely diagnosis.")
    if result.needs_doctor:
        lines.append(f"{result.doubt}: a doctor should decide.")
    return lines


def _steps(record: Record) -> list[dict[str, Any]]:
    """Return every step in words, with the diagnoses that it moved."""
    rows, before = [], None
    for step in record.steps:
        moved: list[str] = []
        if before is not None:
            pairs = zip(before.result.diagnoses, step.result.diagnoses, strict=True)
            moved = [
                f"{now.name} {was.probability:.1%} to {now.probability:.1%}"
                for was, now in pairs
                if abs(was.probability - now.probability) >= _MOVED
            ]
        words = step_in_words(step.action, None if before is None else before.edits, step.edits)
        rows.append({"time": step.time, "words": words, "moved": moved})
        before = step
    return rows
