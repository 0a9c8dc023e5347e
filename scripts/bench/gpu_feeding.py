"""The parts of `gpu.py` that read images: the store, transforms, what frozen layers compute."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gpu_parts import seconds
from gpu_steps import K, concept_stage, wait
from loaders import make_images
from measuring import Report

from csr.data.dataset import LabelledImages
from csr.data.image_cache.store import open_store
from csr.data.prefetch import ahead, pinned, to_device
from csr.data.transforms import EvalTransform, TrainTransform, stored_size
from csr.engine.device import inference_precision
from csr.stages.prototype import PrototypeStage

VIEWS = 3


@contextmanager
def stored_images(o: Any) -> Iterator[LabelledImages]:
    """Draw images of twice the side, decode them into a cache as training does, and remove it all after."""
    with tempfile.TemporaryDirectory(prefix="csr-bench-") as name:
        folder = Path(name)
        paths, table = make_images(folder / "images", "png", 2 * o.side, 8 if o.quick else 128)
        workers = len(os.sched_getaffinity(0))
        store = open_store(paths, size=stored_size(o.side), cache_dir=folder / "cache", workers=workers)
        yield LabelledImages(store, table)


def places(images: LabelledImages, size: int, num_batches: int) -> list[np.ndarray]:
    """Return positions of random batches."""
    rng = np.random.default_rng(0)
    return [rng.integers(len(images), size=size) for _ in range(num_batches)]


def feeding(report: Report, o: Any) -> None:
    """Batches from the store by one thread, copies to the device, and transforms on it."""
    side = stored_size(o.side)
    stored = torch.randint(0, 256, (o.batch, 1, side, side), dtype=torch.uint8)
    index = torch.arange(o.batch)
    there = stored.to(o.device)
    train, plain = TrainTransform(o.side), EvalTransform(o.side)
    large = torch.empty(64 * 2**20 if not o.quick else 2**20, dtype=torch.uint8)
    held = large.pin_memory() if o.device.type == "cuda" else large

    def view(epoch: int) -> torch.Tensor:
        return train(there, index_B=index.to(o.device), epoch=epoch, seed=0)[0]

    works: dict[str, Callable[[], object]] = {
        "batch, pinned and sent": lambda: to_device(pinned({"image": stored}, o.device), o.device),
        "augmentation": lambda: view(1),
        f"augmentation, {VIEWS} views": lambda: [view(epoch) for epoch in range(VIEWS)],
        "evaluation": lambda: plain(there),
        "copy": lambda: held.to(o.device, non_blocking=True) if o.device.type == "cuda" else held.clone(),
    }
    found = {name: 1000 * seconds(work, o.device, times=7) for name, work in works.items()}
    found["copy_gb_per_s"] = large.numel() / found.pop("copy") / 1e6
    for name, value in found.items():
        report.say(f"{name:<26} {value:10.3f} {'GB/s' if 'gb' in name else f'ms of {o.batch} images'}")
    with stored_images(o) as images:
        wanted = places(images, o.batch, 2 if o.quick else 20)

        def read() -> None:
            for positions in wanted:
                pinned(images.load(positions), o.device)

        found["store_images_per_s"] = o.batch * len(wanted) / seconds(read, o.device)
    report.say(f"{'store, read and pinned':<26} {found['store_images_per_s']:10.1f} images/s of one thread")
    report.numbers["feeding"] = found


def feature_pass(report: Report, o: Any) -> None:
    """What frozen layers compute, from the store to rows on the CPU, beside their forward alone."""
    found: dict[str, Any] = {}
    plain = EvalTransform(o.side)
    with stored_images(o) as images:
        for name in o.models:
            stage = concept_stage(name, o.side, device=o.device)
            stage.eval()
            for size in o.passes:
                wanted = places(images, size, 2 if o.quick else max(3, 512 // size))

                def rows(wanted: list[np.ndarray] = wanted, stage: Any = stage) -> None:
                    loaded = (pinned(images.load(positions), o.device) for positions in wanted)
                    for batch in ahead(loaded, device=o.device):
                        there = to_device(batch, o.device)
                        concept = torch.ones(len(there["image"]), K, device=o.device)
                        given = {"image": plain(there["image"]), "concept": concept}
                        for value in PrototypeStage.inputs(stage, given).values():
                            value.cpu()

                ready = torch.randn(size, 3, o.side, o.side, device=o.device)
                with inference_precision(o.precisions[0], o.device):
                    rows()
                    began = time.perf_counter()
                    rows()
                    wait(o.device)
                    whole = size * len(wanted) / (time.perf_counter() - began)
                    alone = size / seconds(lambda: stage.model.features(ready), o.device)  # noqa: B023
                found[f"{name}, {size}"] = {"rows_images_per_s": whole, "forward_images_per_s": alone}
                report.say(f"{name:<24} batch {size:>4} {whole:9.1f} images/s, forward alone {alone:9.1f}")
    report.numbers["feature_pass"] = found
