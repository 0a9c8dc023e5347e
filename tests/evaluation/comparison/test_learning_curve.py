"""Learning curves: groups that differ in --num_images, by the number of images that they were trained on."""

from __future__ import annotations

import json
import xml.etree.ElementTree
from pathlib import Path

import numpy as np
import pytest
from compared_runs import NUM, predictions, write_finished_run
from scipy import stats

from csr.cli.study.compare import main
from csr.evaluation.bootstrap import Bootstrap
from csr.evaluation.comparison.compare import compare
from csr.evaluation.comparison.groups import differences, group_runs
from csr.evaluation.comparison.run_record import read_runs
from csr.report.charts import Mark
from csr.report.curve_plot import curve_plot

SIZES = {20: 0.1, 40: 0.2, 0: 0.4}  # --num_images -> how well such runs know the truth; 0 trains on 90


def run(folder: Path, number: int, seed: int, **options: object) -> Path:
    path = folder / f"n{number}-{options.get('baseline', 'csr')}-seed{seed}"
    predicted = predictions(seed, signal=SIZES[number])
    write_finished_run(path, predicted, num_images=number, seed=seed, **options)
    config = json.loads((path / "config.json").read_text())
    used = number or 90
    images = {"train": used, "val": 10, "test": NUM} | ({"unused": 90 - used} if number else {})
    config["data"]["images"] = images
    (path / "config.json").write_text(json.dumps(config))
    return path


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("curve")
    of_csr = [run(folder, number, seed) for number in SIZES for seed in (0, 1, 2)]
    joint = [run(folder, number, seed, baseline="cbm-joint") for number in (20, 0) for seed in (0, 1)]
    return [*of_csr, *joint]


@pytest.fixture(scope="module")
def results(folders) -> dict:
    return compare(read_runs(folders), by=("seed",), reference=0, bootstrap=Bootstrap(10))


def test_a_curve_joins_the_groups_that_differ_in_the_number_alone(results):
    curves = {curve["name"]: curve["points"] for curve in results["learning_curves"]["targets"]}
    assert list(curves) == ["baseline none", "baseline cbm-joint"]
    assert [point["images"] for point in curves["baseline none"]] == [20, 40, 90]
    assert [point["images"] for point in curves["baseline cbm-joint"]] == [20, 90]
    names = [group["name"] for group in results["groups"]]
    for point in (p for points in curves.values() for p in points):
        place = names.index(point["group"])
        score = results["kinds"]["targets"]["groups"][place]["macro"]["auroc"]
        assert {**score, "images": point["images"], "group": point["group"]} == point
    aurocs = [run["target_auroc"] for run in results["runs"][:3]]
    low, high = stats.t.interval(0.95, 2, loc=np.mean(aurocs), scale=stats.sem(aurocs))
    first = curves["baseline none"][0]
    assert (first["value"], first["low"], first["high"]) == pytest.approx((np.mean(aurocs), low, high))
    assert first["over"] == "runs"


def test_without_such_a_difference_there_is_no_curve(folders, results):
    same = compare(read_runs(folders[:3]), by=("seed",), reference=0, bootstrap=Bootstrap(0))
    assert same["learning_curves"] is None
    alone = compare(read_runs(folders[::3][:3]), by=(), reference=0, bootstrap=Bootstrap(30))
    (curve,) = alone["learning_curves"]["targets"]
    assert curve["name"] == "all runs" and [p["over"] for p in curve["points"]] == ["images"] * 3


def test_images_that_were_not_used_are_no_other_data(folders):
    assert "training_images" not in differences(read_runs(folders))


def test_options_that_do_nothing_with_a_baseline_separate_no_groups(folders, tmp_path):
    black = run(tmp_path, 0, 0, baseline="blackbox", num_prototypes=7, epochs_stage3=99)
    other = run(tmp_path, 0, 1, baseline="blackbox")
    runs = read_runs([folders[6], folders[7], black, other])
    assert list(differences(runs)) == ["baseline", "seed"]
    assert [group.name for group in group_runs(runs, ["seed"])] == ["baseline none", "baseline blackbox"]
    wider = run(tmp_path / "wider", 0, 2, num_prototypes=9)
    runs = read_runs([folders[6], wider, black])
    assert differences(runs)["num_prototypes"] == [5, 9, "-"]
    names = [group.name for group in group_runs(runs, ["seed"])]
    assert names == [
        "num_prototypes 5, baseline none",
        "num_prototypes 9, baseline none",
        "baseline blackbox",
    ]


def test_page_and_tables_have_the_curve(folders, tmp_path, capsys):
    out = tmp_path / "out"
    assert main([*map(str, folders), "--by", "seed", "--bootstrap", "10", "--out", str(out)]) == 0
    page = (out / "comparison.html").read_text()
    assert "Learning curve" in page and "training images (logarithmic)" in page
    text = (out / "comparison.md").read_text()
    rows = text.split("## Learning curve: macro AUROC of diagnoses")[1].split("##")[0].strip().splitlines()
    assert rows[0] == "| training images | baseline none | baseline cbm-joint |"
    assert [row.split("|")[1].strip() for row in rows[2:]] == ["20", "40", "90"]
    assert rows[3].endswith("| - |")
    assert "Learning curve" in (out / "comparison.tex").read_text()


def test_points_lie_where_their_numbers_say():
    points = [(10, Mark(0.5)), (100, Mark(0.75, 0.5, 1.0)), (1000, Mark(None))]
    svg = curve_plot([("a <b>", points), ("c", [(1000, Mark(1.0))])], title="t", below="n", low=0.5, high=1)
    root = xml.etree.ElementTree.fromstring(svg)
    circles = [c for c in root.iter() if c.tag.endswith("circle")]
    xs, ys = ([float(c.get(key)) for c in circles] for key in ("cx", "cy"))
    assert len(circles) == 2 and ys == [270.0, 140.0]  # bottom, middle of 10 to 270
    (diamond,) = [p for p in root.iter() if p.tag.endswith("path")]
    end_x = float(diamond.get("d")[1:].split()[0]) + 5.5
    # a decade is as far as the next one; curves stand 3 pixels apart
    assert xs[1] - xs[0] == pytest.approx((end_x - 3) - xs[1], abs=0.2)
    (bar,) = [line for line in root.iter() if line.get("class") == "whisker"]
    assert (float(bar.get("y1")), float(bar.get("y2"))) == (10.0, 270.0)
    titles = [t.text for t in root.iter() if t.tag.endswith("title")]
    assert titles[1] == "a <b>:  0.750 (0.500 to 1.000)"
