"""Does anything grow? Memory, file descriptors and threads over 2,000 epochs and over 50 engine builds.

    python scripts/bench/endurance.py                  2,000 epochs on two ranks, 50 engines
    python scripts/bench/endurance.py --quick          40 epochs, 5 engines: does it work?

Epochs: a whole csr run under torchrun on tiny images, watched from outside: what each process owns (its
proportional share of memory, mapped files left out), its descriptors and threads, and what TensorBoard has
written. Engines: one process builds, trains for a few steps and closes one engine after another, of the three
stages in turn. A line is fitted to the second half of the run, of each stage and of the engines; flat is
below BOUNDS. Results are printed and written to scripts/bench/results/: NAME.txt, NAME.json, NAME.png.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from compare import draw, torchrun
from measuring import LAUNCHER, RESULTS, ROOT, Report

from csr.engine.ds_config import load_ds_config, merge_ds_config
from csr.engine.engine import Engine
from csr.engine.process_group import start
from csr.model import CSR
from csr.runtime import distributed
from csr.stages.base import Stage
from csr.stages.concept import ConceptStage
from csr.stages.prototype import PrototypeStage
from csr.stages.runner import StageRunner
from csr.stages.task import TaskStage

B, K, T, M, SIZE = 4, 4, 2, 3, 64
STAGES = ("concept", "prototype", "task")
# growth that is still called flat: MiB, descriptors and threads in 1,000 epochs, and in 50 engines ..
BOUNDS = {"memory_mib": 10.0, "descriptors": 1.0, "threads": 1.0}
# .. and in the whole second half, however short: the allocator takes memory in steps, a loader's thread is
# there at one look and not at the next
NOISE = {"memory_mib": 4.0, "descriptors": 1.0, "threads": 1.0}
BOARD_FIXED_BYTES, BOARD_BYTES_PER_EPOCH = 2**20, 4096


@dataclass(frozen=True)
class Sample:
    """One process at one moment.

    Attributes:
        process: rank0, rank1, launcher.
        at: epochs, or engines, done until then.
        memory_mib: what it owns: proportional share without mapped files.
        rss_mib: resident, mapped and shared pages included.
    """

    process: str
    at: int
    memory_mib: float
    rss_mib: float
    descriptors: int
    threads: int


def look(process: psutil.Process, name: str, at: int) -> Sample:
    """Return what a process holds; raises psutil.Error or OSError if it has just ended."""
    sizes = {}
    for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()[1:]:
        key, value = line.split(":")
        sizes[key] = int(value.split()[0]) / 1024
    owned = sizes["Pss"] - sizes.get("Pss_File", 0.0)
    return Sample(name, at, owned, sizes["Rss"], process.num_fds(), process.num_threads())


def watch_run(flags: list[str], folder: Path, *, ranks: int, every_s: float) -> tuple[list[Sample], float]:
    """Return the samples of a whole run's processes, and its seconds."""
    began = time.perf_counter()
    metrics = folder / "csr" / "metrics.jsonl"
    samples: list[Sample] = []
    env = {name: value for name, value in os.environ.items() if name not in LAUNCHER}
    with open(folder / "output.txt", "w", encoding="utf-8") as output:
        child = psutil.Popen(
            [*torchrun(ranks), "-m", "csr.train", *flags],
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env=env,
        )
        while child.poll() is None:
            time.sleep(every_s)
            if not metrics.is_file():
                continue
            at = metrics.read_bytes().count(b"\n")
            try:
                for process in [child, *child.children(recursive=True)]:
                    samples.append(look(process, name_of(process, child), at))
            except (psutil.Error, OSError, KeyError):
                continue  # it ends
    if child.returncode:
        output = (folder / "output.txt").read_text()[-3000:]
        raise RuntimeError(f"the run ended with {child.returncode}:\n{output}")
    return samples, time.perf_counter() - began


def name_of(process: psutil.Process, launcher: psutil.Process) -> str:
    if process.pid == launcher.pid:
        return "launcher"
    kind = "keeper" if any(word.endswith("keeper.py") for word in process.cmdline()) else "rank"
    return f"{kind}{process.environ().get('RANK', '?')}"


def slope(at: list[float], value: list[float]) -> float:
    """Return the slope of the line through some points; NaN if they are too few."""
    if len(set(at)) < 3:
        return float("nan")
    return float(np.polyfit(at, value, 1)[0])


def endure_epochs(report: Report, options: argparse.Namespace, folder: Path) -> list[Sample]:
    """Measure a whole run of very short epochs."""
    data = folder / "phantom"
    draw(data, num_train=24, num_test=8, size=32)
    lengths = [options.epochs // 4, 3 * options.epochs // 8]
    lengths.append(options.epochs - sum(lengths))
    flags = {
        "train_csv": data / "labels_train.csv",
        "test_csv": data / "labels_test.csv",
        "train_dir": data / "train",
        "test_dir": data / "test",
        "backbone_type": "timm",
        "model_name": "test_resnet",
        "image_size": SIZE,
        "batch_size": 8,
        "workers": 1,
        "log_every": options.log_every,
        "output_dir": folder,
        "exp_name": "csr",
        **{f"epochs_stage{i}": n for i, n in enumerate(lengths, start=1)},
    }
    words = [text for name, value in flags.items() for text in (f"--{name}", str(value))]
    samples, seconds = watch_run(
        [*words, "--no_pretrained"], folder, ranks=options.ranks, every_s=options.every_s
    )
    records = (folder / "csr" / "metrics.jsonl").read_text().splitlines()
    found: dict[str, Any] = {"epochs": len(records), "steps": json.loads(records[-1])["step"], "growth": {}}
    found["board_bytes"] = sum(
        f.stat().st_size for f in (folder / "csr" / "tensorboard").rglob("*") if f.is_file()
    )
    report.numbers["run"] = found
    each = found["board_bytes"] / len(records)
    stages = "/".join(map(str, lengths))
    report.say(f"Epochs: {len(records)} ({stages}) on {options.ranks} ranks, {seconds:.0f} s")
    report.say(f"TensorBoard: {found['board_bytes'] / 2**20:.2f} MiB of all ranks, {each:.0f} bytes an epoch")
    ends = np.cumsum([0, *lengths]).tolist()
    parts = dict(zip(STAGES, zip(ends[:-1], ends[1:]))) | {"all stages": (0, len(records))}
    fit(report, samples, parts)
    return samples


def fit(report: Report, samples: list[Sample], parts: dict[str, tuple[int, int]]) -> None:
    """Return growth in the second half of each part of a run (its first and last epoch), by process."""
    report.say("Growth in 1,000 epochs, by the second half of")
    report.say(f"{'':<24}{'MiB at end':>12}{'MiB':>10}{'descriptors':>14}{'threads':>10}{'looks':>8}")
    for part, (first, last) in parts.items():
        for process in sorted({s.process for s in samples}):
            half = [s for s in samples if s.process == process and (first + last) / 2 < s.at < last]
            if not half:
                continue
            growth = report.numbers["run"]["growth"][f"{part} {process}"] = growths(half, 1000)
            memory, descriptors, threads = (growth[name]["per_unit"] for name in BOUNDS)
            report.say(
                f"{part + ' ' + process:<24}{half[-1].memory_mib:>12.1f}{memory:>10.2f}{descriptors:>14.2f}"
                f"{threads:>10.2f}{len(half):>8}"
            )
    report.say()


def endure_engines(report: Report, options: argparse.Namespace) -> list[Sample]:
    """Build, use and close engines in this process, as stages follow each other on one model."""
    distributed.adopt_launcher_environment()
    start(10.0)
    torch.manual_seed(0)
    model = CSR(K, T, M, backbone_type="timm", model_name="test_resnet", image_size=SIZE, embedding_dim=16)
    parsed, name = load_ds_config(None, "fp32")
    config = merge_ds_config(parsed, name=name, batch_size=B, accumulation=1, clip=1.0, world_size=1)
    image_BCHW = torch.rand(B, 3, SIZE, SIZE)
    label = {"concept": (torch.rand(B, K) > 0.5).float(), "target": (torch.rand(B, T) > 0.5).float()}
    samples: list[Sample] = []

    def train_stage(stage: Stage) -> dict[str, torch.Tensor]:
        counts = stage.counts({name: value.numpy() for name, value in label.items()})
        scale = {name: 1.0 / max(1.0, count) for name, count in counts.items()}
        engine = Engine(
            stage, param_groups=stage.param_groups(), ds_config=config, lr_factor=lambda step: 1.0
        )
        for _ in range(3):
            engine.micro_step({"image": image_BCHW, **label, "scale": scale})
        weights = stage.model_weights(engine.close().state_dict())
        samples.append(look(psutil.Process(), "engines", len(samples) + 1))
        return weights

    began = time.perf_counter()
    while len(samples) < options.engines:
        model.requires_grad_(True)
        StageRunner(model, lambda name: made_up_stage(name, model)).run(train_stage)
    half = [s for s in samples if s.at > len(samples) / 2]
    growth = growths(half, 50)
    shown = ", ".join(f"{name} {growth[name]['per_unit']:.2f}" for name in BOUNDS)
    seconds = time.perf_counter() - began
    report.say(
        f"Engines: {len(samples)} built, used and closed, {seconds:.0f} s; growth in 50 engines: {shown}"
    )
    report.numbers["engines"] = {"number": len(samples), "growth": growth}
    return samples


def made_up_stage(name: str, model: CSR) -> Stage:
    if name == "concept":
        return ConceptStage(
            model, pos_weight_K=torch.ones(K), lr=1e-4, backbone_lr_scale=0.1, weight_decay=0.01
        )
    if name == "prototype":
        return PrototypeStage(
            model,
            gamma=1000.0,
            lam=20.0,
            delta=0.1,
            margin_mode="softtriple",
            mask_present=True,
            restart=True,
            lr=1e-3,
            weight_decay=0.01,
            seed=0,
        )
    return TaskStage(model, loss="bce", pos_weight_T=torch.ones(T), lr=1e-2, weight_decay=0.01)


def growths(samples: list[Sample], unit: float) -> dict[str, dict[str, float]]:
    """Return, by quantity, growth per `unit` and in the span of the samples, and whether that is flat."""
    at = [float(s.at) for s in samples]
    span = max(at) - min(at)
    found = {}
    for name, bound in BOUNDS.items():
        each = slope(at, [getattr(s, name) for s in samples])
        flat = not each * span > max(NOISE[name], bound * span / unit)
        found[name] = {"per_unit": unit * each, "in_span": span * each, "flat": flat}
    return found


def verdict(report: Report) -> bool:
    """Return whether everything stayed flat; a part of the run too short to judge is no growth."""
    run, engines = report.numbers["run"], report.numbers["engines"]
    parts = [*run["growth"].items(), ("engines", engines["growth"])]
    grown = [f"{name}: {what}" for name, found in parts for what, one in found.items() if not one["flat"]]
    too_much = run["board_bytes"] > BOARD_FIXED_BYTES + BOARD_BYTES_PER_EPOCH * run["epochs"]
    grown += ["TensorBoard"] * too_much
    bounds = ", ".join(f"{name} {bound:g}" for name, bound in BOUNDS.items())
    noise = ", ".join(f"{name} {bound:g}" for name, bound in NOISE.items())
    report.say("GROWS: " + "; ".join(grown) if grown else "All flat")
    report.say(f"Flat is, in 1,000 epochs or 50 engines, at most: {bounds}; or in the second half: {noise}")
    report.say(f"TensorBoard: at most {BOARD_FIXED_BYTES} bytes and {BOARD_BYTES_PER_EPOCH} an epoch")
    report.numbers |= {"flat": not grown, "bounds": BOUNDS, "noise": NOISE}
    return not grown


def draw_figure(path: Path, run: list[Sample], engines: list[Sample]) -> None:
    """Draw memory above, descriptors and threads below; over epochs left, over engines right."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    last = max(s.at for s in run)
    columns = (
        ("epochs", [s for s in run if s.at < last]),
        ("engines", engines),
    )  # at the last one it is leaving
    figure, axes = pyplot.subplots(2, 2, figsize=(11, 6.5), sharex="col", constrained_layout=True)
    for (unit, samples), (memory, numbers) in zip(columns, axes.T, strict=True):
        for process in sorted({s.process for s in samples}):
            own = [s for s in samples if s.process == process]
            at = [s.at for s in own]
            (line,) = memory.plot(at, [s.memory_mib for s in own], label=process, linewidth=1.2)
            numbers.plot(at, [s.descriptors for s in own], color=line.get_color(), label=process)
            numbers.plot(at, [s.threads for s in own], "--", color=line.get_color())
        memory.set(ylabel="own memory, MiB", title=f"over {unit}")
        memory.set_ylim(0, 1.15 * max(s.memory_mib for s in samples))
        numbers.set(ylabel="descriptors (lines), threads (dashes)", xlabel=f"{unit} done")
        numbers.set_ylim(0, 1.15 * max(s.descriptors for s in samples))
        memory.legend(fontsize=8, loc="center right")
        for axis in (memory, numbers):
            axis.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--epochs", type=int, default=2000)
    parser.add_argument("--engines", type=int, default=51)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--log_every", type=int, default=10)
    parser.add_argument("--every_s", type=float, default=1.0, help="seconds between looks")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--name", default="endurance")
    options = parser.parse_args(argv)
    if options.quick:
        options.epochs, options.engines, options.every_s = 40, 6, 0.2
    return options


def main() -> int:
    options = parse()
    report = Report(options.name, options.results)
    with tempfile.TemporaryDirectory(prefix="csr-endurance-") as folder:
        run = endure_epochs(report, options, Path(folder))
    engines = endure_engines(report, options)
    is_flat = verdict(report)
    report.numbers["samples"] = {"run": thinned(run), "engines": thinned(engines)}
    report.write()
    draw_figure(options.results / f"{options.name}.png", run, engines)
    distributed.shut_down()
    return 0 if is_flat else 1


def thinned(samples: list[Sample], *, most: int = 600) -> list[dict[str, Any]]:
    return [asdict(s) for s in samples[:: max(1, len(samples) // most)]]


if __name__ == "__main__":
    sys.exit(main())
