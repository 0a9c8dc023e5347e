"""Passes of a stage that do not train it: through its frozen layers, and its validation.

Letters: N images, L labels of the stage.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, cast

import numpy as np
import torch

from csr.data.batch import Batch
from csr.data.dataset import LabelledImages
from csr.data.prefetch import to_device
from csr.engine.device import inference_precision
from csr.engine.engine import Engine
from csr.evaluation import inference
from csr.evaluation.calibration import mean_ece
from csr.evaluation.metrics import multilabel_metrics
from csr.model.baselines import Network
from csr.runtime.monitor import Monitor
from csr.runtime.progress import PROGRESS
from csr.runtime.signals import StopRequest
from csr.runtime.sizes import mib_text
from csr.stages.base import Stage
from csr.training.data import Splits, labels_of
from csr.training.features.cache import FeatureOptions, frozen_features
from csr.training.features.maps import KeptMaps, map_batches
from csr.training.features.table import FeatureTable, FeatureViews
from csr.training.features.views import PlainView

_CACHED_BYTES = 2**26


class Validator:
    """Runs passes over the images of one run without training on them.

    Args:
        data: training and validation images.
        batch_size: images per rank and forward pass.
        precision: of the arithmetic.
        device: of the stage.
        monitor: shows the progress of a pass.
        stop: a pass is left early when the run is asked to stop.
        caching: of what frozen layers compute.
    """

    def __init__(
        self,
        data: Splits,
        *,
        batch_size: int,
        precision: str,
        device: torch.device,
        monitor: Monitor,
        stop: StopRequest,
        caching: FeatureOptions,
    ) -> None:
        self.data, self.batch_size, self.precision, self.device = data, batch_size, precision, device
        self.monitor, self.stop, self.caching = monitor, stop, caching
        self.maps = KeptMaps(limit=0 if caching.mode == "off" else None)

    def features(self, stage: Stage) -> tuple[FeatureViews, FeatureViews | None]:
        """Return what frozen layers compute on training and, if validated, validation images. Collective."""
        train = self._features(stage, self.data.train, "train")
        return train, self._features(stage, self.data.val, "validation") if stage.label is not None else None

    def _features(self, stage: Stage, dataset: LabelledImages, split: str) -> FeatureViews:
        stage.eval()
        title = f"Features ({split})"
        with inference_precision(self.precision, self.device):
            views = frozen_features(
                stage,
                dataset,
                options=self.caching,
                eval_transform=self.data.eval_transform,
                train_transform=self.data.train_transform if split == "train" else None,
                device=self.device,
                show=lambda batches, total: self.shown(batches, total, title),
                maps=self.maps,
            )
        stage.train()
        source = views.source
        if split == "train" and self.caching.mode == "off":
            source = "computed once for starting values; with --cache off every step computes its own"
        self.monitor.say(f"{title}: {source}, {mib_text(views.nbytes)}")
        return views

    def validate(self, engine: Engine, stage: Stage, features: FeatureViews | None) -> dict[str, Any]:
        """Return loss, calibration error (before calibration) and metrics on the validation images.

        Collective. {} for a stage that is not validated.

        Args:
            engine: around the stage.
            stage: under training.
            features: cached rows of the validation images; None reads images.
        """
        if stage.label is None:
            return {}
        label_NL = torch.from_numpy(labels_of(self.data.val)[stage.label])
        with engine.inference():
            batches = (
                self.batches(self.data.val, "Validation")
                if features is None
                else self.cached_batches(features.at_epoch(1))
            )
            rows = inference.predict_rows(lambda b: {"logit": stage.predict(b).float()}, batches)
            logit_NL = rows["logit"]
        probability_NL, truth_NL = stage.probability(logit_NL).numpy(), label_NL.numpy()
        return {
            "val_loss": stage.evaluation_loss(logit_NL, label_NL),
            "val_ece": mean_ece(probability_NL, truth_NL),
            "metrics": multilabel_metrics(probability_NL, truth_NL, names=self.data.names[stage.label]),
        }

    def batches(self, dataset: LabelledImages, title: str) -> Iterator[Batch]:
        """Yield this rank's share of a data set, images (B,C,S,S) on the device, with a progress bar."""
        batches = inference.image_batches(
            dataset, transform=self.data.eval_transform, batch_size=self.batch_size, device=self.device
        )
        return self.shown(batches, inference.num_batches(len(dataset), self.batch_size), title)

    def map_batches(
        self, model: Network, dataset: LabelledImages, title: str, *, keeps: bool = True
    ) -> Iterator[Batch]:
        """Yield this rank's share of a data set with its feature maps, those of an earlier pass if kept.

        Args:
            model: whose backbone computes the others.
            dataset: the images.
            title: of the progress bar.
            keeps: whether earlier maps are used, and new ones kept.
        """
        chunks = list(inference.eval_chunks(len(dataset), self.batch_size))
        view = PlainView(self.data.eval_transform)
        kept = self.maps if keeps else None
        batches = map_batches(model, dataset, chunks, view, device=self.device, kept=kept)
        return self.shown(batches, len(chunks), title)

    def cached_batches(self, table: FeatureTable) -> Iterator[Batch]:
        """Yield this rank's share of a table's rows, on the device, in batches of some 64 MiB."""
        images = max(1, min(len(table), _CACHED_BYTES * len(table) // max(1, table.nbytes)))
        for position_B in inference.eval_chunks(len(table), images):
            rows = table.gather(position_B, np.ones(len(position_B), dtype=bool))
            yield to_device(cast(Batch, {**rows, "position": torch.from_numpy(position_B)}), self.device)

    def shown(self, batches: Iterable[Batch], total: int, title: str) -> Iterator[Batch]:
        """Yield batches with a progress bar, until this rank is asked to stop."""
        watched = PROGRESS.along(batches, total=total, title=title.lower())
        for batch in self.monitor.bar(watched, total=total, title=title):
            self.stop.check(f"at {title.lower()}")
            yield batch
