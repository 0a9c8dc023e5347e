"""The record of a session."""

from __future__ import annotations

import torch

from csr import __version__
from csr.model.sharing.origin import model_sha256 as model_sha256
from csr.serve.records.schemas import FORMAT, FORMAT_VERSION, ModelName, Record
from csr.serve.session import Session, utc_now


def record_of(session: Session, model: ModelName) -> Record:
    """Return the record of a session up to now; no pixels, and no path of this machine, are in it."""
    card = session.case.card
    return Record(
        format=FORMAT,
        format_version=FORMAT_VERSION,
        csr_version=__version__,
        torch_version=torch.__version__,
        model=model,
        image=session.image,
        opened=session.log[0].time,
        downloaded=utc_now(),
        notes=session.notes,
        restored=session.restored,
        concepts=list(card.concept_names),
        targets=list(card.target_names),
        steps=session.log,
    )
