"""Numbers of a comparison against scikit-learn and slow loops; groups; files that show names as text."""

from __future__ import annotations

import csv
import json
import re
import xml.etree.ElementTree
from pathlib import Path

import numpy as np
import pytest
from compared_runs import CONCEPTS, NUM, TARGETS, predictions, reordered, truth, write_finished_run
from scipy import stats
from sklearn.metrics import f1_score, roc_auc_score

from csr.cli.exit_codes import run_command
from csr.cli.study.compare import main
from csr.evaluation.bootstrap import Bootstrap, drawn_images
from csr.evaluation.comparison.compare import compare
from csr.evaluation.comparison.groups import differences, group_runs
from csr.evaluation.comparison.run_record import read_runs
from csr.runtime.errors import InputError

SIGNALS = {"weak": 0.1, "strong": 0.25}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two settings of three seeds each; every run has its images in an order of its own."""
    folder = tmp_path_factory.mktemp("runs")
    runs = []
    for name, signal in SIGNALS.items():
        for seed in range(3):
            order = np.random.default_rng(seed).permutation(NUM) if seed else np.arange(NUM)
            predicted = reordered(predictions(seed, signal=signal), order)
            path = folder / f"{name}-{seed}"
            runs.append(write_finished_run(path, predicted, lr=signal, seed=seed, seconds=seed + 1.0))
    return runs


def auroc(seed: int, signal: float, name: str, kind: str = "target", images=slice(None)) -> float:
    """scikit-learn's AUROC of a label on some images, NaN of one class."""
    place = (TARGETS if kind == "target" else CONCEPTS).index(name)
    label = truth()[kind][images, place]
    known = ~np.isnan(label)
    if len(set(label[known])) < 2:
        return np.nan
    return roc_auc_score(
        label[known], predictions(seed, signal=signal).kinds[kind].probability_NL[images, place][known]
    )


def macro(seed: int, signal: float, images=slice(None)) -> float:
    return np.nanmean([auroc(seed, signal, name, images=images) for name in TARGETS])


@pytest.fixture(scope="module")
def single(folders) -> dict:
    """Each run alone against the first."""
    return compare(read_runs(folders), by=(), reference=0, bootstrap=Bootstrap(60, 7))


@pytest.fixture(scope="module")
def grouped(folders) -> dict:
    return compare(read_runs(folders), by=("seed",), reference=0, bootstrap=Bootstrap(60, 7))


def test_scores_of_single_runs_are_scikit_learns_whatever_the_order_of_images(single):
    for place, (name, signal) in enumerate((n, s) for n, s in SIGNALS.items() for _ in range(3)):
        seed = place % 3
        row = single["kinds"]["targets"]["groups"][place]
        for label in TARGETS:
            assert row["labels"][label]["auroc"]["value"] == pytest.approx(auroc(seed, signal, label))
        for label in CONCEPTS:
            found = single["kinds"]["concepts"]["groups"][place]["labels"][label]["auroc"]["value"]
            assert found == pytest.approx(auroc(seed, signal, label, "concept"))
        assert row["macro"]["auroc"]["value"] == pytest.approx(macro(seed, signal))
        assert single["runs"][place]["target_auroc"] == row["macro"]["auroc"]["value"]


def test_decisions_use_the_thresholds_of_the_validation_images(single):
    probability, label = predictions(0, signal=0.1).kinds["target"].probability_NL, truth()["target"]
    for place, threshold in enumerate((0.45, 0.5)):  # the second has none and takes one half
        known = ~np.isnan(label[:, place])
        expected = f1_score(label[known, place], probability[known, place] >= np.float32(threshold))
        row = single["kinds"]["targets"]["groups"][0]["labels"][TARGETS[place]]
        assert row["f1_at_threshold"]["value"] == pytest.approx(expected)


def test_where_exactly_one_target_holds_the_likeliest_is_called(tmp_path):
    write_finished_run(tmp_path / "ce", predictions(0), ce=True)
    row = compare(read_runs([tmp_path / "ce"]), by=(), reference=0, bootstrap=Bootstrap(0))
    probability, label = predictions(0).kinds["target"].probability_NL, truth()["target"]
    known = ~np.isnan(label[:, 1])
    expected = f1_score(label[known, 1], (probability.argmax(axis=1) == 1)[known])
    ties = (probability[:, 0] == probability[:, 1]).any()
    assert (
        ties
        or row["kinds"]["targets"]["groups"][0]["labels"][TARGETS[1]]["f1_at_threshold"]["value"] == expected
    )
    assert row["pairs"] == []


def test_intervals_of_single_runs_and_paired_differences_are_those_of_a_loop(single):
    draws = [drawn_images(NUM, r, seed=7) for r in range(60)]
    one = np.array([macro(0, 0.1, images) for images in draws])
    other = np.array([macro(1, 0.25, images) for images in draws])
    row = single["kinds"]["targets"]["groups"][0]["macro"]["auroc"]
    assert row["over"] == "images" and row["sd"] is None
    assert (row["low"], row["high"]) == pytest.approx(tuple(np.quantile(one, [0.025, 0.975])))
    (pair,) = (
        p
        for p in single["pairs"]
        if (p["kind"], p["second"], p["label"], p["score"]) == ("targets", "strong-1", "macro", "auroc")
    )
    assert pair["first"] == "weak-0"
    assert pair["difference"] == pytest.approx(macro(1, 0.25) - macro(0, 0.1))
    assert (pair["low"], pair["high"]) == pytest.approx(tuple(np.quantile(other - one, [0.025, 0.975])))
    sides = min(np.sum(other - one <= 0), np.sum(other - one >= 0))
    assert pair["p"] == pytest.approx(min(1, 2 * (sides + 1) / 61))
    family = [
        p for p in single["pairs"] if (p["kind"], p["label"], p["score"]) == ("targets", "macro", "auroc")
    ]
    assert len(family) == 5
    assert min(p["p_holm"] for p in family) == pytest.approx(min(1, 5 * min(p["p"] for p in family)))
    labels = [p for p in single["pairs"] if p["kind"] == "concepts" and p["label"] in CONCEPTS]
    assert len(labels) == 15 and all(p["p_delong_holm"] >= p["p_delong"] for p in labels)
    assert min(p["p_delong_holm"] for p in labels) == pytest.approx(15 * min(p["p_delong"] for p in labels))


def test_groups_have_the_mean_and_students_interval_over_their_runs(grouped):
    assert [group["name"] for group in grouped["groups"]] == ["lr 0.1", "lr 0.25"]
    for place, signal in enumerate(SIGNALS.values()):
        values = [macro(seed, signal) for seed in range(3)]
        row = grouped["kinds"]["targets"]["groups"][place]["macro"]["auroc"]
        low, high = stats.t.interval(0.95, 2, loc=np.mean(values), scale=stats.sem(values))
        assert (row["value"], row["sd"]) == pytest.approx((np.mean(values), np.std(values, ddof=1)))
        assert (row["low"], row["high"], row["over"]) == (pytest.approx(low), pytest.approx(high), "runs")


def test_groups_are_tested_by_their_means_on_resamples_and_over_their_runs(grouped):
    (pair,) = (
        p for p in grouped["pairs"] if (p["kind"], p["label"], p["score"]) == ("targets", "macro", "auroc")
    )
    draws = [drawn_images(NUM, r, seed=7) for r in range(60)]
    difference = [
        np.mean([macro(s, 0.25, images) for s in range(3)])
        - np.mean([macro(s, 0.1, images) for s in range(3)])
        for images in draws
    ]
    assert (pair["low"], pair["high"]) == pytest.approx(tuple(np.quantile(difference, [0.025, 0.975])))
    expected = stats.ttest_rel([macro(s, 0.25) for s in range(3)], [macro(s, 0.1) for s in range(3)]).pvalue
    assert pair["runs_test"] == "paired t" and pair["p_runs"] == pytest.approx(expected)
    assert pair["p_delong"] is None  # of single runs only


def test_options_that_differ_and_costs_are_those_of_the_runs(single):
    assert single["differences"] == {"lr": ["0.1"] * 3 + ["0.25"] * 3, "seed": ["0", "1", "2"] * 2}
    third = single["runs"][2]
    assert third["seconds"] == pytest.approx(3.0 + 3.0 + 0.75)
    assert third["seconds_by_stage"] == {"concept": 6.0, "task": 0.75}
    assert (third["memory_mib"], third["ranks"]) == (300.0, 2)


def test_a_run_without_concepts_is_compared_on_targets_alone(folders, tmp_path):
    black = write_finished_run(tmp_path / "black", predictions(9, kinds=("target",)))
    results = compare(read_runs([folders[0], black]), by=(), reference=0, bootstrap=Bootstrap(10))
    assert results["kinds"]["concepts"]["groups"][1] is None
    assert results["kinds"]["concepts"]["groups"][0]["labels"].keys() == set(CONCEPTS)
    assert {pair["kind"] for pair in results["pairs"]} == {"targets"}


def test_groups_must_differ_in_what_they_are_grouped_by(folders, tmp_path):
    runs = read_runs(folders)
    assert list(differences(runs)) == ["lr", "seed"]
    assert [group.runs for group in group_runs(runs[::-1], ["seed"])] == [(2, 1, 0), (5, 4, 3)]
    assert [group.name for group in group_runs(runs[:3], ["seed"])] == ["all runs"]
    again = write_finished_run(tmp_path / "again", predictions(5), lr=0.1, seed=2)
    with pytest.raises(InputError, match="weak-2 and again: have the same options and seed 2: leave one out"):
        group_runs(read_runs([*folders, again]), ["seed"])
    kept = {"picture_every": 7, "track": "mlflow", "deterministic": True, "keep_checkpoints": 1, "workers": 3}
    more = write_finished_run(tmp_path / "watched", predictions(40), lr=0.1, seed=3, **kept)
    assert [group.runs for group in group_runs(read_runs([*folders[:3], more]), ["seed"])] == [(0, 1, 2, 3)]
    with pytest.raises(InputError, match="--by sed: no option .* did you mean seed"):
        group_runs(runs, ["sed"])


@pytest.fixture(scope="module")
def out(folders, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("out") / "comparison"
    words = [*map(str, folders), "--by", "seed,fold", "--out", str(folder), "--bootstrap", "20"]
    assert main(words) == 0
    return folder


def test_the_page_is_one_file_that_shows_names_as_text(out):
    page = (out / "comparison.html").read_text()
    assert "http" not in page and "<script" not in page and "<b>No" not in page
    assert "&lt;b&gt;No | finding" in page and "prefers-color-scheme: dark" in page
    pictures = re.findall(r"<svg.*?</svg>", page, flags=re.S)
    assert len(pictures) == 1 + 2 + 1 + 3 + 1 + 2  # macro and labels of either kind, tests, calibration
    for picture in pictures:
        xml.etree.ElementTree.fromstring(picture)
    assert "nan" not in re.sub(r"<style>.*?</style>", "", page, flags=re.S).lower().replace("annotated", "")


def test_tables_for_papers_escape_names_and_hold_the_numbers(out):
    record = json.loads((out / "comparison.json").read_text())
    score = record["kinds"]["targets"]["groups"][1]["macro"]["auroc"]
    cell = f"{score['value']:.3f} sd {score['sd']:.3f} ({score['low']:.3f} to {score['high']:.3f})"
    text, tex = (out / "comparison.md").read_text(), (out / "comparison.tex").read_text()
    assert f"| lr 0.25 | 3 | {cell} |" in text and f"lr 0.25 & 3 & {cell} &" in tex
    assert r"| &lt;b&gt;No \| finding |" in text and r"| Nodule\_{1} |" in text
    assert r"Nodule\_\{1\} &" in tex and r"Rib \& spine &" in tex
    tabulars = re.findall(r"\\begin\{tabular\}\{(l?r*)\}(.*?)\\end\{tabular\}", tex, flags=re.S)
    assert len(tabulars) == 7  # macro and labels of either kind, tests, runs, options
    for columns, body in tabulars:
        widths = {len(re.findall(r"(?<!\\)&", row)) + 1 for row in body.splitlines() if row.endswith(r"\\")}
        assert widths == {len(columns)}


def test_the_csv_has_one_number_a_line(out):
    record = json.loads((out / "comparison.json").read_text())
    with open(out / "comparison.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    scores = {(r["kind"], r["group"], r["label"], r["score"]): r for r in rows if r["part"] == "score"}
    assert len(scores) == 2 * (4 + 5) * 7
    row = scores["concepts", "lr 0.1", "Cavity", "brier"]
    expected = record["kinds"]["concepts"]["groups"][0]["labels"]["Cavity"]["brier"]
    assert float(row["value"]) == expected["value"] and row["interval_over"] == "runs"
    tests = [r for r in rows if r["part"] == "test"]
    assert len(tests) == len(record["pairs"]) and tests[0]["reference"] == "lr 0.1"
    assert float(tests[0]["value"]) == record["pairs"][0]["difference"]
    costs = {(r["group"], r["score"]): r["value"] for r in rows if r["part"] == "cost"}
    assert costs["strong-1", "seconds"] == "4.75"


def test_runs_of_other_test_images_labels_or_without_predictions_are_named(folders, tmp_path, capsys):
    other = predictions(0)
    fewer = reordered(other, np.arange(NUM - 1))
    relabelled = predictions(0)
    relabelled.kinds["concept"].label_NL[5, 1] = 0.25
    for name, predicted in (("fewer", fewer), ("relabelled", relabelled), ("early", None), ("early2", None)):
        write_finished_run(tmp_path / name, predicted)
    unfinished = write_finished_run(tmp_path / "unfinished", other)
    (unfinished / "results.json").unlink()
    broken = write_finished_run(tmp_path / "broken", other)
    (broken / "metrics.jsonl").write_text('{"stage": "concept", "seconds": 1}\n{"stage"\n')
    first = str(folders[0])
    cases = [
        (
            ["fewer"],
            f"{folders[0]} and {tmp_path}/fewer: were tested on different images (80 and 79; 'image79'",
        ),
        (
            ["relabelled"],
            f"{tmp_path}/relabelled: were tested against different labels (1, as 'Nodule_{{1}}' of",
        ),
        (["early", "early2"], f"{tmp_path}/early, {tmp_path}/early2: no test_predictions.csv"),
        (["unfinished"], f"{tmp_path}/unfinished: has no results.json yet"),
        (["broken"], "broken/metrics.jsonl, line 2: is no record of an epoch"),
        (["nothing"], "nothing: no such folder"),
        (["early/.."], "no config.json in it"),
    ]
    for names, message in cases:
        words = [first, *(str(tmp_path / name) for name in names), "--out", str(tmp_path / "out")]
        assert run_command(main, words) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line and not (tmp_path / "out").exists()
    assert run_command(main, [first, first, "--out", str(tmp_path / "out")]) == 2
    assert "is there twice" in capsys.readouterr().err
    assert run_command(main, [first, "--reference", str(folders[1]), "--out", str(tmp_path / "out")]) == 2
    assert "--reference" in capsys.readouterr().err
