"""`csr predict MODEL IMAGES.. --out FILE`: diagnoses and concepts of images, as JSON lines or CSV."""

from __future__ import annotations

import argparse
import csv
import functools
import io
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from csr.cli.shared_flags import add_links_flag
from csr.config.parser import Parser, Whole
from csr.runtime.errors import EXIT_DONE, EXIT_FAILED, InputError
from csr.runtime.files import write_atomic
from csr.runtime.output_paths import check_output_file

if TYPE_CHECKING:
    from csr.evaluation.predict import Row
    from csr.model.sharing.card import Card

SUFFIXES = (".jsonl", ".csv")
_NOVELTY = ("novelty", "unlike_training", "novelty_note")


def main(argv: list[str] | None = None) -> int:
    """Parse the command line, predict, write OUT; return 1 if an image could not be read, else 0.

    Raises:
        InputError: the model or the images cannot be used, OUT exists or cannot be written.
    """
    options = _build_parser().parse_args(argv)
    from csr.data.images.collect import gather_images
    from csr.engine.device import pick_device
    from csr.evaluation.predict import predict_files
    from csr.model.contributions import NO_MEDIANS
    from csr.model.sharing.loading import load_model

    check_output_file(options.out, overwrite=options.overwrite, suffixes=SUFFIXES)
    paths = gather_images(options.images, report=_notice, links_into=options.links_into)
    model = load_model(options.model, checkpoint=options.checkpoint).to(pick_device(options.device))
    unreadable: list[str] = []
    rows = predict_files(
        model,
        paths,
        batch_size=options.batch_size,
        workers=options.workers,
        with_contributions=options.contributions,
        report=unreadable.append,
        remark=_notice,
    )
    assert model.card is not None
    for line in model.card.notices():
        _notice(line)
    if options.contributions and model.card.reference.absent_KM is None:
        _notice(NO_MEDIANS)
    write_rows(options.out, rows, card=model.card, with_contributions=options.contributions)
    print(f"{len(paths) - len(unreadable)} images predicted: {options.out}")
    if unreadable:
        print(f"{len(unreadable)} could not be read:")
        print("\n".join(f"  {_printable(line)}" for line in unreadable))
    return EXIT_FAILED if unreadable else EXIT_DONE


def _notice(line: str) -> None:
    print(f"Notice: {_printable(line)}", file=sys.stderr)


def _printable(line: str) -> str:
    """Return one line, also where a file's name is no text in any encoding."""
    return " ".join(line.split()).encode("utf-8", "backslashreplace").decode()


def write_rows(path: Path, rows: Iterable[Row], *, card: Card, with_contributions: bool = False) -> None:
    """Write JSON lines or CSV, by the suffix, as the rows come; the file appears when all are written.

    A CSV has the columns image, error, present (joined with ';'), gap, needs_doctor, novelty (the score),
    unlike_training (1 or 0; both empty where the model cannot tell), novelty_note, then
    `diagnosis NAME` and `concept NAME` with probabilities; of rows with contributions also, for each
    diagnosis, `logit NAME`, `base NAME` and `contribution CONCEPT to NAME`.

    Raises:
        InputError: the file cannot be written.
    """
    write = _write_json_lines
    if path.suffix.lower() == ".csv":
        write = functools.partial(_write_csv, with_contributions=with_contributions)
    try:
        write_atomic(path, lambda file: write(file, rows, card))
    except OSError as error:
        raise InputError(f"--out {path}: cannot be written ({error.strerror or error})") from None


def _write_json_lines(file: IO[bytes], rows: Iterable[Row], card: Card) -> None:
    for row in rows:
        file.write(json.dumps(row, allow_nan=False).encode() + b"\n")


def _write_csv(file: IO[bytes], rows: Iterable[Row], card: Card, *, with_contributions: bool) -> None:
    text = io.TextIOWrapper(file, encoding="utf-8", errors="surrogateescape", newline="")
    table = csv.writer(text)
    names = [f"diagnosis {n}" for n in card.target_names] + [f"concept {n}" for n in card.concept_names]
    if with_contributions:
        for name in card.target_names:
            added = [f"contribution {n} to {name}" for n in card.concept_names]
            names += [f"logit {name}", f"base {name}", *added]
    table.writerow(["image", "error", "present", "gap", "needs_doctor", *_NOVELTY, *names])
    for row in rows:
        if "error" in row:
            table.writerow([row["image"], row["error"], *[""] * (3 + len(_NOVELTY) + len(names))])
            continue
        decisions = [
            ";".join(row["present"]),
            row["gap"],
            int(row["needs_doctor"]),
            *_novelty(row["novelty"]),
        ]
        values = [*row["diagnoses"].values(), *row["concepts"].values()]
        for one in row["contributions"].values() if with_contributions else ():
            values += [one["logit"], one["base"], *one["concepts"].values()]
        table.writerow([row["image"], "", *decisions, *values])
    text.flush()
    text.detach()  # the file stays open: it is synced and renamed by who opened it


def _novelty(seen: dict[str, Any] | None) -> list[Any]:
    return (
        [""] * len(_NOVELTY) if seen is None else [seen["score"], int(seen["is_novel"]), seen["note"] or ""]
    )


def _build_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="csr predict",
        description="Diagnose images. Exit code 1: some could not be read, the rest is in FILE.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("model", metavar="MODEL", help="folder of `csr export`, folder of a run, or hub id")
    parser.add_argument("images", metavar="IMAGES", type=Path, nargs="+", help="image files and folders")
    parser.add_argument("--out", metavar="FILE", type=Path, required=True, help=".jsonl or .csv to write")
    add_links_flag(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace FILE")
    parser.add_argument("--checkpoint", help="name of a .pth, where MODEL is a run; None: best of stage 3")
    parser.add_argument(
        "--batch_size", type=Whole(1, 4096), default=16, help="images that the network sees at once"
    )
    parser.add_argument(
        "--contributions", action="store_true", help="add what each concept contributes to each logit"
    )
    parser.add_argument("--workers", type=Whole(1, 4096), default=4, help="threads that decode images")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1")
    return parser
