"""Runs `csr train` as a user does: in this process for speed, or as real processes under a launcher."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

SMALL = {
    "backbone_type": "timm",
    "model_name": "test_resnet",
    "image_size": "64",
    "batch_size": "16",
    "epochs_stage1": "2",
    "epochs_stage2": "5",
    "epochs_stage3": "2",
    "lr": "1e-3",
    "workers": "1",
    "precision": "fp32",  # the same on every CPU
}


def flags(data: Path, out: Path, *more: str, **changed: str | Path | None) -> list[str]:
    """Return flags of a small run on a phantom folder; None omits one, `more` goes to the end."""
    values: dict[str, object] = {
        "train_csv": data / "labels_train.csv",
        "test_csv": data / "labels_test.csv",
        "train_dir": data / "train",
        "test_dir": data / "test",
        "output_dir": out,
        "image_cache": out.parent / "image-cache",
        **SMALL,
        **changed,
    }
    if "--ds_config" in more or "ds_config" in changed:
        del values["precision"]  # the JSON decides
    given = {name: str(value) for name, value in values.items() if value is not None}
    pairs = [word for name, value in given.items() for word in (f"--{name}", value)]
    pretrained = [] if "--pretrained" in more or "backbone_weights" in changed else ["--no_pretrained"]
    return [*pairs, *pretrained, *(word for word in more if word != "--pretrained")]


def start(*command: str, timeout: float = 240, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run this interpreter or a launcher beside it, on the CPU, with one thread a rank.

    The process group is its own, so that nothing is left behind when time is up.
    """
    launched = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    env = {k: v for k, v in os.environ.items() if k not in launched}
    bin_folder = str(Path(sys.executable).parent)
    env |= {
        "PATH": f"{bin_folder}:{env['PATH']}",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "DS_ACCELERATOR": "cpu",
        "CUDA_VISIBLE_DEVICES": "",
    }
    program = shutil.which(command[0], path=env["PATH"])
    assert program is not None, f"{command[0]} is not beside {sys.executable}"
    process = subprocess.Popen(
        [program, *command[1:]],
        env=env,
        cwd=cwd,
        text=True,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        out, err = process.communicate()
        raise AssertionError(f"still running after {timeout} s: {out[-2000:]} {err[-2000:]}") from None
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def train(*arguments: str, launcher: str = "none") -> subprocess.CompletedProcess[str]:
    """Run `csr train` in one process, or on two ranks under `torchrun` or `deepspeed`."""
    if launcher == "torchrun":
        words = ["torchrun", "--standalone", "--nproc_per_node=2", "-m", "csr.train"]
    elif launcher == "deepspeed":
        port = str(20000 + os.getpid() % 20000)
        words = [
            "deepspeed",
            "--num_accelerators",
            "2",
            "--master_port",
            port,
            "--no_local_rank",
            "--module",
            "csr.train",
        ]
    else:
        words = [Path(sys.executable).name, "-m", "csr.train"]
    return start(*words, *arguments)


def contents(folder: Path) -> dict[str, str]:
    """Return every file below a folder, by the hash of its bytes; {} if there is none."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}
