"""The usual CSR training script in plain PyTorch (DDP): what csr is measured against.

It trains the same model class on the same tables, split, epochs, augmentation strength, precision and
learning rates (except that of stage 3, whose raw scores vary little and need a larger one). What makes it
usual: every stage sends every image through the whole backbone in every epoch; each file is decoded, resized
and augmented again each time, in DataLoader workers; the loss of stage 2 is a loop over images, concepts and
prototypes; every step reads its loss from the device.

    python scripts/bench/reference.py --train_csv labels_train.csv --train_dir train/ \\
        --test_csv labels_test.csv --test_dir test/ --no_pretrained --json result.json
    torchrun --standalone --nproc_per_node=2 scripts/bench/reference.py ...

Letters: B batch, K concepts, M prototypes per concept, T targets, L labels (K or T).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from PIL import Image
from sklearn.metrics import roc_auc_score
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset, DistributedSampler
from torchvision.transforms import v2

from csr.data.images.dicom import read_dicom
from csr.data.images.find import find_images
from csr.data.labels.table import LabelTable, read_label_table
from csr.data.labels.validation_split import split_validation
from csr.data.transforms import IMAGENET_MEAN, IMAGENET_STD, STRENGTHS
from csr.model import CSR
from csr.model.backbones.weights import load_backbone_weights
from csr.stages.concept import positive_weights
from csr.training.schedule import lr_factor

RANK, WORLD = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
GAMMA, LAM, DELTA, CLIP, WEIGHT_DECAY, MAX_WEIGHT = 1000.0, 20.0, 0.1, 1.0, 0.01, 20.0


def decode(path: Path) -> Image.Image:
    """One file as an 8-bit RGB picture, in full."""
    if path.suffix.lower() in (".dcm", ".dicom"):
        return Image.fromarray(read_dicom(path, max_pixels=10**9)[0]).convert("RGB")
    picture = Image.open(path)
    if picture.mode.startswith("I"):  # 16 bits: convert("RGB") alone would turn it white
        picture = Image.fromarray((np.asarray(picture).astype(np.uint32) // 257).astype(np.uint8))
    return picture.convert("RGB")


class Images(Dataset):
    """(image, concepts, targets) of some rows of a table, decoded each time they are asked for."""

    def __init__(self, paths: list[Path], table: LabelTable, *, size: int, augment: bool) -> None:
        self.paths, self.table = paths, table
        most = STRENGTHS["light"]
        geometry = [
            v2.RandomAffine(
                most.rotation_deg,
                translate=(most.shift, most.shift),
                scale=(1 - most.zoom, 1 + most.zoom),
                interpolation=v2.InterpolationMode.BILINEAR,  # the finest that it has
            ),
            v2.ColorJitter(brightness=most.contrast, contrast=most.contrast),
        ]
        self.transform = v2.Compose(
            [
                v2.Resize((size, size), antialias=True),
                *(geometry if augment else []),
                v2.ToImage(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(list(IMAGENET_MEAN), list(IMAGENET_STD)),
            ]
        )

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        image = self.transform(decode(self.paths[index]))
        concepts, targets = self.table.concept_NK[index], self.table.target_NT[index]
        return image, torch.from_numpy(concepts), torch.from_numpy(targets)


def make_loader(images: Images, *, batch_size: int, workers: int, shuffle: bool) -> DataLoader:
    """A DataLoader as one usually makes it."""
    shared = shuffle and WORLD > 1
    sampler = DistributedSampler(images, num_replicas=WORLD, rank=RANK) if shared else None
    return DataLoader(
        images,
        batch_size=batch_size,
        shuffle=shuffle and not shared,
        sampler=sampler,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=workers > 0,
    )


def masked_bce(logit_BL: torch.Tensor, label_BL: torch.Tensor, weight_L: torch.Tensor) -> torch.Tensor:
    """Mean over annotated labels."""
    known = ~label_BL.isnan()
    loss = F.binary_cross_entropy_with_logits(
        logit_BL.float(), label_BL.nan_to_num(), pos_weight=weight_L, reduction="none"
    )
    return (loss * known).sum() / known.sum().clamp_min(1)


def prototype_loss(
    local_BKC: torch.Tensor, label_BK: torch.Tensor, projector: nn.Module, unit_KMD: torch.Tensor
) -> torch.Tensor:
    """Eqs. 6-9 as they are read: for each image, each present concept, each concept, each prototype."""
    losses = []
    for local_KC, label_K in zip(local_BKC, label_BK):
        present = [k for k in range(len(label_K)) if label_K[k].item() >= 0.5]
        for k in present:
            vec_D = projector(local_KC[k][None])[0].float()
            logits = []
            for other in [k, *(c for c in range(len(label_K)) if c not in present)]:
                cosine_M = torch.stack([torch.dot(vec_D, proto_D) for proto_D in unit_KMD[other]])
                similarity = (torch.softmax(GAMMA * cosine_M, dim=0) * cosine_M).sum()
                logits.append(LAM * (similarity - DELTA if other == k else similarity))
            losses.append(torch.logsumexp(torch.stack(logits), dim=0) - logits[0])
    # DDP wants every gradient, also of a batch without any concept
    zero = sum((p * 0).sum() for p in projector.parameters()) + (unit_KMD * 0).sum()
    return torch.stack(losses).mean() + zero if losses else zero


class ConceptStage(nn.Module):
    def __init__(self, model: CSR, weight_K: torch.Tensor) -> None:
        super().__init__()
        self.model = nn.ModuleList([model.backbone, model.concept_head])
        self.logits, self.weight_K = model.concept_logits, weight_K

    def forward(self, images: torch.Tensor, concepts: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        backbone, head = self.model
        return masked_bce(self.logits(head(backbone(images))), concepts, self.weight_K)


class PrototypeStage(nn.Module):
    def __init__(self, model: CSR) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor, concepts: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            feat_BCHW = self.model.features(images)
            local_BKC = self.model.local_vectors(feat_BCHW, self.model.cams(feat_BCHW))
        return prototype_loss(local_BKC, concepts, self.model.projector, self.model.prototypes.unit())


class TaskStage(nn.Module):
    def __init__(self, model: CSR, weight_T: torch.Tensor) -> None:
        super().__init__()
        self.model, self.weight_T = model, weight_T

    def forward(self, images: torch.Tensor, concepts: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            score_BKM = self.model(images).similarity_scores
        return masked_bce(self.model.task_head(score_BKM), targets, self.weight_T)


class Script:
    """Model, loaders and the three stages."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        gpus = torch.cuda.device_count()
        self.device = torch.device("cuda", RANK % gpus) if gpus else torch.device("cpu")
        torch.manual_seed(options.seed)
        table = read_label_table(options.train_csv)
        test = read_label_table(options.test_csv, vocabulary=table)
        train_rows, val_rows = split_validation(table, fraction=options.val_fraction, seed=options.seed)
        paths, test_paths = find_images(options.train_dir, table), find_images(options.test_dir, test)
        self.table = table.select(train_rows)
        self.train = self._loader([paths[i] for i in train_rows], self.table, shuffle=True)
        self.val = self._loader([paths[i] for i in val_rows], table.select(val_rows))
        self.test = self._loader(test_paths, test)
        self.model = CSR(
            len(table.concept_names),
            len(table.target_names),
            options.num_prototypes,
            backbone_type=options.backbone_type,
            model_name=options.model_name,
            image_size=options.image_size,
        ).to(self.device)
        if not options.no_pretrained:
            load_backbone_weights(
                self.model.backbone,
                backbone_type=options.backbone_type,
                model_name=options.model_name,
                weights_file=options.backbone_weights,
            )
        self.record: dict[str, Any] = {"stages": {}}

    def _loader(self, paths: list[Path], table: LabelTable, *, shuffle: bool = False) -> DataLoader:
        options = self.options
        augment = shuffle and options.augment != "none"
        images = Images(paths, table, size=options.image_size, augment=augment)
        return make_loader(images, batch_size=options.batch_size, workers=options.workers, shuffle=shuffle)

    def precision(self) -> torch.autocast:
        enabled = self.options.precision == "bf16"
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=enabled)

    def run(self) -> dict[str, Any]:
        began, options, model = time.perf_counter(), self.options, self.model
        weight_K = positive_weights(self.table.concept_NK, maximum=MAX_WEIGHT).to(self.device)
        weight_T = positive_weights(self.table.target_NT, maximum=MAX_WEIGHT).to(self.device)
        backbone_lr = options.lr * (1.0 if options.no_pretrained else 0.1)
        rates = {model.backbone: backbone_lr, model.concept_head: options.lr}
        self.stage("concept", ConceptStage(model, weight_K), options.epochs_stage1, rates, label="concept")
        rates = {model.projector: 10 * options.lr, model.prototypes: 10 * options.lr}
        self.stage("prototype", PrototypeStage(model), options.epochs_stage2, rates)
        rates = {model.task_head: 100 * options.lr}
        self.stage("task", TaskStage(model, weight_T), options.epochs_stage3, rates, label="target")
        self.record["test"] = {name: self.auc(self.test, name) for name in ("concept", "target")}
        self.record["seconds"] = time.perf_counter() - began
        return self.record

    def stage(
        self, name: str, stage: nn.Module, epochs: int, rates: dict[nn.Module, float], *, label: str = ""
    ) -> None:
        """Train one stage; the best validated epoch goes on."""
        for parameter in self.model.parameters():
            parameter.requires_grad_(False)
        for part in rates:
            part.requires_grad_(True)
        groups = [{"params": list(part.parameters()), "lr": lr} for part, lr in rates.items()]
        optimizer = torch.optim.AdamW(groups, weight_decay=WEIGHT_DECAY)
        total = epochs * len(self.train)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: lr_factor(step, total, warmup=0.05, schedule="cosine")
        )
        wrapped = DistributedDataParallel(stage) if WORLD > 1 else stage
        seconds, best, weights = [], -1.0, None
        for epoch in range(1, epochs + 1):
            if isinstance(self.train.sampler, DistributedSampler):
                self.train.sampler.set_epoch(epoch)
            self.model.eval()
            for part in rates:
                part.train()
            began = time.perf_counter()
            loss = self.epoch(wrapped, optimizer, schedule)
            seconds.append(time.perf_counter() - began)
            line = f"{name} epoch {epoch}/{epochs} | loss {loss:.4f} | {seconds[-1]:.1f} s"
            if label:
                auc = self.auc(self.val, label)
                line += f" | AUC {auc:.4f}"
                if auc > best or weights is None:
                    best, weights = auc, {k: v.clone() for k, v in self.model.state_dict().items()}
            if RANK == 0:
                print(line, flush=True)
        if weights is not None:
            self.model.load_state_dict(weights)
        self.record["stages"][name] = {"epoch_seconds": seconds, "best_val_auc": best if label else None}

    def epoch(self, wrapped: nn.Module, optimizer: torch.optim.Optimizer, schedule: Any) -> float:
        total = 0.0
        for batch in self.train:
            images, concepts, targets = (value.to(self.device) for value in batch)
            with self.precision():
                loss = wrapped(images, concepts, targets)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], CLIP)
            optimizer.step()
            schedule.step()
            total += loss.item()
        return total / len(self.train)

    @torch.no_grad()
    def auc(self, loader: DataLoader, label: str) -> float:
        """Macro AUROC; every rank evaluates all images, as such scripts do."""
        self.model.eval()
        scores, labels = [], []
        for images, concepts, targets in loader:
            with self.precision():
                output = self.model(images.to(self.device))
            logits = output.concept_logits if label == "concept" else output.logits
            scores.append(logits.float().cpu().numpy())
            labels.append((concepts if label == "concept" else targets).numpy())
        score_NL, label_NL = np.concatenate(scores), np.concatenate(labels)
        return macro_auc(score_NL, label_NL)


def macro_auc(score_NL: np.ndarray, label_NL: np.ndarray) -> float:
    """Mean over labels that have both classes; NaN if none has."""
    found = []
    for score_N, label_N in zip(score_NL.T, label_NL.T):
        known = ~np.isnan(label_N)
        truth = label_N[known] >= 0.5
        if truth.any() and not truth.all():
            found.append(roc_auc_score(truth, score_N[known]))
    return float(np.mean(found)) if found else float("nan")


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    for name, default in {
        "train_csv": "labels_train.csv",
        "test_csv": "labels_test.csv",
        "train_dir": "train/",
        "test_dir": "test/",
        "backbone_type": "medmae",
        "model_name": "facebook/vit-mae-base",
        "backbone_weights": None,
        "json": None,
    }.items():
        parser.add_argument(f"--{name}", default=default)
    for name, number in {
        "batch_size": 16,
        "epochs_stage1": 10,
        "epochs_stage2": 10,
        "epochs_stage3": 10,
        "num_prototypes": 5,
        "image_size": 224,
        "workers": 4,
        "seed": 0,
    }.items():
        parser.add_argument(f"--{name}", type=int, default=number)
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--val_fraction", type=float, default=0.1)
    parser.add_argument("--no_pretrained", action="store_true")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--augment", choices=("none", "light"), default="light")
    return parser.parse_args(argv)


def main() -> None:
    options = parse()
    if WORLD > 1:
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    finish: Callable[[], None] = dist.destroy_process_group if WORLD > 1 else lambda: None
    with contextlib.ExitStack() as stack:
        stack.callback(finish)
        record = Script(options).run()
    if RANK == 0:
        print(f"test AUROC: concepts {record['test']['concept']:.4f}, targets {record['test']['target']:.4f}")
        print(f"{record['seconds']:.1f} s in all")
        if options.json:
            Path(options.json).write_text(json.dumps({"options": vars(options), **record}, indent=2) + "\n")


if __name__ == "__main__":
    main()
