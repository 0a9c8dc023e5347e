"""Measurements of the trained model: reference values on its own data, and the test table.

Letters: N images, B batch, K concepts, M prototypes per concept, T targets.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from csr.data.batch import Batch
from csr.data.dataset import LabelledImages
from csr.engine.device import inference_precision, local_device
from csr.evaluation import inference
from csr.evaluation.calibration import mean_ece
from csr.evaluation.comparison.predictions import KINDS, Predictions, Scored
from csr.evaluation.flags.flagged import choose_doubt
from csr.evaluation.metrics import multilabel_metrics
from csr.evaluation.row_accumulator import RowAccumulator
from csr.evaluation.test_table import results_record, table_lines
from csr.evaluation.thresholds import measure_reference
from csr.model import CSR
from csr.model.baselines import BaselineOutput, Network
from csr.model.image_statistics import displayed, network_statistics, pixel_statistics
from csr.model.novelty import MAX_IMAGES, Novelty
from csr.model.novelty_fit import fit_novelty
from csr.model.sharing.card import Card, target_probability
from csr.model.sharing.preprocessing import Preprocessing
from csr.model.sharing.reference import Reference
from csr.runtime import distributed
from csr.stages.concept import positive_weights
from csr.stages.task import task_weights
from csr.training.data import Splits, labels_of
from csr.training.features.score_medians import ScoreRows
from csr.training.validation import Validator


@dataclass(frozen=True, eq=False)
class Tested:
    """The test of a trained model.

    Attributes:
        record: metrics as JSON.
        calibration: `concept_ece` and `target_ece`, means over labels, and the same `_uncalibrated`.
        lines: of the printed table.
        predictions: of every image, beside its labels.
    """

    record: dict[str, Any]
    calibration: dict[str, float]
    lines: list[str]
    predictions: Predictions


@dataclass(frozen=True)
class FinalTest:
    """Measures a trained model with the run's own passes.

    Attributes:
        model: trained.
        splits: training and validation images.
        task_loss: of stage 3; decides how logits become probabilities.
        max_pos_weight: limit of the positive weights in the losses, which calibration takes off.
        precision: name of the arithmetic.
        validator: feeds the images of this rank.
    """

    model: Network
    splits: Splits
    task_loss: str
    max_pos_weight: float
    precision: str
    validator: Validator

    def reference(self) -> Reference:
        """Return thresholds and calibration (validation images), medians (training images), and what images
        of both look like. Collective.

        A baseline has no scores of prototypes and no novelty, and a black box no concepts: None.
        """
        is_csr = isinstance(self.model, CSR)
        train_seen, val_seen = RowAccumulator(), RowAccumulator()
        scores = ScoreRows()
        if is_csr:
            self._predict(self.splits.train, "Train", keeps=True, seen=train_seen, scores=scores)
        val = self._predict(self.splits.val, "Val", keeps=True, seen=val_seen)
        train_labels, val_labels = labels_of(self.splits.train), labels_of(self.splits.val)
        maximum = self.max_pos_weight
        reference = measure_reference(
            medians=scores.medians(torch.from_numpy(train_labels["concept"])) if is_csr else None,
            val_concept_logit_NK=val.get("concept_logit"),
            val_concept_NK=val_labels["concept"],
            val_target_NT=val_labels["target"],
            val_target_logit_NT=val["logit"],
            task_loss=self.task_loss,
            concept_weight_K=positive_weights(train_labels["concept"], maximum=maximum),
            target_weight_T=task_weights(train_labels["target"], loss=self.task_loss, maximum=maximum),
            novelty=self._novelty(train_seen, val_seen) if is_csr else None,
        )
        doubt = choose_doubt(self.card(reference), val["logit"], val_labels["target"], train_labels)
        return dataclasses.replace(reference, doubt=doubt)

    def card(self, reference: Reference) -> Card:
        """Return what later commands know of the model, as far as the run's pictures need it."""
        return card_of(self.splits, self.task_loss, reference)

    def _probabilities(self, rows: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
        """Return probabilities: `target` (N,T), and `concept` (N,K) unless the model is a black box."""
        found = {"target": target_probability(rows["logit"], task_loss=self.task_loss).numpy()}
        if "concept_logit" in rows:
            found["concept"] = rows["concept_logit"].sigmoid().numpy()
        return found

    def _calibrated(self, rows: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
        """Return probabilities as `csr evaluate` gives them and thresholds mean them; {} without a card."""
        card = self.model.card
        if card is None:
            return {}
        found = {"target": card.probability(rows["logit"]).numpy()}
        if "concept_logit" in rows:
            found["concept"] = card.concept_probability(rows["concept_logit"]).numpy()
        return found

    def test(self, images: LabelledImages) -> Tested:
        """Measure the test images; predictions are calibrated as far as the model's card is. Collective."""
        rows, labels, names = self._predict(images, "Test"), labels_of(images), self.splits.names
        probabilities = self._probabilities(rows)
        metrics = {
            kind: multilabel_metrics(probability_NL, labels[kind], names=names[kind])
            for kind, probability_NL in probabilities.items()
        }
        nothing = np.zeros((len(images), 0), dtype=np.float32)
        written = self._calibrated(rows) or probabilities
        kinds = {
            kind: Scored(names[kind], written[kind], labels[kind])
            if kind in written
            else Scored((), nothing, nothing)
            for kind in KINDS
        }
        ece = {f"{kind}_ece": mean_ece(written[kind], labels[kind]) for kind in written}
        ece |= {
            f"{kind}_ece_uncalibrated": mean_ece(found, labels[kind]) for kind, found in probabilities.items()
        }
        return Tested(
            results_record(metrics.get("concept"), metrics["target"], num_images=len(images)),
            ece,
            table_lines(metrics.get("concept"), metrics["target"]),
            Predictions(tuple(images.table.image_ids[i] for i in images.indices), kinds),
        )

    def _novelty(self, train: RowAccumulator, val: RowAccumulator) -> Novelty | None:
        """Return what the images of both splits look like, from what `_predict` put aside. Collective."""
        splits = self.splits
        train_rows, val_rows = (
            self._statistics(dataset, seen, title)
            for dataset, seen, title in ((splits.train, train, "train"), (splits.val, val, "val"))
        )
        # once: it may take as many cores as there are, and processors of two kinds round otherwise
        return distributed.on_main(lambda: fit_novelty(train_rows, val_rows))

    def _statistics(
        self, dataset: LabelledImages, seen: RowAccumulator, title: str
    ) -> dict[str, torch.Tensor]:
        """Return `image_statistics` of the images of `_every`. Collective.

        Maps that are kept have no pixels, so that pixels have a pass of their own; no image passes the
        backbone for it.
        """
        chosen = LabelledImages(dataset.store, dataset.table, indices=dataset.indices[:: _every(dataset)])
        preprocessing = preprocessing_of(self.splits)

        def predict(batch: Batch) -> dict[str, torch.Tensor]:
            return pixel_statistics(displayed(batch["image"], preprocessing))

        pixels = inference.predict_rows(predict, self.validator.batches(chosen, f"Statistics ({title})"))
        return {**seen.gather(), **pixels}

    def _predict(
        self,
        dataset: LabelledImages,
        title: str,
        *,
        keeps: bool = False,
        seen: RowAccumulator | None = None,
        scores: ScoreRows | None = None,
    ) -> dict[str, torch.Tensor]:
        """Return `logit` (N,T) and `concept_logit` (N,K), as far as the model has them. Collective.

        Of a CSR, `seen` gets `network_statistics` of the images of `_every`, and `scores` the similarity
        scores of this rank's images.
        """
        device = local_device()
        model = self.model.to(device).eval()

        def predict(batch: Batch) -> dict[str, torch.Tensor]:
            output = model.from_features(batch["feat"])
            rows = {"logit": output.logits}
            if output.concept_logits is not None:
                rows["concept_logit"] = output.concept_logits
            if not isinstance(output, BaselineOutput):
                if scores is not None:
                    scores.add(output.similarity_scores, batch["position"])
                if seen is not None:
                    assert isinstance(model, CSR)
                    is_chosen_B = batch["position"] % _every(dataset) == 0
                    found = network_statistics(model, batch["feat"], output.similarity_scores)
                    some = {name: value[is_chosen_B] for name, value in found.items()}
                    seen.add({**some, "position": batch["position"][is_chosen_B]})
            return rows

        with inference_precision(self.precision, device):
            return inference.predict_rows(
                predict, self.validator.map_batches(model, dataset, title, keeps=keeps)
            )


def card_of(splits: Splits, task_loss: str, reference: Reference) -> Card:
    """Return names, preprocessing and what is known of a run's model."""
    names = splits.names
    return Card(names["concept"], names["target"], preprocessing_of(splits), task_loss, reference)


def preprocessing_of(splits: Splits) -> Preprocessing:
    """Return how a run's images become the network's input."""
    transform, store = splits.eval_transform, splits.train.store
    mean, std = tuple(transform.mean), tuple(transform.std)
    return Preprocessing(transform.size, store.size, mean, std, store.resize)


def _every(dataset: LabelledImages) -> int:
    """Return how far apart the images are whose statistics are looked at: at most `MAX_IMAGES`, evenly."""
    return max(1, math.ceil(len(dataset) / MAX_IMAGES))
