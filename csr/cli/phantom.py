"""`csr phantom OUT`: draw the embedded data set of synthetic chest radiographs."""

from __future__ import annotations

import argparse
from pathlib import Path

from csr.config.parser import Parser, Whole


def main(argv: list[str] | None = None) -> int:
    """Parse the command line, write the data set, print its place; return the exit code.

    Raises:
        InputError: the folder is in use or cannot be written.
    """
    options = _build_parser().parse_args(argv)
    from csr.data.phantom import write_phantom

    write_phantom(
        options.out,
        num_train=options.num_train,
        num_test=options.num_test,
        size=options.size,
        seed=options.seed,
        overwrite=options.overwrite,
    )
    out = options.out
    print(f"{options.num_train} training and {options.num_test} test radiographs are in {out}/,")
    print(f"their findings' boxes in {out / 'boxes_train.csv'} and {out / 'boxes_test.csv'}.")
    print("Train on them with: csr train \\")
    print(f"    --train_csv {out / 'labels_train.csv'} --test_csv {out / 'labels_test.csv'} \\")
    print(f"    --train_dir {out / 'train'} --test_dir {out / 'test'}")
    return 0


def _build_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="csr phantom",
        description="Draw synthetic chest radiographs with findings, in VinDr-CXR's format.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("out", metavar="OUT", type=Path, help="folder to write; must be empty or new")
    parser.add_argument(
        "--num_train", type=Whole(1, 10_000_000), default=400, help="training images, three readers each"
    )
    parser.add_argument(
        "--num_test", type=Whole(1, 10_000_000), default=120, help="test images, labelled with the truth"
    )
    parser.add_argument("--size", type=Whole(32, 4096), default=256, help="height in pixels")
    parser.add_argument("--seed", type=Whole(0, 2**63 - 1), default=0, help="same seed, same files")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier phantom in OUT")
    return parser
