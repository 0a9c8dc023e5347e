"""A planted shortcut, from training to the repaired model."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from marked_images import add_mark, write_marked
from PIL import Image
from train_command import flags, train

from csr.cli.atlas import main as atlas
from csr.cli.refine import main
from csr.data.images.resize import resize_file
from csr.model import CSR

NUM_TRAIN = 240
SHORTCUT_RUN = {
    "image_size": "128",
    "num_prototypes": "6",
    "lr": "3e-3",
    "prototype_lr_scale": "0.1",
    "augment": "none",
    "epochs_stage1": "12",
    "epochs_stage2": "5",
    "epochs_stage3": "15",
    "val_fraction": "0.2",
    "seed": "1",
    "precision": "fp32",
}


def corner_prototypes(atlas_json: Path) -> set[tuple[str, int]]:
    """Prototypes whose nearest training regions all peak where the mark is."""
    record = json.loads(atlas_json.read_text())
    return {
        (concept["name"], p["prototype"])
        for concept in record["concepts"]
        for p in concept["prototypes"]
        if p["nearest"] and all(max(one["peak"]) < 0.5 for one in p["nearest"])
    }


@torch.no_grad()
def moved_by_the_mark(model: CSR, folder: Path, scratch: Path) -> float:
    """Mean over clean test images of the largest change of a probability when a mark is added."""
    card, changes = model.card, []
    for path in sorted((folder / "clean").iterdir()):
        Image.fromarray(add_mark(np.asarray(Image.open(path)))).save(scratch / "marked.png")
        pair = [
            resize_file(p, card.preprocessing.stored_size).pixels_CSS for p in (path, scratch / "marked.png")
        ]
        stored = torch.from_numpy(np.stack(pair))
        probability = card.probability(model(card.preprocessing.transform()(stored)).logits)
        changes.append(float((probability[1] - probability[0]).abs().max()))
    return float(np.mean(changes))


@pytest.mark.dist
@pytest.mark.slow
def test_a_planted_shortcut_is_found_in_the_atlas_and_what_is_left_of_it_is_reported(tmp_path):
    data = write_marked(tmp_path / "data", num_train=NUM_TRAIN, num_test=60, size=128)
    done = train(
        *flags(data, tmp_path / "runs", "--no_restart", exp_name="m", **SHORTCUT_RUN), launcher="none"
    )
    assert done.returncode == 0, done.stderr
    run, keep = tmp_path / "runs" / "m", tmp_path / "atlas" / "keep.csv"
    assert atlas([str(run), "--out", str(tmp_path / "atlas"), "--workers", "1"]) == 0
    shortcuts = corner_prototypes(tmp_path / "atlas" / "atlas.json")
    assert shortcuts and {name for name, _ in shortcuts} == {"Disc"}, "the mark is on discs"
    assert len(shortcuts) < 6, "some prototypes of discs show discs"
    page = (tmp_path / "atlas" / "index.html").read_text()
    assert "at the same place in every image, at the edge" in page

    with open(keep, newline="") as file:
        rows = list(csv.reader(file))
    words = [str(run), "--workers", "1", "--boxes_csv", str(data / "boxes_test.csv"), "--bootstrap", "0"]
    assert main([*words, "--keep", str(keep), "--out", str(tmp_path / "same")]) == 0
    for row in rows[1:]:
        row[2] = "0" if (row[0], int(row[1])) in shortcuts else row[2]
    with open(keep, "w", newline="") as file:
        csv.writer(file).writerows(rows)
    for head in ("refit", "keep", "occlude"):
        out = str(tmp_path / head)
        assert main([*words, "--keep", str(keep), "--head", head, "--out", out]) == 0

    before = CSR.from_pretrained(tmp_path / "same")
    trained = torch.load(run / "best_model_stage3.pth", weights_only=True)
    for name, value in before.state_dict().items():  # with nothing rejected stage 3 comes out as it was
        torch.testing.assert_close(value, trained[name], rtol=1e-3, atol=1e-2)
    # every image of the class bears the mark, so a head that is fitted again finds it in what is left
    refined = (CSR.from_pretrained(tmp_path / head) for head in ("refit", "keep", "occlude"))
    moved = [moved_by_the_mark(model, data, tmp_path) for model in (before, *refined)]
    assert moved[0] > 0.2 and moved[3] < 0.5 * moved[0], moved
    record = json.loads((tmp_path / "refit" / "refine.json").read_text())
    assert record["remaining_reliance"]["highest_r2"] > 0.5
    hit = {
        side: record[side]["localisation"]["macro"]["similarity_hit"]["value"] for side in ("before", "after")
    }
    assert hit["after"] >= hit["before"], hit
