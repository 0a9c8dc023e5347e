#!/usr/bin/env python
"""CSR beside a plain classifier: same backbone, data, split, epochs, augmentation, optimizer; several seeds.

The plain classifier is the backbone, average pooling and one linear layer on the targets, trained with the
same positive weights as CSR's first stage, and its best epoch by validation AUROC is tested.

    python scripts/compare_plain.py --data ../shared/data/breast --target_cols malignant cyst ...
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from csr.cli.exit_codes import run_command
from csr.config.flags import parse_train_flags
from csr.config.options import TrainConfig
from csr.data.dataset import WindowSampler
from csr.engine.process_group import start
from csr.evaluation import inference
from csr.evaluation.metrics import Metrics, multilabel_metrics
from csr.stages.concept import positive_weights
from csr.stages.task import choose_task_loss
from csr.train import main as train_csr
from csr.training import build, inputs
from csr.training.checkpoints.resume_plan import Plan
from csr.training.data import labels_of
from csr.training.schedule import lr_factor


def train_plain(config: TrainConfig) -> Metrics:
    """One plain classifier, trained and tested as `csr train` with these options would its concepts."""
    found = inputs.build_tables(config, print)
    train_store, test_store = inputs.build_stores(config, found)
    model = build.build_model(config, found.train, print)
    normalisation = build.normalisation_of(config, model, Plan(), print)
    data = build.build_data(config, found, train_store, model, normalisation)
    head = torch.nn.Linear(model.backbone.channels, len(found.train.target_names))
    single = choose_task_loss("auto", found.train.target_NT) == "ce"
    weight_T = positive_weights(labels_of(data.train)["target"], maximum=config.method.max_pos_weight)
    optim, epochs = config.optim, config.epochs["concept"]
    optimizer = torch.optim.AdamW(
        [
            {
                "params": [p for p in model.backbone.parameters() if p.requires_grad],
                "lr": optim.lr * config.backbone_lr_scale,
            },
            {"params": head.parameters(), "lr": optim.lr},
        ],
        weight_decay=optim.weight_decay,
        fused=True,
    )
    sampler = WindowSampler(len(data.train), micro_batch=optim.batch_size, seed=config.engine.seed)
    total = epochs * sampler.num_windows
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: lr_factor(s, total, warmup=optim.warmup, schedule=optim.schedule)
    )
    best: tuple[float, dict[str, Any], dict[str, Any]] | None = None
    for epoch in range(1, epochs + 1):
        model.backbone.train()
        sampler.set_epoch(epoch)
        for positions, valid in sampler:
            batch = data.train.load(positions, valid)
            image, _ = data.train_transform(
                batch["image"], index_B=batch["index"], epoch=epoch, seed=config.engine.seed
            )
            logit = head(model.backbone(image).mean(dim=(2, 3)))
            known = ~batch["target"].isnan()
            loss = (
                torch.nn.functional.cross_entropy(logit[valid], batch["target"][valid].argmax(1))
                if single
                else torch.nn.functional.binary_cross_entropy_with_logits(
                    logit, batch["target"].nan_to_num(), pos_weight=weight_T, reduction="none"
                )[known].mean()
            )
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(
                [*model.backbone.parameters(), *head.parameters()], optim.clip or float("inf")
            )
            optimizer.step()
            schedule.step()
        metrics = evaluate(model, head, data.val, data, optim.batch_size)
        if best is None or metrics.auc > best[0]:
            states = ({k: v.clone() for k, v in m.state_dict().items()} for m in (model.backbone, head))
            best = (metrics.auc, *states)
    assert best is not None
    model.backbone.load_state_dict(best[1])
    head.load_state_dict(best[2])
    test = type(data.val)(test_store, found.test)
    return evaluate(model, head, test, data, optim.batch_size)


@torch.no_grad()
def evaluate(model: Any, head: torch.nn.Linear, dataset: Any, data: build.Splits, batch_size: int) -> Metrics:
    model.backbone.eval()
    batches = inference.image_batches(
        dataset, transform=data.eval_transform, batch_size=2 * batch_size, device=torch.device("cpu")
    )
    rows = inference.predict_rows(
        lambda b: {"logit": head(model.backbone(b["image"]).mean(dim=(2, 3)))}, batches
    )
    probability = rows["logit"].sigmoid().numpy()
    return multilabel_metrics(probability, labels_of(dataset)["target"], names=dataset.table.target_names)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with labels_*.csv, train/ and test/")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, help="write the numbers here as JSON")
    known, flags = parser.parse_known_args()
    start(10)
    folder = known.data
    base = ["--train_csv", str(folder / "labels_train.csv"), "--test_csv", str(folder / "labels_test.csv")]
    images = folder if (folder / "train").is_dir() else folder.parent
    base += ["--train_dir", str(images / "train"), "--test_dir", str(images / "test")]
    rows: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as scratch:
        for seed in known.seeds:
            own = [*base, *flags, "--seed", str(seed), "--output_dir", scratch, "--exp_name", f"seed{seed}"]
            if run_command(train_csr, own):
                return 1
            summary = json.loads((Path(scratch) / f"seed{seed}" / "results.json").read_text())["summary"]
            plain = train_plain(parse_train_flags(own))
            rows.append(
                {
                    **{f"csr_{k}": v for k, v in summary.items()},
                    "plain_target_auc": plain.auc,
                    "plain_target_f1_macro": plain.f1_macro,
                }
            )
    names = (
        "csr_concept_auc",
        "csr_target_auc",
        "plain_target_auc",
        "csr_target_f1_macro",
        "plain_target_f1_macro",
    )
    print(f"{'test':<24} {'median':>7}   min .. max over seeds {known.seeds}")
    for name in names:
        values = [row[name] for row in rows]
        print(f"{name:<24} {statistics.median(values):>7.3f}   {min(values):.3f} .. {max(values):.3f}")
    if known.out:
        known.out.write_text(json.dumps({"command": sys.argv, "rows": rows}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    np.seterr(all="raise", under="ignore")
    sys.exit(main())
