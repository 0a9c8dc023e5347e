"""Feature maps of a frozen backbone, kept from the pass that computed them for the passes that follow.

After stage 1 the backbone stands still: local vectors (stage 2), similarity scores (stage 3) and reference
values are made of the same maps. Each rank keeps those of its own batches, in the type that the backbone
computes in, so that later passes have the very numbers of a pass of their own. Where they do not fit, the
backbone runs again.

Letters: B batch, C channels, H W feature map, N images.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch

from csr.data.batch import Batch
from csr.data.dataset import LabelledImages
from csr.data.prefetch import to_device
from csr.data.transforms import box_masks
from csr.engine.memory import free_gpu_bytes, free_host_bytes
from csr.evaluation.inference import stored_batches
from csr.model.baselines import Network
from csr.runtime import distributed
from csr.training.features.views import View

MEMORY_SHARE = 0.25  # of the free memory of host or GPU: more than that does not fit


class KeptMaps:
    """Maps of batches by data set, view and places; none is kept once they have become too large.

    Args:
        limit: bytes that this rank may keep, at any time; None: its share of the memory that is free at the
            first map, and at the first after each `clear`.
    """

    def __init__(self, limit: int | None = None) -> None:
        self._given = self._limit = limit
        self._nbytes = 0
        self._maps: dict[tuple[int, str, bytes], torch.Tensor] = {}
        self._datasets: list[LabelledImages] = []  # alive, so that no other one has the id of a known one

    @property
    def nbytes(self) -> int:
        """Bytes of all maps."""
        return self._nbytes

    def clear(self) -> None:
        """Forget all maps: the backbone has other weights."""
        self._maps.clear()
        self._datasets.clear()
        self._limit, self._nbytes = self._given, 0

    def find(self, dataset: LabelledImages, view: View, position_B: np.ndarray) -> torch.Tensor | None:
        """Return feat_BCHW of these places, or None."""
        return self._maps.get(_key(dataset, view, position_B))

    def keep(
        self, dataset: LabelledImages, view: View, position_B: np.ndarray, feat_BCHW: torch.Tensor
    ) -> None:
        """Keep maps where they lie, if all that are kept still fit."""
        if self._limit is None:
            self._limit = _share_of(feat_BCHW.device)
        nbytes = feat_BCHW.numel() * feat_BCHW.element_size()
        if self._nbytes + nbytes > self._limit:
            self._maps.clear()  # a part of them would save little, and take memory that others need
            self._limit, self._nbytes = 0, 0
            return
        self._maps[_key(dataset, view, position_B)] = feat_BCHW
        self._datasets.append(dataset)
        self._nbytes += nbytes


def map_batches(
    model: Network,
    dataset: LabelledImages,
    chunks: Iterable[np.ndarray],
    view: View,
    *,
    device: torch.device,
    kept: KeptMaps | None,
) -> Iterator[Batch]:
    """Yield the maps of images with their labels; the backbone runs in the arithmetic of the caller.

    Args:
        model: whose backbone computes them; in eval mode.
        dataset: the images.
        chunks: places of each batch, int64 (B,).
        view: of the images.
        device: of the batches.
        kept: maps of earlier passes, to which those of this one are added; None: every map is computed.

    Yields:
        Labels, `position` (B,), `feat` (B,C,H,W) as the backbone computes it; where boxes are read with the
        images, `box_mask` (B,K,H,W).
    """
    places = [np.asarray(chunk) for chunk in chunks]
    # the maps themselves: this pass may find that all do not fit, and `kept` then forgets them
    found = [kept.find(dataset, view, chunk) if kept is not None else None for chunk in places]
    missing = [chunk for chunk, feat_BCHW in zip(places, found, strict=True) if feat_BCHW is None]
    images = stored_batches(dataset, missing, device=device)
    for number, position_B in enumerate(places):
        feat_BCHW, found[number] = found[number], None  # what is forgotten goes when it was used
        if feat_BCHW is not None:
            labels: Any = {**dataset.load_labels(position_B), "position": torch.from_numpy(position_B)}
            yield to_device({**labels, "feat": feat_BCHW}, device)
            continue
        batch = next(images)
        image, theta_B23 = view(batch)
        feat_BCHW = model.features(image)
        if kept is not None:
            kept.keep(dataset, view, position_B, feat_BCHW)
        computed: Batch = {**batch, "feat": feat_BCHW}
        del computed["image"]
        if "box" in batch:
            computed["box_mask"] = _box_masks(batch, theta_B23, feat_BCHW)
        yield computed


def _box_masks(batch: Batch, theta_B23: torch.Tensor, feat_BCHW: torch.Tensor) -> torch.Tensor:
    return box_masks(
        batch["box"],
        class_R=batch["box_class"],
        row_R=batch["box_row"],
        theta_B23=theta_B23,
        num_concepts=batch["concept"].shape[1],
        height=feat_BCHW.shape[2],
        width=feat_BCHW.shape[3],
    )


def _share_of(device: torch.device) -> int:
    free = free_gpu_bytes(device) if device.type == "cuda" else free_host_bytes()
    ranks = 1 if device.type == "cuda" else distributed.local_world_size()
    return int(MEMORY_SHARE * free / ranks)


def _key(dataset: LabelledImages, view: View, position_B: np.ndarray) -> tuple[int, str, bytes]:
    places = np.ascontiguousarray(position_B, dtype=np.int64).tobytes()
    return id(dataset), json.dumps(view.settings(), sort_keys=True), places
