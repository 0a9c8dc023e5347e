"""The batches of one training epoch: from images or cached features, with the scale of each loss term."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import cast

import numpy as np
import torch

from csr.data.batch import Batch
from csr.data.dataset import WindowSampler
from csr.data.prefetch import Clock, arriving, pinned, to_device
from csr.data.transforms import box_masks
from csr.runtime import distributed
from csr.stages.base import Stage
from csr.stages.runner import STAGE_NUMBER
from csr.training.checkpoints.state import TrainState
from csr.training.data import Splits, labels_of
from csr.training.features.table import FeatureTable, FeatureViews


class Feeder:
    """Feeds this rank: order, loading, scale of the loss terms, augmentation.

    Args:
        data: of the run.
        batch_size: images per rank and micro step.
        accumulation: micro steps per optimizer step.
        seed: of order and augmentation.
        max_windows: a dry run's limit on optimizer steps per epoch.
        device: of the batches.
        epochs_stage1: over which images grow, where they do.
    """

    def __init__(
        self,
        data: Splits,
        *,
        batch_size: int,
        accumulation: int,
        seed: int,
        max_windows: int | None,
        device: torch.device,
        epochs_stage1: int = 1,
    ) -> None:
        self.data, self.batch_size, self.accumulation = data, batch_size, accumulation
        self.seed, self.device, self._epochs_stage1 = seed, device, epochs_stage1
        self._sampler = WindowSampler(
            len(data.train),
            micro_batch=batch_size,
            accumulation=accumulation,
            rank=distributed.rank(),
            world=distributed.world_size(),
            seed=seed,
        )
        self._labels = labels_of(data.train)
        self._rehearses = max_windows is not None
        self.windows_per_epoch = min(self._sampler.num_windows, max_windows or self._sampler.num_windows)

    def weight_of(self, windows: int) -> float:
        """Return the weight of losses in an epoch's first windows: 1 a micro step, less in a short one."""
        return self.accumulation * min(windows, len(self.data.train) / self._sampler.window)

    def batches(
        self, stage: Stage, features: FeatureViews | None, state: TrainState, *, clock: Clock
    ) -> Iterator[Batch]:
        """Yield the rest of an epoch's micro batches on the device, loaded ahead or in turn.

        Args:
            stage: counts the entries of each loss term in a global window.
            features: cached ones; None loads images.
            state: its epoch decides order and augmentation; a resumed epoch begins after `state.windows`.
            clock: adds up the seconds waited for data.

        Yields:
            Images (B,C,S,S) or frozen features (R, ...), labels, `scale`, `window_share`,
            `position`, `ends_window`.
            In stage 1 of `--progressive` S is that of the step.
        """
        epoch_key = 10_000 * STAGE_NUMBER[stage.name] + state.epoch  # no order or augmentation comes twice
        loaded = self._load(
            stage,
            self._loader(features, epoch_key),
            epoch_key=epoch_key,
            first_window=state.windows,
            side_of=self._side_of(stage, epoch=state.epoch),
        )
        for batch in arriving(loaded, cached=features is not None, device=self.device, clock=clock):
            yield self.prepare(batch, epoch_key=epoch_key)

    def example(self, stage: Stage, features: FeatureViews | None, *, num_images: int) -> Batch:
        """Return a training batch of the first images on the device, repeated if there are fewer.

        Returns:
            Images (B,C,S,S), or rows (R, ...) of `features`; labels (B,K) and (B,T); `scale` as if the batch
            were a whole window. B is `num_images`.
        """
        positions_B = np.arange(num_images) % len(self.data.train)
        loaded = self._loader(features, 1)(positions_B, np.ones(num_images, dtype=bool))
        counts = stage.counts({name: values[positions_B] for name, values in self._labels.items()})
        scale = {name: 1.0 / max(count, 1.0) for name, count in counts.items()}
        return self.prepare({**pinned(loaded, self.device), "scale": scale}, epoch_key=1)

    def _side_of(self, stage: Stage, *, epoch: int) -> Callable[[int], int] | None:
        """Return a function from an optimizer step of an epoch to the images' side; None: the full one."""
        sides = self.data.sides
        if sides is None or stage.frozen_inputs:
            return None
        if self._rehearses:  # the only step shows whether small images can be trained on at all
            return lambda window: min(sides.map_sizes)
        begins, total = (n * self.windows_per_epoch for n in (epoch - 1, self._epochs_stage1))
        return lambda window: sides.at(begins + window, total)

    def work(self, stage: Stage, *, epoch: int) -> float:
        """Return the arithmetic of an epoch's images as a share of what they would take in the full size.

        By their area: of convolutions and of a ViT's layers, while attention's own products fall faster.
        """
        side_of = self._side_of(stage, epoch=epoch)
        if side_of is None:
            return 1.0
        assert self.data.sides is not None
        full = max(self.data.sides.map_sizes)
        return sum((side_of(n) / full) ** 2 for n in range(self.windows_per_epoch)) / self.windows_per_epoch

    def _loader(self, features: FeatureViews | None, epoch_key: int) -> Load:
        if features is None:
            return self.data.train.load
        view = features.at_epoch(epoch_key)
        return cached_loader(view, self._labels["concept"], self._labels["target"])

    def _load(
        self,
        stage: Stage,
        load: Load,
        *,
        epoch_key: int,
        first_window: int,
        side_of: Callable[[int], int] | None,
    ) -> Iterator[Batch]:
        share = distributed.world_size() * self.accumulation
        first_step = first_window * self.accumulation
        self._sampler.set_epoch(epoch_key, start_step=first_step)
        for i, (positions, valid) in enumerate(self._sampler, start=first_step):
            window, j = divmod(i, self.accumulation)
            if window == self.windows_per_epoch:
                return
            if j == 0:
                all_ranks = self._sampler.window_positions(window)
                counts = stage.counts({name: values[all_ranks] for name, values in self._labels.items()})
                scale = {name: share / max(count, 1.0) for name, count in counts.items()}
                window_share = len(all_ranks) / self._sampler.window
            loaded = load(positions, valid)
            loaded["position"] = torch.from_numpy(positions[valid])
            loaded["scale"], loaded["ends_window"] = scale, j == self.accumulation - 1
            loaded["window_share"] = window_share
            if side_of is not None:
                loaded["side"] = side_of(window)
            yield pinned(loaded, self.device)

    def prepare(self, batch: Batch, *, epoch_key: int) -> Batch:
        """Move a batch to the device; augment images and draw masks of their boxes (B,K,H,W) there."""
        batch = to_device(batch, self.device)
        if "image" not in batch:
            return batch
        batch["image"], theta_B23 = self.data.train_transform(
            batch["image"],
            index_B=batch["index"],
            epoch=epoch_key,
            seed=self.seed,
            side=batch.get("side"),
        )
        if "box" in batch:
            height, width = self._map_size(batch.get("side"))
            batch["box_mask"] = box_masks(
                batch["box"],
                class_R=batch["box_class"],
                row_R=batch["box_row"],
                theta_B23=theta_B23,
                num_concepts=batch["concept"].shape[1],
                height=height,
                width=width,
            )
        return batch

    def _map_size(self, side: int | None) -> tuple[int, int]:
        if side is None:
            return self.data.map_size
        assert self.data.sides is not None
        return self.data.sides.map_sizes[side]


Load = Callable[[np.ndarray, np.ndarray], Batch]


def cached_loader(features: FeatureTable, concept_NK: np.ndarray, target_NT: np.ndarray) -> Load:
    """Return a function that loads cached features with the labels of their images; padding is masked.

    It takes positions (B,) int64 and which of them are valid (B,) bool, and returns rows (R, ...),
    `concept` (B,K) and `target` (B,T).
    """

    def load(positions_B: np.ndarray, valid_B: np.ndarray) -> Batch:
        labels = {
            name: torch.from_numpy(np.where(valid_B[:, None], table[positions_B], np.nan).astype(np.float32))
            for name, table in (("concept", concept_NK), ("target", target_NT))
        }
        return cast(Batch, {**features.gather(positions_B, valid_B), **labels})

    return load
