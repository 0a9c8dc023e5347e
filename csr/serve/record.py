"""The record of a session: what anyone needs to see, or to compute again, what was done to a diagnosis."""

from __future__ import annotations

from typing import Any

import torch

from csr import __version__
from csr.model import CSR
from csr.runtime.fingerprint import hash_of
from csr.serve.session import Session, utc_now

FORMAT, FORMAT_VERSION = "csr-session", 1


def record_of(session: Session, *, model_name: str, model_sha256: str) -> dict[str, Any]:
    """Plain JSON; `steps` has every action in order with the edits then in force and their result."""
    card = session.case.card
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "csr_version": __version__,
        "torch_version": torch.__version__,
        "model": {"name": model_name, "sha256": model_sha256},
        "image": session.image.to_dict(),
        "opened": session.log[0]["time"],
        "downloaded": utc_now(),
        "concepts": list(card.concept_names),
        "targets": list(card.target_names),
        "steps": session.log,
    }


def model_sha256(model: CSR) -> str:
    """A hash of what decides what a model says: sizes, names, preprocessing, thresholds, medians, weights.

    The same for a run's folder, its export and the hub: where the model lies does not count.
    """
    assert model.card is not None
    sizes = {key: value for key, value in model.description().items() if key != "model_name"}
    card = {
        key: value
        for key, value in model.card.to_dict().items()
        if key in ("concept_names", "target_names", "preprocessing", "task_loss", "reference")
    }
    state = model.state_dict()
    # integers of the same width: numpy has no bfloat16
    parts = [
        (name, str(value.dtype), value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        for name, value in sorted(state.items())
    ]
    return hash_of(sizes, card, *[one for part in parts for one in part])
