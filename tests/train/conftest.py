"""One whole run on the phantom data set, and variants of it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from train_command import flags, start, train

# small steps of the last two stages: large ones turn rounding into other minima
GENTLE = ("--augment", "none", "--prototype_lr_scale", "0.1", "--task_lr_scale", "1")


@pytest.fixture(scope="session")
def results(phantom_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all results."""
    return tmp_path_factory.mktemp("train") / "results"


@pytest.fixture(scope="session")
def printed(phantom_folder: Path, results: Path) -> Any:
    """One real run in a process of its own, into results/csr_exp."""
    done = train(*flags(phantom_folder, results, "--log_every", "1"))
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="session")
def run(printed: Any, results: Path) -> Path:
    """The result folder of the real run."""
    return results / "csr_exp"


@pytest.fixture(scope="session")
def variants(phantom_folder: Path, results: Path, run: Path) -> str:
    """Further runs, one after another in one process, and what they printed."""
    (results / "replaced").mkdir()
    (results / "replaced" / "metrics.jsonl").write_text("of an earlier run\n")
    (results / "replaced" / "notes.txt").write_text("of a colleague")
    boxes = ("--boxes_csv", str(phantom_folder / "boxes_train.csv"), "--log_every", "1")
    runs = [
        flags(phantom_folder, results, "--overwrite", exp_name="replaced"),
        flags(phantom_folder, results, *GENTLE, exp_name="memory", cache="memory"),
        flags(phantom_folder, results, *GENTLE, exp_name="off", cache="off", image_cache="off"),
        flags(phantom_folder, results, *boxes, exp_name="boxes", epochs_stage2="1", epochs_stage3="1"),
        flags(phantom_folder, results, "--dry_run", exp_name="dry"),
    ]
    code = f"import csr.train\nfor argv in {runs!r}:\n    print('>>>', flush=True)\n    csr.train.main(argv)"
    done = start(Path(sys.executable).name, "-c", code)
    assert done.returncode == 0, done.stderr
    return done.stdout
