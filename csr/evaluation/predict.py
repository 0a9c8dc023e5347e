"""Diagnoses of image files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from csr.data.images.resize import resize_files
from csr.model import CSR
from csr.model.interaction import DOCTOR_GAP, top_two_gap
from csr.runtime.errors import InputError

Row = dict[str, Any]


@torch.no_grad()
def predict_files(
    model: CSR,
    paths: list[Path],
    *,
    batch_size: int = 16,
    workers: int = 4,
    report: Callable[[str], object] = lambda line: None,
) -> Iterator[Row]:
    """A row for each file, in order; memory does not grow with their number.

    Args:
        model: in eval mode, with a card, on the device to compute on.
        paths: image files.
        batch_size: images that the network sees at once.
        workers: threads that decode.
        report: called with one line for each file that cannot be read.

    Yields:
        `image`, then either `error`, or `diagnoses` and `concepts` (name -> probability), `present`
        (diagnoses from their thresholds on; the likeliest one if exactly one holds), `gap` of the two most
        likely ones, and `needs_doctor`, whether it is under 0.3.
    """
    assert model.card is not None
    size = model.card.preprocessing.stored_size
    waiting: list[tuple[Path, torch.Tensor | None, str]] = []
    for path, result in zip(paths, resize_files(paths, size=size, workers=workers), strict=True):
        if isinstance(result, InputError):
            report(str(result))
            waiting.append((path, None, str(result)))
        else:
            waiting.append((path, torch.from_numpy(result.pixels_CSS).expand(3, -1, -1), ""))
        if sum(pixels is not None for _, pixels, _ in waiting) == batch_size:
            yield from _predict(model, waiting)
            waiting = []
    yield from _predict(model, waiting)


def _predict(model: CSR, waiting: list[tuple[Path, torch.Tensor | None, str]]) -> Iterator[Row]:
    """Rows of one batch, unreadable ones in their place."""
    stored = [pixels for _, pixels, _ in waiting if pixels is not None]
    told = iter(diagnose(model, torch.stack(stored)) if stored else [])
    for path, pixels, error in waiting:
        yield {"image": str(path), **({"error": error} if pixels is None else next(told))}


def diagnose(model: CSR, image_BCSS: torch.Tensor) -> list[Row]:
    """What the model says about resized images (uint8, 1 or 3 channels)."""
    card = model.card
    assert card is not None
    device = next(model.parameters()).device
    output = model(card.preprocessing.transform()(image_BCSS.to(device)))
    target_BT = card.probability(output.logits).cpu()
    concept_BK = output.concept_logits.sigmoid().cpu()
    return [
        {
            "diagnoses": dict(zip(card.target_names, target_T.tolist(), strict=True)),
            "concepts": dict(zip(card.concept_names, concept_K.tolist(), strict=True)),
            "present": [name for name, is_it in zip(card.target_names, present_T, strict=True) if is_it],
            "gap": float(gap),
            "needs_doctor": bool(gap < DOCTOR_GAP),
        }
        for target_T, concept_K, present_T, gap in zip(
            target_BT, concept_BK, card.called(target_BT), top_two_gap(target_BT), strict=True
        )
    ]
