"""Whole runs with `--progressive` beside the plain schedule: time, and scores on the test set.

    python scripts/bench/progressive.py [--rounds N] [--progressive START:FULL] [--model_name NAME]
    python scripts/bench/progressive.py --data FOLDER -- --target_cols malignant    other data, more flags
    python scripts/bench/progressive.py --quick            does it work? numbers mean nothing

Both sides train the same model with `csr` on the same images (phantoms, or those of a folder with train/,
labels_train.csv, test/ and labels_test.csv), each round on the seed after the last one's, in turning order.
Every run starts without any cache. A difference of scores that is smaller than their spread over the rounds
says nothing.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from compare import draw, run_csr, training_flags
from measuring import RESULTS, Report, median, spread

PLAIN, GROWING = "plain", "progressive"


def main() -> None:
    given = parse()
    report = Report(given.name, given.results)
    found: dict[str, list[dict[str, Any]]] = {PLAIN: [], GROWING: []}
    phantom = f"phantom of {given.num_train} + {given.num_test} images of {given.source_size} px"
    report.say(
        f"{given.model_name} at {given.image_size}, --progressive {given.progressive}, "
        f"{'/'.join(map(str, given.epochs))} epochs, batch {given.batch_size}, {given.precision}, "
        f"{given.data.name if given.data else phantom}{'; ' if given.also else ''}{' '.join(given.also)}"
    )
    with tempfile.TemporaryDirectory(prefix="csr-bench-") as name:
        folder = Path(name)
        data = given.data or folder / "phantom"
        if given.data is None:
            draw(data, num_train=given.num_train, num_test=given.num_test, size=given.source_size)
        for seed in range(given.seed, given.seed + given.rounds):
            for side in (PLAIN, GROWING) if seed % 2 == 0 else (GROWING, PLAIN):
                place = folder / f"{side}-{seed}"
                place.mkdir()
                flags = training_flags(given, data.resolve(), seed, precision=given.precision) + given.also
                if "--backbone_weights" in given.also:
                    flags.remove("--no_pretrained")
                word = given.progressive if side == GROWING else "none"
                before = cpu_seconds()
                ran = run_csr([*flags, "--progressive", word], place, 1)
                found[side].append({**ran, "cpu_seconds": cpu_seconds() - before})
                report.say(f"seed {seed}: {side:<12} {found[side][-1]['seconds']:.1f} s")
                report.numbers["runs"] = found
                report.write()
    table(report, found)
    report.write()


def cpu_seconds() -> float:
    """Return what ended children have used, on which other programs have less influence than on wall time."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def table(report: Report, found: dict[str, list[dict[str, Any]]]) -> None:
    """Medians with ranges; the median over rounds of plain / progressive, and of the scores' differences."""
    times: dict[str, Callable[[dict[str, Any]], float]] = {
        "whole run, s": lambda r: r["seconds"],
        "CPU of the whole run, s": lambda r: r["cpu_seconds"],
        "training steps of stage 1, s": lambda r: sum(r["epochs"]["concept"]),
    }
    report.say()
    report.say(f"{'':<30} {PLAIN:>28} {GROWING:>28}")
    for name, value in times.items():
        plain, growing = ([value(run) for run in found[side]] for side in (PLAIN, GROWING))
        ratio = median([a / b for a, b in zip(plain, growing, strict=True)])
        report.say(f"{name:<30} {spread(plain, 1):>28} {spread(growing, 1):>28} {ratio:>8.2f}x")
    for name in ("concept_auc", "target_auc"):
        plain, growing = ([run[name] for run in found[side]] for side in (PLAIN, GROWING))
        gain = median([b - a for a, b in zip(plain, growing, strict=True)])
        label = f"test {name}"
        report.say(f"{label:<30} {spread(plain, 4):>28} {spread(growing, 4):>28} {gain:>+9.4f}")


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0, help="of the first round")
    parser.add_argument("--progressive", default="0.5:0.7")
    parser.add_argument("--epochs", type=int, nargs=3, default=[16, 10, 20], help="of the three stages")
    parser.add_argument("--backbone_type", default="timm")
    parser.add_argument("--model_name", default="resnet10t")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--lr", type=float, default=3e-3)
    for name, value in {
        "image_size": 128,
        "batch_size": 16,
        "num_prototypes": 5,
        "workers": 2,
        "num_train": 600,
        "num_test": 200,
        "source_size": 256,
    }.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--data", type=Path, help="a folder of data (default: a phantom is drawn)")
    parser.add_argument("also", nargs="*", default=[], help="flags of csr train, after --")
    parser.add_argument("--name", default="progressive", help="of the result files")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the result files")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: only to see that it works")
    options = parser.parse_args(argv)
    if options.quick:
        options.rounds, options.epochs, options.num_train, options.num_test = 1, [2, 1, 1], 32, 16
        options.model_name, options.image_size, options.batch_size = "test_vit", 64, 8
        options.source_size, options.workers = 64, 1
    return options


if __name__ == "__main__":
    main()
