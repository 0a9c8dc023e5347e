"""`csr compare RUN.. [--by seed,fold] --out DIR`: what differs between runs, and how sure that is."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from csr.cli.exit_codes import exit_process, run_command
from csr.config.parser import Parser, Whole
from csr.runtime.errors import InputError
from csr.runtime.output_paths import check_output_folder

EPILOG = """examples:
  csr compare checkpoints/csr_exp checkpoints/other --out comparison/
  csr compare checkpoints/csr_exp-* --by seed,fold --out comparison/
exit codes: 0 done, 1 failed, 2 bad input"""
CONTENT = "an earlier comparison"


def main(argv: list[str] | None = None) -> int:
    """Parse the command line, compare, write DIR; return the exit code.

    Raises:
        InputError: runs that cannot be compared, or DIR is filled or cannot be written.
    """
    options = _build_parser().parse_args(argv)
    check_output_folder(options.out, overwrite=options.overwrite, content=CONTENT)
    compare_runs(
        options.runs,
        by=options.by,
        reference=options.reference,
        out=options.out,
        num_resamples=options.bootstrap,
        seed=options.seed,
    )
    return 0


def compare_runs(
    folders: Sequence[Path],
    *,
    by: Sequence[str],
    out: Path,
    reference: Path | None = None,
    num_resamples: int = 1000,
    seed: int = 0,
) -> None:
    """Compare runs, write the files and print a summary.

    Args:
        folders: of finished runs.
        by: options in which the runs of a group differ.
        out: folder to write.
        reference: one of `folders`, whose group the others are compared with; None: the first.
        num_resamples, seed: of the test images.

    Raises:
        InputError: runs that cannot be compared, or files that cannot be written.
    """
    from csr.evaluation.bootstrap import Bootstrap
    from csr.evaluation.comparison.compare import compare
    from csr.evaluation.comparison.output import PAGE, summary, write_files
    from csr.evaluation.comparison.run_record import read_runs

    place = _place_of(reference, folders)
    results = compare(read_runs(folders), by=by, reference=place, bootstrap=Bootstrap(num_resamples, seed))
    write_files(out, results)
    for line in summary(results):
        print(line)
    print(f"Results: {out / PAGE}, and as .md, .tex, .csv and .json")


def _place_of(reference: Path | None, folders: Sequence[Path]) -> int:
    if reference is None:
        return 0
    places = [i for i, folder in enumerate(folders) if folder.resolve() == reference.resolve()]
    if not places:
        raise InputError(f"--reference {reference}: is none of the runs: name one of them")
    return places[0]


def option_names(text: str) -> tuple[str, ...]:
    """Return the names in a list with commas."""
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise argparse.ArgumentTypeError("give names of options with commas, such as seed,fold")
    return names


def _build_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="csr compare",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        description="Compare finished runs on their common test images: scores with intervals, paired tests "
        "(resampled images, DeLong, runs; corrected by Holm), calibration, cost, and options that differ.",
    )
    add = parser.add_argument
    add("runs", metavar="RUN", type=Path, nargs="+", help="output_dir/exp_name of csr train")
    add(
        "--by",
        type=option_names,
        default=(),
        metavar="OPTION,..",
        help="runs that differ in nothing but these options, as seed,fold, are one group (default: none)",
    )
    add("--out", metavar="DIR", type=Path, required=True, help="folder to write; new or empty")
    add(
        "--reference",
        metavar="RUN",
        type=Path,
        help="the run whose group the others are tested against (default: the first)",
    )
    add("--bootstrap", type=Whole(0, 100_000), default=1000, help="resamples, 0: none (default: 1000)")
    add("--seed", type=Whole(0, 2**32 - 1), default=0, help="of the resamples (default: 0)")
    add("--overwrite", action="store_true", help="replace an earlier comparison in DIR")
    return parser


if __name__ == "__main__":
    exit_process(run_command(main))
