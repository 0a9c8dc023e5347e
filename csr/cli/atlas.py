"""`csr atlas MODEL`: show every prototype with the training regions behind it."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from csr.cli.shared_flags import add_source_flags
from csr.config.parser import Parser, Whole
from csr.data.labels.names import cut_rows
from csr.explain.atlas.layout import INDEX, KEEP, NEAREST
from csr.explain.run_data import check_data
from csr.runtime.output_paths import check_output_folder

EPILOG = """examples:
  csr atlas checkpoints/csr_exp --out atlas/
  csr atlas my_model/ --csv labels_train.csv --dir train/ --out atlas/
Open atlas/index.html in a browser; then edit atlas/keep.csv and run csr refine.
exit codes: 0 done, 1 failed, 2 bad input"""


def main(argv: list[str] | None = None) -> int:
    """Parse the command line, look at the training images, write the folder; return the exit code.

    Raises:
        InputError: the model or its data cannot be used, DIR is in use or cannot be written.
    """
    options = _build_parser().parse_args(argv)
    check_output_folder(options.out, overwrite=options.overwrite, content="an atlas", marks=(NEAREST, KEEP))
    _check_data(options)
    from csr.engine.device import pick_device
    from csr.evaluation.images import image_folder
    from csr.explain.atlas.build import AtlasOptions, build, training_images
    from csr.explain.source import open_source, with_links
    from csr.runtime.monitor import Monitor

    asked = AtlasOptions(**{f.name: getattr(options, f.name) for f in dataclasses.fields(AtlasOptions)})
    monitor = Monitor(None)
    source = with_links(open_source(options.source, checkpoint=options.checkpoint), options.links_into)
    source.model.to(pick_device(options.device))
    with image_folder(options.image_cache or source.image_cache) as cache:
        images = training_images(source, asked, cache=cache, monitor=monitor)
        atlas = build(source, images, asked, monitor=monitor)
    _print_counts(atlas, options.out)
    return 0


def _check_data(options: argparse.Namespace) -> None:
    """Raise InputError for data of the run that is not there."""
    given = {"train_csv": ("--csv", options.csv), "train_dir": ("--dir", options.dir)}
    needed = {name: flag for name, (flag, value) in given.items() if value is None}
    if options.csv is None and options.boxes_csv is None:
        needed["boxes_csv"] = "--boxes_csv"
    check_data(options.source, needed)


def _print_counts(atlas: dict[str, Any], out: Path) -> None:
    width = max(len(name) for name in ["concept", *atlas["concept_names"]]) + 2
    print(f"{'concept':<{width}} {'images':>7} {'alive':>9} {'hints':>6}")
    rows = []
    for concept in atlas["concepts"]:
        prototypes = concept["prototypes"]
        hints = sum(bool(p["hints"]) and p["alive"] for p in prototypes)
        alive = f"{concept['alive']}/{len(prototypes)}"
        rows.append(f"{concept['name']:<{width}} {concept['images']:>7} {alive:>9} {hints:>6}")
    print("\n".join(cut_rows(rows, rest=str(out / INDEX))))
    print(
        f"Atlas: {out / INDEX}; to reject prototypes edit {out / KEEP}, then `csr refine RUN --keep "
        f"{out / KEEP}`"
    )


def _build_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="csr atlas",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        description="Show every prototype with its nearest training regions, its hits and its weight.",
    )
    add_source_flags(parser)
    add = parser.add_argument
    add("--out", metavar="DIR", type=Path, required=True, help="folder to write; new or empty")
    add("--csv", help="training labels (default: the run's)")
    add("--dir", help="folder of the training images (default: the run's)")
    add(
        "--boxes_csv",
        help="boxes on the training images, to mark regions as inside or outside them "
        "(default: the run's, none with --csv)",
    )
    add(
        "--top",
        type=Whole(1, 50),
        default=5,
        help="nearest training vectors shown of each prototype (default: 5)",
    )
    add(
        "--similar",
        type=Whole(1, 1000),
        default=20,
        help="images with the highest scores that are summed up (default: 20)",
    )
    add("--overwrite", action="store_true", help="replace an earlier atlas in DIR")
    return parser
