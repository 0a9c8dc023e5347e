"""The runs of a sweep: every combination once, under a name of its own, and what is done of them."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path

import pytest
from sweep_grids import grid

from csr.cluster.grid import SweepRun, read_grid
from csr.config.flags import parse_train_flags
from csr.runtime.errors import InputError


def test_every_combination_is_a_run_and_the_last_option_changes_fastest(tmp_path):
    content = {
        "seed": [0, 1],
        "lr": [1e-4, 3e-4],
        "no_restart": [False, True],
        "target_cols": [["A", "B"], ["C"]],
        "model_name": ["a/b"],
    }
    runs, names = grid(tmp_path, content, "--exp_name", "e", "--epochs_stage1", "3")
    assert names == tuple(content) and len(runs) == len({run.config.folder for run in runs}) == 16
    expected = list(itertools.product(*content.values()))
    for run, (seed, lr, no_restart, targets, model) in zip(runs, expected):
        config = run.config
        assert (config.engine.seed, config.optim.lr, config.method.no_restart) == (seed, lr, no_restart)
        assert (config.data.target_cols, config.model.model_name) == (tuple(targets), model)
        assert config.optim.epochs_stage1 == 3
        words = ["--output_dir", str(tmp_path / "out"), "--epochs_stage1", "3", *run.words]
        assert parse_train_flags(words) == config
    assert runs[0].name == "e-seed0-lr0.0001-no_restartoff-target_colsA_B-model_namea_b"


def test_null_stands_for_an_option_that_is_not_given(tmp_path):
    runs, _ = grid(tmp_path, {"baseline": [None, "cbm"]})
    assert [run.config.model.baseline for run in runs] == [None, "cbm"]
    assert [run.name for run in runs] == ["csr_exp-baselinenone", "csr_exp-baselinecbm"]
    with pytest.raises(InputError, match="'None' is no value of --seed"):
        grid(tmp_path, {"seed": [None]})


@pytest.mark.parametrize(
    "content, flags, message",
    [
        ("{", (), "grid.json: is not JSON"),
        ("[]", (), "holds no options"),
        ("{}", (), "holds no options"),
        ('{"seed": [0], "seed": [1]}', (), "'seed' is there twice"),
        ({"sed": [0]}, (), "'sed' is no option of csr train: did you mean seed"),
        ({"exp_name": ["a"]}, (), "'exp_name' is not for a sweep"),
        ({"seed": 0}, (), "'seed': give a list"),
        ({"seed": []}, (), "'seed': give a list"),
        ({"seed": ["x"]}, (), "'x' is no value of --seed"),
        ({"seed": [True]}, (), "'True' is no value of --seed"),
        ({"lr": [0.1, -1.0]}, (), "the run with lr -1.0: --lr -1.0: give a number above 0"),
        ({"seed": [0, 0]}, (), "two runs would write .*csr_exp-seed0"),
        ({"seed": [0]}, ("--seed", "1"), "omit --seed there"),
        ({"seed": [0]}, ("--overwrite",), "omit --overwrite"),
        ({"fold": [0]}, ("--folds", "5"), '"folds": \\[5\\]'),
        ({"folds": [3], "fold": [0, 3]}, (), "the run with folds 3, fold 3: --fold 3 with --folds 3"),
        (
            {"seed": list(range(200)), "epochs_stage1": list(range(1, 60))},
            (),
            "11800 runs are more than 10000",
        ),
    ],
)
def test_what_cannot_be_a_sweep_is_refused_in_one_line(tmp_path, content, flags, message):
    with pytest.raises(InputError, match=message):
        grid(tmp_path, content, *flags)
    with pytest.raises(InputError, match="none.json: cannot be read"):
        read_grid(tmp_path / "none.json", [])


def test_a_run_is_done_where_results_of_the_same_options_are(tmp_path):
    runs, _ = grid(tmp_path, {"seed": [0, 1]})
    first = runs[0].config
    assert [run.state() for run in runs] == ["to do", "to do"]
    first.folder.mkdir(parents=True)
    (first.folder / "config.json").write_text(json.dumps({"options": first.to_dict()}))
    assert runs[0].state() == "unfinished"
    (first.folder / "results.json").write_text("{}")
    assert [run.state() for run in runs] == ["done", "to do"]
    again, _ = grid(tmp_path, {"seed": [0, 1]}, "--log_every", "3", "--workers", "2")  # move no weight
    assert again[0].state() == "done"
    for flag, value in (("--lr", "0.5"), ("--batch_size", "8"), ("--train_csv", "other.csv")):
        changed, _ = grid(tmp_path, {"seed": [0, 1]}, flag, value)
        with pytest.raises(InputError, match=f"holds results of other options: {flag} was .*, now {value}"):
            changed[0].state()
    measured, _ = grid(tmp_path, {"seed": [0]}, "--batch_size", "auto")
    assert measured[0].state() == "done"
    (first.folder / "config.json").unlink()
    with pytest.raises(InputError, match="holds results without a config.json"):
        runs[0].state()


def finished(run: SweepRun, **changed: object) -> Path:
    """Write what a finished run leaves, some of its options changed; return its folder."""
    folder = run.config.folder
    folder.mkdir(parents=True, exist_ok=True)
    options = run.config.to_dict()
    for group in options.values():
        group.update({name: value for name, value in changed.items() if name in group})
    (folder / "config.json").write_text(json.dumps({"options": options}))
    (folder / "results.json").write_text("{}")
    return folder


@pytest.mark.parametrize(
    "flags",
    [
        ("--track", "mlflow"),
        ("--picture_every", "2"),
        ("--deterministic",),
        ("--keep_checkpoints", "1", "--timeout", "3"),
    ],
    ids=lambda flags: flags[0],
)
def test_options_that_move_no_weight_leave_a_run_done(tmp_path, flags):
    finished(grid(tmp_path, {"seed": [0]})[0][0])
    assert grid(tmp_path, {"seed": [0]}, *flags)[0][0].state() == "done"


def test_an_image_size_of_the_weights_is_compared_in_pixels(tmp_path):
    network = ("--backbone_type", "timm", "--model_name", "test_vit")  # timm: images of 160 px
    run = grid(tmp_path, {"seed": [0]}, *network, "--image_size", "auto")[0][0]
    finished(run, image_size=160)
    assert run.state() == "done"
    finished(run, image_size=128)
    with pytest.raises(InputError, match="--image_size was 128, now 160: move it away"):
        run.state()
    unknown = ("--model_name", str(tmp_path / "weights.pth"), "--image_size", "auto")  # nothing tells
    run = grid(tmp_path, {"seed": [1]}, *unknown)[0][0]
    finished(run, image_size=160)
    assert run.state() == "done"


def test_a_path_is_compared_by_where_it_leads(tmp_path, monkeypatch):
    for name in ("here", "elsewhere"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "train.csv").write_text("image_id\n")
    (tmp_path / "link").symlink_to(tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    path, common = tmp_path / "grid.json", ["--output_dir", "out"]
    path.write_text('{"seed": [0]}')

    def state(*flags: str) -> str:
        return read_grid(path, [*common, *flags])[0][0].state()

    finished(read_grid(path, [*common, "--train_csv", "train.csv", "--train_dir", "images/"])[0][0])
    for same in ("train.csv", "./train.csv", str(tmp_path / "here/train.csv"), "../link/train.csv"):
        assert state("--train_csv", same, "--train_dir", "images") == "done"
    with pytest.raises(InputError, match="--train_csv was train.csv, now ../elsewhere/train.csv"):
        state("--train_csv", "../elsewhere/train.csv", "--train_dir", "images")
    with pytest.raises(InputError, match="--boxes_csv was not given, now boxes.csv"):
        state("--train_csv", "train.csv", "--train_dir", "images", "--boxes_csv", "boxes.csv")

    monkeypatch.chdir(tmp_path / "elsewhere")  # the same words lead to another table from here
    common = ["--output_dir", str(tmp_path / "here/out")]
    assert state("--train_csv", "../here/train.csv", "--train_dir", "images") == "done"
    with pytest.raises(InputError, match="--train_csv was /.*/here/train.csv, now /.*/elsewhere/train.csv"):
        state("--train_csv", "train.csv", "--train_dir", "images")


@pytest.mark.parametrize("leaves", ["copied", "moved"])
def test_results_may_move_alone_or_with_the_data_beside_them(tmp_path, leaves):
    old, new, path = tmp_path / "old", tmp_path / "new", tmp_path / "grid.json"
    path.write_text('{"seed": [0]}')
    (old / "data").mkdir(parents=True)
    (old / "data" / "train.csv").write_text("image_id\n")
    (tmp_path / "test.csv").write_text("image_id\n")

    def run(place: Path, train: Path) -> SweepRun:
        flags = ["--train_csv", str(train), "--test_csv", str(tmp_path / "test.csv")]
        words = ["--baseline", "cbm", "--stage1_from", str(place / "runs" / "csr")]
        return read_grid(path, ["--output_dir", str(place / "runs"), *flags, *words])[0][0]

    finished(run(old, old / "data" / "train.csv"))
    shutil.copytree(old, new)
    if leaves == "moved":
        shutil.rmtree(old)
    assert run(new, new / "data" / "train.csv").state() == "done"
    (tmp_path / "train.csv").write_text("image_id\n")
    with pytest.raises(InputError, match="--train_csv was .*old/data/train.csv, now .*/train.csv"):
        run(new, tmp_path / "train.csv").state()
    if leaves == "copied":
        (new / "data" / "train.csv").write_text("image_id\nother\n")
        with pytest.raises(InputError, match="--train_csv was .*old/data/train.csv, now .*new/data"):
            run(new, new / "data" / "train.csv").state()


def test_long_and_foreign_values_have_runs_of_their_own(tmp_path):
    long = [f"{'a' * 120}/{end}.csv" for end in ("one", "two")]
    for values in (long, [f"{end}{'a' * 120}.csv" for end in ("one", "two")], ["\u00e9.csv", "\u00e8.csv"]):
        runs, _ = grid(tmp_path, {"train_csv": values})
        assert len({run.name for run in runs}) == 2 and all(len(run.name) < 150 for run in runs)
