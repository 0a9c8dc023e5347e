"""The runs of a sweep: every combination once, under a name of its own, and what is done of them."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from csr.cluster.grid import read_grid
from csr.config.flags import parse_train_flags
from csr.runtime.errors import InputError


def grid(tmp_path: Path, content: object, *flags: str):
    path = tmp_path / "grid.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return read_grid(path, ["--output_dir", str(tmp_path / "out"), *flags])


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
