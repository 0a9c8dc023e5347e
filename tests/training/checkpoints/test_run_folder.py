"""A result folder allows to begin, to resume, or neither, and with which batch on how many ranks."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from train_options import train_options

from csr.config.options import TrainConfig
from csr.runtime.errors import InputError
from csr.training.checkpoints.checkpoint_folder import CheckpointFolder
from csr.training.checkpoints.resume_plan import MAY_DIFFER, Planner, earlier_precision, identity_of
from csr.training.checkpoints.run_folder import RunFolder

DS = {"zero_optimization": {"stage": 2}, "train_batch_size": 16, "gradient_clipping": 1.0}


def config(out: Path, **changed: Any) -> TrainConfig:
    return train_options(**{"output_dir": str(out), "exp_name": "run", **changed})


def planner(out: Path, *, world: int = 1, precision: str = "fp32", ds: dict = DS, **changed: Any) -> Planner:
    options = config(out, **changed)
    own = identity_of(options, ds_config=ds, precision=precision, world=world)
    return Planner(options, own, RunFolder(options.folder), report=lambda line: None)


@pytest.fixture
def unfinished(tmp_path: Path) -> Path:
    """The folder that a killed run leaves: batch 8 on two ranks."""
    run = tmp_path / "run"
    run.mkdir()
    identity = identity_of(config(tmp_path, batch_size=8), ds_config=DS, precision="fp32", world=2).record()
    written = {"options": identity["options"], "precision": {"name": "fp32"}}
    (run / "config.json").write_text(json.dumps(written))
    place = {"stage": "concept", "epoch": 2, "step_in_epoch": 1}
    CheckpointFolder(run, keep=2, identity=identity).write({}, place=place, best={})
    return tmp_path


def plan(out: Path, *, world: int = 2, **changed: Any) -> Any:
    return planner(out, world=world, **{"batch_size": 8, **changed}).plan()


def test_an_empty_place_begins_and_nothing_is_written_by_planning(tmp_path):
    assert plan(tmp_path / "new").checkpoint is None
    assert list(tmp_path.iterdir()) == []


def test_an_unfinished_run_of_the_same_options_goes_on(unfinished):
    found = plan(unfinished)
    assert found.checkpoint == unfinished / "run" / "checkpoints" / "checkpoint-000001"
    assert (found.batch_size, found.accumulation) == (8, 1)


@pytest.mark.parametrize("name", ["results.json", "final_model.pth"])
def test_a_dry_run_is_planned_beside_results_and_says_that_they_stay(tmp_path, name):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).write_bytes(b"precious")
    with pytest.raises(InputError, match="holds results already"):
        plan(tmp_path)
    lines: list[str] = []
    assert replace(planner(tmp_path, dry_run=True), report=lines.append).plan().checkpoint is None
    (line,) = lines
    assert str(tmp_path / "run") in line and "leaves as they are" in line
    assert (tmp_path / "run" / name).read_bytes() == b"precious"


def test_other_options_are_refused_and_all_listed(unfinished):
    with pytest.raises(InputError, match="--concept_cols was not given, now a b; --lr was 0.0001, now 0.1"):
        plan(unfinished, lr=0.1, concept_cols=("a", "b"))


def test_the_precision_that_comes_of_the_options_is_compared(unfinished):
    with pytest.raises(InputError, match="--precision was fp32, now bf16"):
        plan(unfinished, precision="bf16")


def test_the_precision_of_an_unfinished_run_is_known_where_it_resumes_by_itself(unfinished, tmp_path):
    assert earlier_precision(config(unfinished)) == "fp32"
    for changed in ({"overwrite": True}, {"resume": "never"}, {"dry_run": True}, {"exp_name": "other"}):
        assert earlier_precision(config(unfinished, **changed)) is None
    (unfinished / "run" / "config.json").write_text("[]")
    assert earlier_precision(config(unfinished)) is None


def test_options_that_change_no_number_may_differ(unfinished):
    changed = {"log_every": 3, "workers": 1, "keep_checkpoints": 5, "timeout": 1.0, "save_every": 7}
    assert set(changed) <= MAY_DIFFER
    assert plan(unfinished, **changed).checkpoint is not None


def test_every_option_that_may_differ_exists():
    assert MAY_DIFFER <= {name for group in TrainConfig().to_dict().values() for name in group}


def test_zero_1_may_resume_with_zero_2(unfinished):
    assert plan(unfinished, ds={**DS, "zero_optimization": {"stage": 1}}).checkpoint is not None


@pytest.mark.parametrize("world, expected", [(1, (8, 2)), (2, (8, 1)), (4, (4, 1)), (16, (1, 1))])
def test_another_number_of_ranks_keeps_the_effective_batch(unfinished, world, expected):
    found = plan(unfinished, world=world)
    assert (found.batch_size, found.accumulation) == expected
    optim = found.adapted(config(unfinished, batch_size=8)).optim
    assert (optim.batch_size, optim.accumulation) == expected


def test_a_number_of_ranks_that_does_not_divide_it_is_refused(unfinished):
    with pytest.raises(InputError, match="effective batch of 16 .* cannot be divided by 3 ranks"):
        plan(unfinished, world=3)


def test_other_batch_flags_of_the_same_product_resume_and_others_are_refused(unfinished):
    found = plan(unfinished, world=1, batch_size=4, accumulation=4)
    assert (found.batch_size, found.accumulation) == (4, 4)
    with pytest.raises(InputError, match="--batch_size 5 x --accumulation 1 x 2 rank"):
        plan(unfinished, batch_size=5)


def test_never_refuses_and_a_finished_run_is_not_touched(unfinished):
    with pytest.raises(InputError, match="holds results already.*--resume auto"):
        plan(unfinished, resume="never")
    (unfinished / "run" / "results.json").write_text("{}")
    with pytest.raises(InputError, match="holds results already: give another --exp_name, or --overwrite"):
        plan(unfinished)
    assert plan(unfinished, overwrite=True).checkpoint is None


def test_a_run_killed_before_its_first_checkpoint_begins_anew_with_the_same_options_only(unfinished):
    checkpoint = unfinished / "run" / "checkpoints" / "checkpoint-000001"
    checkpoint.rename(unfinished / "elsewhere")
    assert plan(unfinished).checkpoint is None
    with pytest.raises(InputError, match="--seed was 0, now 1"):
        plan(unfinished, seed=1)


def test_what_a_run_leaves_that_died_before_it_wrote_its_options_is_nothing(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".config.json.77.tmp").write_text("{")
    (tmp_path / "run" / ".lock").touch()
    assert plan(tmp_path).checkpoint is None


def test_foreign_files_are_not_taken_for_a_run(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").touch()
    with pytest.raises(InputError, match="holds results already"):
        plan(tmp_path)


def test_a_named_checkpoint_starts_a_new_folder_but_not_one_with_another_run(unfinished, tmp_path):
    checkpoint = str(unfinished / "run" / "checkpoints" / "checkpoint-000001")
    assert plan(unfinished, exp_name="other", resume=checkpoint).checkpoint == Path(checkpoint)
    (unfinished / "third").mkdir()
    (unfinished / "third" / "config.json").write_text("{}")
    with pytest.raises(InputError, match="holds another unfinished run"):
        plan(unfinished, exp_name="third", resume=checkpoint)
    with pytest.raises(InputError, match="holds no training checkpoint"):
        plan(unfinished, exp_name="fourth", resume=str(tmp_path / "nowhere"))


def test_two_runs_cannot_write_one_folder(tmp_path):
    first, second = planner(tmp_path), planner(tmp_path)
    first.folder.open(first.plan().checkpoint, None)
    with pytest.raises(InputError, match="another run is writing this folder"):
        second.plan()
    first.folder.close()
    assert second.plan().checkpoint is None
    second.folder.close()


def test_overwriting_removes_what_csr_wrote_and_nothing_else(unfinished):
    (unfinished / "run" / "thesis.tex").touch()
    (unfinished / "run" / "final_model.pth").touch()
    again = planner(unfinished, overwrite=True)
    again.folder.open(again.plan().checkpoint, None)
    again.folder.close()
    assert sorted(p.name for p in (unfinished / "run").iterdir()) == [".lock", "thesis.tex"]
