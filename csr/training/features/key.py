"""The name of cached features: a hash of everything that decides their values.

Weights, architecture, transform, images, labels, arithmetic, versions: if one of them differs, so does the
name, and a file under another name is never looked at.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from csr import __version__

FORMAT_VERSION = 1  # raise it when the files are laid out otherwise
_COMPUTING = ("data", "model", "stages", "evaluation/inference.py", "training/features")
_PACKAGES = ("torch", "torchvision", "timm", "transformers", "pillow", "pydicom")


def feature_key(
    *,
    weights: Mapping[str, torch.Tensor],
    settings: Mapping[str, Any],
    labels_NK: np.ndarray,
    index_N: np.ndarray,
) -> str:
    """Returns 64 hexadecimal digits.

    Args:
        weights: all parameters and buffers that the features are computed with.
        settings: plain JSON: stage, architecture, transform, images, arithmetic, stored type.
        labels_NK: labels that decide which rows an image has.
        index_N: the images' rows in the table.
    """
    digest = hashlib.sha256()
    known = {"format": FORMAT_VERSION, "versions": versions(), "settings": settings}
    digest.update(json.dumps(known, sort_keys=True).encode())
    for name in sorted(weights):
        value = weights[name].detach().cpu().contiguous()
        digest.update(f"\n{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.flatten().view(torch.uint8).numpy().data)
    for array in (labels_NK, index_N):
        digest.update(f"\n{array.dtype} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


@lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """Versions of csr and of what computes with it; of csr also a hash of the source that does."""
    digest = hashlib.sha256()
    root = Path(__file__).parent.parent.parent
    files = [root / name for name in _COMPUTING if name.endswith(".py")]
    files += [file for name in _COMPUTING for file in (root / name).rglob("*.py")]
    for file in sorted(files):
        digest.update(f"{file.relative_to(root)}\n".encode() + file.read_bytes())
    ours = {"csr": f"{__version__}+{digest.hexdigest()[:16]}"}
    return {**ours, **{name: metadata.version(name) for name in _PACKAGES}}
