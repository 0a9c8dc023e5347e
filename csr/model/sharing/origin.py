"""Where numbers come from: which model, which weights, which csr, and when."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import torch

from csr import __version__
from csr.model.baselines import Network
from csr.runtime.fingerprint import hash_of

SHOWN_DIGITS = 12


@dataclass(frozen=True)
class Origin:
    """What a page, a picture or a JSON file says of itself.

    Attributes:
        model: name of its folder, or its hub id.
        model_sha256: see `model_sha256`.
        csr_version: that wrote the file.
        written: UTC, to the second, ISO 8601.
    """

    model: str
    model_sha256: str
    csr_version: str
    written: str

    @property
    def line(self) -> str:
        """One line for people: `model csr_exp (3f9a0c11d2e4), csr 1.0, 2026-01-31 12:00 UTC`."""
        when = f"{self.written[:10]} {self.written[11:16]} UTC"
        return f"model {self.model} ({self.model_sha256[:SHOWN_DIGITS]}), csr {self.csr_version}, {when}"


def origin_of(model: Network, given: str | Path) -> Origin:
    """Return the origin of what is computed now.

    Args:
        model: with a card.
        given: its folder as the user named it, of which the last part is shown: the rest reveals who works
            where; or a hub id.
    """
    path = Path(given)
    name = path.resolve().name if path.exists() else str(given)
    written = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    return Origin(name, model_sha256(model), __version__, written)


def model_sha256(model: Network) -> str:
    """Return a hash of all that decides a model's output.

    That is sizes, names, preprocessing, thresholds, medians and weights. The hash is the same for a run's
    folder, its export and the hub: the place of a model does not count.

    Args:
        model: with a card.
    """
    assert model.card is not None
    sizes = {key: value for key, value in model.description().items() if key != "model_name"}
    card = {
        key: value
        for key, value in model.card.to_dict().items()
        if key in ("concept_names", "target_names", "preprocessing", "task_loss", "reference")
    }
    # integers of the same width: numpy has no bfloat16
    parts = [
        (name, str(value.dtype), value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        for name, value in sorted(model.state_dict().items())
    ]
    return hash_of(sizes, card, *[one for part in parts for one in part])
