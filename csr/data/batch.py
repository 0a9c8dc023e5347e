"""A batch: the tensors of a data set, of a cache of features and of the loop, with their shapes.

Letters: B images, K concepts, T targets, S side of the image, R rows (boxes, or outputs of frozen layers),
C channels, D embedding, M prototypes per concept, H W feature map.
"""

from __future__ import annotations

from typing import TypedDict

import torch

Rows = dict[str, torch.Tensor]  # named tensors (R, ...) that frozen layers give, with `row`


class Batch(TypedDict, total=False):
    """Named tensors of one micro batch; a batch has the keys of its source.

    Images: `csr.data.dataset.LabelledImages`. Frozen features: `csr.training.features.table.FeatureTable`.
    The training loop adds `scale`, `window_share`, `position`, `ends_window`, and `side` where images grow.
    """

    image: torch.Tensor  # (B,C,S,S) uint8 as stored, float32 after a transform
    concept: torch.Tensor  # (B,K) float32; NaN: not annotated, or padding
    target: torch.Tensor  # (B,T) float32; NaN likewise
    index: torch.Tensor  # (B,) int64, rows of the label table
    valid: torch.Tensor  # (B,) bool; False: padding
    position: torch.Tensor  # (B,) int64, places in the data set, without padding
    box: torch.Tensor  # (R,4) float32, x_min y_min x_max y_max as fractions of the stored square
    box_class: torch.Tensor  # (R,) int64, concept of each box
    box_row: torch.Tensor  # (R,) int64, image of each box, 0..B-1
    box_mask: torch.Tensor  # (B,K,H,W) bool, cells inside a box
    feat: torch.Tensor  # (R,C,H,W) float32, feature maps (stage 1 of a frozen backbone)
    row: torch.Tensor  # (R,) int64, image of each row, 0..B-1
    local: torch.Tensor  # (R,C) float32, local concept vectors (stage 2)
    concept_row: torch.Tensor  # (R,) int64, concept of each local vector
    score: torch.Tensor  # (R,K*M) float32, similarity scores (stage 3)
    scale: dict[str, float]  # factor of each sum of the loss: 1 / its number of entries in the global window
    window_share: float  # images of the global window / those of a whole one: 1 but for an epoch's last one
    side: int  # of the model input, pixels, where it is not the full one for the whole run
    ends_window: bool  # whether the optimizer steps after this micro batch
