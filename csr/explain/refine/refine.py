"""A model without its rejected prototypes.

Its head is fitted again, on scores that are computed once, or kept.

Letters: K concepts, M prototypes per concept, T targets, F = K x M.
"""

from __future__ import annotations

import copy
import dataclasses
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from csr.data.dataset import LabelledImages
from csr.data.labels.table import LabelTable
from csr.evaluation.flags.flagged import choose_doubt
from csr.evaluation.inference import image_batches, num_batches
from csr.evaluation.thresholds import decide_labels
from csr.explain.refine.fit import Fit, FitOptions, Scores, fit_head, keep_head
from csr.explain.refine.occlusion import firing_from, painted_and_pasted
from csr.explain.refine.options import RefineOptions
from csr.explain.refine.reliance import Reliance, remaining_reliance
from csr.explain.refine.validation_loss import validation_scores
from csr.explain.source import Source
from csr.model import CSR
from csr.model.sharing.card import Card
from csr.runtime.monitor import Monitor
from csr.stages.task import TaskStage
from csr.training import build, schedule
from csr.training.features.cache import FeatureOptions, frozen_features


@dataclasses.dataclass(frozen=True)
class Refinement:
    """A model without its rejected prototypes.

    Attributes:
        model: in eval mode, with its card.
        fit: of its head.
        reliance: how well the kept scores predict the dropped ones; None if nothing was dropped.
        validation: macro scores `before` and `after` on validation `images` as they are.
    """

    model: CSR
    fit: Fit
    reliance: Reliance | None
    validation: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Images:
    """The images that refining needs."""

    train: LabelledImages
    val: LabelledImages
    test: LabelledImages


def refine(
    source: Source, images: Images, options: RefineOptions, *, keep_KM: np.ndarray, monitor: Monitor
) -> Refinement:
    """Return the model without the rejected prototypes; the old model is not changed."""
    config, model = source.config, source.model
    train_table = images.train.table.select(images.train.indices)
    stage = build.build_stage(
        "task",
        config=config,
        model=model,
        train=train_table,
        report=monitor.say,
        task_loss=source.card.task_loss,
    )
    assert isinstance(stage, TaskStage)
    stage.to(next(model.parameters()).device)
    keep_F = torch.from_numpy(keep_KM).flatten().float()
    folder = options.cache_dir or (source.cache / "features" if source.is_run else None)
    train, val = (
        scores_of(stage, some, folder=folder, batch_size=options.batch_size, title=title, monitor=monitor)
        for some, title in ((images.train, "Scores (train)"), (images.val, "Scores (validation)"))
    )
    fit_on, choose_on = train, val
    if options.head == "occlude":
        fit_on, choose_on = without_marks(
            source, images, train, val, options, keep_KM=keep_KM, monitor=monitor
        )
    if options.head == "keep":
        linear = model.task_head.linear
        fit = keep_head(linear.weight.detach().cpu(), linear.bias.detach().cpu(), train.score_NF, keep_F)
    else:
        fit = _fitted(source, stage, fit_on.without(keep_F), choose_on.without(keep_F), options, monitor)
    refined = copy.deepcopy(model)
    refined.prototypes.drop_(torch.from_numpy(~keep_KM))
    with torch.no_grad():
        refined.task_head.linear.weight.copy_(fit.weight_TF)
        refined.task_head.linear.bias.copy_(fit.bias_T)
    card = _referenced(source.card, fit, choose_on.without(keep_F), keep_KM, stage.pos_weight_T.cpu())
    refined.card = _with_doubt(card, fit, val.without(keep_F), train_table)
    reliance = remaining_reliance(
        train.score_NF.numpy(),
        kept_KM=model.prototypes.kept_KM.cpu().numpy(),
        keep_KM=keep_KM,
        seed=config.engine.seed,
    )
    linear = model.task_head.linear
    old = (linear.weight.detach().cpu(), linear.bias.detach().cpu())
    validation = {
        "images": len(val.score_NF),
        "before": validation_scores(source.card, *old, val),
        "after": validation_scores(refined.card, fit.weight_TF, fit.bias_T, val.without(keep_F)),
    }
    return Refinement(refined, fit, reliance, validation)


def without_marks(
    source: Source,
    images: Images,
    train: Scores,
    val: Scores,
    options: RefineOptions,
    *,
    keep_KM: np.ndarray,
    monitor: Monitor,
) -> tuple[Scores, Scores]:
    """Return scores that know nothing of what dropped prototypes looked at
    (`csr.explain.refine.occlusion`).
    """
    model = source.model.eval()
    dropped_KM = model.prototypes.kept_KM.cpu() & ~torch.from_numpy(keep_KM)
    transform, size = source.card.preprocessing.transform(), options.batch_size
    device = next(model.parameters()).device

    def batches(some: LabelledImages, name: str, title: str) -> Any:
        passed = image_batches(some, transform=transform, batch_size=size, device=device)
        return bar(monitor, f"{name}: {title}", passed, num_batches(len(some), size))

    given = partial(
        painted_and_pasted,
        model,
        dropped_KM=dropped_KM,
        seed=_seed_of_the_fit(source, options),
        firing_R=firing_from(train.score_NF[:, dropped_KM.flatten()]),
    )
    train, marks = given(train, partial(batches, images.train, "Training images"))
    monitor.say(
        f"The rejected prototypes fire in {len(marks.change_JF)} of {len(images.train)} training images."
    )
    val, _ = given(val, partial(batches, images.val, "Validation images"), marks=marks)
    return train, val


def _seed_of_the_fit(source: Source, options: RefineOptions) -> int:
    return source.config.engine.seed if options.seed is None else options.seed


def _fitted(
    source: Source,
    stage: TaskStage,
    train: Scores,
    val: Scores,
    options: RefineOptions,
    monitor: Monitor,
) -> Fit:
    """Return a new head on the scores that are left; the model is where it was afterwards."""
    began, optim = time.perf_counter(), source.config.optim
    device = next(source.model.parameters()).device
    stage.cpu()
    fit = fit_head(
        stage,
        train,
        val,
        names=source.card.target_names,
        options=FitOptions(
            epochs=optim.epochs_stage3,
            batch_size=options.effective_batch or source.effective_batch,
            clip=optim.clip,
            seed=_seed_of_the_fit(source, options),
            lr_factor=partial(schedule.lr_factor, warmup=optim.warmup, schedule=optim.schedule),
        ),
    )
    monitor.say(
        f"Head fitted again in {time.perf_counter() - began:.1f} s: epoch {fit.epoch} of "
        f"{optim.epochs_stage3} "
        f"is the best on {len(val.score_NF)} validation images"
    )
    source.model.to(device)
    return fit


def scores_of(
    stage: TaskStage,
    images: LabelledImages,
    *,
    folder: Path | None,
    batch_size: int,
    title: str,
    monitor: Monitor,
) -> Scores:
    """Return scores of all prototypes, dropped ones too: one cache serves every keep.csv."""
    assert stage.model.card is not None
    caching = FeatureOptions(
        mode="memory" if folder is None else "disk",
        folder=folder or Path(),
        dtype="fp32",
        views=0,
        batch_size=batch_size,
        precision="fp32",
        seed=0,
    )
    with torch.no_grad():
        found = frozen_features(
            stage.eval(),
            images,
            options=caching,
            eval_transform=stage.model.card.preprocessing.transform(),
            device=next(stage.parameters()).device,
            show=partial(bar, monitor, title),
        )
    monitor.say(f"{title}: {found.source}")
    return Scores(
        torch.as_tensor(found.all("score")).cpu().float(),
        torch.from_numpy(images.table.target_NT[images.indices]).float(),
    )


def _referenced(card: Card, fit: Fit, val: Scores, keep_KM: np.ndarray, weight_T: torch.Tensor) -> Card:
    """Return thresholds and calibration of the new diagnoses, from validation images.

    Dropped prototypes have no medians but 0.
    """
    logit_NT = torch.nn.functional.linear(val.score_NF, fit.weight_TF, fit.bias_T)
    threshold_T, calibration_T = decide_labels(
        logit_NT, val.target_NT.numpy(), task_loss=card.task_loss, weight_L=weight_T
    )
    keep = torch.from_numpy(keep_KM).float()
    medians = {
        name: None if value is None else value * keep
        for name in ("absent_KM", "present_KM")
        for value in [getattr(card.reference, name)]
    }
    reference = dataclasses.replace(
        card.reference, target_threshold_T=threshold_T, target_calibration_T=calibration_T, **medians
    )
    return dataclasses.replace(card, reference=reference)


def _with_doubt(card: Card, fit: Fit, val: Scores, train: LabelTable) -> Card:
    """Return the rule for asking a doctor, chosen anew: the old one was measured on the old head's diagnoses.

    Args:
        card: with thresholds and calibration of the new head.
        val: validation images as they are.
        train: labels of training images.
    """
    logit_NT = torch.nn.functional.linear(val.score_NF, fit.weight_TF, fit.bias_T)
    labels = {"target": train.target_NT, "concept": train.concept_NK}
    doubt = choose_doubt(card, logit_NT, val.target_NT.numpy(), labels)
    return dataclasses.replace(card, reference=dataclasses.replace(card.reference, doubt=doubt))


def bar(monitor: Monitor, title: str, batches: Any, total: int) -> Any:
    """Return a pass over batches with a progress bar."""
    return monitor.bar(batches, total=total, title=title)
