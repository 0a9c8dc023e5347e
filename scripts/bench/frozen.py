"""How fast stages 1 to 3 are when the backbone is frozen, beside training it and beside passing it again.

    python scripts/bench/frozen.py [--images N] [--model_name NAME] [--image_size PX] [--epochs N]

Two questions, each with both sides in one run on a phantom data set, random weights:
1. an epoch of stage 1 with `--train_backbone none` (maps computed once) beside `all`;
2. the time after stage 1 with maps that are kept for all later passes, beside one pass of the backbone for
   each of them (what happens where maps do not fit into memory).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measuring import RESULTS, Report

ALONE = "from csr.training.features import maps; maps.MEMORY_SHARE = 0.0; "
RUN = "from csr.train import main; import sys; raise SystemExit(main(sys.argv[1:]))"


def main() -> None:
    given = _parse()
    report = Report("frozen", RESULTS)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        size = str(given.image_size)
        numbers = ("--num_train", str(given.images), "--num_test", "16", "--size", size)
        _call(sys.executable, "-m", "csr", "phantom", str(folder / "data"), *numbers)
        report.say(f"{given.model_name}, {given.images} images of {size} px, batch 16, fp32")
        _stage_1(given, folder, report)
        _later_stages(given, folder, report)
    report.write()


def _stage_1(given: argparse.Namespace, folder: Path, report: Report) -> None:
    seconds, once = {}, 0.0
    for part, epochs in (("all", given.epochs), ("none", 10 * given.epochs)):
        out = _train(given, folder, f"stage1-{part}", epochs, RUN, "--train_backbone", part)
        records = [r for r in _records(out) if r["stage"] == "concept"]
        seconds[part] = statistics.median(r["seconds"] for r in records)
        once = records[0].get("features_s", 0.0)
    report.numbers["stage1_epoch_s"] = seconds
    report.say(f"stage-1 epoch: all / none = {seconds['all'] / seconds['none']:.0f} x")
    report.say(f"computing the maps, once: {once / seconds['all']:.2f} epochs of training all")


def _later_stages(given: argparse.Namespace, folder: Path, report: Report) -> None:
    spent: dict[str, list[float]] = {"kept": [], "again": []}
    for number in range(given.rounds):
        for side, code in (("kept", RUN), ("again", ALONE + RUN)):
            out = _train(given, folder, f"later-{side}-{number}", 1, code)
            first = (out / "best_model_stage1.pth").stat().st_mtime
            spent[side].append((out / "results.json").stat().st_mtime - first)
    ratio = statistics.median(a / k for a, k in zip(spent["again"], spent["kept"], strict=True))
    report.numbers["after_stage_1_s"] = spent
    report.say(
        f"after stage 1, to the results: a pass each / maps kept = {ratio:.2f} x ({given.rounds} rounds)"
    )


def _train(given: argparse.Namespace, folder: Path, name: str, epochs: int, code: str, *more: str) -> Path:
    began, data = time.perf_counter(), folder / "data"
    options = {
        "train_csv": data / "labels_train.csv",
        "train_dir": data / "train",
        "test_csv": data / "labels_test.csv",
        "test_dir": data / "test",
        "backbone_type": "timm",
        "model_name": given.model_name,
        "image_size": given.image_size,
        "epochs_stage1": epochs,
        "epochs_stage2": 3,
        "epochs_stage3": 3,
        "precision": "fp32",
        "output_dir": folder,
        "exp_name": name,
    }
    words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
    _call(sys.executable, "-c", code, *words, "--no_pretrained", *more)
    print(f"{name}: {time.perf_counter() - began:.0f} s", file=sys.stderr)
    return folder / name


def _records(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def _call(*command: str) -> None:
    done = subprocess.run(command, text=True, capture_output=True, check=False)
    if done.returncode:
        raise SystemExit(f"{command[:3]}: {done.stderr[-2000:]}")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--model_name", default="vit_small_patch16_224")
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--epochs", type=int, default=2, help="of stage 1 with the whole backbone")
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args()


if __name__ == "__main__":
    main()
