"""Diagnoses of image files that have no labels, one row a file, in batches and without keeping them.

Letters: B batch, K concepts, T targets, S side of a stored image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from csr.data.images.resize import resize_files
from csr.model import CSR, CSROutput
from csr.model.contributions import model_contributions
from csr.model.doubt import doubts, top_two_gap
from csr.model.novelty import compare
from csr.model.sharing.card import Card
from csr.runtime.errors import InputError

Row = dict[str, Any]
Readable = tuple[Path, torch.Tensor]  # a file and its pixels_CSS
Unreadable = tuple[Path, str]  # a file and the reason


@torch.no_grad()
def predict_files(
    model: CSR,
    paths: list[Path],
    *,
    batch_size: int = 16,
    workers: int = 4,
    with_contributions: bool = False,
    report: Callable[[str], object] = lambda line: None,
    remark: Callable[[str], object] = lambda line: None,
) -> Iterator[Row]:
    """Yield a row for each file, in order; memory does not grow with their number.

    Args:
        model: in eval mode, with a card, on the device to compute on.
        paths: image files.
        batch_size: images that the network sees at once.
        workers: threads that decode.
        with_contributions: whether rows say what each concept adds to each diagnosis.
        report: called with one line for each file that cannot be read.
        remark: called with one line for each file whose window does not fit (DICOM).

    Yields:
        `image`, then either `error`, or `diagnoses` and `concepts` (name -> probability), `present` (names of
        the diagnoses that are called, see `Card.called`), `gap` of the two most likely ones, and
        `needs_doctor`, for the reason `doubt` (`csr.model.doubt`); `novelty`, how the image compares with the
        training images (`csr.model.novelty.Seen`; null where the model cannot tell); on demand
        `contributions`, diagnosis -> `base` (the logit of an image without findings), `logit`, and `concepts`
        (name -> contribution): base and contributions sum to the logit.
    """
    assert model.card is not None
    pre = model.card.preprocessing
    waiting: list[Readable | Unreadable] = []
    num_readable = 0
    results = resize_files(paths, size=pre.stored_size, workers=workers, resize=pre.resize)
    for path, result in zip(paths, results, strict=True):
        if isinstance(result, InputError):
            report(str(result))
            waiting.append((path, str(result)))
            continue
        for note in result.notes:
            remark(f"{path}: {note.line}")
        waiting.append((path, torch.from_numpy(result.pixels_CSS).expand(3, -1, -1)))
        num_readable += 1
        if num_readable == batch_size:
            yield from _rows(model, waiting, with_contributions)
            waiting, num_readable = [], 0
    yield from _rows(model, waiting, with_contributions)


def _rows(model: CSR, waiting: list[Readable | Unreadable], with_contributions: bool) -> Iterator[Row]:
    """Yield the rows of one batch, unreadable files in their place."""
    stored = [pixels for _, pixels in waiting if not isinstance(pixels, str)]
    diagnosed = iter(
        diagnose(model, torch.stack(stored), with_contributions=with_contributions) if stored else []
    )
    for path, pixels in waiting:
        yield {"image": str(path), **({"error": pixels} if isinstance(pixels, str) else next(diagnosed))}


@torch.no_grad()
def diagnose(model: CSR, image_BCSS: torch.Tensor, *, with_contributions: bool = False) -> list[Row]:
    """Return the diagnoses and concepts of resized images.

    Args:
        model: in eval mode, with a card.
        image_BCSS: uint8, 1 or 3 channels, at the card's stored size; on any device.
        with_contributions: see `predict_files`.

    Returns:
        A row for each image, see `predict_files`, without `image`.
    """
    card = model.card
    assert card is not None
    device = next(model.parameters()).device
    image_B3HW = card.preprocessing.transform()(image_BCSS.to(device))
    feat_BCHW = model.features(image_B3HW)
    output = model.from_features(feat_BCHW)
    seen_B = compare(model, image_B3HW, feat_BCHW, output.similarity_scores)
    target_BT = card.probability(output.logits).cpu()
    concept_BK = card.concept_probability(output.concept_logits).cpu()
    added = _contributions(model, card, output) if with_contributions else [{}] * len(target_BT)
    return [
        {
            "diagnoses": dict(zip(card.target_names, target_T.tolist(), strict=True)),
            "concepts": dict(zip(card.concept_names, concept_K.tolist(), strict=True)),
            "present": [name for name, called in zip(card.target_names, called_T, strict=True) if called],
            "gap": float(gap),
            "needs_doctor": doubt is not None,
            "doubt": doubt,
            "novelty": None if seen is None else seen.to_dict(),
            **more,
        }
        for target_T, concept_K, called_T, gap, doubt, seen, more in zip(
            target_BT,
            concept_BK,
            card.called(target_BT).tolist(),
            top_two_gap(target_BT),
            doubts(card, target_BT),
            seen_B,
            added,
            strict=True,
        )
    ]


def _contributions(model: CSR, card: Card, output: CSROutput) -> list[Row]:
    parts = model_contributions(model, output.similarity_scores)
    return [
        {
            "contributions": {
                name: {
                    "base": float(parts.base_T[t]),
                    "logit": float(logit_T[t]),
                    "concepts": dict(zip(card.concept_names, share_TK[t].tolist(), strict=True)),
                }
                for t, name in enumerate(card.target_names)
            }
        }
        for logit_T, share_TK in zip(output.logits.cpu(), parts.share_BTKM.sum(3), strict=True)
    ]
