"""`csr refine RUN --keep keep.csv`: drop rejected prototypes, re-fit or keep the head, compare before and after."""

from __future__ import annotations

import argparse
import dataclasses
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from csr.cli.shared_flags import add_source_flags
from csr.config.checks import check_ranges
from csr.config.options import TrainConfig
from csr.config.parser import Parser, Whole
from csr.runtime.errors import InputError
from csr.runtime.files import write_atomic, write_json

if TYPE_CHECKING:
    import numpy as np
    import torch

    from csr.data.dataset import LabelledImages
    from csr.evaluation.measure import Rows
    from csr.explain.refine.refine import Images
    from csr.explain.source import Source
    from csr.model import CSR
    from csr.model.sharing.card import Card
    from csr.runtime.monitor import Monitor

WEIGHTS, KEEP, RESULTS = "refined_model.pth", "keep.csv", "refine.json"
HEADS = {
    "refit": "fitted again on the scores that are left; thresholds chosen anew",
    "occlude": "fitted again with what the dropped prototypes looked at painted over, and pasted elsewhere",
    "keep": "kept, dropped scores fixed at their means of training images; thresholds chosen anew",
}
EPILOG = """examples:
  csr refine checkpoints/csr_exp --keep atlas/keep.csv --boxes_csv boxes_test.csv
  csr refine my_model/ --keep atlas/keep.csv --csv labels_train.csv --dir train/ \\
      --test_csv labels_test.csv --test_dir test/ --out my_refined_model/
The refined model is a folder that every command takes; RUN stays as it is.
exit codes: 0 done, 1 failed, 2 bad input"""


def main(argv: list[str] | None = None) -> int:
    """Parse the command line, refine, write the folder; returns the exit code.

    Raises:
        InputError: the model, keep.csv or the data cannot be used, OUT is in use or cannot be written.
    """
    options = _build_parser().parse_args(argv)
    from csr.engine.device import pick_device
    from csr.evaluation.bootstrap import Bootstrap
    from csr.evaluation.measure import measure, predict_all
    from csr.explain.atlas.keep import read_keep
    from csr.explain.neighbours import vector_names
    from csr.explain.refine.refine import bar, refine
    from csr.explain.refine.reliance import reliance_lines
    from csr.explain.refine.report import count_changed, dropped_of, record_of, table_lines
    from csr.explain.source import image_folder, open_source
    from csr.runtime.monitor import Monitor

    check_head(options)
    out = check_out(options)
    monitor = Monitor(None)
    source = open_source(options.source, checkpoint=options.checkpoint)
    source = dataclasses.replace(source, config=_with_flags(source.config, options))
    kept_KM = source.model.prototypes.kept_KM.numpy()
    keep_KM = read_keep(
        options.keep,
        concept_names=source.card.concept_names,
        kept_KM=kept_KM,
        vector_KM=vector_names(source.model),
        say=monitor.say,
    )
    source.model.to(pick_device(options.device))
    if options.head == "occlude" and not (kept_KM & ~keep_KM).any():
        raise InputError(f"{options.keep}: rejects no prototype: --head occlude has nothing to paint over")
    for line in notices(source, kept_KM, keep_KM, head=options.head):
        monitor.say(line)
    with image_folder(options.image_cache or source.image_cache) as cache:
        images = open_all(source, options, cache=cache, monitor=monitor)
        refined, fit, reliance = refine(source, images, options, keep_KM=keep_KM, monitor=monitor)
        before, after = (
            predict_all(
                model,
                images.test,
                batch_size=options.batch_size,
                wrap=partial(bar, monitor, f"Test images, {when}"),
            )
            for model, when in ((source.model, "before"), (refined, "after"))
        )
    bootstrap = Bootstrap(options.bootstrap, 0)
    results = [
        measure(rows, images.test, _card(model), kept_KM=model.prototypes.kept_KM, bootstrap=bootstrap)
        for rows, model in ((before, source.model), (after, refined))
    ]
    dropped = dropped_of(kept_KM, keep_KM, source.card.concept_names)
    record = record_of(
        model=source.folder.resolve().name,
        keep_csv=options.keep,
        csv=images.test.table.path,
        dropped=dropped,
        kept=int(keep_KM.sum()),
        head=options.head,
        fit=fit,
        reliance=reliance,
        names=source.card.concept_names,
        before=results[0],
        after=results[1],
        changed=count_changed(_decided(before, source.model), _decided(after, refined)),
    )
    refined.card = _measured(_card(refined), after, images.test, record)
    write(out, refined, options.keep, record)
    for line in ["", f"Head: {HEADS[options.head]}", *table_lines(*results), ""]:
        monitor.say(line)
    for line in reliance_lines(reliance, head=options.head):
        monitor.say(line)
    total = len(images.test) * len(source.card.target_names)
    monitor.say(f"{record['changed_decisions']} of {total} decisions on test images changed.")
    monitor.say(f"Refined model: {out} ({WEIGHTS}, {RESULTS}, ..); {options.source} is as it was.")
    return 0


def notices(source: Source, kept_KM: np.ndarray, keep_KM: np.ndarray, *, head: str) -> list[str]:
    """What a doctor must know before the numbers."""
    import numpy as np

    gone = int((kept_KM & ~keep_KM).sum())
    told = [f"{gone} of {int(kept_KM.sum())} prototypes are dropped, {int(keep_KM.sum())} are left."]
    if not gone:
        what = "is fitted again all the same" if head == "refit" else "stays as it is"
        told.append(f"Notice: nothing is rejected; the head {what}.")
    names = source.card.concept_names
    empty = [names[k] for k in np.flatnonzero(kept_KM.any(axis=1) & ~keep_KM.any(axis=1))]
    if empty:
        told.append(
            f"Notice: no prototype is left of {', '.join(empty)}: it is still named by the model, has no "
            "similarity map any more, moves no diagnosis, and its images count as misses in the pointing game of "
            "similarity maps."
        )
    if head == "keep":
        return told
    if not source.is_run:
        told.append(
            f"{source.folder} is no run: the head is fitted with the defaults of `csr train`, or what --lr, "
            "--epochs and --effective_batch say."
        )
    engine, augment = source.config.engine, source.config.data.augment
    if source.is_run and augment != "none" and (engine.cache == "off" or engine.cache_views):
        told.append(
            "Notice: the run fitted its head on augmented images; now it is fitted on the plain ones."
        )
    return told


def open_all(source: Source, options: argparse.Namespace, *, cache: Path, monitor: Monitor) -> Images:
    """Training, validation and test images.

    Raises:
        InputError: something of them cannot be used.
    """
    from csr.explain.refine.refine import Images
    from csr.explain.source import open_images, split

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
    """The card with test metrics and origin of the refined model."""
    from csr.evaluation.metrics import multilabel_metrics
    from csr.evaluation.test_table import results_record

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
    from csr.runtime.tensor_files import save_tensors

    refined.cpu().save_pretrained(out)
    decisions = keep_csv.read_bytes()
    try:
        save_tensors(out / WEIGHTS, {k: v.contiguous() for k, v in refined.state_dict().items()})
        write_atomic(out / KEEP, lambda file: file.write(decisions))
        write_json(out / RESULTS, record)
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror or error})") from None


def check_out(options: argparse.Namespace) -> Path:
    """Where the refined model goes.

    Raises:
        InputError: the folder is that of the model, or holds something that nobody asked to replace.
    """
    source = Path(options.source)
    if options.out is None and not source.is_dir():
        raise InputError(f"{options.source}: no folder here: say where the refined model goes with --out")
    out: Path = options.out or source.resolve().with_name(f"{source.resolve().name}_refined")
    if out.resolve() == source.resolve():
        raise InputError(f"--out {out}: is the model itself, which stays as it is: give another folder")
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out}: is a file: give a folder")
    if out.is_dir() and any(out.iterdir()):
        if not options.overwrite:
            raise InputError(
                f"{out}: not empty: give another --out, or --overwrite to replace a refined model"
            )
        if not (out / RESULTS).is_file():
            raise InputError(f"{out}: holds no refined model: give another --out")
    return out


def check_head(options: argparse.Namespace) -> None:
    """Raise InputError where a flag says how to fit a head that is not fitted."""
    given = [
        f"--{name}" for name in ("epochs", "lr", "effective_batch") if getattr(options, name) is not None
    ]
    if options.head == "keep" and given:
        raise InputError(
            f"{', '.join(given)}: with --head keep no head is fitted: leave it out, or --head refit"
        )


def _with_flags(config: TrainConfig, options: argparse.Namespace) -> TrainConfig:
    """The run's options with those that the user gave here."""
    given = {"lr": options.lr, "epochs_stage3": options.epochs}
    optim = dataclasses.replace(config.optim, **{k: v for k, v in given.items() if v is not None})
    seed = config.engine.seed if options.seed is None else options.seed
    config = dataclasses.replace(config, optim=optim, engine=dataclasses.replace(config.engine, seed=seed))
    check_ranges(config)
    return config


def _build_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="csr refine",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        description="Drop the prototypes that keep.csv rejects, fit the task head again or keep it, compare.",
    )
    add_source_flags(parser)
    add = parser.add_argument
    add("--keep", metavar="CSV", type=Path, required=True, help="keep.csv of the atlas, edited")
    add("--out", metavar="DIR", type=Path, help="folder of the refined model (default: RUN_refined)")
    add("--overwrite", action="store_true", help="replace an earlier refined model in DIR")
    add("--csv", help="training labels (default: the run's)")
    add("--dir", help="folder of the training images (default: the run's)")
    add("--test_csv", help="test labels (default: the run's)")
    add("--test_dir", help="folder of the test images (default: the run's)")
    add("--boxes_csv", help="boxes on the test images, for the pointing game")
    add(
        "--head",
        choices=tuple(HEADS),
        default="refit",
        help="refit: fit it again; occlude: the same, on images with the regions of dropped prototypes painted over "
        "and pasted on others (two passes through the network); keep: as it is, dropped scores fixed at their "
        "training means (default: refit)",
    )
    add("--epochs", type=Whole(1, 100_000), help="of the new head (default: the run's --epochs_stage3)")
    add("--lr", type=float, help="base learning rate (default: the run's)")
    add("--effective_batch", type=Whole(1, 2**24), help="images per step (default: the run's)")
    add("--seed", type=Whole(0, 2**32 - 1), help="of validation split and order (default: the run's)")
    add("--cache_dir", metavar="DIR", type=Path, help="where scores are kept (default: the run's cache)")
    add(
        "--bootstrap", type=Whole(0, 100_000), default=1000, help="resamples of the intervals (default: 1000)"
    )
    return parser
