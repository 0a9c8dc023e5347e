"""`csr predict MODEL IMAGES.. --out FILE`: diagnoses and concepts of images, as JSON lines or CSV."""

from __future__ import annotations

import argparse
import csv
import io
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import torch

from csr.cli.exit_codes import Parser
from csr.data.images.collect import gather_images
from csr.data.images.resize import squash_files
from csr.model import CSR
from csr.model.interaction import DOCTOR_GAP, top_two_gap
from csr.model.sharing.card import Card
from csr.model.sharing.loading import load_model, pick_device
from csr.runtime.errors import EXIT_DONE, EXIT_FAILED, InputError
from csr.runtime.files import write_atomic

Row = dict[str, Any]
SUFFIXES = (".jsonl", ".csv")


def main(argv: list[str] | None = None) -> int:
    """Parse the command line, predict, write OUT; returns 1 if an image could not be read, else 0.

    Raises:
        InputError: the model or the images cannot be used, OUT exists or cannot be written.
    """
    options = _build_parser().parse_args(argv)
    check_out(options.out, overwrite=options.overwrite)
    paths = gather_images(options.images, say=_notice)
    model = load_model(options.model, checkpoint=options.checkpoint).to(pick_device(options.device))
    unreadable: list[str] = []
    rows = predict_files(
        model, paths, batch_size=options.batch_size, workers=options.workers, report=unreadable.append
    )
    assert model.card is not None
    write_rows(options.out, rows, card=model.card)
    print(f"{len(paths) - len(unreadable)} images predicted: {options.out}")
    if unreadable:
        print(f"{len(unreadable)} could not be read:")
        print("\n".join(f"  {_printable(line)}" for line in unreadable))
    return EXIT_FAILED if unreadable else EXIT_DONE


def _notice(line: str) -> None:
    print(f"Notice: {_printable(line)}", file=sys.stderr)


def _printable(line: str) -> str:
    """One line, also where a file's name is no text in any encoding."""
    return " ".join(line.split()).encode("utf-8", "backslashreplace").decode()


def check_out(path: Path, *, overwrite: bool) -> None:
    """Raise InputError if the file cannot become what was asked for."""
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"--out {path}: end the name with {' or '.join(SUFFIXES)}")
    if path.is_dir() or not path.parent.is_dir():
        raise InputError(f"--out {path}: {'is a folder' if path.is_dir() else f'no folder {path.parent}'}")
    if path.exists() and not overwrite:
        raise InputError(f"--out {path}: exists: give another name, or --overwrite to replace it")


@torch.no_grad()
def predict_files(
    model: CSR,
    paths: list[Path],
    *,
    batch_size: int = 16,
    workers: int = 4,
    report: Callable[[str], object] = lambda line: None,
) -> Iterator[Row]:
    """A row for each file, in order; memory does not grow with their number.

    Args:
        model: in eval mode, with a card, on the device to compute on.
        paths: image files.
        batch_size: images that the network sees at once.
        workers: threads that decode.
        report: called with one line for each file that cannot be read.

    Yields:
        `image`, then either `error`, or `diagnoses` and `concepts` (name -> probability), `present`
        (diagnoses from their thresholds on; the likeliest one if exactly one holds), `gap` of the two most
        likely ones, and `needs_doctor`, whether it is under 0.3.
    """
    assert model.card is not None
    size = model.card.preprocessing.stored_size
    waiting: list[tuple[Path, torch.Tensor | None, str]] = []
    for path, result in zip(paths, squash_files(paths, size=size, workers=workers), strict=True):
        if isinstance(result, InputError):
            report(str(result))
            waiting.append((path, None, str(result)))
        else:
            waiting.append((path, torch.from_numpy(result.pixels_CSS).expand(3, -1, -1), ""))
        if sum(pixels is not None for _, pixels, _ in waiting) == batch_size:
            yield from _predict(model, waiting)
            waiting = []
    yield from _predict(model, waiting)


def _predict(model: CSR, waiting: list[tuple[Path, torch.Tensor | None, str]]) -> Iterator[Row]:
    """Rows of one batch, unreadable ones in their place."""
    stored = [pixels for _, pixels, _ in waiting if pixels is not None]
    told = iter(diagnose(model, torch.stack(stored)) if stored else [])
    for path, pixels, error in waiting:
        yield {"image": str(path), **({"error": error} if pixels is None else next(told))}


def diagnose(model: CSR, image_BCSS: torch.Tensor) -> list[Row]:
    """What the model says about squashed images (uint8, 1 or 3 channels)."""
    card = model.card
    assert card is not None
    device = next(model.parameters()).device
    output = model(card.preprocessing.transform()(image_BCSS.to(device)))
    target_BT = card.probability(output.logits).cpu()
    concept_BK = output.concept_logits.sigmoid().cpu()
    present_BT = target_BT >= card.target_threshold_T
    if card.task_loss == "ce":
        present_BT = target_BT == target_BT.amax(dim=1, keepdim=True)
    return [
        {
            "diagnoses": dict(zip(card.target_names, target_T.tolist(), strict=True)),
            "concepts": dict(zip(card.concept_names, concept_K.tolist(), strict=True)),
            "present": [name for name, is_it in zip(card.target_names, present_T, strict=True) if is_it],
            "gap": float(gap),
            "needs_doctor": bool(gap < DOCTOR_GAP),
        }
        for target_T, concept_K, present_T, gap in zip(
            target_BT, concept_BK, present_BT, top_two_gap(target_BT), strict=True
        )
    ]


def write_rows(path: Path, rows: Iterable[Row], *, card: Card) -> None:
    """Write JSON lines or CSV, by the suffix, as the rows come; the file appears when all are written.

    A CSV has the columns image, error, present (joined with ';'), gap, needs_doctor, then
    `diagnosis NAME` and `concept NAME` with probabilities.

    Raises:
        InputError: the file cannot be written.
    """
    write = _write_csv if path.suffix.lower() == ".csv" else _write_json_lines
    try:
        write_atomic(path, lambda file: write(file, rows, card))
    except OSError as error:
        raise InputError(f"--out {path}: cannot be written ({error.strerror or error})") from None


def _write_json_lines(file: IO[bytes], rows: Iterable[Row], card: Card) -> None:
    for row in rows:
        file.write(json.dumps(row, allow_nan=False).encode() + b"\n")


def _write_csv(file: IO[bytes], rows: Iterable[Row], card: Card) -> None:
    text = io.TextIOWrapper(file, encoding="utf-8", errors="surrogateescape", newline="")
    table = csv.writer(text)
    names = [f"diagnosis {n}" for n in card.target_names] + [f"concept {n}" for n in card.concept_names]
    table.writerow(["image", "error", "present", "gap", "needs_doctor", *names])
    for row in rows:
        if "error" in row:
            table.writerow([row["image"], row["error"], *[""] * (3 + len(names))])
            continue
        told = [";".join(row["present"]), row["gap"], int(row["needs_doctor"])]
        table.writerow([row["image"], "", *told, *row["diagnoses"].values(), *row["concepts"].values()])
    text.flush()
    text.detach()  # the file stays open: it is synced and renamed by who opened it


def _build_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="csr predict",
        description="Diagnose images. Exit code 1: some could not be read, the rest is in FILE.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument("model", metavar="MODEL", help="folder of `csr export`, folder of a run, or hub id")
    parser.add_argument("images", metavar="IMAGES", type=Path, nargs="+", help="image files and folders")
    parser.add_argument("--out", metavar="FILE", type=Path, required=True, help=".jsonl or .csv to write")
    parser.add_argument("--overwrite", action="store_true", help="replace FILE")
    parser.add_argument("--checkpoint", help="name of a .pth, where MODEL is a run; None: best of stage 3")
    parser.add_argument("--batch_size", type=_count, default=16, help="images that the network sees at once")
    parser.add_argument("--workers", type=_count, default=4, help="threads that decode images")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1")
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 4096:
        raise argparse.ArgumentTypeError(f"{text} is no whole number from 1 to 4096")
    return int(text)
