"""Training checkpoints that were damaged or changed."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hostile import refuse
from train_command import SMALL
from weight_files import ONE, STATE

from csr.config import flags
from csr.config.options import TrainConfig
from csr.runtime.tensor_files import save_tensors
from csr.training.checkpoints import checkpoint_folder
from csr.training.checkpoints.checkpoint_folder import CheckpointFolder
from csr.training.checkpoints.resume_plan import Planner, identity_of
from csr.training.checkpoints.run_folder import RunFolder
from csr.training.checkpoints.state import load_saved


@pytest.fixture
def unfinished(tmp_path: Path) -> Path:
    """Return the folder of a run that was killed."""
    folder = tmp_path / "csr_exp"
    folder.mkdir()
    given = train_config(tmp_path)
    identity = identity_of(given, ds_config={}, precision="fp32", world=1).record()
    (folder / "config.json").write_text(
        json.dumps({"options": identity["options"], "precision": {"name": "fp32"}})
    )
    place = {"stage": "concept", "epoch": 1, "step_in_epoch": 1, "step": 1}
    store = CheckpointFolder(folder, keep=2, identity={**identity, "data": "x", "quarantine": []})
    written = save_tensors(folder / "best_model_stage1.pth", STATE)
    store.write({"w": ONE}, place=place, best={"best_model_stage1.pth": written})
    return folder


def train_config(out: Path) -> TrainConfig:
    parser = argparse.ArgumentParser()
    flags.add_arguments(parser)
    return flags.from_namespace(
        parser.parse_args(["--output_dir", str(out), "--backbone_type", SMALL["backbone_type"]])
    )


def go_on(folder: Path) -> None:
    given = train_config(folder.parent)
    own, run = identity_of(given, ds_config={}, precision="fp32", world=1), RunFolder(given.folder)
    try:
        plan = Planner(given, own, run, report=lambda line: None).plan()
        assert plan.checkpoint is not None
        load_saved(plan.checkpoint, accumulation=1)
    finally:
        run.close()


MANIFESTS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "empty": lambda m: {},
    "list": lambda m: [m],
    "null": lambda m: None,
    "number": lambda m: 3,
    "no files": lambda m: {**m, "files": {}},
    "files a list": lambda m: {**m, "files": ["state.pth"]},
    "a path out": lambda m: {**m, "files": {"../../config.json": {"size": 1, "sha256": ""}}},
    "absolute": lambda m: {**m, "files": {"/etc/passwd": {"size": 1, "sha256": ""}}},
    "negative size": lambda m: {**m, "files": {"state.pth": {"size": -1, "sha256": ""}}},
    "other hash": lambda m: {
        **m,
        "files": {**m["files"], "state.pth": {**m["files"]["state.pth"], "sha256": "0" * 64}},
    },
    "format": lambda m: {**m, "format": 99},
    "format of text": lambda m: {**m, "format": "1"},
    "no stage": lambda m: {k: v for k, v in m.items() if k != "stage"},
    "stage": lambda m: {**m, "stage": "x"},
    "stage a list": lambda m: {**m, "stage": []},
    "epoch": lambda m: {**m, "epoch": "x"},
    "options": lambda m: {**m, "options": []},
    "options of text": lambda m: {**m, "options": {"data": "x"}},
    "options of lists": lambda m: {**m, "options": {"data": [1]}},
    "engine": lambda m: {**m, "engine": 3},
    "batch 0": lambda m: {**m, "effective_batch": 0},
    "batch -1": lambda m: {**m, "effective_batch": -16},
    "batch of text": lambda m: {**m, "effective_batch": "16"},
    "precision": lambda m: {**m, "precision": ["fp32"]},
    "deep": lambda m: {**m, "x": json.loads("[" * 900 + "]" * 900)},
}


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("name", MANIFESTS)
def test_a_manifest_that_lies_is_named(unfinished, name, signed):
    path = unfinished / "checkpoints" / "checkpoint-000001" / "manifest.json"
    manifest = json.loads(path.read_text())
    signature = manifest.pop("sha256")
    changed = MANIFESTS[name](manifest)
    if isinstance(changed, dict):
        changed = {**changed, "sha256": checkpoint_folder._hash_of(changed) if signed else signature}
    path.write_text(json.dumps(changed))
    refuse(lambda: go_on(unfinished), str(unfinished), folder=unfinished.parent)


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[" * 100_000, b'{"a":' * 100_000, b"\xff\xfe", b"\0" * 99, b"null", b"NaN"]
)
@pytest.mark.parametrize("name", ["manifest.json", "config.json"])
def test_a_damaged_json_of_a_run_is_named(unfinished, name, text):
    if name == "manifest.json":
        (unfinished / "checkpoints" / "checkpoint-000001" / name).write_bytes(text)
    else:
        (unfinished / "checkpoints" / "checkpoint-000001").rename(unfinished / "checkpoints" / "gone")
        (unfinished / name).write_bytes(text)
    refuse(lambda: go_on(unfinished), str(unfinished), folder=unfinished.parent)


@pytest.mark.parametrize("kind", ["pipe", "folder", "absent", "device", "empty", "noise"])
@pytest.mark.parametrize("name", ["manifest.json", "state.pth", "best_model_stage1.pth"])
def test_a_damaged_file_of_a_checkpoint_is_named_and_not_waited_for(unfinished, name, kind):
    path = unfinished / "checkpoints" / "checkpoint-000001" / name
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind != "absent":
        path.write_bytes(b"" if kind == "empty" else os.urandom(999))
    refuse(lambda: go_on(unfinished), name, folder=unfinished.parent)


@pytest.mark.parametrize(
    "state",
    [{}, [], 3, {"state": {}}, {"state": 1, "ranks": []}, {"w": ONE, "ranks": [{}]}, ONE],
    ids=range(7),
)
def test_a_state_of_another_program_is_named(unfinished, state):
    # Whole by its manifest, and yet no state of a run.
    checkpoint = unfinished / "checkpoints" / "checkpoint-000001"
    save_tensors(checkpoint / "state.pth", state)
    refuse(lambda: load_saved(checkpoint, accumulation=1), str(checkpoint))
