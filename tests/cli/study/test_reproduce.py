"""`csr reproduce`: its plan, its rule in place of a doctor, its table; whole runs, killed and continued."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import raw_sets
from compared_runs import predictions, write_finished_run
from scipy import stats
from train_command import start

from csr.cli.exit_codes import run_command
from csr.cli.study.reproduce import main, method_names, seed_numbers
from csr.cli.study.reproduction import steps
from csr.cli.study.reproduction.plan import Plan, make_plan
from csr.cli.study.reproduction.protocols import METHODS, PROTOCOLS
from csr.cli.study.reproduction.stand_in import keep_text, rejected
from csr.cli.study.reproduction.table import write_tables
from csr.config.flags import parse_train_flags
from csr.explain.atlas.keep import COLUMNS
from csr.runtime.errors import InputError, PreemptedError

TINY = (
    *("--backbone_type", "timm", "--model_name", "test_resnet", "--no_pretrained", "--image_size", "64"),
    *("--precision", "fp32", "--workers", "1", "--num_prototypes", "2", "--embedding_dim", "8"),
    *("--epochs_stage1", "1", "--epochs_stage2", "1", "--epochs_stage3", "1"),
)


@pytest.fixture
def tables(tmp_path) -> Path:
    """A folder in csr's own shape; nothing here reads what is in it."""
    folder = tmp_path / "data"
    for name in ("train", "test"):
        (folder / name).mkdir(parents=True)
        (folder / f"labels_{name}.csv").write_text("image_id\n")
    return folder


def plan_of(tables: Path, **more: object) -> Plan:
    settings = {"seeds": (0, 1), "flags": TINY, **more}
    return make_plan("paper-vindr", tables, tables.parent / "out", **settings)


def test_every_method_gets_the_options_that_mean_something_to_it(tables):
    plan = plan_of(tables)
    assert [one.run.name for one in plan.runs] == [f"{m}-seed{s}" for s in (0, 1) for m in METHODS]
    for one in plan.runs:
        config = parse_train_flags(list(one.run.words))
        assert config == one.run.config
        assert config.model.baseline == (None if one.method == "csr" else one.method)
        assert (config.engine.seed, config.optim.epochs_stage1, config.run.recipe) == (one.seed, 1, "paper")
        assert config.data.train_csv == str(tables / "labels_train.csv") and config.data.boxes_csv is None
        assert config.model.num_prototypes == (2 if one.method == "csr" else 100)  # the recipe's, unused
    joint, cbm = plan.runs[3].run, plan.runs[6].run
    assert not any(word.startswith(("--epochs_stage3", "--epochs_stage2")) for word in joint.words)
    assert cbm.config.model.stage1_from == str(plan.runs[4].run.config.folder)
    alone = plan_of(tables, methods=("cbm",)).runs[0].run
    assert alone.config.model.stage1_from is None


def test_raw_data_is_imported_and_a_folder_of_tables_is_taken_as_it_is(tables, tmp_path):
    (tmp_path / "raw").mkdir()
    plan = make_plan("paper-tbx11k", tmp_path / "raw", tmp_path / "out", seeds=(3,))
    assert plan.raw == tmp_path / "raw" and plan.data == tmp_path / "out" / "data"
    config = plan.runs[0].run.config
    assert config.data.target_cols == ("healthy", "sick but not TB", "TB")
    assert config.data.train_dir == config.data.test_dir == str(plan.data / "images")
    assert plan_of(tables).raw is None
    with pytest.raises(InputError, match="no labels_train.csv in it"):
        make_plan("breast", tmp_path / "raw", tmp_path / "out", seeds=(0,))
    with pytest.raises(InputError, match="nowhere: no such folder"):
        make_plan("breast", tmp_path / "nowhere", tmp_path / "out", seeds=(0,))


def test_the_import_follows_the_links_that_the_runs_may_follow(tmp_path, monkeypatch):
    (tmp_path / "raw").mkdir()
    flags = ("--links_into", str(tmp_path))
    plan = make_plan("paper-tbx11k", tmp_path / "raw", tmp_path / "out", seeds=(3,), flags=flags)
    imported = []

    def main(argv: list[str]) -> None:
        imported.append(argv)
        raise InputError("enough")

    monkeypatch.setattr(steps.data, "main", main)
    with pytest.raises(InputError, match="enough"):
        steps.run(plan, ranks=1, say=lambda line: None)
    assert imported[0][-3:] == ["--merge_tb", *flags]


def test_an_import_is_done_for_its_own_data_and_importer_alone(tmp_path, monkeypatch):
    def stopped(*_: object, **__: object) -> None:
        raise PreemptedError("SIGTERM")

    def plan(name: str, raw: Path) -> Plan:
        return make_plan(name, raw, tmp_path / "out", seeds=(0,), flags=TINY)

    monkeypatch.setattr(steps, "run_all", stopped)
    raw = raw_sets.tbx11k(tmp_path / "raw")
    first = plan("paper-tbx11k", raw)
    assert steps.states(first)[0] == ("import", "to do", tmp_path / "out" / "data")
    with pytest.raises(PreemptedError):
        steps.run(first, ranks=1, say=print)
    record = json.loads((tmp_path / "out" / "import.json").read_text())
    assert record == {"data": str(raw), "importer": "tbx11k --merge_tb"}
    assert steps.states(plan("paper-tbx11k", tmp_path / "raw/../raw"))[0][1] == "done"

    other = tmp_path / "other"
    other.mkdir()
    message = (
        rf"holds an import of {raw} by csr data tbx11k --merge_tb, not of {other} by .*, or another --out"
    )
    with pytest.raises(InputError, match=message):
        steps.states(plan("paper-tbx11k", other))
    with pytest.raises(InputError, match=f"not of {raw} by csr data vindr: give"):
        steps.run(plan("paper-vindr", raw), ranks=1, say=print)
    (tmp_path / "out" / "data" / "csr_dataset.json").unlink()  # killed in the midst of another import
    assert steps.states(first)[0][1] == "to do"
    (tmp_path / "out" / "import.json").write_text("{")
    with pytest.raises(InputError, match="import.json: cannot be read"):
        steps.states(first)


def test_starts_without_weights_are_left_out_and_said(tables, tmp_path, monkeypatch):
    monkeypatch.setattr("csr.cli.study.reproduction.plan.find_spec", lambda name: None)
    plan = make_plan("breast", tables, tmp_path / "out", seeds=(0,))
    assert [start.key for start in plan.starts] == ["scratch"]
    assert plan.left_out[0].startswith("EfficientNet-Lite0 with ImageNet weights: left out")
    both = make_plan("breast", tables, tmp_path / "out", seeds=(0,), weights=tmp_path / "w.pth")
    given = {one.start.key: one.run.config.model for one in both.runs}
    assert given["scratch"].backbone_weights is None and given["scratch"].no_pretrained
    assert (
        given["imagenet"].backbone_weights == str(tmp_path / "w.pth") and not given["imagenet"].no_pretrained
    )
    paper = plan_of(tables, weights=tmp_path / "w.pth")
    assert paper.runs[0].run.config.model.backbone_weights == str(tmp_path / "w.pth")


def test_flags_of_the_plan_itself_are_refused(tables):
    with pytest.raises(InputError, match="--seed: is set by csr reproduce itself: omit it"):
        plan_of(tables, flags=["--lr", "1e-3", "--seed=4"])


def test_lists_of_seeds_and_methods():
    assert seed_numbers("0-2") == (0, 1, 2) and seed_numbers("5, 0-1,5") == (5, 0, 1)
    assert method_names("cbm,csr") == ("csr", "cbm")
    for text in ("2-0", "a", "0-999999", "", "-1"):
        with pytest.raises(Exception, match="give"):
            seed_numbers(text)


def test_the_list_shows_every_step_and_writes_nothing(tables, tmp_path, capsys):
    for name in ("train", "test"):
        (tables / f"boxes_{name}.csv").write_text("image_id\n")
    words = ["paper-vindr", str(tables), "--out", str(tmp_path / "out"), "--seeds", "0", "--dry_run"]
    assert main([*words, "--", *TINY]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "VinDr-CXR, the paper's table: 7 steps, 0 of them done"
    assert [line.split()[2] for line in lines[1:]] == [*["train"] * 4, "atlas", "refine", "compare"]
    assert not (tmp_path / "out").exists()
    assert run_command(main, ["paper-vindr", str(tables), "--lr", "1e-3"]) == 2
    assert "flags of csr train stand after `--`" in capsys.readouterr().err


def atlas(shares: dict[str, list[tuple[int, float]]]) -> dict:
    """Concept -> (images with boxes, share inside) of each prototype."""
    return {
        "concepts": [
            {
                "name": name,
                "prototypes": [
                    {"prototype": m, "similar": {"with_boxes": n, "in_box": share if n else None}}
                    for m, (n, share) in enumerate(rows)
                ],
            }
            for name, rows in shares.items()
        ]
    }


def test_the_rule_rejects_what_looks_outside_of_boxes_and_keeps_one(tmp_path):
    record = atlas(
        {
            "Cavity": [(20, 0.9), (20, 0.4), (4, 0.0), (0, 0.0), (5, 0.5)],
            "Nodule, left": [(10, 0.1), (10, 0.3), (10, 0.2)],
        }
    )
    assert rejected(record) == {("Cavity", 1), ("Nodule, left", 0), ("Nodule, left", 2)}
    path = tmp_path / "keep.csv"
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(COLUMNS)
        for concept in record["concepts"]:
            for p in concept["prototypes"]:
                table.writerow([concept["name"], p["prototype"], 1, 3, 1, "0.1", "TB", "a; b", "v1"])
    rows = list(csv.DictReader(keep_text(str(path), record).splitlines()))
    assert [row["keep"] for row in rows] == list("10111010")
    assert rows[0]["note"] == "a; b" and list(rows[0]) == list(COLUMNS)


@pytest.fixture
def finished(tables) -> Plan:
    """A plan whose runs are all there, as csr train leaves them."""
    plan = plan_of(tables, seeds=(0, 1, 2))
    for one in plan.runs:
        kinds = ("target",) if one.method == "blackbox" else ("target", "concept")
        signal = 0.4 if one.method == "csr" else 0.2
        folder = one.run.config.folder
        write_finished_run(folder, predictions(one.seed, signal=signal, kinds=kinds))
        config = json.loads((folder / "config.json").read_text())
        config["options"] = one.run.config.to_dict()
        (folder / "config.json").write_text(json.dumps(config))
    return plan


def test_the_table_has_means_intervals_and_what_was_published(finished, capsys):
    assert steps.run(finished, ranks=1, say=print) == []
    for one, hits in zip([o for o in finished.runs if o.method == "csr"], (0.5, 0.6, 0.75), strict=True):
        folder = finished.place("refined", one.run)
        folder.mkdir(parents=True)
        sides = {
            when: {
                "localisation": {
                    "micro": {
                        "similarity_hit": {"value": hits + more},
                        "cam_hit": {"value": 0.4},
                        "chance": {"value": 0.1},
                        "centre_hit": {"value": 0.361},
                    }
                },
                "targets": {"macro": {"f1_at_threshold": {"value": 0.25}}},
            }
            for when, more in (("before", 0.0), ("after", 0.125))
        }
        (folder / "refine.json").write_text(json.dumps(sides))
    lines = write_tables(finished, edited=[finished.out / "keep" / "csr-seed1.csv"])
    record = json.loads((finished.out / "table.json").read_text())
    rows = {row["method"]: row for row in record["starts"][0]["rows"]}
    assert list(rows) == [*METHODS, "PIP-Net"]
    compared = json.loads((finished.out / "comparison" / "comparison.json").read_text())
    assert len(compared["groups"]) == 4
    for place, method in enumerate(METHODS):
        macro = compared["kinds"]["targets"]["groups"][place]["macro"]
        assert rows[method]["scores"]["f1"]["value"] == pytest.approx(100 * macro["f1_at_threshold"]["value"])
        assert rows[method]["scores"]["auroc"]["low"] == pytest.approx(100 * macro["auroc"]["low"])
        assert rows[method]["seeds"] == [0, 1, 2]
    assert "concept_auroc" not in rows["blackbox"]["scores"]
    hits = np.array([50, 60, 75])
    low, high = stats.t.interval(0.95, 2, loc=hits.mean(), scale=stats.sem(hits))
    for name, more in (("pointing", 0), ("refined", 12.5)):
        score = rows["csr"]["scores"][name]
        assert (score["value"], score["low"], score["high"]) == pytest.approx(
            (hits.mean() + more, low + more, high + more)
        )
    assert rows["csr"]["published"]["f1"] == 54.6 and rows["PIP-Net"]["published"]["f1"] == 45.1
    assert rows["csr"]["scores"]["cam"]["value"] == pytest.approx(40)
    text = (finished.out / "table.md").read_text()
    assert "a random point hits 10.0, the centre of the image 36.1." in text
    heads = next(line for line in text.splitlines() if line.startswith("|  |"))
    assert (
        heads.endswith("| refined: macro F1 | published: macro F1 |") and "published: pointing" not in heads
    )
    assert "| 54.6 |" in text and "csr-seed1.csv: edited" in text
    assert "| black box | 3 |" in text and "| PIP-Net | - | - |" in text
    page = (finished.out / "table.html").read_text()
    assert 'href="comparison/comparison.html"' in page and "<script" not in page
    assert "54.6" in (finished.out / "table.tex").read_text()
    assert (
        "Flags given, which win over what is said above: --backbone_type timm --model_name test_resnet"
        in text
    )
    assert any("54.6" in line and line.startswith("CSR ") for line in lines)


def test_runs_of_other_options_are_refused_and_missing_images_named(finished, tables):
    longer = make_plan("paper-vindr", tables, finished.out, seeds=(0,), flags=[*TINY, "--epochs_stage1", "2"])
    with pytest.raises(
        InputError, match="csr-seed0: holds results of other options: --epochs_stage1 was 1, now 2"
    ):
        steps.states(longer)
    (tables / "test").rmdir()
    with pytest.raises(InputError, match="test: no such folder: put the images"):
        steps.run(finished, ranks=1, say=print)


def test_published_numbers_are_of_known_methods_and_within_range():
    for protocol in PROTOCOLS.values():
        for name, published in protocol.published.items():
            assert name in METHODS or name in ("ProtoPNet", "PIP-Net")
            numbers = [value for value in vars(published).values() if value is not None]
            assert numbers and all(0 < value < 100 for value in numbers)
    assert PROTOCOLS["breast"].published == {}


RAW = {
    "paper-vindr": lambda folder: raw_sets.vindr(folder, num_train=48, num_test=24),
    "paper-tbx11k": raw_sets.tbx11k,
    "paper-isic": lambda folder: raw_sets.isic2017(folder, counts=(16, 2, 8)),
}


@pytest.mark.slow
@pytest.mark.dist
@pytest.mark.parametrize("name", RAW)
def test_a_published_set_becomes_its_table_though_killed_in_the_midst(name, tmp_path):
    RAW[name](tmp_path / "raw")
    out = tmp_path / "out"
    words = ["-m", "csr", "reproduce", name, str(tmp_path / "raw"), "--out", str(out), "--seeds", "0"]
    words += ["--", *TINY, *(["--val_fraction", "0.25"] if name == "paper-tbx11k" else [])]
    killed = subprocess.Popen(
        [sys.executable, *words],
        stdout=subprocess.DEVNULL,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
    )
    first = out / "runs" / "csr-seed0"
    until = time.monotonic() + 600
    while not (first / "best_model_stage1.pth").is_file() and time.monotonic() < until:
        assert killed.poll() is None
        time.sleep(0.1)
    killed.send_signal(signal.SIGTERM)
    assert killed.wait(300) == 75
    assert not (first / "results.json").exists() and not (out / "table.json").exists()

    done = start(Path(sys.executable).name, *words, timeout=1500)
    assert done.returncode == 0, done.stderr
    assert "=== Import" not in done.stdout and ": resumes " in done.stdout
    record = json.loads((out / "table.json").read_text())
    row = record["starts"][0]["rows"][0]
    assert row["method"] == "csr" and row["scores"]["f1"]["value"] is not None
    if name != "paper-isic":
        assert row["scores"]["pointing"]["value"] is not None
    assert {p.name for p in (out / "runs").iterdir() if not p.name.startswith(".")} == {
        f"{method}-seed0" for method in METHODS
    }
    assert (out / "atlas" / "csr-seed0" / "index.html").is_file()
    again = start(Path(sys.executable).name, *words, timeout=300)
    assert again.returncode == 0 and "Stage 1" not in again.stdout and "Atlas of" not in again.stdout
    assert json.loads((out / "table.json").read_text()) == record

    keep = out / "keep" / "csr-seed0.csv"
    rows = keep.read_text().splitlines()
    edited = next(i for i, line in enumerate(rows) if ",0,1," in line)
    rows[edited] = rows[edited].replace(",0,1,", ",0,0,", 1)
    keep.write_text("\n".join(rows) + "\n")
    by_hand = start(Path(sys.executable).name, *words, timeout=300)
    assert by_hand.returncode == 0 and "Refine csr-seed0" in by_hand.stdout
    assert any(
        "csr-seed0.csv: edited" in note for note in json.loads((out / "table.json").read_text())["notes"]
    )
