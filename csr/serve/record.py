"""The record of a session, and the hash that names its model."""

from __future__ import annotations

import torch

from csr import __version__
from csr.model import CSR
from csr.runtime.fingerprint import hash_of
from csr.serve.schemas import ModelName, Record
from csr.serve.session import Session, utc_now

FORMAT_VERSION = 2  # 2: contributions counted from the absent medians


def record_of(session: Session, model: ModelName) -> Record:
    """Return the record of a session up to now; no pixels, and no path of this machine, are in it."""
    card = session.case.card
    return Record(
        format="csr-session",
        format_version=FORMAT_VERSION,
        csr_version=__version__,
        torch_version=torch.__version__,
        model=model,
        image=session.image,
        opened=session.log[0].time,
        downloaded=utc_now(),
        concepts=list(card.concept_names),
        targets=list(card.target_names),
        steps=session.log,
    )


def model_sha256(model: CSR) -> str:
    """Return a hash of all that decides a model's output.

    That is sizes, names, preprocessing, thresholds, medians and weights. The hash is the same for a run's
    folder, its export and the hub: the place of a model does not count.
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
