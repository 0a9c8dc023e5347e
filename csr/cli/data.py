"""`csr data ..`: look at data before training on it, and import published data sets."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from types import ModuleType
from typing import Any

from csr.cli.shared_flags import add_links_flag
from csr.config.parser import Number, Parser, Whole
from csr.data.importers import isic2017, tbx11k, vindr
from csr.data.importers.chest import chexpert, mimic, nih, padchest
from csr.data.importers.chest.label_choice import BLANK, UNCERTAIN
from csr.data.importers.chest.padchest import LABELED_BY
from csr.data.importers.chest.views import VIEWS
from csr.data.importers.image_rows import ON_BAD_IMAGE
from csr.data.importers.output import IMAGE_MODES
from csr.data.labels.reader_merge import READER_MERGES
from csr.runtime.errors import EXIT_BAD_INPUT, EXIT_DONE, InputError
from csr.runtime.output_paths import check_output_file

IMPORTERS: dict[str, ModuleType] = {
    module.NAME: module for module in (vindr, tbx11k, isic2017, chexpert, mimic, nih, padchest)
}
Flags = dict[str, dict[str, Any]]
WORKERS = {"type": Whole(1, 128), "metavar": "N", "default": 4}
LABEL_FLAGS: Flags = {
    "concepts": {"nargs": "+", "metavar": "LABEL", "help": "labels that are concepts"},
    "targets": {"nargs": "+", "metavar": "LABEL", "help": "labels that are diagnoses"},
}
LABELER_FLAGS: Flags = {
    "uncertain": {
        "choices": tuple(UNCERTAIN),
        "default": "ignore",
        "help": "what -1 becomes: 1, 0, 2/3 (soft), or empty: left out of losses and metrics (default: "
        "ignore)",
    },
    "blank": {
        "choices": tuple(BLANK),
        "default": "zeros",
        "help": "what a blank cell (not mentioned) becomes: 0, as the authors of the data set count it, or "
        "empty (default: zeros)",
    },
}
VIEW_FLAGS: Flags = {
    "views": {"choices": VIEWS, "default": "frontal", "help": "projections to keep (default: frontal)"}
}
IMAGE_FLAGS: Flags = {
    "omit": {
        "type": Path,
        "metavar": "FILE",
        "help": "text file with one image a line that is left out",
    },
    "on_bad_image": {
        "choices": ON_BAD_IMAGE,
        "default": "error",
        "help": "missing or unreadable images: stop, or leave them out and list them in OUT/omitted.csv "
        "(default: error)",
    },
    "workers": {**WORKERS, "help": "threads that look for images (default: 4)"},
}
# flags of one importer alone; its `run` takes them as keyword arguments of the same names
IMPORTER_FLAGS: dict[str, Flags] = {
    "vindr": {},
    "tbx11k": {
        "boxes": {
            "choices": ("json", "xml"),
            "default": "json",
            "help": "which of the two published forms of the boxes is read",
        },
        "merge_tb": {
            "action": "store_true",
            "help": "one target 'TB' in place of 'active TB' and 'latent TB': "
            "every image has exactly one target",
        },
    },
    "isic2017": {
        "with_validation": {
            "action": "store_true",
            "help": "add the 150 validation images to the training images (needs --images copy)",
        },
        "workers": {**WORKERS, "help": "threads that decode (default: 4)"},
    },
    "chexpert": {**LABEL_FLAGS, **LABELER_FLAGS, **VIEW_FLAGS, **IMAGE_FLAGS},
    "mimic": {
        **LABEL_FLAGS,
        **LABELER_FLAGS,
        **VIEW_FLAGS,
        "with_validation": {
            "action": "store_true",
            "help": "add the official validation images to the training images",
        },
        **IMAGE_FLAGS,
    },
    "nih": {**LABEL_FLAGS, **IMAGE_FLAGS},
    "padchest": {
        **LABEL_FLAGS,
        "labeled_by": {
            "choices": LABELED_BY,
            "default": "all",
            "help": "training images to keep: all, or those labeled by a physician (default: all)",
        },
        "min_images": {
            "type": Whole(1, 10**6),
            "metavar": "N",
            "default": 10,
            "help": "training images that a label needs to be written, unless it is named (default: 10)",
        },
        "test_fraction": {
            "type": Number(0.0, 0.9, above=True),
            "metavar": "X",
            "default": 0.2,
            "help": "share of patients that are for the test (default: 0.2)",
        },
        **VIEW_FLAGS,
        **IMAGE_FLAGS,
    },
}
EPILOG = """examples:
  csr data check labels_train.csv train/ --test_csv labels_test.csv --test_dir test/ --out report.html
  csr data vindr vindr-cxr/1.0.0/ vindr/
  csr data chexpert CheXpert-v1.0-small/ chexpert/ --uncertain ones
exit codes: 0 done (check: the data can be trained on), 1 failed, 2 bad input (check: it cannot)"""


def main(argv: list[str] | None = None) -> int:
    """Parse the command line, check or import; return the exit code.

    Raises:
        InputError: files that cannot be used, or a place that cannot be written.
    """
    options = _build_parser().parse_args(argv)
    if options.what == "check":
        return check(options)
    return bring_in(IMPORTERS[options.what], options)


def check(options: argparse.Namespace) -> int:
    """Run `csr data check`; return 0 if the data can be trained on, else 2."""
    from csr.data.check.check import DataFiles, check_data
    from csr.data.check.page import write_page
    from csr.data.check.text import text_lines

    if (options.test_csv is None) != (options.test_dir is None):
        raise InputError("--test_csv and --test_dir belong together: give both or none")
    if options.out is not None:
        check_output_file(options.out, overwrite=options.overwrite)
    files = DataFiles(
        csv=options.csv,
        folder=options.dir,
        test_csv=options.test_csv,
        test_folder=options.test_dir,
        boxes_csv=options.boxes_csv,
        concept_cols=options.concept_cols,
        target_cols=options.target_cols,
        reader_merge=options.reader_merge,
        group_col=options.group_col,
        links_into=options.links_into,
    )
    facts = check_data(files, rare=options.rare, workers=options.workers)
    if options.out is not None:
        write_page(options.out, facts)
    if options.json:
        print(json.dumps(facts, indent=2, allow_nan=False))
    else:
        print("\n".join(text_lines(facts)))
        if options.out is not None:
            print(f"Report: {options.out}")
    return EXIT_BAD_INPUT if facts["problems"] else EXIT_DONE


def bring_in(importer: ModuleType, options: argparse.Namespace) -> int:
    """Run `csr data NAME RAW OUT`: write OUT and print what is in it."""
    from csr.data.importers import summary
    from csr.data.importers.output import Output

    output = Output(options.out, raw=options.raw, overwrite=options.overwrite, images=options.images)
    with output.open():
        own = {flag: getattr(options, flag) for flag in IMPORTER_FLAGS[importer.NAME]}
        imported = importer.run(options.raw, output, links_into=options.links_into, **own)
        imported.links_into = () if options.images == "copy" else tuple(options.links_into)
        output.finish(imported.origin)
    for line in summary.summary(imported, options.out):
        print(line)
    return EXIT_DONE


def _build_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="csr data",
        description="Check data for training, or import a published data set.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="what", required=True, metavar="COMMAND", parser_class=Parser)
    _add_check(commands)
    for name, module in IMPORTERS.items():
        one = commands.add_parser(
            name,
            help=module.HELP,
            description=module.__doc__,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        one.add_argument(
            "raw", metavar="RAW", type=Path, help="folder that the data set was unpacked into; only read"
        )
        one.add_argument("out", metavar="OUT", type=Path, help="folder to write; must be empty or new")
        one.add_argument(
            "--images",
            choices=IMAGE_MODES,
            default="link",
            help="link: a link in OUT to each image folder; copy: the images that the tables name; none: "
            "they stay where they are (default: link)",
        )
        one.add_argument(
            "--overwrite", action="store_true", help="replace the tables and links of an earlier import"
        )
        add_links_flag(one)
        for flag, keywords in IMPORTER_FLAGS[name].items():
            one.add_argument(f"--{flag}", **keywords)
    return parser


def _add_check(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "check",
        help="counts, prevalence, reader agreement, duplicates, leaks, sizes, unreadable images",
        description="Look at a label table and its images as `csr train` will.",
        allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("csv", metavar="CSV", help="label table")
    add("dir", metavar="DIR", help="folder of its images")
    add("--test_csv", help="label table of the test images: also look for leaks between the two")
    add("--test_dir", help="folder of the test images")
    add_links_flag(parser)
    add("--boxes_csv", help="boxes on the images of CSV")
    add("--concept_cols", nargs="+", metavar="COLS", help="label columns that are concepts")
    add("--target_cols", nargs="+", metavar="COLS", help="label columns that are diagnoses")
    add("--reader_merge", choices=READER_MERGES, default="any", help="how the readers of an image are merged")
    add("--group_col", metavar="COL", help="column of patients or lesions (default: patient_id)")
    add(
        "--rare",
        type=Whole(1, 1024),
        default=10,
        metavar="N",
        help="warn of labels with fewer positive images than this",
    )
    add("--workers", type=Whole(1, 1024), default=4, metavar="N", help="threads that decode images")
    add("--out", metavar="FILE", type=Path, help="also write the report as one HTML page")
    add("--overwrite", action="store_true", help="replace FILE")
    add("--json", action="store_true", help="print everything as JSON instead")
