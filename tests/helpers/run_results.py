"""Files of a run, read back."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import torch

from csr.model import CSR

BACKBONE = {"backbone_type": "timm", "model_name": "test_resnet", "image_size": 64}


def records(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of metrics.jsonl."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def weights(folder: Path, name: str) -> dict[str, torch.Tensor]:
    """Return a plain state dict of the folder."""
    return torch.load(folder / name, weights_only=True)


def load_model(folder: Path, name: str = "best_model_stage3.pth") -> CSR:
    """Return the model of a file of the folder, in eval mode."""
    model = CSR(num_concepts=10, num_classes=6, num_prototypes_per_concept=5, **BACKBONE)
    model.load_state_dict(weights(folder, name))
    return model.eval()


def board(folder: Path) -> Any:
    """Return the one TensorBoard of the folder."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    ranks = sorted((folder / "tensorboard").iterdir())
    assert [r.name for r in ranks] == [f"rank0-{socket.gethostname()}"]
    return EventAccumulator(str(ranks[0]), size_guidance={"scalars": 0, "images": 0}).Reload()
