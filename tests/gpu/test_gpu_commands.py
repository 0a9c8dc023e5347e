"""`csr train` and what follows it, as a user runs them on a GPU."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pandas as pd
import pytest
import torch
from gpu_command import run, trained
from train_command import flags

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("cuda")]
KILLED_RUN = Path(__file__).parents[1] / "helpers" / "killed_run.py"


@pytest.mark.parametrize("precision", ["bf16", "fp16", "auto"])
def test_a_dry_run_works_in_each_precision(phantom_folder, tmp_path, precision):
    done = trained(phantom_folder, tmp_path / "out", "--dry_run", "--precision", precision)
    assert "Dry run done" in done.stdout


def test_a_run_on_the_gpu_is_used_on_both_devices(phantom_folder, tmp_path):
    trained(phantom_folder, tmp_path / "out", "--profile", "2")
    folder = tmp_path / "out" / "csr_exp"
    results = json.loads((folder / "results.json").read_text())
    assert all(value is None or value == value for value in results["summary"].values())
    scores = []
    for device in ("cuda", "cpu"):
        table = tmp_path / f"{device}.csv"
        given = ("--device", device, "--out", table)
        done = run("csr", "predict", folder, phantom_folder / "test", *given)
        assert done.returncode == 0, done.stderr[-3000:]
        scores.append(pd.read_csv(table))
    numbers = [table.select_dtypes("number").to_numpy() for table in scores]
    assert numbers[0].shape == numbers[1].shape and abs(numbers[0] - numbers[1]).max() < 1e-3


def test_a_gpu_named_by_its_uuid_trains_in_fp16(phantom_folder, tmp_path):
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True).stdout
    uuid = re.findall(r"UUID: ((?:GPU|MIG)-[0-9a-f-]+)", listed)[0]
    given = ("--dry_run", "--precision", "fp16")
    trained(phantom_folder, tmp_path / "out", *given, CUDA_VISIBLE_DEVICES=uuid)


def test_a_rank_that_sees_one_gpu_takes_it_whatever_its_local_rank(phantom_folder, tmp_path):
    place = {"RANK": "0", "LOCAL_RANK": "1", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    env = {**place, "MASTER_PORT": "29511", "LOCAL_WORLD_SIZE": "1", "CUDA_VISIBLE_DEVICES": "0"}
    trained(phantom_folder, tmp_path / "out", "--dry_run", **env)


def test_ds_accelerator_keeps_a_run_off_the_gpu(phantom_folder, tmp_path):
    trained(phantom_folder, tmp_path / "out", "--dry_run", "--precision", "fp32", DS_ACCELERATOR="cpu")


def test_two_ranks_on_one_gpu_are_refused_in_one_line(phantom_folder, tmp_path):
    words = flags(phantom_folder, tmp_path / "out", "--dry_run", precision=None)
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    done = run("csr.train", *words, launcher=launcher, CUDA_VISIBLE_DEVICES="0")
    assert done.returncode != 0
    assert re.search("csr: error: .*start one rank for each GPU", done.stderr), done.stderr[-3000:]


def test_the_doctor_names_the_gpu(tmp_path):
    done = run("csr", "doctor", "--output_dir", tmp_path)
    assert torch.cuda.get_device_name(0) in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("backbone, side", [("test_resnet", "64"), ("test_vit", "160")])
def test_a_stopped_run_resumes_to_the_same_bits_with_deterministic(
    phantom_folder, tmp_path, backbone, side, precision
):
    given = ("--deterministic", "--precision", precision, "--model_name", backbone, "--image_size", side)
    trained(phantom_folder, tmp_path / "whole", *given)
    words = flags(phantom_folder, tmp_path / "stopped", *given, precision=None)
    for step in (4, 3, 5):  # the third micro step after each resumption, in more than one stage
        end = (str(KILLED_RUN), "TERM", "csr.engine.engine:Engine.micro_step", str(step))
        done = run(*end, *words, by_module=False)
        assert done.returncode == 75, done.stderr[-3000:]
    trained(phantom_folder, tmp_path / "stopped", *given)
    whole, stopped = (
        torch.load(tmp_path / name / "csr_exp" / "final_model.pth", weights_only=True)
        for name in ("whole", "stopped")
    )
    assert [name for name in whole if not torch.equal(whole[name], stopped[name])] == []


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two GPUs")
@pytest.mark.parametrize("backbone, side", [("test_resnet", "64"), ("test_vit", "160")])
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_two_gpus_train_a_run(phantom_folder, tmp_path, backbone, side, precision):
    given = ("--model_name", backbone, "--image_size", side, "--precision", precision)
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    trained(phantom_folder, tmp_path / "out", *given, launcher=launcher)
    results = json.loads((tmp_path / "out" / "csr_exp" / "results.json").read_text())
    assert results["num_images"] == 24
