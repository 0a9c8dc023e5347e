"""A model whose similarity maps are the brightness of what it sees, and images with one bright block.

Where the block is on the original is known, so any step that loses the place is seen.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from tiny_model import SIZE, K, M, tiny_model
from torch.nn import functional as F

from csr.model import CSR
from csr.model.sharing.preprocessing import Preprocessing

CELLS = 16
# height and width of an image, and x_min, y_min, x_max, y_max of its block in pixels, in the central square
WIDE: Any = ((100, 240), (96, 20, 136, 60))
TALL: Any = ((260, 120), (72, 140, 112, 180))


def bright_model(resize: str) -> CSR:
    """Return a tiny model with maps of `CELLS` x `CELLS`, all of them the brightness of the cell."""
    model: Any = tiny_model()
    pre = Preprocessing(SIZE, SIZE + SIZE // 8, resize=resize)
    model.card = dataclasses.replace(model.card, preprocessing=pre)
    width = model.projector.forward(torch.ones(1, model.backbone.channels)).shape[-1]
    unit_D = torch.zeros(width).index_fill(0, torch.tensor([0]), 1.0)
    with torch.no_grad():
        model.prototypes.proto_KMD.copy_(unit_D.expand(K, M, -1))
    model.features = lambda images: F.adaptive_avg_pool2d(images.mean(1, keepdim=True), CELLS) / 10
    model.cams = lambda feat: feat.expand(-1, K, -1, -1)
    model.similarity_maps = lambda feat: feat.unsqueeze(1).expand(-1, K, M, -1, -1)
    model.similarity_scores = lambda feat: model.similarity_maps(feat).amax(dim=(3, 4))
    model.embed = lambda feat: feat.permute(0, 2, 3, 1) * unit_D
    model.local_vectors = lambda feat, cam: torch.ones(len(feat), K, model.backbone.channels)
    return model


def block_image(scene: Any) -> np.ndarray:
    """Return a dark image with its bright block, uint8 (H, W)."""
    (height, width), (x_min, y_min, x_max, y_max) = scene
    pixels = np.full((height, width), 30, dtype=np.uint8)
    pixels[y_min:y_max, x_min:x_max] = 250
    return pixels


def block_box(scene: Any) -> tuple[float, float, float, float]:
    """Return the block's box as fractions of the image."""
    (height, width), (x_min, y_min, x_max, y_max) = scene
    return x_min / width, y_min / height, x_max / width, y_max / height


def is_inside(point: Any, box: Any, *, slack: float = 0.0) -> bool:
    (x, y), (x_min, y_min, x_max, y_max) = point, box
    return bool(x_min - slack <= x <= x_max + slack and y_min - slack <= y <= y_max + slack)
