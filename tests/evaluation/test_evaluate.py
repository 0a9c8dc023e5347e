"""`csr evaluate`: numbers of the model on the images, three files, and one line for bad input."""

from __future__ import annotations

import csv
import dataclasses
import html
import json
import re
import shlex
import tempfile
import xml.etree.ElementTree
from pathlib import Path

import numpy as np
import pytest
import torch
from forked_ranks import on_ranks
from PIL import Image
from sklearn.metrics import roc_auc_score
from tiny_model import CONCEPTS, TARGETS, K, M, tiny_card, tiny_model, with_novelty, write_run
from train_command import start

import csr.cli.evaluate
import csr.cli.explain
from csr import __version__
from csr.cli.evaluate import main
from csr.cli.exit_codes import run_command
from csr.data.dataset import LabelledImages
from csr.data.image_cache.store import open_store
from csr.data.labels.table import read_label_table
from csr.data.labels.vocabulary import Vocabulary
from csr.evaluation.comparison.predictions import read_predictions
from csr.evaluation.measure import count_used
from csr.evaluation.metrics import multilabel_metrics
from csr.evaluation.report.output import COLUMNS, summary
from csr.evaluation.rows import predict_all
from csr.evaluation.simulation.edit_effects import read_edit_effects
from csr.evaluation.thresholds import threshold_notices
from csr.model.calibration import Calibration
from csr.model.doubt import NO_DOUBT_RULE
from csr.model.novelty import NO_NOVELTY
from csr.model.sharing.origin import model_sha256
from csr.model.sharing.reference import Reference
from csr.runtime.errors import InputError

NUM = 18
FILES = ["evaluation.csv", "evaluation.json", "report.html"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of several sizes, labels with masks, boxes, a column that is no label, and a model's folder."""
    folder = tmp_path_factory.mktemp("evaluate")
    (folder / "images").mkdir()
    draw = np.random.default_rng(4)
    names = [f"image{i}" for i in range(NUM)]
    with open(folder / "labels.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image_id", *CONCEPTS, *TARGETS, "hospital"])
        for i, name in enumerate(names):
            Image.fromarray(draw.integers(0, 256, (40 + i, 60), dtype=np.uint8)).save(
                folder / f"images/{name}.png"
            )
            cells = [str(int(value < 0.5)) for value in draw.random(len(CONCEPTS) + len(TARGETS))]
            cells[i % 5] = "" if i % 3 == 0 else cells[i % 5]
            table.writerow([name, *cells, "<b>north" if i % 3 else "south"])
    with open(folder / "boxes.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image_id", "class_name", "x_min", "y_min", "x_max", "y_max"])
        table.writerows([name, CONCEPTS[i % K], 5, 4, 30 + i, 30] for i, name in enumerate(names))
        table.writerow([names[0], "Rib", 5, 4, 30, 30])
    tiny_model().save_pretrained(folder / "model")
    write_run(folder / "run", tiny_model(), with_reference=False)
    return folder


def flags(data: Path, out: Path, *more: str, model: str = "model") -> list[str]:
    return [
        str(data / model),
        "--csv",
        str(data / "labels.csv"),
        "--dir",
        str(data / "images"),
        "--out",
        str(out),
        "--workers",
        "1",
        "--bootstrap",
        "10",
        *more,
    ]


def everything(data: Path) -> list[str]:
    return ["--boxes_csv", str(data / "boxes.csv"), "--group_by", "Hospital", "--simulate", "both"]


@pytest.fixture(scope="module")
def results(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("results") / "below" / "out"
    assert main(flags(data, out, *everything(data))) == 0
    return out


def test_scores_are_those_of_the_models_own_output(data, results):
    record = json.loads((results / "evaluation.json").read_text())
    table = read_label_table(data / "labels.csv", vocabulary=Vocabulary(CONCEPTS, TARGETS))
    store = open_store(
        [data / f"images/{name}.png" for name in table.image_ids], size=72, cache_dir=None, workers=1
    )
    with torch.no_grad():
        output = tiny_model()(tiny_card().preprocessing.transform()(store.batch(range(NUM))))
    for kind, logits, labels, names, thresholds in (
        ("targets", output.logits, table.target_NT, TARGETS, (0.3, 0.7)),
        ("concepts", output.concept_logits, table.concept_NK, CONCEPTS, (0.4, 0.5, 0.6)),
    ):
        for i, name in enumerate(names):
            probability = logits.sigmoid().numpy()[:, i : i + 1]
            with np.errstate(all="ignore"):
                expected = multilabel_metrics(
                    probability, labels[:, i : i + 1], names=["x"], threshold=np.float32(thresholds[i])
                )
            row = record[kind]["labels"][name]
            assert row["auroc"]["value"] == pytest.approx(expected.auc, abs=1e-6)
            assert row["auprc"]["value"] == pytest.approx(expected.mean_ap, abs=1e-6)
            assert row["f1_at_threshold"]["value"] == pytest.approx(expected.f1_macro, abs=1e-6)
            assert row["threshold"] == pytest.approx(thresholds[i])
            assert row["n"] == int(np.sum(~np.isnan(labels[:, i]))) < NUM
            assert row["auroc"]["low"] <= row["auroc"]["value"] <= row["auroc"]["high"]


def test_everything_asked_for_is_there(results):
    record = json.loads((results / "evaluation.json").read_text())
    assert sorted(p.name for p in results.iterdir()) == sorted([*FILES, "edit_effects.json"])
    assert record["notices"] == [
        "The model was not calibrated on validation images: its numbers are scores, no probabilities.",
        NO_NOVELTY,
        NO_DOUBT_RULE,
        "Boxes of 'Rib', which is no concept, are not used: 1",
    ]
    assert record["data"]["images"] == NUM and record["model"] == "model"
    assert {name: group["images"] for name, group in record["groups"].items()} == {"<b>north": 12, "south": 6}
    pointing = record["localisation"]
    assert 0 < pointing["n"] == NUM - pointing["left_out"]
    kinds = ("rejections", "confirmations", "concepts", "boxes", "not here", "concepts and boxes")
    plays = {f"{kind}, {way}" for kind in kinds for way in ("medians", "zero")} - {"confirmations, zero"}
    assert set(record["simulation"]) == plays
    for subsets in record["simulation"].values():
        row = subsets["all"]
        assert row["right_after"] - row["right_before"] == row["fixed"] - row["broken"]
        assert subsets["doubtful"]["images"] <= row["images"] <= NUM
    assert record["prototypes"]["total"] == K * M


def test_the_summary_names_the_images_behind_its_numbers(results):
    text = "\n".join(summary(json.loads((results / "evaluation.json").read_text())))
    assert re.search(rf"Prototypes used: \d+/{K * M} \(on these {NUM} images\)", text)
    assert len(re.findall(r"all: \d+ decisions fixed, \d+ broken; doubtful", text)) == text.count(
        "Simulated doctor"
    )


def test_the_table_holds_the_numbers_of_the_json(results):
    record = json.loads((results / "evaluation.json").read_text())
    with open(results / "evaluation.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    by_key = {(row["part"], row["group"], row["label"], row["score"]): row for row in rows}
    assert len(by_key) == len(rows)
    auroc = record["groups"]["south"]["targets"]["labels"][TARGETS[0]]["auroc"]["value"]
    cell = by_key["targets", "south", TARGETS[0], "auroc"]["value"]
    assert cell == ("" if auroc is None else str(auroc))
    assert float(by_key["localisation", "", "micro", "cam_hit"]["value"]) == pytest.approx(
        record["localisation"]["micro"]["cam_hit"]["value"]
    )
    assert (
        int(by_key["simulation", "all", "boxes, zero", "fixed"]["value"])
        == record["simulation"]["boxes, zero"]["all"]["fixed"]
    )


def test_results_name_the_model_and_edit_effects_are_read_back_for_it_alone(data, results):
    record, sha256 = json.loads((results / "evaluation.json").read_text()), model_sha256(tiny_model())
    assert record["model_sha256"] == sha256 and record["csr_version"] == __version__
    assert f"model model ({sha256[:12]}), csr {__version__}, " in (results / "report.html").read_text()
    effects = read_edit_effects(results / "edit_effects.json", model_sha256=sha256)
    for effect in effects:
        row = record["simulation"][f"{effect.kind}, {effect.replacement.replace('median', 'medians')}"]["all"]
        assert (effect.fixed, effect.broken, effect.images) == (row["fixed"], row["broken"], row["edited"])
        assert effect.helps is row["helps"]
    assert len(effects) == len(record["simulation"])
    with pytest.raises(InputError, match="edit_effects.json: of another model"):
        read_edit_effects(results / "edit_effects.json", model_sha256="0")


def test_the_worst_errors_have_a_picture_and_the_command_that_explains_them(
    data, results, tmp_path, monkeypatch
):
    record = json.loads((results / "evaluation.json").read_text())
    table = read_label_table(data / "labels.csv", vocabulary=Vocabulary(CONCEPTS, TARGETS))
    page = html.unescape((results / "report.html").read_text())
    assert set(record["worst_errors"]) == set(TARGETS)
    for name, rows in record["worst_errors"].items():
        losses = [row["loss"] for row in rows]
        assert 0 < len(rows) <= 4 and losses == sorted(losses, reverse=True)
        for row in rows:
            label = table.target_NT[table.image_ids.index(row["image_id"]), TARGETS.index(name)]
            assert row["label"] == label and row["called"] != label
            p = row["probability"]
            assert row["loss"] == pytest.approx(-np.log(p if label else 1 - p))
            assert row["command"] in page and str(data) not in row["command"]
    assert page.count("data:image/jpeg;base64,") == sum(map(len, record["worst_errors"].values()))
    monkeypatch.chdir(data)
    words = ["model", "--csv", "labels.csv", "--dir", "images", "--workers", "1", "--bootstrap", "0"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    again = json.loads((tmp_path / "out" / "evaluation.json").read_text())["worst_errors"][TARGETS[0]][0]
    assert shlex.split(again["command"])[:4] == ["csr", "explain", "model", f"images/{again['image_id']}.png"]
    monkeypatch.chdir(data)
    argv = shlex.split(again["command"])[2:]
    argv[argv.index("--out") + 1] = str(tmp_path / "explained")
    assert csr.cli.explain.main(argv) == 0
    probability = {
        d["name"]: d["probability"]
        for d in json.loads((tmp_path / "explained" / "explanation.json").read_text())["diagnoses"]
    }
    assert probability[TARGETS[0]] == pytest.approx(again["probability"], abs=1e-5)
    assert main([*words, "--out", str(tmp_path / "none"), "--worst_errors", "0"]) == 0
    assert "data:image" not in (tmp_path / "none" / "report.html").read_text()


def test_predictions_are_written_when_asked_for_and_have_the_scores_of_the_json(data, tmp_path):
    main(flags(data, tmp_path / "out", "--save_predictions"))
    record = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted([*FILES, "test_predictions.csv"])
    read = read_predictions(tmp_path / "out" / "test_predictions.csv")
    assert len(read.image_ids) == NUM
    for kind in ("target", "concept"):
        scored = read.kinds[kind]
        for i, name in enumerate(scored.names):
            known = ~np.isnan(scored.label_NL[:, i])
            expected = roc_auc_score(scored.label_NL[known, i], scored.probability_NL[known, i])
            assert record[f"{kind}s"]["labels"][name]["auroc"]["value"] == pytest.approx(expected, abs=1e-6)


def test_predictions_of_an_earlier_evaluation_go(data, tmp_path, capsys):
    main(flags(data, tmp_path, "--save_predictions"))
    assert "evaluation.csv, test_predictions.csv" in capsys.readouterr().out
    (tmp_path / "test_predictions.csv").write_text("of another model")
    main(flags(data, tmp_path, "--overwrite"))
    assert sorted(p.name for p in tmp_path.iterdir()) == FILES


def test_predictions_beside_no_evaluation_are_left(data, tmp_path):
    (tmp_path / "test_predictions.csv").write_text("own")
    main(flags(data, tmp_path, "--overwrite"))
    assert (tmp_path / "test_predictions.csv").read_text() == "own"


def test_nothing_is_written_into_a_run_whose_predictions_are_its_own(data):
    before = sorted((data / "run").iterdir())
    with pytest.raises(InputError, match="is the folder of a run.* such as .*run/evaluation"):
        main(flags(data, data / "run", "--overwrite", "--save_predictions"))
    assert sorted((data / "run").iterdir()) == before


def test_the_report_is_one_file_that_shows_names_as_text(results):
    page = (results / "report.html").read_text()
    assert "http" not in page and "<script" not in page and "url(" not in page and "<b>north" not in page
    assert "&lt;b&gt;north" in page and "&lt;b&gt;Pleural" in page and "prefers-color-scheme: dark" in page
    pictures = re.findall(r"<svg.*?</svg>", page, flags=re.S)
    assert len(pictures) >= 8
    for picture in pictures:
        xml.etree.ElementTree.fromstring(picture)
    assert "nan" not in re.sub(r"<style>.*?</style>", "", page, flags=re.S).lower().replace("annotated", "")


def test_a_run_without_thresholds_is_measured_at_one_half_with_a_notice(data, tmp_path, capsys):
    assert main(flags(data, tmp_path / "out", "--simulate", "concept", model="run")) == 0
    record = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert "no concept and target thresholds from validation images: 0.5 is used" in record["notices"][0]
    assert record["notices"][0] in capsys.readouterr().out
    assert {row["threshold"] for row in record["targets"]["labels"].values()} == {0.5}
    assert (
        list(record["simulation"]) == ["rejections, zero", "concepts, zero"]
        and "zeros only" in record["notices"][4]
    )
    assert record["localisation"] is None and record["groups"] is None


def test_the_batch_size_changes_nothing_and_the_seed_moves_intervals_only(data, results, tmp_path):
    main(flags(data, tmp_path / "out", *everything(data), "--batch_size", "5", "--seed", "1"))
    one, other = (
        json.loads((folder / "evaluation.json").read_text()) for folder in (results, tmp_path / "out")
    )
    for kind in ("targets", "concepts"):
        for a, b in zip(one[kind]["labels"].values(), other[kind]["labels"].values(), strict=True):
            assert a["auroc"]["value"] == pytest.approx(b["auroc"]["value"])
            assert a["brier"]["low"] != b["brier"]["low"]
    assert (
        one["localisation"]["micro"]["cam_hit"]["value"] == other["localisation"]["micro"]["cam_hit"]["value"]
    )


def test_notices_name_the_thresholds_that_were_not_measured():
    card = dataclasses.replace(tiny_card(), task_loss="ce", reference=Reference())
    first, second, third, fourth, fifth = threshold_notices(card)
    assert "holds no statistics of its training images" in fourth
    assert "likeliest" in first and "no concept thresholds" in second and "no probabilities" in third
    assert threshold_notices(tiny_card()) == [third, fourth, fifth] and fifth == NO_DOUBT_RULE


def test_errors_before_and_after_calibration_are_those_of_a_loop(data, tmp_path):
    lines, model = (Calibration("platt", 0.5, -1.0), Calibration()), tiny_model()
    concepts = (Calibration("unweighted", 1.0, -2.0),) * 3
    reference = dataclasses.replace(
        model.card.reference, target_calibration_T=lines, concept_calibration_K=concepts
    )
    model.card = dataclasses.replace(model.card, reference=reference)
    model.save_pretrained(tmp_path / "calibrated")
    given = flags(data, tmp_path / "out", model=str(tmp_path / "calibrated"))
    assert main(given) == 0
    record = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    table = read_label_table(data / "labels.csv", vocabulary=Vocabulary(CONCEPTS, TARGETS))
    store = open_store(
        [data / f"images/{name}.png" for name in table.image_ids], size=72, cache_dir=None, workers=1
    )
    with torch.no_grad():
        logit = model(model.card.preprocessing.transform()(store.batch(range(NUM)))).logits.double()
    for t, name in enumerate(TARGETS):
        row, known = record["calibration"]["targets"][name], ~np.isnan(table.target_NT[:, t])
        label, one = table.target_NT[known, t], lines[t]
        for when, line in (("before", Calibration()), ("after", one)):
            p = (line.scale * logit[:, t] + line.offset).sigmoid().numpy()[known]
            assert row[when]["brier"] == pytest.approx(np.mean((p - label) ** 2), abs=1e-6)
            bins = [(p > b / 10) & (p <= (b + 1) / 10) for b in range(10)]
            ece = sum(abs(np.sum(p[some] - label[some])) for some in bins) / known.sum()
            assert row[when]["ece"] == pytest.approx(ece, abs=1e-6)
        assert row["method"] == one.method
    assert record["calibration"]["targets"][TARGETS[0]]["before"]["ece"] != pytest.approx(
        record["calibration"]["targets"][TARGETS[0]]["after"]["ece"]
    )
    notice = record["notices"][0]
    assert TARGETS[1] in notice and TARGETS[0] not in notice
    table_rows = list(csv.DictReader((tmp_path / "out" / "evaluation.csv").open()))
    found = [r for r in table_rows if r["score"] == "ece after calibration" and r["label"] == TARGETS[0]]
    assert float(found[0]["value"]) == record["calibration"]["targets"][TARGETS[0]]["after"]["ece"]


def test_prototypes_are_used_if_they_win_for_a_present_concept():
    winner = np.array([[0, 1], [2, 1], [0, 3], [1, 0]])
    concept = np.array([[1, np.nan], [0.5, 1], [1, 0], [0, 0]])
    used = count_used(winner, concept, kept_KM=np.ones((2, 4), dtype=bool), names=("a", "b"))
    assert used["used"] == 3 and used["total"] == 8
    assert used["labels"]["a"] == {"used": 2, "total": 4, "images": 3, "wins": [2, 0, 1, 0]}
    assert used["labels"]["b"] == {"used": 1, "total": 4, "images": 1, "wins": [0, 1, 0, 0]}


@pytest.mark.parametrize(
    "change, message",
    [
        (["--csv", "DATA/none.csv"], "none.csv': cannot be read"),
        (["--dir", "DATA/none"], "none"),
        (["--boxes_csv", "DATA/labels.csv"], "no column 'class_name'"),
        (["--group_by", "scanner"], "no column 'scanner'"),
        (["--simulate", "box"], "give --boxes_csv"),
        (["--simulate", "all"], "--simulate"),
        (["--bootstrap", "-1"], "--bootstrap"),
        (["--alpha", "nan"], "--alpha"),
        (["--checkpoint", "a.pth"], "folder of a run"),
        (["--out", "DATA"], "is not empty"),
        (["--out", "DATA/labels.csv/x"], "labels.csv is no folder"),
    ],
)
def test_bad_input_gives_one_line_and_nothing_is_written(data, tmp_path, capsys, change, message):
    before = sorted(p.name for p in data.rglob("*"))
    caches = set(Path(tempfile.gettempdir()).glob("csr-images-*"))
    arguments = flags(data, tmp_path / "out", *(word.replace("DATA", str(data)) for word in change))
    assert run_command(csr.cli.evaluate.main, arguments) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("csr: error: ") and message in lines[0]
    assert not (tmp_path / "out").exists() and sorted(p.name for p in data.rglob("*")) == before
    assert set(Path(tempfile.gettempdir()).glob("csr-images-*")) <= caches


def test_an_unreadable_image_is_named_with_its_line(data, tmp_path, capsys):
    folder = tmp_path / "images"
    folder.mkdir()
    for path in (data / "images").iterdir():
        (folder / path.name).write_bytes(b"junk" if path.stem == "image3" else path.read_bytes())
    assert run_command(csr.cli.evaluate.main, flags(data, tmp_path / "out", "--dir", str(folder))) == 2
    assert "image3" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_links_are_followed_into_named_folders_and_give_the_same_numbers(data, results, tmp_path, capsys):
    folder = tmp_path / "images"
    folder.mkdir()
    for path in (data / "images").iterdir():
        (folder / path.name).symlink_to(path)
    asked = flags(data, tmp_path / "out", "--dir", str(folder))
    assert run_command(csr.cli.evaluate.main, asked) == 2
    line = capsys.readouterr().err
    assert f"--links_into {data / 'images'}," in line and not (tmp_path / "out").exists()
    assert main([*asked, "--links_into", str(data / "images")]) == 0
    read = [
        json.loads((out / "evaluation.json").read_text())["targets"] for out in (results, tmp_path / "out")
    ]
    assert read[0] == read[1]


def test_overwrite_replaces_an_evaluation_and_nothing_else(data, tmp_path):
    (tmp_path / "notes.txt").write_text("own")
    (tmp_path / "report.html").write_text("old")
    main(flags(data, tmp_path, "--overwrite"))
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "evaluation.csv",
        "evaluation.json",
        "notes.txt",
        "report.html",
    ]
    assert (tmp_path / "notes.txt").read_text() == "own" and "old" != (tmp_path / "report.html").read_text()


@pytest.mark.dist
def test_two_ranks_see_what_one_sees(data, tmp_path):
    table = read_label_table(data / "labels.csv", vocabulary=Vocabulary(CONCEPTS, TARGETS))
    paths = [data / f"images/{name}.png" for name in table.image_ids]
    store = open_store(paths, size=72, cache_dir=tmp_path, workers=1)

    def body() -> dict[str, np.ndarray]:
        rows = predict_all(tiny_model(), LabelledImages(store, table), batch_size=4)
        return {name: value.numpy() for name, value in rows.items()}

    on_each = on_ranks(body)
    alone = body()
    for rows in on_each:
        for name in ("target", "concept", "winner"):
            np.testing.assert_allclose(rows[name], alone[name], atol=1e-6)


@pytest.mark.dist
def test_two_ranks_have_the_intervals_of_one():
    from csr.evaluation.bootstrap import Bootstrap, estimate

    def body() -> np.ndarray:
        measured = estimate(
            lambda weight_RN: weight_RN @ np.arange(20.0), num_images=20, bootstrap=Bootstrap(7, 3)
        )
        return np.array([measured.value, measured.low, measured.high])

    for rows in on_ranks(body):
        np.testing.assert_array_equal(rows, body())


@pytest.mark.dist
def test_the_command_under_torchrun_measures_what_one_process_measures(data, results, tmp_path):
    words = ["torchrun", "--standalone", "--nproc_per_node=2", "-m", "csr", "evaluate"]
    done = start(*words, *flags(data, tmp_path / "out", *everything(data)))
    assert done.returncode == 0, done.stderr[-2000:]
    alone, both = (json.loads((out / "evaluation.json").read_text()) for out in (results, tmp_path / "out"))
    for kind in ("targets", "concepts"):
        for name, row in alone[kind]["labels"].items():
            assert both[kind]["labels"][name]["auroc"]["value"] == pytest.approx(
                row["auroc"]["value"], abs=1e-6
            )


def test_images_unlike_the_training_images_are_counted(data, tmp_path, capsys):
    with_novelty(-1e9).save_pretrained(tmp_path / "model")
    main([str(tmp_path / "model"), *flags(data, tmp_path / "out", "--overwrite")[1:]])
    record = json.loads((tmp_path / "out" / "evaluation.json").read_text())["novelty"]
    assert record["value"] == 1.0 and record["hits"] == record["n"] == NUM
    assert f"Unlike the training images: {NUM} of {NUM} images, 1.000" in capsys.readouterr().out
    assert "takes for unlike its training images" in (tmp_path / "out" / "report.html").read_text()
