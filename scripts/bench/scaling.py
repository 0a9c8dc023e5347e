"""Growth of csr's cost: ranks, images, concepts, prototypes, and the stage-2 loss alone.

    python scripts/bench/scaling.py                    all parts
    python scripts/bench/scaling.py --quick            does it work? numbers mean nothing
    python scripts/bench/scaling.py --parts loss

Ranks: whole csr runs on 1 and 2 ranks with the same effective batch. Growth: epochs of stages 2 and 3 on
made-up cached features, through the loader and the engine that training uses. Loss: forward and backward of
Eqs. 6-9 at D = 128. Results are printed and written to scripts/bench/results/NAME.txt and NAME.json.

Letters: N images, K concepts, M prototypes per concept, D embedding, R vectors.
"""

from __future__ import annotations

import argparse
import re
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from compare import draw, run_csr, training_flags
from measuring import RESULTS, Report, median
from torch.nn import functional as F

from csr.data.prefetch import Clock, arriving, to_device
from csr.data.sampler import WindowSampler
from csr.engine.device import local_device
from csr.engine.ds_config import load_ds_config, merge_ds_config
from csr.engine.engine import Engine
from csr.engine.process_group import start
from csr.model import CSR
from csr.runtime import distributed
from csr.stages.base import Stage
from csr.stages.losses import contrastive, prototype_similarity
from csr.stages.prototype import PrototypeStage
from csr.stages.task import TaskStage
from csr.training.features.table import build_feature_table
from csr.training.feeder import cached_loader

T, D, PRESENT_PER_IMAGE = 6, 128, 3


def scale_ranks(report: Report, options: argparse.Namespace, folder: Path) -> None:
    """Measure stage-1 images/s and whole runs on 1 and 2 ranks, the effective batch being the same."""
    data = folder / "phantom"
    draw(data, num_train=options.num_train, num_test=40, size=options.source_size)
    report.say(f"Ranks: {options.model_name} at {options.image_size}, effective batch {options.batch_size}")
    found = report.numbers["ranks"] = {}
    for ranks in options.ranks:
        place = folder / f"ranks{ranks}"
        place.mkdir()
        flags = training_flags(options, data, 0, precision=options.precision)
        flags[flags.index("--batch_size") + 1] = str(options.batch_size // ranks)
        ran = found[str(ranks)] = run_csr(flags, place, ranks)
        epochs = "   ".join(f"{name} {median(each):8.3f} s" for name, each in ran["epochs"].items())
        whole = f"whole run {ran['seconds']:8.1f} s, {ran['total_mib']:.0f} MiB"
        report.say(f"{ranks} rank(s): {whole}   epochs: {epochs}")
    report.say()


def made_up_stage(name: str, *, num_concepts: int, num_prototypes: int) -> Stage:
    torch.manual_seed(0)
    model = CSR(
        num_concepts,
        T,
        num_prototypes,
        backbone_type="timm",
        model_name="test_resnet",
        image_size=64,
        embedding_dim=D,
    )
    if name == "prototype":
        stage: Stage = PrototypeStage(
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
    else:
        stage = TaskStage(model, loss="bce", pos_weight_T=torch.ones(T), lr=1e-2, weight_decay=0.01)
    stage.freeze()
    return stage.to(local_device())


def epoch_seconds(
    name: str, *, num_images: int, num_concepts: int, num_prototypes: int, epochs: int
) -> float:
    """Return median seconds of an epoch on cached features of made-up images, after an uncounted one."""
    stage = made_up_stage(name, num_concepts=num_concepts, num_prototypes=num_prototypes)
    rng = np.random.default_rng(0)
    concept_NK = np.zeros((num_images, num_concepts), np.float32)
    image_R = np.repeat(np.arange(num_images), min(PRESENT_PER_IMAGE, num_concepts))
    concept_R = np.argsort(rng.random(concept_NK.shape), axis=1)[:, :PRESENT_PER_IMAGE].reshape(-1)
    concept_NK[image_R, concept_R] = 1.0
    labels = {"concept": concept_NK, "target": rng.integers(0, 2, (num_images, T)).astype(np.float32)}
    width = stage.model.backbone.channels if name == "prototype" else num_concepts * num_prototypes
    rows: dict[str, np.ndarray] = {"image": image_R, "concept_row": concept_R}
    if name == "task":
        rows = {"image": np.arange(num_images)}
    column = "local" if name == "prototype" else "score"
    rows[column] = rng.normal(size=(len(rows["image"]), width)).astype(np.float32)
    features = build_feature_table([rows], num_images)
    parsed, file = load_ds_config(None, "fp32")
    config = merge_ds_config(parsed, name=file, batch_size=16, accumulation=1, clip=1.0, world_size=1)
    engine = Engine(stage, param_groups=stage.param_groups(), ds_config=config, lr_factor=lambda step: 1.0)
    sampler = WindowSampler(num_images, micro_batch=16)
    load, clock, seconds = cached_loader(features, labels["concept"], labels["target"]), Clock(), []
    for epoch in range(epochs + 1):
        began = time.perf_counter()
        sampler.set_epoch(epoch)
        for batch, all_ranks in arriving(
            ((load(p, v), sampler.window_positions(i)) for i, (p, v) in enumerate(sampler)),
            cached=True,
            device=local_device(),
            clock=clock,
        ):
            counts = stage.counts({k: values[all_ranks] for k, values in labels.items()})
            batch["scale"] = {k: 1.0 / max(count, 1.0) for k, count in counts.items()}
            engine.micro_step(to_device(batch, local_device()))
        wait()
        seconds.append(time.perf_counter() - began)
    engine.close()
    return median(seconds[1:])


def scale_features(report: Report, options: argparse.Namespace) -> None:
    """Measure epochs of the cached stages as N, K and M grow one after another."""
    distributed.adopt_launcher_environment()
    start(10.0)
    base = {"num_images": 1024, "num_concepts": 14, "num_prototypes": 5}
    steps = {"num_images": (1024, 4096, 16384), "num_concepts": (14, 32, 64), "num_prototypes": (5, 32, 128)}
    epochs = 3
    if options.quick:
        base["num_images"], steps, epochs = 64, {"num_images": (64, 128), "num_concepts": (14, 16)}, 1
    report.say("Cached stages, s per epoch (batch 16, one rank, fp32)")
    report.say(f"{'N':>8} {'K':>5} {'M':>5} {'prototype':>12} {'task':>12}")
    found = report.numbers["growth"] = []
    grown = [{**base, name: value} for name, values in steps.items() for value in values]
    for sizes in [each for i, each in enumerate(grown) if each not in grown[:i]]:
        seconds = {name: epoch_seconds(name, **sizes, epochs=epochs) for name in ("prototype", "task")}
        found.append({**sizes, **seconds})
        n, k, m = sizes.values()
        report.say(f"{n:>8} {k:>5} {m:>5} {seconds['prototype']:>12.3f} {seconds['task']:>12.3f}")
    report.say()


def scale_loss(report: Report, options: argparse.Namespace) -> None:
    """Measure seconds and peak memory of the stage-2 loss, forward and backward."""
    concepts, prototypes, vectors = (14, 64), (5, 64, 256), (256, 4096, 16384)
    if options.quick:
        concepts, prototypes, vectors = (4,), (5,), (64, 128)
    report.say(f"Stage-2 loss, forward and backward, D = {D} (extra memory above what was held before)")
    report.say(f"{'R':>8} {'K':>5} {'M':>5} {'ms':>12} {'MiB':>9} {'GFLOP/s':>9}")
    found = report.numbers["loss"] = []
    for k in concepts:
        for m in prototypes:
            for r in vectors:
                ms, mib = loss_cost(r, k, m, repeats=1 if options.quick else 3)
                # cosines, and their two gradients; chunked sizes compute the cosines twice
                rate = 6e-9 * r * k * m * D / (ms / 1000)
                found.append({"vectors": r, "concepts": k, "prototypes": m, "ms": ms, "extra_mib": mib})
                report.say(f"{r:>8} {k:>5} {m:>5} {ms:>12.2f} {mib:>9.0f} {rate:>9.1f}")
    report.say()


def loss_cost(
    num_vectors: int, num_concepts: int, num_prototypes: int, *, repeats: int
) -> tuple[float, float]:
    """Return median ms, and MiB above what was held before."""
    device = local_device()
    vec = F.normalize(torch.randn(num_vectors, D, device=device), dim=1).requires_grad_()
    proto = F.normalize(torch.randn(num_concepts, num_prototypes, D, device=device), dim=2).requires_grad_()
    concept = torch.randint(num_concepts, (num_vectors,), device=device)
    before, times = forget_peak(), []
    for _ in range(repeats + 1):
        wait()
        began = time.perf_counter()
        contrastive(prototype_similarity(vec, proto), concept).backward()
        wait()
        times.append(1000 * (time.perf_counter() - began))
        vec.grad = proto.grad = None
    return median(times[1:]), peak_mib() - before


def wait() -> None:
    if local_device().type == "cuda":
        torch.cuda.synchronize()


def forget_peak() -> float:
    """Set the record of the peak to what is held now; returns that, MiB."""
    if local_device().type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated() / 2**20
    Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak of the resident set starts again
    return peak_mib()


def peak_mib() -> float:
    if local_device().type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found.group(1)) / 1024


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parts = ("loss", "growth", "ranks")
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    parser.add_argument("--epochs", type=int, nargs=3, default=[3, 5, 5], help="of the three stages")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--backbone_type", default="resnet50")
    parser.add_argument("--model_name", default="resnet50")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--lr", type=float, default=1e-3)
    for name, value in {
        "image_size": 224,
        "batch_size": 16,
        "num_prototypes": 5,
        "workers": 2,
        "num_train": 320,
        "source_size": 512,
    }.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--name", default="scaling", help="of the result files")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the result files")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: only to see that it works")
    options = parser.parse_args(argv)
    if options.quick:
        options.epochs, options.num_train, options.source_size, options.workers = [1, 1, 1], 32, 64, 1
        options.backbone_type, options.model_name, options.image_size = "timm", "test_resnet", 64
        options.batch_size = 8
    return options


def main() -> None:
    options = parse()
    report = Report(options.name, options.results)
    parts: dict[str, Any] = {"loss": scale_loss, "growth": scale_features}
    for name, part in parts.items():
        if name in options.parts:
            part(report, options)
            report.write()
    if "ranks" in options.parts:
        with tempfile.TemporaryDirectory(prefix="csr-bench-") as folder:
            scale_ranks(report, options, Path(folder))
            report.write()
    distributed.shut_down()


if __name__ == "__main__":
    main()
