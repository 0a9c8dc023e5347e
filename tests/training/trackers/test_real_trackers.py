"""MLflow's store and W&B's offline runs, written by the libraries and read back; and whole runs on them."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ended_run import ended, finished
from train_command import flags
from wandb_file import told

from csr.training.trackers.mlflow_tracker import MlflowTracker, key_of
from csr.training.trackers.tracker import missing_packages

FEW = {"epochs_stage1": "12", "epochs_stage2": "1", "epochs_stage3": "1"}
TAG = "concept_auc/Other disease(s)"
needs_mlflow = pytest.mark.skipif(
    bool(missing_packages("mlflow")), reason="needs mlflow, sqlalchemy and alembic: the extra mlflow"
)
needs_wandb = pytest.mark.skipif(bool(missing_packages("wandb")), reason="needs wandb: the extra wandb")


def client(folder: Path) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(f"sqlite:///{folder.resolve()}/mlflow/mlflow.db")


def mlflow_run(folder: Path) -> Any:
    store = client(folder)
    (run,) = store.search_runs([store.get_experiment_by_name("csr").experiment_id])
    return run


def test_names_are_as_mlflow_takes_them():
    assert key_of(TAG) == "concept_auc/Other disease_s_" and key_of("a_b-c.d/e:f g") == "a_b-c.d/e:f g"


@needs_mlflow
@pytest.mark.slow
def test_mlflow_keeps_everything_and_goes_on_in_the_same_run(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "sent").mkdir()
    (tmp_path / "sent" / "README.md").write_text("card")
    (tmp_path / "mlflow").mkdir()
    (tmp_path / "mlflow" / "mlflow.db").write_bytes(b"half of a database")  # killed while it was made
    first = MlflowTracker(tmp_path)
    run_id = first.open(None)
    first.describe({f"option{i}": i for i in range(150)}, {"csr.world_size": 2})
    first.metrics({TAG: 0.25, "loss": 1.0}, step=3)
    first.close(75)
    again = MlflowTracker(tmp_path)
    assert again.open(run_id) == run_id and mlflow_run(tmp_path).info.status == "RUNNING"
    again.describe({"option0": "another value", "option_late": 1}, {})  # refused by MLflow itself
    again.metrics({TAG: 0.5}, step=6)
    again.picture("task/explanations", np.full((4, 5, 3), 200, np.uint8), step=6)
    again.files(tmp_path / "sent")
    again.close(0)
    run, store = mlflow_run(tmp_path), client(tmp_path)
    assert run.info.status == "FINISHED" and run.info.run_name == tmp_path.name
    assert run.data.params["option0"] == "0" and run.data.params["option_late"] == "1"
    assert run.data.params["option149"] == "149" and run.data.tags["csr.world_size"] == "2"
    history = store.get_metric_history(run_id, key_of(TAG))
    assert [(m.step, m.value) for m in history] == [(3, 0.25), (6, 0.5)]
    files = {p.name for p in (tmp_path / "mlflow" / "files").rglob("*") if p.is_file()}
    assert files == {"README.md", "step-000006.png"}


def died_twice(phantom: Path, out: Path, tracker: str) -> Path:
    """A run, killed, then stopped by a signal, when its tracker had some points; then left to finish."""
    arguments = flags(
        phantom,
        out,
        "--log_every",
        "1",
        "--save_every",
        "2",
        "--picture_every",
        "2",
        "--track",
        f"tensorboard,{tracker}",
        **FEW,
    )
    for what, jobs, code in (("KILL", 12, -9), ("TERM", 4, 75)):
        done = ended(what, "csr.training.trackers.record:Record.is_new", jobs, *arguments)
        assert done.returncode == code, done.stdout + done.stderr
    done = finished(*arguments)
    assert "Notice: --track" not in done.stdout and done.stderr == ""
    return out / "csr_exp"


def board_points(folder: Path) -> dict[tuple[str, int], float]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (rank0,) = (folder / "tensorboard").iterdir()
    events = EventAccumulator(str(rank0), size_guidance={"scalars": 0}).Reload()
    return {(t, e.step): e.value for t in events.Tags()["scalars"] for e in events.Scalars(t)}


SAME = ("loss", "auc", "train_loss", "val_ece", "map")


def assert_of_the_board(values: dict[Any, float], expected: dict[Any, float]) -> None:
    """Points are the board's; those are missing alone that waited when the process was killed."""
    assert values == pytest.approx({key: expected[key] for key in values}, rel=1e-4)
    missing = {step for _, step in expected.keys() - values.keys()}
    last = max(step for tag, step in expected if tag.startswith("concept"))
    assert all(step < last for step in missing), missing
    assert min(step for _, step in values) < last


@needs_mlflow
@pytest.mark.slow
@pytest.mark.dist
def test_a_run_that_died_twice_is_one_run_of_mlflow_with_the_boards_points(
    phantom_folder, tmp_path, monkeypatch
):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    tracked = died_twice(phantom_folder, tmp_path / "results", "mlflow")
    run, store = mlflow_run(tracked), client(tracked)
    assert (
        run.info.status == "FINISHED"
        and run.info.run_id == json.loads((tracked / "tracker-mlflow.json").read_text())["id"]
    )
    assert run.data.params["lr"] == "0.001" and run.data.params["track"] == "tensorboard,mlflow"
    expected = {(key_of(t), s): v for (t, s), v in board_points(tracked).items() if t.endswith(SAME)}
    found = [
        (tag, m.step, m.value)
        for tag in run.data.metrics
        for m in store.get_metric_history(run.info.run_id, tag)
    ]
    assert max(Counter((tag, step) for tag, step, _ in found).values()) == 1, "no step twice"
    values = {(tag, step): value for tag, step, value in found if tag.endswith(SAME)}
    assert_of_the_board(values, expected)
    assert {t for t, _, _ in found} >= {"test/target_auc", "task_epoch/val_loss", "concept/images_per_s"}
    files = {p.name for p in (tracked / "mlflow" / "files").rglob("*") if p.is_file()}
    assert {"README.md", "model.safetensors", "results.json", "step-000036.png"} <= files
    assert "test_predictions.csv" not in files, "names of patients' images stay here"


@needs_wandb
@pytest.mark.slow
@pytest.mark.dist
def test_a_run_that_died_twice_is_one_run_of_wandb_too(phantom_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    tracked = died_twice(phantom_folder, tmp_path / "results", "wandb")
    found = told(tracked)
    # of the killed process nothing may have reached the disk
    assert len(set(found["ids"])) == 1 and len(found["ids"]) >= 2
    assert found["exits"][-2:] == [75, 0] and found["config"]["lr"] == 0.001
    counts = Counter((tag, step) for tag, step, _ in found["points"])
    assert max(counts.values()) == 1, "no step twice"
    values = {(t, s): v for t, s, v in found["points"] if t.endswith(SAME)}
    expected = {key: v for key, v in board_points(tracked).items() if key[0].endswith(SAME)}
    assert_of_the_board(values, expected)
    assert any(tag.startswith("concept_epoch/explanations") for tag, _, _ in found["points"])
    assert {"model/README.md", "model/model.safetensors", "results.json"} <= set(found["files"])


@needs_mlflow
@pytest.mark.slow
@pytest.mark.dist
def test_a_server_that_is_not_there_costs_one_line(phantom_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    out = tmp_path / "results"
    done = finished(*flags(phantom_folder, out, "--track", "mlflow", **{**FEW, "epochs_stage1": "1"}))
    assert done.stdout.count("Notice: --track mlflow: ") == 1 and done.stderr == ""
    assert (out / "csr_exp" / "results.json").is_file() and not (out / "csr_exp" / "tensorboard").exists()
