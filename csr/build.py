"""Options -> tables, images, model, stages: the only file that knows both sides."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from csr import distributed
from csr.config import TrainConfig
from csr.data import table as tables
from csr.data.boxes import BoxTable, read_boxes
from csr.data.dataset import LabelledImages
from csr.data.find import find_images
from csr.data.naming import show
from csr.data.split import split_validation
from csr.data.store import ImageStore, check_images, open_store
from csr.data.table import LabelTable
from csr.data.transforms import EvalTransform, TrainTransform, stored_size
from csr.engine import local_device
from csr.errors import InputError
from csr.feature_cache import FeatureOptions
from csr.fingerprint import file_sizes, hash_of
from csr.layers import sync_norm
from csr.model import CSR
from csr.model.compiling import check_compiler
from csr.model.weights import fetch_architecture, load_backbone_weights
from csr.stages.base import Stage
from csr.stages.concept import ConceptStage, positive_weights
from csr.stages.prototype import PrototypeStage
from csr.stages.task import TaskStage, choose_task_loss
from csr.trainer import Data, TrainerOptions

Say = Callable[[str], None]
Progress = Callable[[int, int], None]
LeftOut = Mapping[str, Collection[str]]  # "train" and "test" -> image ids
CHECKED_AT_ONCE = 2000
NOTHING: LeftOut = {"train": (), "test": ()}


@dataclass(frozen=True)
class Tables:
    """The label tables of a run, checked against each other."""

    train: LabelTable
    test: LabelTable
    train_paths: list[Path]
    test_paths: list[Path]
    train_indices: np.ndarray
    val_indices: np.ndarray
    boxes: BoxTable | None

    def fingerprint(self) -> str:
        """A hash of labels, split, boxes, and the names and sizes of the image files."""
        tables = [(t.image_ids, t.concept_names, t.target_names) for t in (self.train, self.test)]
        arrays = [a for t in (self.train, self.test) for a in (t.concept_NK, t.target_NT)]
        boxes = () if self.boxes is None else (self.boxes.image_R, self.boxes.class_R, self.boxes.pixel_R4)
        sizes = file_sizes([*self.train_paths, *self.test_paths])
        return hash_of(tables, *arrays, self.train_indices, self.val_indices, *boxes, sizes)


def read_labels(
    config: TrainConfig, say: Say, *, left_out: LeftOut = NOTHING
) -> tuple[LabelTable, LabelTable]:
    """Read and check the label tables of training and test.

    Args:
        config: of the run.
        say: tells the user.
        left_out: images that do not take part.

    Raises:
        InputError: the first thing wrong with them.
    """
    data = config.data
    _check_there("train_csv", data.train_csv)
    _check_there("test_csv", data.test_csv)
    train = tables.read_label_table(
        data.train_csv, concept_cols=data.concept_cols, target_cols=data.target_cols,
        reader_merge=data.reader_merge,
    )  # fmt: skip
    train = tables.without(train, left_out["train"])
    if data.drop_rare:
        train, dropped = tables.drop_rare(train, data.drop_rare)
        if dropped:
            say(f"Dropped concepts with fewer than {data.drop_rare} positive images: {', '.join(dropped)}")
    tables.check_positives(train)
    test = tables.read_label_table(
        data.test_csv, concept_cols=data.concept_cols, target_cols=data.target_cols,
        reader_merge=data.reader_merge, vocabulary=train,
    )  # fmt: skip
    test = tables.without(test, left_out["test"])
    tables.check_disjoint(train, test)
    return train, test


def _check_there(flag: str, path: str) -> None:
    """A run without flags reads files that somebody may never have heard of: say which flag names them."""
    if not os.path.exists(path):
        raise InputError(
            f"--{flag} {show(path, limit=400)}: cannot be read (no such file); give the path of a CSV file"
        )


def build_tables(
    config: TrainConfig, say: Say, progress: Progress | None = None, *, left_out: LeftOut = NOTHING
) -> Tables:
    """Read and check the CSVs and find every image; nothing is decoded yet.

    Args:
        config: of the run.
        say: tells the user.
        progress: called as `progress(done, of)` now and then; may raise to leave early.
        left_out: images that do not take part.

    Raises:
        InputError: the first thing wrong with the tables, or all missing images (up to 20 named).
    """
    data = config.data
    train, test = read_labels(config, say, left_out=left_out)
    shared = tables.shared_patients(train, test)
    if shared:
        say(f"Notice: {len(shared)} patient_id(s) are in both {train.path} and {test.path}: if they are the same "
            "people, test numbers are too good")
    counts_T = tables.count_positives(train.target_NT)
    unseen = [name for name, count in zip(train.target_names, counts_T, strict=True) if not count]
    if unseen:
        say(f"Notice: no positive training image for {', '.join(unseen)}: such targets cannot be learned")
    train_paths, test_paths = find_both(config, train, test, progress)
    boxes = None
    if data.boxes_csv is not None:
        boxes = read_boxes(data.boxes_csv, table=train, left_out=left_out["train"])
        for name, number in boxes.ignored.items():
            say(f"Boxes of {name!r}, which is no concept, are not used: {number}")
        present_R = train.concept_NK[boxes.image_R, boxes.class_R] >= tables.POSITIVE
        say(f"Boxes: {present_R.sum()} on concepts that are present; {(~present_R).sum()} on others are not used")
    train_indices, val_indices = split_validation(train, fraction=data.val_fraction, seed=config.engine.seed)
    return Tables(train, test, train_paths, test_paths, train_indices, val_indices, boxes)


def find_both(
    config: TrainConfig, train: LabelTable, test: LabelTable, progress: Progress | None = None
) -> tuple[list[Path], list[Path]]:
    """The files of the training and the test images.

    Raises:
        InputError: one for both folders. Of up to `CHECKED_AT_ONCE` files that are there it also tells which
            cannot be read, so that one look is enough (of more images the unreadable ones come next time).
    """
    check = partial(unreadable, workers=config.data.workers, progress=progress)
    found, problems = [], []
    for folder, table in ((config.data.train_dir, train), (config.data.test_dir, test)):
        try:
            found.append(find_images(folder, table, check=check))
        except InputError as error:
            problems.append(str(error))
    if problems:
        problems += [problem for paths in found for problem in check(paths)]
        raise unusable_images(problems, config)
    return found[0], found[1]


def unreadable(paths: list[Path], workers: int, progress: Progress | None = None) -> list[str]:
    """What check_images says of a few files (rank 0 looks for all ranks)."""
    if not distributed.is_main() or not 0 < len(paths) <= CHECKED_AT_ONCE:
        return []
    try:
        check_images(paths, workers=workers, progress=progress)
    except InputError as error:
        return [str(error)]
    return []


def image_cache(config: TrainConfig) -> Path | None:
    """The folder of decoded images, None where they are not kept."""
    chosen = config.data.image_cache
    if chosen == "off":
        return None
    return Path(config.run.output_dir) / ".cache" / "images" if chosen == "auto" else Path(chosen)


def build_stores(
    config: TrainConfig,
    found: Tables,
    progress: Progress | None = None,
    *,
    opened_before: Sequence[ImageStore] = (),
) -> tuple[ImageStore, ImageStore]:
    """Decode every image once (training, test), which also finds the unreadable ones. Collective.

    Args:
        config, found: of the run.
        progress: see `build_tables`.
        opened_before: stores that this rank has; one of the very images is taken.
    """
    opened, problems = [], []
    for table, paths in ((found.train, found.train_paths), (found.test, found.test_paths)):
        there = next((store for store in opened_before if store.paths == tuple(paths)), None)
        try:
            open_one = partial(
                open_store, paths, size=stored_size(config.data.image_size), cache_dir=image_cache(config),
                workers=config.data.workers, where=table.where, progress=progress,
            )  # fmt: skip
            opened.append(_first_on_each_host(open_one, there))
        except InputError as error:  # of both folders, together
            problems.append(str(error))
    if problems:
        raise unusable_images(problems, config)
    return opened[0], opened[1]


def unusable_images(problems: list[str], config: TrainConfig) -> InputError:
    """One error for all images that are missing or unreadable, with the flag that leaves a few of them out."""
    said = "; ".join(problems)
    if config.data.on_bad_image == "quarantine" or "wrong folder?" in said:
        return InputError(said)
    return InputError(f"{said} (or leave up to 1 % of them out: --on_bad_image quarantine)")


def _first_on_each_host(open_one: Callable[[], ImageStore], there: ImageStore | None) -> ImageStore:
    """Local rank 0 decodes, unless its store is there; the host's other ranks open what it made."""
    store = there
    with distributed.errors_agreed():
        is_first = distributed.local_rank() == 0 and store is None
        store = distributed.in_step(lambda: open_one() if is_first else store)
    with distributed.errors_agreed():
        store = store or open_one()
    assert store is not None
    return store


def build_model(config: TrainConfig, train: LabelTable, say: Say) -> CSR:
    """The network, with pretrained backbone weights unless `--no_pretrained`.

    Raises:
        InputError: an unknown backbone, a pooled or 1x1 map, weights that do not match or cannot be had.
    """
    model_options = config.model
    architecture = fetch_architecture(
        model_options.backbone_type, model_options.model_name, weights_file=model_options.backbone_weights
    )
    torch.manual_seed(config.engine.seed)
    model = CSR(
        num_concepts=len(train.concept_names), num_classes=len(train.target_names),
        num_prototypes_per_concept=model_options.num_prototypes, backbone_type=model_options.backbone_type,
        model_name=model_options.model_name, image_size=config.data.image_size,
        embedding_dim=model_options.embedding_dim, projector_blocks=model_options.projector_blocks,
        concept_pool=model_options.concept_pool, architecture=architecture,
    )  # fmt: skip
    if distributed.world_size() > 1:
        sync_norm.convert(model)
    if model_options.no_pretrained:
        if model_options.backbone_weights:
            raise InputError("--no_pretrained contradicts --backbone_weights: give one of them alone")
        say(f"Backbone {model.backbone.label}: random weights (--no_pretrained)")
    else:
        report = load_backbone_weights(
            model.backbone, backbone_type=model_options.backbone_type, model_name=model_options.model_name,
            weights_file=model_options.backbone_weights,
        )  # fmt: skip
        for line in report.lines:
            say(line)
    speed_up(model, config)
    return model


def speed_up(model: CSR, config: TrainConfig) -> None:
    """What `--compile` and `--activation_checkpointing` ask for.

    Raises:
        InputError: the machine cannot compile, or the backbone cannot compute its activations again.
    """
    if config.engine.activation_checkpointing:
        model.backbone.recompute_activations()
    if config.engine.compile:
        check_compiler(local_device())
        model.backbone.compile_training()


def build_data(config: TrainConfig, found: Tables, store: ImageStore, model: CSR) -> Data:
    """Training and validation images of one store, with their transforms."""
    size = config.data.image_size
    boxes = None
    if found.boxes is not None:
        boxes = found.boxes.check_inside(store.original_sizes_N2)
        if not (found.train.concept_NK[boxes.image_R, boxes.class_R] >= tables.POSITIVE).any():
            raise InputError(f"{boxes.path}: no box is on a concept that its image has: check the file")
    train = LabelledImages(store, found.train, indices=found.train_indices, boxes=boxes)
    val = LabelledImages(store, found.train, indices=found.val_indices)
    return Data(
        train=train, val=val, train_transform=TrainTransform(size, strength=config.data.augment),
        eval_transform=EvalTransform(size),
        names={"concept": found.train.concept_names, "target": found.train.target_names},
        map_size=model.backbone.map_size,
    )  # fmt: skip


def one_step_of(data: Data, config: TrainConfig) -> Data:
    """As many training and validation images as one optimizer step takes: all that a dry run looks at."""
    step = config.optim.batch_size * config.optim.accumulation * distributed.world_size()
    train, val = data.train, data.val
    return dataclasses.replace(
        data, train=LabelledImages(train.store, train.table, boxes=train.boxes, indices=train.indices[:step]),
        val=LabelledImages(val.store, val.table, indices=val.indices[:step]),
    )  # fmt: skip


def task_loss_of(config: TrainConfig, train: LabelTable) -> str:
    """The stage-3 loss of this run.

    Raises:
        InputError: ce asked for, but some image has not exactly one target.
    """
    loss = choose_task_loss(config.method.task_loss, train.target_NT)
    if loss == "ce" and choose_task_loss("auto", train.target_NT) != "ce":
        raise InputError(
            f"--task_loss ce needs exactly one target in every row of {train.path}: use bce or focal"
        )
    return loss


def build_stage(name: str, *, config: TrainConfig, model: CSR, train: LabelTable, say: Say) -> Stage:
    """One stage around the model, with its part of the options. `train` holds the training images alone."""
    method, optim = config.method, config.optim
    if name == "concept":
        weight_K = positive_weights(train.concept_NK, maximum=method.max_pos_weight)
        say(f"Positive weights: {weight_K.min():.2f} to {weight_K.max():.2f}")
        return ConceptStage(
            model, pos_weight_K=weight_K, lr=optim.lr, backbone_lr_scale=config.backbone_lr_scale,
            weight_decay=optim.weight_decay, box_weight=method.box_weight if config.data.boxes_csv else 0.0,
        )  # fmt: skip
    if name == "prototype":
        return PrototypeStage(
            model, gamma=method.gamma, lam=method.lam, delta=method.delta, margin_mode=method.margin_mode,
            mask_present=not method.all_negatives, restart=not method.no_restart,
            lr=optim.lr * optim.prototype_lr_scale, weight_decay=optim.weight_decay, seed=config.engine.seed,
        )  # fmt: skip
    loss = task_loss_of(config, train)
    weight_T = task_weights(train.target_NT, loss=loss, maximum=method.max_pos_weight)
    say(f"Task loss: {loss}; class weights {weight_T.min():.2f} to {weight_T.max():.2f}")
    return TaskStage(
        model, loss=loss, pos_weight_T=weight_T, lr=optim.lr * optim.task_lr_scale,
        weight_decay=optim.weight_decay,
    )  # fmt: skip


def task_weights(target_NT: np.ndarray, *, loss: str, maximum: float) -> torch.Tensor:
    """Balance of stage 3: negatives / positives (bce, focal), or N / (T n_t) for cross-entropy; (T,)."""
    if loss != "ce":
        return positive_weights(target_NT, maximum=maximum)
    count_T = target_NT.sum(axis=0)
    weight_T = target_NT.shape[0] / (target_NT.shape[1] * np.maximum(count_T, 1))
    return torch.from_numpy(np.clip(weight_T, 1 / maximum, maximum)).float()


def trainer_options(config: TrainConfig, precision: str) -> TrainerOptions:
    optim = config.optim
    dry = config.run.dry_run
    return TrainerOptions(
        batch_size=optim.batch_size, accumulation=optim.accumulation,
        epochs=dict.fromkeys(config.epochs, 1) if dry else config.epochs,
        lr_factor=lambda step, total: lr_factor(step, total, warmup=optim.warmup, schedule=optim.schedule),
        precision=precision, seed=config.engine.seed, caching=feature_options(config, precision),
        log_every=config.run.log_every, save_every=config.run.save_every,
        max_skipped=config.engine.max_skipped, max_windows=1 if dry else None, profile=config.run.profile,
    )  # fmt: skip


def feature_options(config: TrainConfig, precision: str) -> FeatureOptions:
    """How what frozen layers compute is cached."""
    folder = config.engine.cache_dir or Path(config.run.output_dir) / ".cache" / "features"
    keeps_files = config.engine.cache in ("auto", "disk") and not config.run.dry_run
    mode = config.engine.cache if keeps_files or config.engine.cache == "off" else "memory"
    return FeatureOptions(
        mode=mode, folder=Path(folder), dtype=config.engine.cache_dtype,
        views=config.engine.cache_views, batch_size=2 * config.optim.batch_size, precision=precision,
        seed=config.engine.seed,
    )  # fmt: skip


def lr_factor(step: int, total: int, *, warmup: float, schedule: str) -> float:
    """Linear warm-up over the first share of steps, then a cosine to zero or a constant."""
    rising = max(1, round(warmup * total))
    if step < rising and warmup:
        return (step + 1) / rising
    if schedule == "constant":
        return 1.0
    done = (step - rising) / max(1, total - rising)
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, max(0.0, done))))
