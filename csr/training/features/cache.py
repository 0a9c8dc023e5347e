"""Where a stage's frozen features come from: memory, a mapped file that is built once, or no cache.

`frozen_features` is what the trainer calls. On disk every rank computes segments of the images into parts,
one process of each host joins them, and all its ranks map the result; parts of a killed run are taken over,
on any number of ranks. Hosts without a common folder send each other the parts that they miss.

Letters: N images, B batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from csr.data.batch import Batch
from csr.data.dataset import LabelledImages
from csr.data.transforms import EvalTransform, TrainTransform
from csr.engine.memory import free_gpu_bytes, free_host_bytes
from csr.evaluation.inference import eval_chunks, stored_batches
from csr.runtime import distributed
from csr.runtime.errors import InputError
from csr.stages.base import Stage
from csr.training.features.key import feature_key
from csr.training.features.store import DTYPES, FeatureStore, Rows, encode
from csr.training.features.table import FeatureTable, FeatureViews, compute_features

MEMORY_SHARE = 0.25  # of the free memory of host or GPU: more than that does not fit
BATCHES_PER_SEGMENT = 32
Show = Callable[[Iterable[Batch], int], Iterable[Batch]]


@dataclass(frozen=True)
class FeatureOptions:
    """How features are cached.

    Attributes:
        mode: auto, memory, disk or off.
        folder: of the files.
        dtype: fp32 or fp16, of the rows that are kept.
        views: augmented views of the training images; 0 is none, the plain images.
        batch_size: images of one forward pass.
        precision: what the features are computed in.
        seed: of the augmentation.
    """

    mode: str
    folder: Path
    dtype: str
    views: int
    batch_size: int
    precision: str
    seed: int


class PlainView:
    """Images as they are evaluated."""

    def __init__(self, transform: EvalTransform) -> None:
        self._transform = transform

    def __call__(self, batch: Batch) -> torch.Tensor:
        return self._transform(batch["image"])

    def settings(self) -> dict[str, Any]:
        t = self._transform
        return {"view": "plain", "size": t.size, "mean": list(t.mean), "std": list(t.std)}


class AugmentedView:
    """Images as a training epoch of their own would see them; the same for one (seed, number, image)."""

    def __init__(self, transform: TrainTransform, *, number: int, seed: int) -> None:
        self._transform, self.number, self.seed = transform, number, seed

    def __call__(self, batch: Batch) -> torch.Tensor:
        # training epochs count from 0 up: views count the other way and meet none of them
        image, _ = self._transform(
            batch["image"], index_B=batch["index"], epoch=-1 - self.number, seed=self.seed
        )
        return image

    def settings(self) -> dict[str, Any]:
        t = self._transform
        return {
            "view": self.number,
            "seed": self.seed,
            "strength": t.strength,
            "size": t.size,
            "mean": list(t.mean),
            "std": list(t.std),
        }


View = PlainView | AugmentedView


def frozen_features(
    stage: Stage,
    dataset: LabelledImages,
    *,
    options: FeatureOptions,
    eval_transform: EvalTransform,
    train_transform: TrainTransform | None = None,
    device: torch.device,
    show: Show,
) -> FeatureViews:
    """What a stage's frozen layers compute on all images, on every rank. Collective.

    The caller puts the stage into eval mode and the arithmetic into `options.precision`.

    Args:
        stage: on `device`.
        dataset: training or validation images.
        options: where features are kept.
        eval_transform: of plain images.
        train_transform: of augmented views, for training images; None gives the plain images.
        device: where the frozen layers run.
        show: `show(batches, how many)` puts a progress bar around batches.

    Raises:
        InputError: the folder cannot be written, or fp16 does not hold a value.
    """
    views: list[View] = [PlainView(eval_transform)]
    if train_transform is not None and options.views and options.mode != "off":
        views = [
            AugmentedView(train_transform, number=number, seed=options.seed)
            for number in range(options.views)
        ]
    labels_NK = dataset.table.concept_NK[dataset.indices]
    num_bytes = len(views) * stage.input_floats(labels_NK) * DTYPES[options.dtype].itemsize
    mode = choose_mode(options, num_bytes=num_bytes)
    build = _from_disk if mode == "disk" else _in_memory
    built = [build(stage, dataset, view, options=options, device=device, show=show) for view in views]
    tables = [table for table, _ in built]
    source = " and ".join(sorted({how for _, how in built}))
    if device.type == "cuda" and sum(t.nbytes for t in tables) < MEMORY_SHARE * free_gpu_bytes(device):
        tables = [table.to(device) for table in tables]
    return FeatureViews(tables, source=source)


def choose_mode(options: FeatureOptions, *, num_bytes: int) -> str:
    """memory or disk. Collective under `auto`, which is memory if on every host all ranks' copies fit."""
    if options.mode != "auto":
        return "disk" if options.mode == "disk" else "memory"
    fits = num_bytes * distributed.local_world_size() <= MEMORY_SHARE * free_host_bytes()
    return "memory" if all(distributed.all_gather_object(fits)) else "disk"


def _in_memory(
    stage: Stage,
    dataset: LabelledImages,
    view: View,
    *,
    options: FeatureOptions,
    device: torch.device,
    show: Show,
) -> tuple[FeatureTable, str]:
    chunks = list(eval_chunks(len(dataset), options.batch_size))
    batches = show(_viewed(dataset, chunks, view, device), len(chunks))
    table = compute_features(stage.inputs, batches, num_images=len(dataset))
    if options.dtype != "fp32":
        rows = {n: torch.from_numpy(encode(table.all(n).numpy(), options.dtype)) for n in table.names()}
        table = FeatureTable(rows, table.num_rows_N)
    return table, "computed, in memory"


def _from_disk(
    stage: Stage,
    dataset: LabelledImages,
    view: View,
    *,
    options: FeatureOptions,
    device: torch.device,
    show: Show,
) -> tuple[FeatureTable, str]:
    images = distributed.all_gather_object(dataset.store.identity)
    key = distributed.on_main(
        lambda: key_of(stage, dataset, view, options=options, device=device, images=images)
    )
    store = FeatureStore(options.folder, key, num_images=len(dataset), dtype=options.dtype)
    table = store.load()
    if all(distributed.all_gather_object(table is not None)):
        assert table is not None
        return table, f"read from {options.folder}"

    def compute(segments: list[range]) -> Iterator[tuple[range, Rows]]:
        chunks = [c for segment in segments for c in _chunks(segment, options.batch_size)]
        batches = iter(show(_viewed(dataset, chunks, view, device), len(chunks)))
        for segment in segments:
            yield segment, rows_of_segment(stage, batches, segment)
        next(batches, None)  # ends the bar and the loader

    size = segment_size(len(dataset), options.batch_size, world=distributed.world_size())
    segments = [range(a, min(a + size, len(dataset))) for a in range(0, len(dataset), size)]
    return build_on_disk(store, segments, compute), f"computed, kept in {options.folder}"


def key_of(
    stage: Stage,
    dataset: LabelledImages,
    view: View,
    *,
    options: FeatureOptions,
    device: torch.device,
    images: list[str],
) -> str:
    """The name of these features; `images` identifies the image files as each rank sees them."""
    weights = {n: v for n, v in stage.state_dict().items() if n.startswith(stage.input_parts)}
    assert weights, "a stage says which weights its features depend on"
    settings = {
        "stage": stage.name,
        "model": stage.model.description(),
        "transform": view.settings(),
        "stored_size": dataset.store.size,
        "channels": dataset.store.channels,
        "images": sorted(set(images)),
        "precision": options.precision,
        "dtype": options.dtype,
        "device": device.type,
    }
    labels_NK = dataset.table.concept_NK[dataset.indices]
    return feature_key(weights=weights, settings=settings, labels_NK=labels_NK, index_N=dataset.indices)


def segment_size(num_images: int, batch_size: int, *, world: int) -> int:
    """Images per part: whole batches, few parts, and work for every rank."""
    batches = -(-num_images // batch_size)
    return batch_size * max(1, min(BATCHES_PER_SEGMENT, -(-batches // (4 * world))))


def rows_of_segment(stage: Stage, batches: Iterator[Batch], segment: range) -> Rows:
    """Take a segment's batches off an iterator; their rows, and `count`, how many rows each image has."""
    kept: dict[str, list[np.ndarray]] = {}
    done = 0
    while done < len(segment):
        batch = next(batches)
        rows = {name: value.cpu().numpy() for name, value in stage.inputs(batch).items()}
        kept.setdefault("count", []).append(np.bincount(rows.pop("row"), minlength=len(batch["position"])))
        for name, value in rows.items():
            kept.setdefault(name, []).append(value)
        done += len(batch["position"])
    return {name: np.concatenate(values) for name, values in kept.items()}


def build_on_disk(
    store: FeatureStore, segments: list[range], compute: Callable[[list[range]], Iterable[tuple[range, Rows]]]
) -> FeatureTable:
    """Compute what no rank has yet, join the parts on every host, map the result. Collective.

    Args:
        store: of this key.
        segments: all images; the same on all ranks.
        compute: yields the rows of given segments, in order.

    Raises:
        InputError: some rank could not write; the same on all ranks.
    """
    owner: dict[range, int] = {}
    for rank, seen in enumerate(distributed.all_gather_object([s for s in segments if store.has(s)])):
        for segment in seen:
            owner.setdefault(segment, rank)
    world = distributed.world_size()
    todo = [segment for segment in segments if segment not in owner]
    owner.update({segment: i % world for i, segment in enumerate(todo)})
    with distributed.errors_agreed(), _told(store):
        for segment, rows in compute(todo[distributed.rank() :: world]):
            store.write_part(segment, rows)
    leads = distributed.local_rank() == 0
    _exchange(store, segments, owner, leads=leads)
    with distributed.errors_agreed(), _told(store):
        if leads:
            store.join(segments)
    with distributed.errors_agreed():
        table = store.load()
        if table is None:
            raise InputError(f"{store.folder}: a rank does not see the cache: choose another --cache_dir")
    if leads:
        store.clean_up()
    distributed.barrier()
    return table


def _exchange(store: FeatureStore, segments: list[range], owner: dict[range, int], *, leads: bool) -> None:
    """Hosts get the parts that they do not see from ranks that have them (no traffic in a common folder)."""
    missing = [s for s in segments if not store.has(s)] if leads else []
    wanted = {s for lacking in distributed.all_gather_object(missing) for s in lacking}
    failure: OSError | None = None
    for segment in [s for s in segments if s in wanted]:
        sent: Rows | None = None
        if owner[segment] == distributed.rank():
            try:
                sent = store.read(segment)
            except OSError as error:
                failure = error
        rows = next((r for r in distributed.all_gather_object(sent) if r is not None), None)
        if rows is not None and segment in missing:
            try:
                store.write_part(segment, rows)
            except OSError as error:
                failure = error
    with distributed.errors_agreed(), _told(store):
        if failure is not None:
            raise failure


class _told:
    """Turns an OSError inside into the user's line."""

    def __init__(self, store: FeatureStore) -> None:
        self._folder = store.folder

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if isinstance(error, OSError):
            raise InputError(
                f"{self._folder}: the feature cache cannot be written ({error.strerror or error}): "
                "free space there, or choose another --cache_dir or --cache memory"
            ) from None


def _viewed(
    dataset: LabelledImages, chunks: Iterable[np.ndarray], view: View, device: torch.device
) -> Iterator[Batch]:
    for batch in stored_batches(dataset, chunks, device=device):
        yield {**batch, "image": view(batch)}


def _chunks(segment: range, batch_size: int) -> list[np.ndarray]:
    starts = range(segment.start, segment.stop, batch_size)
    return [np.arange(a, min(a + batch_size, segment.stop), dtype=np.int64) for a in starts]
