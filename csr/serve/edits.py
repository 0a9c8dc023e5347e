"""A doctor's edits between the wire and the computation: checked, completed, and as tensors.

Letters: B batch (1 here), K concepts, R boxes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch

from csr.data.images.square import WHOLE, Frame, boxes_in_square
from csr.model import interaction
from csr.runtime.errors import InputError
from csr.serve.schemas import Decision, Edits, EditsIn, Replacement

ZERO: Final = "zero"
MEDIAN: Final = "median"
_CODES: dict[Decision, int] = {"rejected": interaction.REJECTED, "confirmed": interaction.CONFIRMED}


def no_edits(replacement: Replacement) -> Edits:
    """Return the state that a session starts in and a reset returns to."""
    return Edits(decisions={}, boxes=[], alpha=interaction.ALPHA, replacement=replacement)


def checked_edits(
    sent: EditsIn, concept_names: Sequence[str], *, default: Replacement, frame: Frame = WHOLE
) -> Edits:
    """Return the edits that a request puts in force.

    Args:
        sent: the request.
        concept_names: of the model, K.
        default: replacement that holds where the request names none.
        frame: the square that the model sees, as fractions of the image.

    Raises:
        InputError: an unknown concept (of a decision or a box), medians that were not measured, a box without
            area or beside what the model sees.
    """
    unknown = [name for name in sent.decisions if name not in concept_names]
    if unknown:
        raise InputError(f"{len(unknown)} decisions are on concepts that the model does not have")
    for number, box in enumerate(sent.boxes, 1):
        if box.concept is not None and box.concept not in concept_names:
            raise InputError(f"region {number} is tied to a concept that the model does not have")
    replacement = sent.replacement or default
    if replacement == MEDIAN and default != MEDIAN:
        raise InputError("replacement 'median': the medians of this model were not measured")
    decisions = {name: sent.decisions[name] for name in concept_names if name in sent.decisions}
    edits = Edits(decisions=decisions, boxes=sent.boxes, alpha=sent.alpha, replacement=replacement)
    try:
        as_tensors(edits, concept_names, torch.device("cpu"), frame=frame)
    except ValueError as error:
        raise InputError(str(error)) from None
    return edits


def decision_codes(edits: Edits, concept_names: Sequence[str]) -> list[int]:
    """Return the decision on each of the K concepts: -1 rejected, 0 none, 1 confirmed."""
    decided = {name: _CODES[decision] for name, decision in edits.decisions.items()}
    return [decided.get(name, interaction.UNTOUCHED) for name in concept_names]


def as_tensors(
    edits: Edits, concept_names: Sequence[str], device: torch.device, *, frame: Frame = WHOLE
) -> interaction.Edits:
    """Return the edits for `csr.model.interaction`, as those of a batch of one image.

    Args:
        edits: in force.
        concept_names: of the model, K.
        device: of the result.
        frame: the square that the model sees, as fractions of the image, in which boxes are drawn.

    Returns:
        Edits with decision_BK (1, K), box_R4 (R, 4), fractions of that square and cut at its edge,
        positive_R (R,) and concept_R (R,).

    Raises:
        ValueError: a box without area, or wholly beside the square.
    """
    codes = decision_codes(edits, concept_names)
    place = {name: k for k, name in enumerate(concept_names)}
    tied = [interaction.ALL_CONCEPTS if box.concept is None else place[box.concept] for box in edits.boxes]
    corners = [(box.x_min, box.y_min, box.x_max, box.y_max) for box in edits.boxes]
    drawn_R4 = np.asarray(corners, dtype=np.float64).reshape(-1, 4)
    box_R4 = boxes_in_square(drawn_R4, np.asarray(frame)).clip(0, 1)
    gone_R = (box_R4[:, 2:] <= box_R4[:, :2]).any(1) & (drawn_R4[:, 2:] > drawn_R4[:, :2]).all(1)
    if gone_R.any():
        number = int(gone_R.argmax()) + 1
        raise ValueError(
            f"region {number} lies beside the central square of the image, which is all that this model sees"
        )
    return interaction.make_edits(
        torch.tensor([codes], dtype=torch.int64, device=device),
        box_R4=torch.from_numpy(box_R4).float(),
        positive_R=torch.tensor([box.kind == "positive" for box in edits.boxes], dtype=torch.bool),
        concept_R=torch.tensor(tied, dtype=torch.int64),
        alpha=edits.alpha,
    )
