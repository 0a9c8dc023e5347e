"""`csr refine RUN --keep keep.csv`.

Drop rejected prototypes, re-fit or keep the head, compare before and after.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from csr.cli.shared_flags import add_source_flags
from csr.config.checks import check_ranges
from csr.config.options import TrainConfig
from csr.config.parser import Parser, Whole
from csr.explain.refine.options import HEADS, RESULTS, WEIGHTS, RefineOptions
from csr.explain.run_data import check_data
from csr.runtime.errors import InputError
from csr.runtime.output_paths import check_output_folder

if TYPE_CHECKING:
    from csr.explain.refine.beside import Refined
    from csr.explain.source import Source
    from csr.runtime.monitor import Monitor

HEAD_NOTES = {
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
    """Parse the command line, refine, write the folder; return the exit code.

    Raises:
        InputError: the model, keep.csv or the data cannot be used, OUT is in use or cannot be written.
    """
    options = _build_parser().parse_args(argv)
    check_head(options)
    out = check_out(options)
    _check_data(options)
    from csr.engine.device import pick_device
    from csr.evaluation.images import image_folder
    from csr.explain.refine.beside import read_decisions, refined_beside_old, write
    from csr.explain.source import open_source, with_links
    from csr.runtime.monitor import Monitor

    monitor = Monitor(None)
    source = with_links(open_source(options.source, checkpoint=options.checkpoint), options.links_into)
    if source.seed_known:
        _check_seed(options)
    source = dataclasses.replace(source, config=_with_flags(source, options))
    if not source.seed_known and options.seed is None:
        monitor.say(
            f"Notice: {options.source} does not say what seed its training images were split by; 0 is taken. "
            "With another one, images that trained it validate here: give --seed"
        )
    asked = RefineOptions(**{f.name: getattr(options, f.name) for f in dataclasses.fields(RefineOptions)})
    keep_KM = read_decisions(source, asked, monitor)
    source.model.to(pick_device(options.device))
    with image_folder(options.image_cache or source.image_cache) as cache:
        refined = refined_beside_old(source, asked, keep_KM, cache=cache, monitor=monitor)
    write(out, refined.model, options.keep, refined.record)
    _report(refined, options, out, monitor)
    return 0


def _report(refined: Refined, options: argparse.Namespace, out: Path, monitor: Monitor) -> None:
    """Print scores before and after, what the kept scores still know, and where the model is."""
    from csr.explain.refine.reliance import reliance_lines
    from csr.explain.refine.report import change_lines, table_lines
    from csr.explain.refine.validation_loss import loss_lines

    for line in ["", f"Head: {HEAD_NOTES[options.head]}", *table_lines(*refined.results), ""]:
        monitor.say(line)
    for line in reliance_lines(refined.reliance, head=options.head):
        monitor.say(line)
    for line in change_lines(refined.record["changes"]):
        monitor.say(line)
    for line in loss_lines(refined.record, head=options.head):
        monitor.say(line)
    monitor.say(f"Refined model: {out} ({WEIGHTS}, {RESULTS}, ..); {options.source} is as it was.")


def check_out(options: argparse.Namespace) -> Path:
    """Return the folder of the refined model.

    Raises:
        InputError: the folder is that of the model, or holds something that was not asked to be replaced.
    """
    source = Path(options.source)
    if options.out is None and not source.is_dir():
        raise InputError(f"{options.source}: no folder here: give the folder of the refined model with --out")
    out: Path = options.out or source.resolve().with_name(f"{source.resolve().name}_refined")
    if out.resolve() == source.resolve():
        raise InputError(f"--out {out}: is the model itself, which stays as it is: give another folder")
    check_output_folder(out, overwrite=options.overwrite, content="a refined model", marks=(RESULTS,))
    return out


def _check_data(options: argparse.Namespace) -> None:
    """Raise InputError for data of the run that is not there."""
    flags = {"train_csv": "csv", "train_dir": "dir", "test_csv": "test_csv", "test_dir": "test_dir"}
    check_data(
        options.source,
        {name: f"--{flag}" for name, flag in flags.items() if getattr(options, flag) is None},
    )


def check_head(options: argparse.Namespace) -> None:
    """Raise InputError for a flag of the fit where no head is fitted."""
    given = [
        f"--{name}" for name in ("epochs", "lr", "effective_batch") if getattr(options, name) is not None
    ]
    if options.head == "keep" and given:
        raise InputError(f"{', '.join(given)}: with --head keep no head is fitted: omit it, or --head refit")


def _check_seed(options: argparse.Namespace) -> None:
    """Raise InputError for a seed that decides nothing: the split is known, and no head is fitted."""
    if options.head == "keep" and options.seed is not None:
        raise InputError(
            f"--seed {options.seed}: {options.source} says how its images were split, and with --head keep "
            "no head is fitted: omit it"
        )


def _with_flags(source: Source, options: argparse.Namespace) -> TrainConfig:
    """Return the run's options with those that the user gave here.

    The seed among them is that of the split: of images that trained the model none may validate it, so a seed
    that is given here counts only where the model does not know its own.
    """
    config = source.config
    given = {"lr": options.lr, "epochs_stage3": options.epochs}
    optim = dataclasses.replace(config.optim, **{k: v for k, v in given.items() if v is not None})
    seed = config.engine.seed if source.seed_known or options.seed is None else options.seed
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
        choices=HEADS,
        default="refit",
        help="refit: fit it again; occlude: the same, on images with the regions of dropped prototypes "
        "painted over "
        "and pasted on others (two passes through the network); keep: as it is, dropped scores fixed at "
        "their "
        "training means (default: refit)",
    )
    add("--epochs", type=Whole(1, 100_000), help="of the new head (default: the run's --epochs_stage3)")
    add("--lr", type=float, help="base learning rate (default: the run's)")
    add("--effective_batch", type=Whole(1, 2**24), help="images per step (default: the run's)")
    add(
        "--seed",
        type=Whole(0, 2**32 - 1),
        help="of order and draws of the fit, and of the validation split where the model does not say with "
        "which one it was trained (default: the run's)",
    )
    add("--cache_dir", metavar="DIR", type=Path, help="where scores are kept (default: the run's cache)")
    add(
        "--bootstrap", type=Whole(0, 100_000), default=1000, help="resamples of the intervals (default: 1000)"
    )
    return parser
