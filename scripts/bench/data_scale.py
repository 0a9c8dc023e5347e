"""Seconds, CPU time and memory of `csr data check` and `csr train --dry_run` as tables grow.

    python scripts/bench/data_scale.py                          20,000 to 160,000 rows x 200 labels
    python scripts/bench/data_scale.py --quick                  does it work? numbers mean nothing

Rows are drawn on the fly, a tenth of them for the test, four rows to a patient. Image files are tiny and
linked: `--distinct` of them exist, so decoding stays out of the way and what is measured are tables, labels
and links. With `--distinct` as large as `--rows` every image differs, which is what the search for copies
works on. Results are printed and written to scripts/bench/results/: NAME.txt and NAME.json.
"""

from __future__ import annotations

import argparse
import itertools
import os
import resource
import shutil
import tempfile
from pathlib import Path

import numpy as np
from measuring import RESULTS, ROOT, Report, run
from PIL import Image

PYTHON = shutil.which("python") or "python"
SIDE_PX = 8
MAX_LINKS = 20_000  # to one file; file systems allow some 65,000
SMALL_MODEL = ("--backbone_type", "timm", "--model_name", "test_resnet", "--image_size", "64")


def draw(folder: Path, *, rows: int, labels: int, distinct: int) -> None:
    """Write two tables and their images; the same ones in every run."""
    rng = np.random.default_rng(0)
    (folder / "files").mkdir(parents=True)
    names = [f"finding {k}" for k in range(labels - 10)] + [f"disease {t}" for t in range(10)]
    share_L = rng.uniform(0.02, 0.3, labels)
    for split, count in (("train", rows - rows // 10), ("test", rows // 10)):
        (folder / split).mkdir()
        files = draw_images(
            folder / "files", split, rng, number=max(-(-count // MAX_LINKS), distinct * count // rows)
        )
        with open(folder / f"{split}.csv", "w", encoding="utf-8") as table:
            table.write(",".join(["image_id", "patient_id", *names]) + "\n")
            for row in range(count):
                cells = (rng.random(labels) < share_L).astype(int)
                line = ",".join(map(str, cells))
                table.write(f"{split}{row},{split} patient {row // 4},{line}\n")
                os.link(files[row % len(files)], folder / split / f"{split}{row}.png")


def draw_images(folder: Path, split: str, rng: np.random.Generator, *, number: int) -> list[Path]:
    """Write tiny pictures, smooth and unlike each other as radiographs are: neither noise nor one picture."""
    files = []
    for place in range(number):
        coarse = Image.fromarray(rng.integers(0, 256, (4, 4), dtype=np.uint8))
        files.append(folder / f"{split}{place}.png")
        coarse.resize((SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC).save(files[-1])
    return files


def commands(folder: Path, labels: int) -> dict[str, list[str]]:
    targets = ["--target_cols", *(f"disease {t}" for t in range(10))]
    check = [PYTHON, "-m", "csr", "data", "check", str(folder / "train.csv"), str(folder / "train")]
    check += ["--test_csv", str(folder / "test.csv"), "--test_dir", str(folder / "test"), *targets]
    train = [PYTHON, "-m", "csr.train", "--dry_run", "--no_pretrained", *SMALL_MODEL, *targets]
    for split in ("train", "test"):
        train += [f"--{split}_csv", str(folder / f"{split}.csv"), f"--{split}_dir", str(folder / split)]
    train += ["--output_dir", str(folder / "results"), "--batch_size", "8", "--precision", "fp32"]
    return {"csr data check": check, "csr train --dry_run": train}


def cpu_seconds() -> float:
    """Return the CPU time of all commands that have ended: other work on the machine does not count."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def measure(report: Report, options: argparse.Namespace, scratch: Path) -> None:
    report.numbers |= {"seconds": {}, "cpu_seconds": {}, "peak_mib": {}}
    for rows in options.rows:
        folder = scratch / f"{rows}"
        draw(folder, rows=rows, labels=options.labels, distinct=min(rows, options.distinct))
        sides = {"": ROOT} if options.before is None else {" (before)": options.before.resolve(), "": ROOT}
        for (name, command), (side, tree) in itertools.product(
            commands(folder, options.labels).items(), sides.items()
        ):
            if options.only not in name:
                continue
            before = cpu_seconds()
            done = run(command, tree=tree)
            cpu = cpu_seconds() - before
            key = f"{name}{side}, {rows} rows"
            report.numbers["seconds"][key], report.numbers["peak_mib"][key] = done.seconds, done.private_mib
            report.numbers["cpu_seconds"][key] = cpu
            report.say(f"{key:<44} {done.seconds:8.1f} s  {cpu:8.1f} s of CPU  {done.private_mib:8.0f} MiB")
            report.write()
        shutil.rmtree(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--rows", type=int, nargs="+", default=[20_000, 40_000, 80_000, 160_000])
    parser.add_argument("--labels", type=int, default=200, help="ten of them are diagnoses")
    parser.add_argument("--distinct", type=int, default=1000, help="image files; all rows are linked to them")
    parser.add_argument("--only", default="", help="words of the command to measure, such as check")
    parser.add_argument(
        "--before", type=Path, metavar="TREE", help="another checkout to measure beside this one"
    )
    parser.add_argument("--name", default="data_scale", help="of the result files")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the result files")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: only to see that it works")
    options = parser.parse_args()
    if options.quick:
        options.rows, options.labels, options.distinct = [400], 20, 100
    report = Report(options.name, options.results)
    with tempfile.TemporaryDirectory(prefix="csr-bench-") as folder:
        measure(report, options, Path(folder))
    report.write()


if __name__ == "__main__":
    main()
