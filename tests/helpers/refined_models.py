"""Models without some prototypes, and the keep.csv that drops them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from tiny_model import CONCEPTS, K, M, tiny_model

from csr.model import CSR

ALL = np.ones((K, M), dtype=bool)


def dropping(*places: tuple[int, int]) -> torch.Tensor:
    """Return a mask with the given (concept, prototype) at True: bool (K, M)."""
    dropped = torch.zeros(K, M, dtype=torch.bool)
    for k, m in places:
        dropped[k, m] = True
    return dropped


def refined_model(dropped_KM: torch.Tensor) -> CSR:
    """Return a model as refine leaves it: prototypes of length 0, and no weight on them."""
    model = tiny_model()
    model.prototypes.drop_(dropped_KM)
    with torch.no_grad():
        model.task_head.linear.weight[:, dropped_KM.flatten()] = 0.0
    return model


def keep_file(path: Path, *rows: str, header: str = "concept,prototype,keep,note") -> Path:
    """Write a keep.csv of the given rows."""
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def every_row(*rejected: tuple[int, int]) -> list[str]:
    """Return the rows of a keep.csv of the tiny model, all kept but the rejected ones."""
    return [f"{name},{m},{int((k, m) not in rejected)}," for k, name in enumerate(CONCEPTS) for m in range(M)]
