"""The parts of `gpu.py` beside the steps of stage 1: later stages, feeding, checkpoints, start-up.

Letters: N images, R rows, K concepts, C channels.
"""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from compare import PYTHON, draw
from gpu_steps import K, block, concept_stage, engine_of, wait
from measuring import Report, median

from csr.data.prefetch import Clock, arriving, pinned, to_device
from csr.model import CSR
from csr.model.layers.sync_norm import SyncBatchNorm2d, convert
from csr.stages.base import Stage
from csr.stages.prototype import PrototypeStage
from csr.stages.task import TaskStage
from csr.training.features.table import FeatureTable, FeatureViews
from csr.training.feeder import cached_loader

M, T = 5, 4


def seconds(work: Callable[[], object], device: torch.device, *, times: int = 3) -> float:
    """Return the median time of some work, until the device is done."""
    found = []
    for _ in range(times):
        wait(device)
        began = time.perf_counter()
        work()
        wait(device)
        found.append(time.perf_counter() - began)
    return median(found)


def later_stages(report: Report, o: Any) -> None:
    """Steps per second of stages 2 and 3 from tables on the device and on the CPU, and between epochs."""
    images, wide = (100_000, 768) if not o.quick else (64, 16)
    generator = np.random.default_rng(0)
    concept_NK = (generator.random((images, K)) < 0.04).astype(np.float32)  # with the first, 1.5 an image
    concept_NK[:, 0] = 1.0
    row_R, class_R = np.nonzero(concept_NK)
    target_NT = (generator.random((images, T)) > 0.5).astype(np.float32)
    local = {
        "local": torch.randn(len(row_R), wide),
        "concept_row": torch.from_numpy(class_R.astype(np.int64)),
    }
    tables = {
        "prototype": FeatureTable(local, np.bincount(row_R, minlength=images)),
        "task": FeatureTable({"score": torch.randn(images, K * M)}, np.ones(images, dtype=np.int64)),
    }
    found: dict[str, Any] = {"rows": len(row_R)}
    for name, table in tables.items():
        for place in dict.fromkeys((o.device, torch.device("cpu"))):
            stage = _later_stage(name, o)
            load = cached_loader(table.to(place), concept_NK, target_NT)
            engine = engine_of(stage, precision=o.precisions[0], batch_size=o.batch)
            rates = _steps_per_s(engine, load, images, o)
            found[f"{name}, rows on {place.type}"] = rates
            epoch_s = images / o.batch / rates["gathered"]
            rates["epoch_s"] = round(epoch_s, 2)
            report.say(
                f"{name:<10} rows on {place.type:<5} {rates['gathered']} steps/s, with prepared batches "
                f"{rates['prepared']}: an epoch of {images} images takes {epoch_s:.2f} s"
            )
            engine.close()
    stage = _later_stage("prototype", o)
    views = FeatureViews([tables["prototype"].to(o.device)])
    found["begin_s"] = seconds(lambda: stage.begin(views), o.device, times=1)
    found["end_epoch_s"] = seconds(lambda: stage.end_epoch(views, last=False), o.device)
    report.say(f"k-means {found['begin_s']:.2f} s, restarts after an epoch {found['end_epoch_s']:.3f} s")
    report.numbers["later_stages"] = found


def _later_stage(name: str, o: Any) -> Any:
    torch.manual_seed(0)
    model = CSR(K, T, M, backbone_type="timm", model_name="test_vit", image_size=64, embedding_dim=32)
    wide = 768 if not o.quick else 16
    if name == "task":
        stage: Stage = TaskStage(model, loss="bce", pos_weight_T=torch.ones(T), lr=1e-3, weight_decay=0.01)
    else:
        from csr.model.layers.projector import Projector

        model.projector = Projector(wide, 32, 1)
        stage = PrototypeStage(
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
    stage.freeze()
    return stage.to(o.device)


def _steps_per_s(engine: Any, load: Any, images: int, o: Any) -> dict[str, float]:
    """Return rates with batches gathered as training does, and with batches that are there."""
    order = np.random.default_rng(1).permutation(images)
    scale = {"vector": 1 / o.batch, "target": 1 / o.batch}

    def batches() -> Iterator[Any]:
        for at in range(0, images - o.batch + 1, o.batch):
            loaded = load(order[at : at + o.batch], np.ones(o.batch, dtype=bool))
            yield pinned({**loaded, "scale": scale}, o.device)

    def gathered(limit: int) -> int:
        done = 0
        feed = arriving(batches(), cached=True, device=o.device, clock=Clock())
        for batch in islice(feed, limit):
            engine.micro_step(to_device(batch, o.device))
            done += 1
        wait(o.device)
        return done

    gathered(5)
    began = time.perf_counter()
    done = gathered(o.later_steps)
    fed = done / (time.perf_counter() - began)
    ready = [to_device(batch, o.device) for batch in islice(batches(), 4)]
    steps = iter(range(10**9))
    ms, _ = block(
        lambda _: engine.micro_step(ready[next(steps) % len(ready)]), {}, steps=done, device=o.device
    )
    return {"gathered": round(fed, 1), "prepared": round(1000 / ms, 1)}


def norms(report: Report, o: Any) -> None:
    """Forward and backward of a convolutional network with norms over ranks (here one) and plain ones."""
    name = o.models[-1]
    images = torch.randn(o.batch, 3, o.side, o.side, device=o.device)
    found = {}
    for kind in ("BatchNorm2d", "over ranks"):
        stage = concept_stage(name, o.side, device=o.device)
        net = stage.model.backbone
        if kind == "over ranks":
            convert(net)
            for norm in net.modules():
                if type(norm) is SyncBatchNorm2d:
                    setattr(norm, "forward", norm._synced)

        def step(_: Any, net: Any = net) -> None:
            with torch.autocast(o.device.type, dtype=torch.bfloat16, enabled=o.device.type == "cuda"):
                net(images).float().square().mean().backward()

        block(step, {}, steps=3, device=o.device)
        ms, launch = block(step, {}, steps=o.each, device=o.device)
        kernels = launches(step, o.device)
        found[kind] = {"ms": round(ms, 3), "launch_ms": round(launch, 3), "launches": kernels}
        report.say(f"{name:<24} {kind:<12} {ms:9.2f} ms, {kernels} launches in {launch:9.2f} ms")
    report.numbers["norms"] = found


def launches(step: Callable[[Any], object], device: torch.device) -> int:
    """Return how many kernels and copies a step starts on a GPU; on a CPU how many operations."""
    on_gpu = device.type == "cuda"
    kinds = [torch.profiler.ProfilerActivity.CUDA if on_gpu else torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=kinds) as profile:
        step({})
        wait(device)
    wanted = torch.autograd.DeviceType.CUDA if on_gpu else torch.autograd.DeviceType.CPU
    return sum(event.device_type == wanted for event in profile.events())


def checkpoints(report: Report, o: Any) -> None:
    """Seconds and extra memory of the device for what is saved, of the first network."""
    found = {}
    kinds = [(p, False) for p in o.precisions] + [(o.precisions[0], True)]
    for precision, sharded in kinds:
        stage = concept_stage(o.models[0], o.side, device=o.device, half=precision == "fp16")
        engine = engine_of(stage, precision=precision, batch_size=1, sharded=sharded)
        shape = (1, 3, o.side, o.side)
        ones = {"image": torch.randn(shape, device=o.device), "concept": torch.ones(1, K, device=o.device)}
        engine.micro_step({**ones, "scale": {"concept": 1 / K}})
        row: dict[str, float] = {}
        for name, work in (("training_state", engine.training_state), ("state_dict", engine.state_dict)):
            before = 0
            if o.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(o.device)
                before = torch.cuda.memory_allocated(o.device)
            row[f"{name}_s"] = seconds(work, o.device)
            if o.device.type == "cuda":
                row[f"{name}_mib"] = (torch.cuda.max_memory_allocated(o.device) - before) / 2**20
        engine.close()
        found[f"{precision}{', sharded' if sharded else ''}"] = row
        report.say(f"{precision:<5} {'ZeRO' if sharded else '':<5} {row}")
    report.numbers["checkpoints"] = found


def start_up(report: Report, o: Any) -> None:
    """Wall time of a dry run in a process of its own, its first steps, and `--batch_size auto`'s answer."""
    import measuring
    from startup import losses_at

    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="csr-bench-") as name:
        folder = Path(name)
        draw(folder / "phantom", num_train=40, num_test=8, size=o.side)
        data = folder / "phantom"
        words = [
            *("--train_csv", data / "labels_train.csv", "--test_csv", data / "labels_test.csv"),
            *("--train_dir", data / "train", "--test_dir", data / "test", "--no_pretrained", "--dry_run"),
            *("--backbone_type", "timm", "--model_name", o.models[0], "--image_size", o.side),
            *("--output_dir", folder / "out"),
        ]
        command = [PYTHON, "-m", "csr.train", *map(str, words)]
        times = [measuring.run([*command, "--batch_size", "4"]).seconds for _ in range(1 if o.quick else 2)]
        found["dry_run_s"] = times
        report.say(f"a dry run of {o.models[0]}: {', '.join(f'{t:.1f}' for t in times)} s")
        given = [word for word in words if word != "--dry_run"]
        short = ["--epochs_stage1", "1", "--epochs_stage2", "1", "--epochs_stage3", "1", "--log_every", "1"]
        began = time.time()
        measuring.run([*command[:3], *map(str, given), *short, "--batch_size", "4", "--exp_name", "steps"])
        first, second, *_ = (at - began for at in losses_at(folder / "out" / "steps" / "tensorboard"))
        found["first_step_s"], found["second_step_s"] = first, second
        report.say(
            f"a whole run: first step done after {first:.1f} s, the second {second - first:.2f} s later"
        )
        share = 16 if o.quick else 1024
        ran = measuring.run([*command, "--batch_size", "auto", "--effective_batch", str(share)])
        answers = re.findall(r"--batch_size auto: .*", ran.output)
        found["auto"] = {"seconds": ran.seconds, "answer": answers[:1]}
        report.say(f"{answers[0] if answers else 'no answer'} ({ran.seconds:.1f} s with the dry run)")
    report.numbers["start_up"] = found
