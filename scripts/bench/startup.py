"""Seconds from typing `csr train` to the end of its first step, on a machine that has done it before.

    python scripts/bench/startup.py                    ResNet-50 and ViT-B/16 at 224, one rank and two
    python scripts/bench/startup.py --quick            does it work? numbers mean nothing

Beside it stands what a process pays before it runs a line of csr: importing torch, DeepSpeed and timm. The
end of the first step is when its loss goes to the TensorBoard board. Every setting runs once uncounted
(decoded images, compiled Python files). Results are printed and written to scripts/bench/results/: NAME.txt
and NAME.json.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from compare import PYTHON, draw, torchrun
from measuring import RESULTS, Report, median, run, spread

MODELS = (("resnet50", "resnet50"), ("timm", "vit_base_patch16_224"))
IMPORTS = "import torch, deepspeed, timm"
LEAVE = "import os; os._exit(0)"  # an interpreter that tears all that down takes a second more


def first_step_s(data: Path, folder: Path, *, model: tuple[str, str], image_size: int, ranks: int) -> float:
    """Run shortly; return seconds until its first loss is there."""
    flags = {
        "train_csv": data / "labels_train.csv",
        "test_csv": data / "labels_test.csv",
        "train_dir": data / "train",
        "test_dir": data / "test",
        "backbone_type": model[0],
        "model_name": model[1],
        "image_size": image_size,
        "batch_size": 16 // ranks,
        "epochs_stage1": 1,
        "epochs_stage2": 1,
        "epochs_stage3": 1,
        "log_every": 1,
        "output_dir": folder,
        "exp_name": "start",
    }
    words = [text for name, value in flags.items() for text in (f"--{name}", str(value))]
    launch = [PYTHON] if ranks == 1 else torchrun(ranks)
    began = time.time()
    run([*launch, "-m", "csr.train", *words, "--no_pretrained", "--overwrite"])
    return losses_at(folder / "start" / "tensorboard")[0] - began


def losses_at(board: Path) -> list[float]:
    """Return the times of rank 0's losses of stage 1, seconds since 1970."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (own,) = board.glob("rank0-*")
    events = EventAccumulator(str(own), size_guidance={"scalars": 0})
    return [float(point.wall_time) for point in events.Reload().Scalars("concept/loss")]


def measure(report: Report, options: argparse.Namespace, folder: Path) -> None:
    data = folder / "phantom"
    draw(data, num_train=40, num_test=8, size=options.image_size)
    imports = [run([PYTHON, "-c", f"{IMPORTS}; {LEAVE}"]).seconds for _ in range(options.repeats + 1)][1:]
    report.numbers["imports"] = imports
    report.say(f"{IMPORTS:<48} {spread(imports, 1)} s")
    report.numbers["first_step"] = {}
    for model in MODELS if options.models is None else [("timm", name) for name in options.models]:
        for ranks in options.ranks:
            place = folder / f"{model[1]}-{ranks}"
            found = [
                first_step_s(data, place, model=model, image_size=options.image_size, ranks=ranks)
                for _ in range(options.repeats + 1)
            ][1:]
            report.numbers["first_step"][f"{model[1]}, {ranks} rank(s)"] = found
            extra = median(found) - median(imports)
            report.say(
                f"{model[1]:<24} {ranks} rank(s), first step done {spread(found, 1)} s, {extra:.1f} of it csr"
            )
            report.write()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--models", nargs="+", help="timm names (default: resnet50, vit_base_patch16_224)")
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--name", default="startup", help="of the result files")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the result files")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: only to see that it works")
    options = parser.parse_args()
    if options.quick:
        options.models, options.image_size, options.ranks, options.repeats = ["test_resnet"], 64, [1], 1
    report = Report(options.name, options.results)
    with tempfile.TemporaryDirectory(prefix="csr-bench-") as folder:
        measure(report, options, Path(folder))
    report.write()


if __name__ == "__main__":
    main()
