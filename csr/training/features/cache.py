"""A stage's frozen features: in memory, or mapped from a folder that is built once.

`frozen_features` is what the trainer calls.

Letters: N images, B batch, R rows, K concepts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from csr.data.batch import Batch
from csr.data.dataset import LabelledImages
from csr.data.transforms import EvalTransform, TrainTransform
from csr.engine.memory import free_gpu_bytes, free_host_bytes
from csr.evaluation.inference import eval_chunks
from csr.runtime import distributed
from csr.runtime.fingerprint import hash_of
from csr.stages.base import Stage
from csr.training.features.arrays import Arrays
from csr.training.features.key import feature_key
from csr.training.features.maps import MEMORY_SHARE, KeptMaps, map_batches
from csr.training.features.shared_build import build_on_disk
from csr.training.features.store import DTYPES, FeatureStore, encode
from csr.training.features.table import FeatureTable, FeatureViews, compute_features
from csr.training.features.views import AugmentedView, PlainView, View

BATCHES_PER_SEGMENT = 32
Show = Callable[[Iterable[Batch], int], Iterable[Batch]]


@dataclass(frozen=True)
class FeatureOptions:
    """How features are cached.

    Attributes:
        mode: auto, memory, disk or off.
        folder: of the feature folders.
        dtype: fp32 or fp16, of the rows that are kept.
        views: augmented views of the training images; 0 is none, the plain images.
        batch_size: images of one forward pass.
        precision: of the arithmetic that computes the features.
        seed: of the augmentation.
    """

    mode: str
    folder: Path
    dtype: str
    views: int
    batch_size: int
    precision: str
    seed: int


def frozen_features(
    stage: Stage,
    dataset: LabelledImages,
    *,
    options: FeatureOptions,
    eval_transform: EvalTransform,
    train_transform: TrainTransform | None = None,
    device: torch.device,
    show: Show,
    maps: KeptMaps | None = None,
) -> FeatureViews:
    """Return what a stage's frozen layers compute on all N images, on every rank. Collective.

    The caller puts the stage into eval mode and the arithmetic into `options.precision`.

    Args:
        stage: on `device`.
        dataset: training or validation images.
        options: where features are kept.
        eval_transform: of plain images.
        train_transform: of augmented views, for training images; None gives the plain images.
        device: where the frozen layers run.
        show: `show(batches, number of them)` puts a progress bar around batches.
        maps: of the same backbone, from earlier passes and for later ones.

    Returns:
        One table of rows (R, ...) for each view, on `device` where they take little of its memory.

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
    built = [
        build(stage, dataset, view, options=options, device=device, show=show, maps=maps) for view in views
    ]
    tables = [table for table, _ in built]
    source = " and ".join(sorted({source for _, source in built}))
    if device.type == "cuda" and sum(t.nbytes for t in tables) < MEMORY_SHARE * free_gpu_bytes(device):
        tables = [table.to(device) for table in tables]
    return FeatureViews(tables, source=source)


def choose_mode(options: FeatureOptions, *, num_bytes: int) -> str:
    """Return memory or disk. Collective under `auto`: memory if all ranks' copies fit on every host.

    Args:
        options: with the mode that was asked for.
        num_bytes: of the rows of all views.
    """
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
    maps: KeptMaps | None,
) -> tuple[FeatureTable, str]:
    chunks = list(eval_chunks(len(dataset), options.batch_size))
    computed = map_batches(stage.model, dataset, chunks, view, device=device, kept=maps)
    batches = show(computed, len(chunks))
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
    maps: KeptMaps | None,
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

    def compute(segments: list[range]) -> Iterator[tuple[range, Arrays]]:
        chunks = [c for segment in segments for c in _chunks(segment, options.batch_size)]
        computed = map_batches(stage.model, dataset, chunks, view, device=device, kept=maps)
        batches = iter(show(computed, len(chunks)))
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
    """Return the name of these features, 64 hexadecimal digits.

    Args:
        stage: whose frozen layers compute them.
        dataset: the images and their labels.
        view: of the images.
        options: precision and stored type.
        device: its type decides the kernels.
        images: identities of the image files as each rank sees them.
    """
    weights = {n: v for n, v in stage.state_dict().items() if n.startswith(stage.input_parts)}
    assert weights, "a stage names the weights that its features depend on"
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
    if stage.reads_boxes and dataset.boxes is not None:  # other keys stay what they were
        settings["boxes"] = hash_of(*dataset.boxes.for_batch(dataset.indices))
    labels_NK = dataset.table.concept_NK[dataset.indices]
    return feature_key(weights=weights, settings=settings, labels_NK=labels_NK, index_N=dataset.indices)


def segment_size(num_images: int, batch_size: int, *, world: int) -> int:
    """Return the number of images in a part: whole batches, few parts, and work for every rank."""
    batches = -(-num_images // batch_size)
    return batch_size * max(1, min(BATCHES_PER_SEGMENT, -(-batches // (4 * world))))


def rows_of_segment(stage: Stage, batches: Iterator[Batch], segment: range) -> Arrays:
    """Take a segment's batches off an iterator and compute their rows.

    Args:
        stage: whose frozen layers compute them.
        batches: positioned at the segment's first batch.
        segment: S places in the data set.

    Returns:
        Named arrays (R, ...), sorted by image, and `count` (S,), how many rows each image has.

    Raises:
        RuntimeError: a batch is not of the segment's next places; its rows would be kept as theirs.
    """
    kept: dict[str, list[np.ndarray]] = {}
    done = 0
    while done < len(segment):
        batch = next(batches)
        position_B = batch["position"].cpu().numpy()
        next_B = np.asarray(segment[done : done + max(1, len(position_B))])
        if not np.array_equal(position_B, next_B):
            raise RuntimeError(
                f"features of images {position_B.tolist()} came where {next_B.tolist()} are next"
            )
        rows = {name: value.cpu().numpy() for name, value in stage.inputs(batch).items()}
        kept.setdefault("count", []).append(np.bincount(rows.pop("row"), minlength=len(position_B)))
        for name, value in rows.items():
            kept.setdefault(name, []).append(value)
        done += len(position_B)
    return {name: np.concatenate(values) for name, values in kept.items()}


def _chunks(segment: range, batch_size: int) -> list[np.ndarray]:
    starts = range(segment.start, segment.stop, batch_size)
    return [np.arange(a, min(a + batch_size, segment.stop), dtype=np.int64) for a in starts]
