"""A refined model beside the one it comes from.

Opened, refined, measured on the same test images, written.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from csr.data.dataset import LabelledImages
from csr.evaluation.bootstrap import Bootstrap
from csr.evaluation.measure import measure
from csr.evaluation.metrics import multilabel_metrics
from csr.evaluation.rows import Rows, predict_beside
from csr.evaluation.test_table import results_record
from csr.explain.atlas.keep import read_keep
from csr.explain.neighbours import vector_names
from csr.explain.refine.options import KEEP, RESULTS, WEIGHTS, RefineOptions
from csr.explain.refine.refine import Images, bar, refine
from csr.explain.refine.reliance import Reliance
from csr.explain.refine.report import changes_of, dropped_of, record_of
from csr.explain.source import Source, open_images, split
from csr.model import CSR
from csr.model.sharing.card import Card
from csr.runtime.errors import InputError
from csr.runtime.files import write_atomic, write_json
from csr.runtime.monitor import Monitor
from csr.runtime.tensor_files import save_tensors


@dataclass(frozen=True)
class Refined:
    """A refined model and what is known of it.

    Attributes:
        model: with its card.
        results: on the test images, before and after.
        record: of `refine.json`.
        reliance: how well the kept scores predict the dropped ones; None if nothing was dropped.
    """

    model: CSR
    results: tuple[dict[str, Any], dict[str, Any]]
    record: dict[str, Any]
    reliance: Reliance | None


def read_decisions(source: Source, options: RefineOptions, monitor: Monitor) -> np.ndarray:
    """Return which prototypes stay, (K,M) bool, and print what a doctor must know before the numbers.

    Raises:
        InputError: keep.csv is of another model, or rejects nothing where something has to be painted over.
    """
    kept_KM = source.model.prototypes.kept_KM.cpu().numpy()
    keep_KM = read_keep(
        options.keep,
        concept_names=source.card.concept_names,
        kept_KM=kept_KM,
        vector_KM=vector_names(source.model),
        say=monitor.say,
    )
    if options.head == "occlude" and not (kept_KM & ~keep_KM).any():
        raise InputError(f"{options.keep}: rejects no prototype: --head occlude has nothing to paint over")
    for line in notices(source, kept_KM, keep_KM, head=options.head):
        monitor.say(line)
    return keep_KM


def refined_beside_old(
    source: Source, options: RefineOptions, keep_KM: np.ndarray, *, cache: Path, monitor: Monitor
) -> Refined:
    """Return refine the model of `source` and measure both on the test images.

    Args:
        source: model and run; its model is not changed.
        options: of the command.
        keep_KM: of `read_decisions`.
        cache: folder of decoded images.
        monitor: prints progress.

    Raises:
        InputError: something of the data cannot be used.
    """
    images = open_all(source, options, cache=cache, monitor=monitor)
    found = refine(source, images, options, keep_KM=keep_KM, monitor=monitor)
    refined = found.model
    models = {"before": source.model, "after": refined}
    both = predict_beside(
        list(models.values()),
        images.test,
        batch_size=options.batch_size,
        wrap=partial(bar, monitor, "Test images, before and after"),
    )
    rows = dict(zip(models, both, strict=True))
    bootstrap = Bootstrap(options.bootstrap, 0)
    before, after = (
        measure(rows[when], images.test, _card(model), kept_KM=model.prototypes.kept_KM, bootstrap=bootstrap)
        for when, model in models.items()
    )
    kept_KM, names = source.model.prototypes.kept_KM.cpu().numpy(), source.card.concept_names
    record = record_of(
        model=source.folder.resolve().name,
        keep_csv=options.keep,
        csv=images.test.table.path,
        dropped=dropped_of(kept_KM, keep_KM, names),
        kept=int(keep_KM.sum()),
        head=options.head,
        fit=found.fit,
        reliance=found.reliance,
        names=names,
        before=before,
        after=after,
        changes=changes_of(
            (rows["before"]["target"], _decided(rows["before"], source.model)),
            (rows["after"]["target"], _decided(rows["after"], refined)),
            images.test.table.target_NT,
            bootstrap=bootstrap,
        ),
        validation=found.validation,
    )
    refined.card = _measured(_card(refined), rows["after"], images.test, record)
    return Refined(refined, (before, after), record, found.reliance)


def notices(source: Source, kept_KM: np.ndarray, keep_KM: np.ndarray, *, head: str) -> list[str]:
    """Return lines with what a doctor must know before the numbers."""
    gone = int((kept_KM & ~keep_KM).sum())
    lines = [f"{gone} of {int(kept_KM.sum())} prototypes are dropped, {int(keep_KM.sum())} are left."]
    if not gone:
        what = "is fitted again all the same" if head == "refit" else "stays as it is"
        lines.append(f"Notice: nothing is rejected; the head {what}.")
    names = source.card.concept_names
    empty = [names[k] for k in np.flatnonzero(kept_KM.any(axis=1) & ~keep_KM.any(axis=1))]
    if empty:
        lines.append(
            f"Notice: no prototype is left of {', '.join(empty)}: it is still named by the model, has no "
            "similarity map any more, moves no diagnosis, and its images count as misses in the pointing "
            "game of "
            "similarity maps."
        )
    if head == "keep":
        return lines
    if not source.is_run:
        lines.append(
            f"{source.folder} is no run: the head is fitted with the defaults of `csr train`, or by --lr, "
            "--epochs and --effective_batch."
        )
    engine, augment = source.config.engine, source.config.data.augment
    if source.is_run and augment != "none" and (engine.cache == "off" or engine.cache_views):
        lines.append(
            "Notice: the run fitted its head on augmented images; now it is fitted on the plain ones."
        )
    return lines


def open_all(source: Source, options: RefineOptions, *, cache: Path, monitor: Monitor) -> Images:
    """Open training, validation and test images.

    Raises:
        InputError: something of them cannot be used.
    """
    data, given = source.config.data, (options.csv, options.dir, options.test_csv, options.test_dir)
    if not source.is_run and None in given:
        raise InputError(
            f"{options.source}: is no run: give its data with --csv, --dir, --test_csv and --test_dir"
        )
    hint = "give the run's data with --csv, --dir, --test_csv and --test_dir"
    opened = partial(open_images, source, cache=cache, workers=options.workers, say=monitor.say, hint=hint)
    everything = opened(
        options.csv or data.train_csv, options.dir or data.train_dir, part="train", boxes_csv=None
    )
    train, val = split(everything, source.config)
    test = opened(
        options.test_csv or data.test_csv,
        options.test_dir or data.test_dir,
        part="test",
        boxes_csv=options.boxes_csv,
    )
    return Images(train, val, test)


def _card(model: CSR) -> Card:
    assert model.card is not None
    return model.card


def _measured(card: Card, rows: Rows, test: LabelledImages, record: dict[str, Any]) -> Card:
    """Return the card with test metrics and origin of the refined model."""
    table = test.table
    pairs = (
        ("concept", card.concept_names, table.concept_NK),
        ("target", card.target_names, table.target_NT),
    )
    concepts, targets = (
        multilabel_metrics(rows[kind].numpy(), label_NL, names=names) for kind, names, label_NL in pairs
    )
    refined = {key: record[key] for key in ("model", "dropped", "kept", "keep_csv", "head")}
    return dataclasses.replace(
        card,
        metrics=results_record(concepts, targets, num_images=len(test)),
        provenance={**card.provenance, "checkpoint": WEIGHTS, "refined": refined},
    )


def _decided(rows: Rows, model: CSR) -> torch.Tensor:
    return _card(model).called(rows["target"])


def write(out: Path, refined: CSR, keep_csv: Path, record: dict[str, Any]) -> None:
    """Write the refined model and what it came from.

    Raises:
        InputError: the folder cannot be written.
    """
    refined.cpu().save_pretrained(out)
    decisions = keep_csv.read_bytes()
    try:
        save_tensors(out / WEIGHTS, {k: v.contiguous() for k, v in refined.state_dict().items()})
        write_atomic(out / KEEP, lambda file: file.write(decisions))
        write_json(out / RESULTS, record)
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror or error})") from None
