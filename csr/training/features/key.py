"""The name of cached features: a hash of everything that decides their values.

Weights, architecture, transform, images, labels, arithmetic, versions: if one of them differs, so does the
name, and rows under another name are never read.

Letters: N images, K concepts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from importlib import metadata
from typing import Any

import numpy as np
import torch

from csr import __version__
from csr.runtime.fingerprint import of_code

FORMAT_VERSION = 2  # raise it when the files are laid out otherwise
# sources that decide the values of features: another byte in one of them, and cached features are not served
COMPUTING = (
    *(
        "data/labels",
        "data/images",
        "data/image_cache",
        "data/dataset.py",
        "data/sampler.py",
        "data/batch.py",
    ),
    *("data/transforms.py", "data/box_masks.py", "data/random_draws.py", "data/prefetch.py"),
    *("model", "stages", "evaluation/inference.py", "evaluation/row_accumulator.py", "training/features"),
    "engine/device.py",
)
_PACKAGES = ("torch", "torchvision", "timm", "transformers", "pillow", "pydicom")


def feature_key(
    *,
    weights: Mapping[str, torch.Tensor],
    settings: Mapping[str, Any],
    labels_NK: np.ndarray,
    index_N: np.ndarray,
) -> str:
    """Return 64 hexadecimal digits.

    Args:
        weights: all parameters and buffers that the features are computed with.
        settings: plain JSON: stage, architecture, transform, images, arithmetic, stored type.
        labels_NK: (N, K) labels that decide which rows an image has.
        index_N: (N,) the images' rows in the label table.
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
    """Return versions of csr and of what computes with it; of csr also a hash of the sources that do."""
    own = {"csr": f"{__version__}+{of_code(*COMPUTING)[:16]}"}
    return {**own, **{name: metadata.version(name) for name in _PACKAGES}}
