"""Images that a finished model is looked at with: the split is the one that trained it, wherever it lies."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_model import CONCEPTS, TARGETS, tiny_model, write_run

from csr.cli.export import main as export
from csr.config.from_json import config_of
from csr.explain.source import open_images, open_source, run_images, split
from csr.model.sharing.loading import load_model
from csr.runtime.errors import InputError
from csr.training.inputs import build_tables

NUM = 40


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five images a patient, whose column has a name of its own; a seed that is not the default."""
    data, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for part, number in (("train", NUM), ("test", 4)):
        (data / part).mkdir()
        lines = [",".join(["image_id", "Patient ID", *CONCEPTS, *TARGETS])]
        for i in range(number):
            pixels = rng.integers(0, 256, (32, 32), dtype=np.uint8)
            Image.fromarray(pixels).save(data / part / f"{part}{i}.png")
            labels = [i % 2, i // 2 % 2, i % 3 // 2, i // 3 % 2, i % 2]
            lines.append(",".join(map(str, [f"{part}{i}", f"{part} {i % (NUM // 5)}", *labels])))
        (data / f"labels_{part}.csv").write_text("\n".join(lines) + "\n")
    folder = write_run(tmp_path_factory.mktemp("runs") / "r", tiny_model())
    config = json.loads((folder / "config.json").read_text())
    files = {f"{part}_csv": str(data / f"labels_{part}.csv") for part in ("train", "test")}
    files |= {f"{part}_dir": str(data / part) for part in ("train", "test")}
    given = {**files, "val_fraction": 0.25, "target_cols": list(TARGETS), "group_col": "Patient ID"}
    config["options"] |= {"data": {**given, "workers": 1}, "engine": {"seed": 3}}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def ids(images) -> list[str]:
    return [images.table.image_ids[i] for i in images.indices]


def trained_and_validated(run: Path) -> tuple[list[str], list[str]]:
    """As csr train splits, from the options of the run."""
    config = config_of(json.loads((run / "config.json").read_text())["options"], where="config.json")
    tables = build_tables(config, print)
    names = np.array(tables.train.image_ids)
    return names[tables.train_indices].tolist(), names[tables.val_indices].tolist()


def looked_at(source_folder: Path, csv: str, folder: str) -> tuple[list[str], list[str]]:
    source = open_source(str(source_folder))
    images = open_images(
        source, csv, folder, part="train", boxes_csv=None, cache=None, workers=1, say=print, hint=""
    )
    train, val = split(images, source.config)
    return ids(train), ids(val)


def test_a_run_and_its_export_are_split_as_they_were_trained(run, tmp_path):
    expected = trained_and_validated(run)
    assert sorted(expected[0] + expected[1]) == sorted(f"train{i}" for i in range(NUM))
    assert not {int(name[5:]) % (NUM // 5) for name in expected[0]} & {
        int(name[5:]) % (NUM // 5) for name in expected[1]
    }, "patients stay on one side"
    data = json.loads((run / "config.json").read_text())["options"]["data"]
    given = data["train_csv"], data["train_dir"]
    assert looked_at(run, *given) == expected
    card = load_model(run).card
    found = run_images(run, card, csv=None, folder=None, cache=tmp_path / "cache", workers=1)
    assert tuple(ids(images) for images in found) == expected
    assert export([str(run), str(tmp_path / "exported")]) == 0
    assert open_source(str(tmp_path / "exported")).seed_known
    assert looked_at(tmp_path / "exported", *given) == expected


def test_a_table_without_the_patients_that_it_was_split_by_is_refused(run, tmp_path):
    data = json.loads((run / "config.json").read_text())["options"]["data"]
    rows = [line.split(",") for line in Path(data["train_csv"]).read_text().splitlines()]
    (tmp_path / "bare.csv").write_text("\n".join(",".join([r[0], *r[2:]]) for r in rows) + "\n")
    with pytest.raises(InputError, match=r"bare.csv: no column 'Patient ID', by which .* \(--group_col\)"):
        looked_at(run, str(tmp_path / "bare.csv"), data["train_dir"])


def test_a_model_that_says_no_seed_is_known_as_such(run, tmp_path):
    assert export([str(run), str(tmp_path / "old")]) == 0
    config = json.loads((tmp_path / "old" / "config.json").read_text())
    assert config["data"].pop("seed") == 3
    (tmp_path / "old" / "config.json").write_text(json.dumps(config))
    source = open_source(str(tmp_path / "old"))
    assert not source.seed_known and source.config.engine.seed == 0
    assert source.config.data.val_fraction == 0.25, "what it says holds"
