"""csr beside the usual script on the same phantom data: time, memory, accuracy; loaders; engine overhead.

    python scripts/bench/compare.py                    three rounds of 10/10/10 epochs, ResNet-50 at 224
    python scripts/bench/compare.py --quick            does it work? numbers mean nothing
    python scripts/bench/compare.py --parts loader overhead
    python scripts/bench/compare.py --sides reference:bf16 csr:bf16

A side is a script and its precision; all are compared with the first one. `fast` is csr with `--recipe
fast`. The usual script runs in fp32 on CPUs, csr in what --precision says: so both of csr's are there. Round
i trains every side on seed i, in turning order. Every csr run starts without any cache. Results are printed
and written to scripts/bench/results/NAME.txt and NAME.json.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from loaders import Sizes, compare_loaders
from measuring import RESULTS, Report, median, run, spread

STAGES = ("concept", "prototype", "task")
NETWORKS = (("resnet18", 128), ("vit_tiny_patch16_224", 224))
OVERHEADS = [(model, size, precision) for model, size in NETWORKS for precision in ("fp32", "bf16")]
PROGRESS = Path(__file__).resolve().parent
PYTHON = sys.executable


def training_flags(options: argparse.Namespace, data: Path, seed: int, *, precision: str) -> list[str]:
    """What both scripts get."""
    e1, e2, e3 = options.epochs
    flags = {
        "train_csv": data / "labels_train.csv",
        "test_csv": data / "labels_test.csv",
        "train_dir": data / "train",
        "test_dir": data / "test",
        "backbone_type": options.backbone_type,
        "model_name": options.model_name,
        "image_size": options.image_size,
        "batch_size": options.batch_size,
        "lr": options.lr,
        "epochs_stage1": e1,
        "epochs_stage2": e2,
        "epochs_stage3": e3,
        "num_prototypes": options.num_prototypes,
        "seed": seed,
        "workers": options.workers,
        "precision": precision,
        "augment": "light",
    }
    return [text for name, value in flags.items() for text in (f"--{name}", str(value))] + ["--no_pretrained"]


def run_reference(flags: list[str], folder: Path, ranks: int) -> dict[str, Any]:
    result = folder / "reference.json"
    script = [str(PROGRESS / "reference.py"), *flags, "--json", str(result)]
    ran = run([PYTHON, *script] if ranks == 1 else [*torchrun(ranks), *script])
    record = json.loads(result.read_text())
    epochs = {name: record["stages"][name]["epoch_seconds"] for name in STAGES}
    scores = {f"{name}_auc": value for name, value in record["test"].items()}
    return {**vars(ran), "epochs": epochs, "features": {}, **scores}


def run_csr(flags: list[str], folder: Path, ranks: int) -> dict[str, Any]:
    flags = [*flags, "--output_dir", str(folder), "--exp_name", "csr"]
    launch = [PYTHON] if ranks == 1 else torchrun(ranks)
    ran = run([*launch, "-m", "csr.train", *flags])
    records = [json.loads(line) for line in (folder / "csr" / "metrics.jsonl").read_text().splitlines()]
    epochs = {name: [r["seconds"] for r in records if r["stage"] == name] for name in STAGES}
    features = {r["stage"]: r["features_s"] for r in records if r.get("features_s")}
    summary = json.loads((folder / "csr" / "results.json").read_text())["summary"]
    return {
        **vars(ran),
        "epochs": epochs,
        "features": features,
        "concept_auc": summary["concept_auc"],
        "target_auc": summary["target_auc"],
    }


def torchrun(ranks: int) -> list[str]:
    return [PYTHON, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]


def draw(folder: Path, **sizes: int) -> None:
    """A phantom data set."""
    flags = [text for name, value in sizes.items() for text in (f"--{name}", str(value))]
    run([PYTHON, "-m", "csr", "phantom", str(folder), *flags])


def run_fast(flags: list[str], folder: Path, ranks: int) -> dict[str, Any]:
    """csr with images of stage 1 that grow; the precision stays the side's."""
    return run_csr([*flags, "--recipe", "fast"], folder, ranks)


RUNNERS = {"reference": run_reference, "csr": run_csr, "fast": run_fast}


def side(text: str) -> str:
    """Argparse type: SCRIPT:PRECISION."""
    script, _, precision = text.partition(":")
    if script not in RUNNERS or precision not in ("fp32", "bf16"):
        raise argparse.ArgumentTypeError(f"{text}: one of {', '.join(RUNNERS)}, then :fp32 or :bf16")
    return text


def compare_runs(report: Report, options: argparse.Namespace, folder: Path) -> None:
    """Whole runs in rounds."""
    data = options.data or folder / "phantom"
    if options.data is None:
        draw(data, num_train=options.num_train, num_test=options.num_test, size=options.source_size)
    report.say(
        f"Whole runs: {options.backbone_type} {options.model_name} at {options.image_size}, "
        f"{'/'.join(map(str, options.epochs))} epochs, batch {options.batch_size}, "
        f"{options.ranks} rank(s), phantom of {options.num_train} + {options.num_test} images "
        f"of {options.source_size} px"
    )
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in options.sides}
    for seed in range(options.rounds):
        first = seed % len(options.sides)
        for name in [*options.sides[first:], *options.sides[:first]]:
            place = folder / f"{name.replace(':', '-')}-{seed}"
            place.mkdir()
            script, _, precision = name.partition(":")
            flags = training_flags(options, data, seed, precision=precision)
            found[name].append(RUNNERS[script](flags, place, options.ranks))
            report.say(f"round {seed}: {name:<15} {found[name][-1]['seconds']:.1f} s")
            report.numbers["runs"] = found
            report.write()
    report.say()
    table(report, found)


Rows = dict[str, tuple[dict[str, list[float]], int]]


def table(report: Report, found: dict[str, list[dict[str, Any]]]) -> None:
    """Medians with ranges; for every side but the first the median of the rounds' ratios to it."""
    first, *others = found
    report.say(f"{'':<46} " + " ".join([f"{first:>28}", *(f"{name:>28} {'ratio':>9}" for name in others)]))
    for name, (values, digits) in _rows(found).items():
        cells = [f"{spread(values[first], digits):>28}"]
        for other in others:
            ratio = median([a / b for a, b in zip(values[first], values[other])])
            cells.append(f"{spread(values[other], digits):>28} {ratio:>8.2f}x")
        report.say(f"{name:<46} {' '.join(cells)}")
    for name in ("concept_auc", "target_auc"):
        scores = {side: [r[name] for r in runs] for side, runs in found.items()}
        cells = [f"{spread(scores[first], 4):>28}"]
        for other in others:
            gain = median([b - a for a, b in zip(scores[first], scores[other])])
            cells.append(f"{spread(scores[other], 4):>28} {gain:>+9.4f}")
        report.say(f"{'test ' + name:<46} {' '.join(cells)}")
    report.say()


def _rows(found: dict[str, list[dict[str, Any]]]) -> Rows:
    """What is compared as a ratio: {name: ({side: values of the rounds}, digits)}."""

    def of(value: Callable[[dict[str, Any]], float]) -> dict[str, list[float]]:
        return {side: [value(run) for run in runs] for side, runs in found.items()}

    rows: Rows = {"whole run, s": (of(lambda r: r["seconds"]), 1)}
    for stage in STAGES:
        rows[f"{stage} epoch, s"] = of(lambda r: median(r["epochs"][stage])), 3
        if any(stage in run["features"] for runs in found.values() for run in runs):
            rows[f"{stage} epoch with its share of the cache, s"] = of(lambda r: _with_cache(r, stage)), 3
    rows["peak memory, MiB"] = of(lambda r: r["total_mib"]), 0
    rows["peak without mapped files, MiB"] = of(lambda r: r["private_mib"]), 0
    return rows


def _with_cache(run: dict[str, Any], stage: str) -> float:
    return median(run["epochs"][stage]) + run["features"].get(stage, 0.0) / len(run["epochs"][stage])


def compare_overhead(report: Report, options: argparse.Namespace, folder: Path) -> None:
    report.say("Engine: ms per step, one rank, batch 8 (bare PyTorch loop beside it)")
    found = report.numbers["overhead"] = {}
    short = ["--blocks", "2", "--steps", "2"] if options.quick else []
    for model, size, precision in OVERHEADS[: 1 if options.quick else None]:
        result = folder / "overhead.json"
        run(
            [
                PYTHON,
                str(PROGRESS / "overhead.py"),
                "--model_name",
                model,
                "--image_size",
                str(size),
                "--precision",
                precision,
                "--json",
                str(result),
                *short,
            ]
        )
        numbers = found[f"{model} {size} {precision}"] = json.loads(result.read_text())
        report.say(
            f"{model:<22} {size:<4} {precision:<5} bare {numbers['bare_ms']:8.1f}   "
            f"engine {numbers['engine_ms']:8.1f}   {numbers['overhead_percent']:+.1f} %"
        )
    report.say()


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parts = ("runs", "loader", "overhead")
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--sides",
        type=side,
        nargs="+",
        metavar="SCRIPT:PRECISION",
        default=["reference:fp32", "csr:fp32", "csr:bf16"],
    )
    parser.add_argument("--epochs", type=int, nargs=3, default=[10, 10, 10], help="of the three stages")
    parser.add_argument("--backbone_type", default="resnet50")
    parser.add_argument("--model_name", default="resnet50")
    parser.add_argument("--lr", type=float, default=1e-3)
    for name, value in {
        "image_size": 224,
        "batch_size": 16,
        "num_prototypes": 5,
        "workers": 2,
        "ranks": 1,
        "num_train": 320,
        "num_test": 120,
        "source_size": 512,
    }.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--data", type=Path, help="a phantom folder (default: drawn)")
    parser.add_argument("--name", default="compare", help="of the result files")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the result files")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: only to see that it works")
    options = parser.parse_args(argv)
    if options.quick:
        options.rounds, options.epochs, options.num_train, options.num_test = 1, [1, 1, 1], 32, 16
        options.backbone_type, options.model_name, options.image_size = "timm", "test_resnet", 64
        options.batch_size, options.source_size, options.workers = 8, 64, 1
    return options


def main() -> None:
    options = parse()
    report = Report(options.name, options.results)
    with tempfile.TemporaryDirectory(prefix="csr-bench-") as name:
        folder = Path(name)
        if "runs" in options.parts:
            compare_runs(report, options, folder)
            report.write()
        if "loader" in options.parts:
            kinds = (("png", 64), ("jpg", 64), ("dcm", 64))
            tiny = Sizes(num_images=8, image_size=32, batch_size=4, workers=1, passes=2, kinds=kinds)
            sizes = tiny if options.quick else Sizes(workers=options.workers)
            compare_loaders(report, folder / "loader", sizes)
            report.write()
        if "overhead" in options.parts:
            compare_overhead(report, options, folder)
            report.write()


if __name__ == "__main__":
    main()
