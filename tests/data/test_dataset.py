"""Whole batches: images, labels and boxes that belong together."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from csr.data.dataset import EvalSampler, LabelledImages, WindowSampler, keep_batch
from csr.data.image_cache.store import open_store
from csr.data.labels.boxes import read_boxes


@pytest.fixture
def images(tmp_path, read, write):
    """Return six images whose grey level, labels and boxes encode their number."""
    rows, boxes, paths = "", "", []
    for n in range(6):
        paths.append(tmp_path / f"{n}.png")
        Image.new("L", (10, 20), n).save(paths[-1])
        rows += f"{n},{n % 2},,{int(n > 2)}\n"
        boxes += f"{n},A,0,0,{n + 1},{n + 1}\n" * (n % 3)
    table = read("image_id,A,B,COPD\n" + rows)
    store = open_store(paths, size=4, cache_dir=tmp_path / "cache")
    header = "image_id,class_name,x_min,y_min,x_max,y_max\n"
    found = read_boxes(write(header + boxes, "boxes.csv"), table=table)
    return LabelledImages(
        store, table, boxes=found.check_inside(store.original_sizes_N2), indices=[5, 4, 3, 1]
    )


def test_a_batch_keeps_image_label_and_box_together(images):
    batch = images.load(np.array([0, 3, 1]))
    assert batch["index"].tolist() == [5, 1, 4]
    assert batch["image"].dtype == torch.uint8 and batch["image"].shape == (3, 1, 4, 4)
    assert batch["image"][:, 0, 0, 0].tolist() == [5, 1, 4]
    assert batch["concept"][:, 0].tolist() == [1, 1, 0] and batch["concept"][:, 1].isnan().all()
    assert batch["target"].tolist() == [[1], [0], [1]]
    assert batch["box_row"].tolist() == [0, 0, 1, 2] and batch["box_class"].tolist() == [0] * 4
    wanted = [[0, 0, 0.6, 0.3]] * 2 + [[0, 0, 0.2, 0.1], [0, 0, 0.5, 0.25]]
    torch.testing.assert_close(batch["box"], torch.tensor(wanted))


def test_padding_has_no_labels_and_no_boxes(images):
    batch = images.load(np.array([0, 1]), np.array([True, False]))
    assert batch["valid"].tolist() == [True, False]
    assert batch["concept"][1].isnan().all() and batch["target"][1].isnan().all()
    assert not batch["target"][0].isnan().any()
    assert batch["box_row"].tolist() == [0, 0]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_loader_yields_the_samplers_batches(images, workers):
    sampler = WindowSampler(len(images), micro_batch=3, shuffle=False)
    loader = DataLoader(images, batch_sampler=sampler, collate_fn=keep_batch, num_workers=workers)
    batches = list(loader)
    assert [b["index"].tolist() for b in batches] == [[5, 4, 3], [1, 5, 4]]
    assert batches[1]["valid"].tolist() == [True, False, False]


def test_evaluation_batches_cover_the_chosen_rows(images):
    seen = [images.load(*p)["index"] for p in EvalSampler(len(images), batch=3)]
    assert torch.cat(seen).tolist() == [5, 4, 3, 1]


def test_without_boxes_the_batch_has_no_box_entries(images):
    plain = LabelledImages(images.store, images.table)
    assert len(plain) == 6
    assert {*plain[2]} == {"image", "concept", "target", "index", "valid"}
