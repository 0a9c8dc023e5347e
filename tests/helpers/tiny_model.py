"""A tiny trained-looking model and a run folder of it, for the tests of what is done with trained models."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch

from csr.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from csr.model import CSR
from csr.model.image_statistics import image_statistics
from csr.model.novelty_fit import fit_novelty
from csr.model.sharing.card import Card
from csr.model.sharing.preprocessing import Preprocessing
from csr.model.sharing.reference import Reference

K, T, M, SIZE = 3, 2, 4, 64
CONCEPTS = ("Cavity", "Nodule/Mass", "<b>Pleural | effusion")
TARGETS = ("Tuberculosis", "No finding")
OPTIONS: dict[str, Any] = {
    "backbone_type": "timm",
    "model_name": "test_resnet",
    "image_size": SIZE,
    "embedding_dim": 8,
}


def tiny_model(seed: int = 0) -> CSR:
    """Return a model of random weights, a head of both signs, batch statistics unlike the initial ones."""
    torch.manual_seed(seed)
    model = CSR(K, T, M, **OPTIONS)
    torch.nn.init.normal_(model.task_head.linear.weight)
    torch.nn.init.normal_(model.task_head.linear.bias)
    model.train()
    model(torch.randn(4, 3, SIZE, SIZE))
    model.card = tiny_card()
    return model.eval()


def tiny_card() -> Card:
    generator = torch.Generator().manual_seed(1)
    absent_KM = torch.rand(K, M, generator=generator) / 2
    reference = Reference(
        torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.3, 0.7]), absent_KM, absent_KM + 0.25
    )
    return Card(CONCEPTS, TARGETS, Preprocessing(SIZE, SIZE + SIZE // 8), "bce", reference)


def with_one_diagnosis() -> CSR:
    """Return the tiny model as one of which exactly one diagnosis holds; its card still has thresholds."""
    model = tiny_model()
    assert model.card is not None
    model.card = dataclasses.replace(model.card, task_loss="ce")
    return model


def with_novelty(limit: float) -> CSR:
    """Return the tiny model with statistics of random grey images, and a limit of one's choice."""
    model, draw = tiny_model(), torch.Generator().manual_seed(2)
    card = model.card
    assert card is not None
    with torch.no_grad():
        side = card.preprocessing.stored_size
        pixels = torch.randint(0, 256, (60, 1, side, side), generator=draw, dtype=torch.uint8)
        image = card.preprocessing.transform()(pixels)
        feat = model.features(image)
        score = model.similarity_scores(feat)
        rows = image_statistics(model, image, feat, score, preprocessing=card.preprocessing)
    train, val = ({name: value[part] for name, value in rows.items()} for part in (slice(30), slice(30, 60)))
    fitted = fit_novelty(train, val)
    assert fitted is not None
    novelty = dataclasses.replace(fitted, limit=limit)
    model.card = dataclasses.replace(card, reference=dataclasses.replace(card.reference, novelty=novelty))
    return model


def write_run(folder: Path, model: CSR, *, with_reference: bool = True) -> Path:
    """Write what `csr train` leaves: config.json, a best checkpoint, results, and the reference values."""
    folder.mkdir(parents=True)
    torch.save(model.state_dict(), folder / "best_model_stage3.pth")
    torch.save(model.state_dict(), folder / "model_stage2_epoch5.pth")
    config = {
        "options": {"method": {"gamma": 1000.0}, "data": {"train_csv": "/home/someone/secret/train.csv"}},
        "concept_names": list(CONCEPTS),
        "target_names": list(TARGETS),
        "model": model.description(),
        "preprocessing": {
            "image_size": SIZE,
            "stored_size": SIZE + SIZE // 8,
            "mean": list(IMAGENET_MEAN),
            "std": list(IMAGENET_STD),
        },
        "task_loss": "bce",
        "versions": {"csr": "0.1.0"},
        "git_revision": None,
    }
    (folder / "config.json").write_text(json.dumps(config))
    scores = {"auc": 0.75, "ap": 0.5, "f1": None}
    results = {"num_images": 24, "concepts": {"Cavity": scores}, "targets": {"Tuberculosis": scores}}
    (folder / "results.json").write_text(json.dumps(results))
    if with_reference:
        reference = tiny_card().reference.to_dict(concept_names=CONCEPTS, target_names=TARGETS)
        (folder / "reference.json").write_text(json.dumps(reference))
    return folder
