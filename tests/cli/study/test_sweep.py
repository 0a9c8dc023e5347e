"""`csr sweep` with real runs: trained once, skipped afterwards, compared; as a SLURM array."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from train_command import flags, start

from csr.cli.exit_codes import run_command
from csr.cli.study.sweep import main
from csr.cluster.grid import read_grid
from csr.data.labels.folds import fold_of_images
from csr.data.labels.table import read_label_table
from csr.evaluation.comparison.predictions import read_predictions

GRID = {"folds": [2], "fold": [0, 1], "lr": [1e-3]}


@pytest.fixture(scope="module")
def grid_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("sweep") / "grid.json"
    path.write_text(json.dumps(GRID))
    return path


def train_flags(phantom_folder: Path, out: Path, *more: str) -> list[str]:
    short = {"epochs_stage1": "1", "epochs_stage2": "1", "epochs_stage3": "1"}
    return flags(phantom_folder, out, *more, exp_name="cv", lr=None, **short)


@pytest.mark.slow
@pytest.mark.dist
def test_folds_are_trained_once_and_compared(grid_file, phantom_folder, tmp_path):
    out = tmp_path / "results"
    words = ["-m", "csr", "sweep", str(grid_file), "--", *train_flags(phantom_folder, out)]
    done = start(Path(sys.executable).name, *words)
    assert done.returncode == 0, done.stderr
    names = ["cv-folds2-fold0-lr0.001", "cv-folds2-fold1-lr0.001"]
    assert sorted(p.name for p in out.iterdir() if p.is_dir() and p.name != ".cache") == [
        *("cv-comparison", *names)
    ]
    table = read_label_table(phantom_folder / "labels_train.csv")
    fold_N = fold_of_images(table, folds=2, seed=0)
    for fold, name in enumerate(names):
        images = json.loads((out / name / "config.json").read_text())["data"]["images"]
        assert images["val"] == int(np.sum(fold_N == fold))
        assert images["train"] == int(np.sum(fold_N != fold))
    compared = json.loads((out / "cv-comparison" / "comparison.json").read_text())
    assert compared["by"] == ["fold"] and compared["groups"] == [{"name": "all runs", "runs": names}]
    summaries = [json.loads((out / name / "results.json").read_text())["summary"] for name in names]
    macro = compared["kinds"]["targets"]["groups"][0]["macro"]["auroc"]
    assert macro["value"] == pytest.approx(np.mean([s["target_auc"] for s in summaries]), abs=1e-6)
    assert macro["over"] == "runs" and all(run["memory_mib"] > 50 for run in compared["runs"])
    test_ids = read_label_table(phantom_folder / "labels_test.csv").image_ids
    assert read_predictions(out / names[0] / "test_predictions.csv").image_ids == tuple(test_ids)

    before = {name: (out / name / "results.json").stat().st_mtime_ns for name in names}
    (out / "cv-comparison" / "comparison.json").write_text("{}")
    again = start(Path(sys.executable).name, *words)
    assert again.returncode == 0, again.stderr
    assert again.stdout.startswith("Sweep: 2 runs, 2 of them done")
    assert {name: (out / name / "results.json").stat().st_mtime_ns for name in names} == before
    assert json.loads((out / "cv-comparison" / "comparison.json").read_text()) == compared


def test_a_sweep_becomes_a_slurm_array_of_what_is_not_done(grid_file, phantom_folder, tmp_path, capsys):
    common = train_flags(phantom_folder, tmp_path / "out")
    runs, _ = read_grid(grid_file, common)
    runs[0].config.folder.mkdir(parents=True)
    (runs[0].config.folder / "config.json").write_text(json.dumps({"options": runs[0].config.to_dict()}))
    (runs[0].config.folder / "results.json").write_text("{}")
    words = ["--slurm", "--time", "1:00:00", "--gpus_per_node", "0", str(grid_file), "--", *common]
    assert main(words) == 0
    printed = capsys.readouterr()
    assert "#SBATCH --array=1-1" in printed.out and "#SBATCH --time=1:00:00" in printed.out
    assert "the same command without --slurm compares" in printed.err
    lines = next((tmp_path / "out").glob("cv.sbatch.*.experiments")).read_text().splitlines()
    assert lines == ["--folds=2 --fold=1 --lr=0.001 --exp_name cv-folds2-fold1-lr0.001"]


def test_another_array_leaves_the_lines_of_a_waiting_one(phantom_folder, tmp_path, capsys):
    common = train_flags(phantom_folder, tmp_path / "out")
    for name, values in (("seed", [0, 1]), ("lr", [1e-3])):
        (tmp_path / f"{name}.json").write_text(json.dumps({name: values}))
        assert main(["--slurm", "--time", "1:00:00", str(tmp_path / f"{name}.json"), "--", *common]) == 0
    texts = [file.read_text() for file in (tmp_path / "out").glob("*.sbatch.*.experiments")]
    assert sorted(len(text.splitlines()) for text in texts) == [1, 2]
    job = next((tmp_path / "out").glob("*.sbatch")).read_text()
    assert sum(file.name in job for file in (tmp_path / "out").glob("*.experiments")) == 1


@pytest.mark.parametrize(
    "more, message",
    [
        (("--ranks", "4"), "--ranks is of this machine: with --slurm give --nodes and --ranks_per_node"),
        (("--gpus_per_nod", "4"), "--gpus_per_nod 4: did you mean --gpus_per_node?"),
        (("--experiments", "list.txt"), "unrecognized arguments: --experiments"),
    ],
)
def test_flags_that_a_slurm_sweep_cannot_use_are_refused(more, message, grid_file, tmp_path, capsys):
    words = [str(grid_file), "--slurm", *more, "--", "--output_dir", str(tmp_path / "out")]
    assert run_command(main, words) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1 and not (tmp_path / "out").exists()


def test_the_list_names_every_run_and_how_far_it_is(grid_file, phantom_folder, tmp_path, capsys):
    common = train_flags(phantom_folder, tmp_path / "out")
    assert main([str(grid_file), "--list", "--", *common]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Sweep: 2 runs, 0 of them done"
    assert [line.split()[-1].rsplit("/", 1)[-1] for line in lines[1:]] == [
        *("cv-folds2-fold0-lr0.001", "cv-folds2-fold1-lr0.001")
    ]
    assert all(line.startswith("to do ") for line in lines[1:]) and not (tmp_path / "out").exists()


def test_flags_of_submit_need_slurm_and_other_folders_are_left_alone(
    grid_file, phantom_folder, tmp_path, capsys
):
    common = train_flags(phantom_folder, tmp_path / "out")
    assert run_command(main, [str(grid_file), "--time", "1:00:00", "--", *common]) == 2
    assert "unrecognized arguments: --time 1:00:00" in capsys.readouterr().err
    (tmp_path / "out" / "cv-comparison").mkdir(parents=True)
    (tmp_path / "out" / "cv-comparison" / "thesis.txt").write_text("mine")
    assert run_command(main, [str(grid_file), "--", *common]) == 2
    assert "holds other files" in capsys.readouterr().err
