"""`csr evaluate MODEL --csv .. --dir .. --out DIR`: what a trained model is worth on labelled images."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from csr.cli.exit_codes import exit_process, run_command
from csr.cli.shared_flags import add_links_flag
from csr.cli.study import information
from csr.config.options import EngineOptions
from csr.config.parser import Number, Parser, Whole
from csr.data.labels.reader_merge import READER_MERGES
from csr.model.edit_defaults import ALPHA, MODES
from csr.runtime import ranks
from csr.runtime.errors import InputError
from csr.runtime.output_paths import check_output_folder

if TYPE_CHECKING:
    from csr.data.labels.table import LabelTable
    from csr.evaluation.comparison.predictions import Predictions
    from csr.evaluation.simulation.doctor import Play
    from csr.model.baselines import Network
    from csr.runtime.monitor import Monitor

EPILOG = """examples:
  csr evaluate checkpoints/csr_exp --csv labels_test.csv --dir test/ --out evaluation/
  torchrun --standalone --nproc_per_node=2 -m csr evaluate MODEL --csv labels.csv --dir test/ --out results/
exit codes: 0 done, 1 failed, 2 bad input"""
Say = Callable[[str], None]


def main(argv: list[str] | None = None) -> int:
    """Parse the command line, measure on all ranks, write OUT on rank 0; return the exit code.

    Raises:
        InputError: the model, the tables or the images cannot be used, OUT is filled or cannot be written.
    """
    notice = ranks.adopt_launcher_environment()
    if notice:
        print(notice, file=sys.stderr, flush=True)
    options = _build_parser().parse_args(argv)
    from csr.engine import device, process_group
    from csr.evaluation.comparison.predictions import FILE_NAME as PREDICTIONS
    from csr.evaluation.images import image_folder
    from csr.evaluation.report.gallery import error_pictures
    from csr.evaluation.report.output import EDIT_EFFECTS, summary, write_files
    from csr.model import CSR
    from csr.model.sharing.loading import load_to_evaluate
    from csr.runtime import distributed
    from csr.runtime.monitor import Monitor

    if options.simulate in ("box", "both") and options.boxes_csv is None:
        raise InputError(f"--simulate {options.simulate} draws boxes: give --boxes_csv too")
    if distributed.world_size() > 1:
        process_group.start(EngineOptions().timeout)
    device.use_true_fp32()
    monitor = Monitor(None)
    distributed.on_main(lambda: _check_out(options))
    with distributed.errors_agreed():
        model = load_to_evaluate(options.model, checkpoint=options.checkpoint).to(device.local_device())
        if not isinstance(model, CSR) and (options.boxes_csv or options.simulate):
            raise InputError(f"{options.model}: is a baseline: omit --boxes_csv and --simulate")
        information.check(model, options)
    with image_folder(options.image_cache) as folder:
        results, paths, effects, predicted = evaluate(model, options, image_cache=folder, monitor=monitor)

    def write() -> None:
        pictures = error_pictures(results["worst_errors"], paths)
        write_files(options.out, results, pictures=pictures, edit_effects=effects, predicted=predicted)

    distributed.on_main(write)
    for line in summary(results):
        monitor.say(line)
    more = "" if effects is None else f", {EDIT_EFFECTS}"
    more += "" if predicted is None else f", {PREDICTIONS}"
    monitor.say(f"Results: {options.out / 'report.html'}, evaluation.json, evaluation.csv{more}")
    return 0


def _check_out(options: argparse.Namespace) -> None:
    """Raise InputError for a folder that must not be written to."""
    from csr.model.sharing.loading import is_run

    check_output_folder(options.out, overwrite=options.overwrite, content="an earlier evaluation")
    if is_run(options.out):
        raise InputError(
            f"--out {options.out}: is the folder of a run, with predictions of its own: give another folder, "
            f"such as {options.out / 'evaluation'}"
        )


def evaluate(
    model: Network, options: argparse.Namespace, *, image_cache: Path, monitor: Monitor
) -> tuple[dict[str, Any], Sequence[Path], dict[str, Any] | None, Predictions | None]:
    """Read the tables and images, measure, and put beside it what was measured on what. Collective.

    Returns:
        The results, the image files by place in the table, the content of edit_effects.json (None without a
        simulation), and that of test_predictions.csv (None unless asked for).
    """
    from csr.evaluation.bootstrap import Bootstrap
    from csr.evaluation.images import ignored_lines, open_images, read_tables
    from csr.evaluation.measure import measure
    from csr.evaluation.report.gallery import explain_commands
    from csr.evaluation.rows import predict_all, predictions_of
    from csr.evaluation.simulation.doctor import plays_of
    from csr.evaluation.simulation.edit_effects import effects_of, effects_record
    from csr.evaluation.subgroups import read_groups
    from csr.evaluation.thresholds import threshold_notices
    from csr.model import CSR
    from csr.model.baselines import BlackBox
    from csr.model.sharing.origin import origin_of
    from csr.runtime import distributed

    card = model.card
    assert card is not None
    with distributed.errors_agreed():
        table, boxes = read_tables(
            options.csv, card, reader_merge=options.reader_merge, boxes_csv=options.boxes_csv
        )
        groups = None if options.group_by is None else read_groups(options.csv, options.group_by, table=table)
    dataset = open_images(
        table,
        boxes,
        options.dir,
        cache=image_cache,
        preprocessing=card.preprocessing,
        workers=options.workers,
        links_into=options.links_into,
    )
    cut = [] if dataset.boxes is None else dataset.boxes.square_lines()
    plays = plays_of(options.simulate, has_medians=card.reference.absent_KM is not None)
    notices = [
        *threshold_notices(
            card, has_concepts=not isinstance(model, BlackBox), has_prototypes=isinstance(model, CSR)
        ),
        *ignored_lines(boxes),
        *cut,
        *_notices(plays),
    ]
    for line in notices:
        monitor.say(line)
    rows = predict_all(
        model,
        dataset,
        batch_size=options.batch_size,
        plays=plays,
        alpha=options.alpha,
        wrap=lambda batches, total: monitor.bar(batches, total=total, title="Evaluation"),
    )
    bootstrap = Bootstrap(options.bootstrap, options.seed)
    predicted = predictions_of(rows, table) if options.save_predictions else None
    results = measure(
        rows,
        dataset,
        card,
        kept_KM=model.prototypes.kept_KM if isinstance(model, CSR) else None,
        bootstrap=bootstrap,
        groups=groups,
        plays=plays,
        errors_per_target=options.worst_errors,
    )
    told = None
    if options.information:
        told = information.measure(model, options, dataset, image_cache=image_cache, monitor=monitor)
        notices += information.notices(told)
    if isinstance(model, CSR):  # csr explain refuses the others
        explain_commands(
            results["worst_errors"], dataset.store.paths, model=options.model, folder=options.dir
        )
    origin = origin_of(model, options.model)
    effects = None
    if plays:
        effects = effects_record(
            effects_of(results["simulation"], plays),
            origin=origin,
            csv=Path(options.csv).name,
            images=len(table),
            alpha=options.alpha,
        )
    described = {**_description(options, table, notices), **dataclasses.asdict(origin)}
    return {**described, **results, "information": told}, dataset.store.paths, effects, predicted


def _notices(plays: tuple[Play, ...]) -> list[str]:
    if plays and not any(play.medians for play in plays):
        return ["The model has no median scores: corrections are simulated with zeros only."]
    return []


def _description(options: argparse.Namespace, table: LabelTable, notices: list[str]) -> dict[str, Any]:
    """Return what was measured on what; files without their folders, which would reveal who works where."""
    return {
        "format": "csr-evaluation",
        "format_version": 2,  # 2: f1_at_threshold, prototypes used, curves, worst_errors
        "checkpoint": options.checkpoint,
        "data": {
            "csv": Path(options.csv).name,
            "images": len(table),
            "reader_merge": options.reader_merge,
            "boxes_csv": None if options.boxes_csv is None else Path(options.boxes_csv).name,
            "group_by": options.group_by,
        },
        "options": {
            "bootstrap": options.bootstrap,
            "seed": options.seed,
            "simulate": options.simulate,
            "alpha": options.alpha,
            "information": options.information,
            "worst_errors": options.worst_errors,
        },
        "notices": notices,
    }


def _build_parser() -> argparse.ArgumentParser:

    class Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
        pass

    parser = Parser(
        prog="csr evaluate",
        epilog=EPILOG,
        formatter_class=Formatter,
        allow_abbrev=False,
        description="Measure a trained model on labelled images: scores with intervals, calibration, where "
        "it looks, prototypes used, worst errors, subgroups, and what a doctor's corrections do.",
    )
    add = parser.add_argument
    add("model", metavar="MODEL", help="folder of `csr export`, folder of a run, or hub id")
    add("--csv", required=True, help="label table with the columns that the model was trained on")
    add("--dir", required=True, help="folder of its images")
    add_links_flag(parser)
    add("--boxes_csv", help="boxes of these images, to measure where the model looks")
    add("--out", metavar="DIR", type=Path, required=True, help="folder to write; new or empty")
    add("--group_by", metavar="COLUMN", help="also measure each value of this column of --csv on its own")
    add("--simulate", choices=MODES, help="play a doctor who corrects concepts, draws boxes, or does both")
    information.add_flags(parser)
    add("--alpha", type=Number(0, 1), default=ALPHA, help="importance outside of a simulated doctor's boxes")
    add(
        "--worst_errors",
        type=Whole(0, 50),
        default=4,
        help="images of the page that each diagnosis is most wrong about; 0: no images in it",
    )
    add(
        "--bootstrap",
        type=Whole(0, 100_000),
        default=1000,
        help="resamples of the intervals, 0: Wilson's alone",
    )
    add("--seed", type=Whole(0, 2**32 - 1), default=0, help="of the resamples")
    add("--batch_size", type=Whole(1, 65_536), default=32, help="images that a rank's network sees at once")
    add("--reader_merge", choices=READER_MERGES, default="any", help="how several readers become one label")
    add("--checkpoint", help="name of a .pth, where MODEL is a run; None: best of stage 3")
    add("--workers", type=Whole(1, 1024), default=4, help="threads that decode images")
    add("--image_cache", metavar="DIR", type=Path, help="keep decoded images there; None: a temporary folder")
    add(
        "--save_predictions",
        action="store_true",
        help="also write test_predictions.csv: probability and label of every image, for csr compare",
    )
    add("--overwrite", action="store_true", help="replace an earlier evaluation in DIR")
    return parser


if __name__ == "__main__":
    exit_process(run_command(main))
