"""Time of the CPU and memory of every phase of a run, from start to results, as the training set grows.

    python scripts/bench/phases.py                          10,000, 30,000 and 100,000 training images
    python scripts/bench/phases.py --images 10000 100000
    python scripts/bench/phases.py --quick                  does it work? numbers mean nothing

Images are tiny PNGs, all of them different; three readers label each with 22 findings and 6 diagnoses. The
network is as small as timm has them and M is 100, so that what csr itself does with N images shows, and not
the backbone. After the run the same command with --dry_run shows what a start costs once images are decoded.
Results are printed and written to scripts/bench/results/NAME.txt and NAME.json.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
from measuring import RESULTS, ROOT, Report
from PIL import Image

NUM_FINDINGS, NUM_DIAGNOSES, READERS, SIDE_PX = 22, 6, 3, 64
EVERY_S = 0.2
STARTS = {  # the line that a phase begins with
    "stage 1": re.compile(r"^=== Stage 1/3"),
    "stage 2": re.compile(r"^=== Stage 2/3"),
    "stage 3": re.compile(r"^=== Stage 3/3"),
    "reference, test": re.compile(r"^Stage 3 took"),
}
FIRST = "read, decode, build"


@dataclass
class Phase:
    """What a phase took: wall and CPU seconds, and the peak of the memory of the process tree in it."""

    wall_s: float = 0.0
    cpu_s: float = 0.0
    peak_mib: float = 0.0


@dataclass
class Watched:
    """A process tree; its phases by name."""

    process: psutil.Process
    phases: dict[str, Phase] = field(default_factory=lambda: {FIRST: Phase()})
    _cpu_s: float = 0.0
    _began: float = field(default_factory=time.perf_counter)
    _done: threading.Event = field(default_factory=threading.Event)

    def look(self) -> None:
        """Add what has been used since the last look to the present phase."""
        phase = list(self.phases.values())[-1]
        with contextlib.suppress(psutil.Error):
            times = self.process.cpu_times()
            used = times.user + times.system + times.children_user + times.children_system
            tree = [self.process, *self.process.children(recursive=True)]
            memory = 0
            for each in tree:
                with contextlib.suppress(psutil.Error):
                    memory += each.memory_full_info().uss
            phase.cpu_s += max(0.0, used - self._cpu_s)
            self._cpu_s = max(self._cpu_s, used)
            phase.peak_mib = max(phase.peak_mib, memory / 2**20)
        now = time.perf_counter()
        phase.wall_s += now - self._began
        self._began = now

    def read(self, lines: Callable[[], str]) -> str:
        """Follow the output to its end; a phase ends where the line of the next one is read."""
        lock, kept = threading.Lock(), []

        def keep_looking() -> None:
            while not self._done.wait(EVERY_S):
                with lock:
                    self.look()

        looking = threading.Thread(target=keep_looking, daemon=True)
        looking.start()
        for line in iter(lines, ""):
            kept.append(line)
            for name, pattern in STARTS.items():
                if pattern.match(line):
                    with lock:
                        self.look()
                        self.phases[name] = Phase()
        self._done.set()
        looking.join()
        return "".join(kept)


def run_in_phases(command: list[str]) -> dict[str, Phase]:
    """Run a command to its end.

    Raises:
        RuntimeError: it failed; its last lines are in the message.
    """
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT, start_new_session=True
    )
    assert process.stdout is not None
    watched = Watched(psutil.Process(process.pid))
    output = watched.read(process.stdout.readline)
    if process.wait():
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}:\n{output[-3000:]}")
    return watched.phases


def draw(folder: Path, *, num_train: int, num_test: int) -> None:
    """Write tiny pictures, no two alike, and for each a row of every reader."""
    rng = np.random.default_rng(0)
    findings = [f"finding {k}" for k in range(NUM_FINDINGS)]
    diagnoses = [f"disease {t}" for t in range(NUM_DIAGNOSES)]
    share_L = rng.uniform(0.05, 0.3, NUM_FINDINGS + NUM_DIAGNOSES)
    for split, count in (("train", num_train), ("test", num_test)):
        (folder / split).mkdir(parents=True)
        with open(folder / f"{split}.csv", "w", encoding="utf-8") as table:
            table.write(",".join(["image_id", "rad_id", *findings, *diagnoses]) + "\n")
            for i in range(count):
                coarse = Image.fromarray(rng.integers(0, 256, (4, 4), dtype=np.uint8))
                picture = coarse.resize((SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC)
                picture.save(folder / split / f"{split}{i}.png", compress_level=1)
                truth_L = rng.random(len(share_L)) < share_L
                for reader in range(READERS):
                    seen_L = truth_L ^ (rng.random(len(share_L)) < 0.02)
                    cells = ",".join("1" if seen else "0" for seen in seen_L)
                    table.write(f"{split}{i},R{reader},{cells}\n")


def training(folder: Path, options: argparse.Namespace) -> list[str]:
    command = [sys.executable, "-m", "csr.train", "--no_pretrained", "--backbone_type", "timm"]
    command += ["--model_name", "test_resnet", "--image_size", str(SIDE_PX)]
    for split in ("train", "test"):
        command += [f"--{split}_csv", str(folder / f"{split}.csv"), f"--{split}_dir", str(folder / split)]
    command += ["--target_cols", *(f"disease {t}" for t in range(NUM_DIAGNOSES))]
    command += ["--num_prototypes", str(options.num_prototypes), "--batch_size", "64", "--precision", "fp32"]
    for stage, epochs in zip((1, 2, 3), options.epochs, strict=True):
        command += [f"--epochs_stage{stage}", str(epochs)]
    return [*command, "--output_dir", str(folder / "results"), "--exp_name", "run"]


def measure(options: argparse.Namespace, num_images: int) -> dict[str, Phase]:
    with tempfile.TemporaryDirectory(prefix="csr-bench-", dir=options.scratch) as name:
        folder = Path(name)
        draw(folder, num_train=num_images, num_test=max(40, num_images // 10))
        command = training(folder, options)
        phases = run_in_phases(command)
        again = run_in_phases([*command, "--dry_run", "--overwrite"])
    parts = list(again.values())
    wall, cpu = sum(p.wall_s for p in parts), sum(p.cpu_s for p in parts)
    phases["dry run, decoded"] = Phase(wall, cpu, max(p.peak_mib for p in parts))
    return phases


def table(report: Report, found: dict[int, dict[str, Phase]]) -> None:
    sizes = list(found)
    report.say(f"{'':<22}" + "".join(f"{f'N = {size:,}':>30}" for size in sizes))
    report.say(f"{'':<22}" + f"{'wall s':>10}{'CPU s':>10}{'MiB':>10}" * len(sizes))
    for name in next(iter(found.values())):
        cells = (found[size][name] for size in sizes)
        report.say(
            f"{name:<22}" + "".join(f"{c.wall_s:>10.1f}{c.cpu_s:>10.1f}{c.peak_mib:>10.0f}" for c in cells)
        )
    if len(sizes) > 1:
        report.say()
        first, last = sizes[0], sizes[-1]
        report.say(
            f"from {first:,} to {last:,} images ({last / first:.1f} x as many), CPU seconds and memory:"
        )
        for name, start in found[first].items():
            end = found[last][name]
            report.say(
                f"{name:<22}{end.cpu_s / max(start.cpu_s, 1e-9):>10.1f} x"
                f"{end.peak_mib / max(start.peak_mib, 1e-9):>10.1f} x"
            )


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--images", type=int, nargs="+", default=[10_000, 30_000, 100_000])
    parser.add_argument("--num_prototypes", type=int, default=100, help="M, of each concept")
    parser.add_argument("--epochs", type=int, nargs=3, default=[1, 1, 1], help="of the three stages")
    parser.add_argument("--scratch", type=Path, default=None, help="folder of the drawn images")
    parser.add_argument("--name", default="phases", help="of the result files")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the result files")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: only to see that it works")
    options = parser.parse_args(argv)
    if options.quick:
        options.images, options.num_prototypes = [60, 120], 2
    return options


def main() -> None:
    options = parse()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    report = Report(options.name, options.results)
    found: dict[int, dict[str, Phase]] = {}
    for num_images in options.images:
        found[num_images] = measure(options, num_images)
        report.numbers["phases"] = {n: {k: vars(p) for k, p in each.items()} for n, each in found.items()}
        report.write()
    table(report, found)
    report.write()


if __name__ == "__main__":
    main()
