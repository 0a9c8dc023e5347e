"""Flags, DeepSpeed JSON and result folders that cannot be honoured are named, nothing is written."""

from __future__ import annotations

import json

import pytest
import torch


def test_existing_results_stay_as_they_are(refused, tmp_path):
    folder = tmp_path / "results" / "csr_exp"
    folder.mkdir(parents=True)
    (folder / "final_model.pth").write_bytes(b"precious")
    line = refused()
    assert str(folder) in line and "--overwrite" in line and "--exp_name" in line


def test_overwrite_replaces_nothing_before_everything_else_was_checked(refused, data, tmp_path):
    folder = tmp_path / "results" / "csr_exp"
    (folder / "tensorboard").mkdir(parents=True)
    (folder / "final_model.pth").write_bytes(b"precious")
    (folder / "tensorboard" / "events").write_bytes(b"curves")
    sorted((data / "test").iterdir())[0].write_bytes(b"no image")
    assert "cannot be read" in refused("--overwrite")


def test_a_file_where_results_should_go_is_named(refused, tmp_path):
    (tmp_path / "taken").write_text("a file")
    assert "is no folder" in refused(output_dir=tmp_path / "taken")
    assert (tmp_path / "taken").read_text() == "a file"


@pytest.mark.parametrize(
    "arguments, named",
    [
        (("--lr", "abc"), "--lr"),
        (("--lr", "-1"), "--lr"),
        (("--batch_size", "1.5"), "--batch_size"),
        (("--precision", "fp8"), "--precision"),
        (("--epochs", "3"), "--epochs"),
        (("stray",), "stray"),
        (("--num_prototype", "3"), "--num_prototype"),
        (("--concept_cols",), "--concept_cols"),
        (("--workers", "0"), "--workers"),
        (("--seed", "99999999999999999999"), "--seed"),
        (("--num_prototypes", "1000000000"), "--num_prototypes"),
        (("--timeout", "1e300"), "--timeout"),
        (("--batch_size", "1000000000000"), "--batch_size"),
        (("--max_pos_weight", "0.1"), "--max_pos_weight"),
        (("--exp_name", "a/b"), "--exp_name"),
        (("--exp_name", "x" * 300), "--exp_name"),
        (("--task_loss", "ce"), "--task_loss ce"),
        (("--gamma", "inf"), "--gamma"),
    ],
)
def test_a_bad_flag_is_named(refused, arguments, named):
    assert named in refused(*arguments)


def test_fp16_without_a_gpu_names_the_alternative(refused, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "bf16 or fp32" in refused("--precision", "fp16")


STAGE_2 = {"zero_optimization": {"stage": 2}}


@pytest.mark.parametrize(
    "content, more, named",
    [
        ({**STAGE_2, "zero_optimisation": {}}, (), "unknown key 'zero_optimisation'"),
        ({**STAGE_2, "torch_autocast": {"enabled": True, "dtyp": 1}}, (), "unknown key 'dtyp'"),
        ({**STAGE_2, "train_micro_batch_size_per_gpu": 3}, (), "--batch_size"),
        ({**STAGE_2, "gradient_accumulation_steps": 4}, (), "--accumulation"),
        ({**STAGE_2, "gradient_clipping": 0.5}, ("--clip", "2"), "--clip"),
        ({**STAGE_2, "optimizer": {"type": "Adam"}}, (), "--lr"),
        ({**STAGE_2, "fp16": {"enabled": True}}, ("--precision", "bf16"), "--precision bf16 contradicts"),
        ({"zero_optimization": {"stage": 3}}, (), "ZeRO 1 or 2"),
        ({"zero_optimization": {"stage": 2, "offload_param": {"device": "cpu"}}}, (), "offload_optimizer"),
        ({"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "nvme"}}}, (), '"device": "cpu"'),
        ({}, (), "ZeRO 1 or 2"),
        ([], (), "no JSON object"),
    ],
)
def test_a_deepspeed_json_that_cannot_be_honoured_is_named(refused, tmp_path, content, more, named):
    path = tmp_path / "ds.json"
    path.write_text(json.dumps(content))
    line = refused("--ds_config", str(path), *more)
    assert str(path) in line and named in line


def test_a_key_that_stands_twice_in_the_deepspeed_json_is_named(refused, tmp_path):
    path = tmp_path / "ds.json"
    path.write_text('{"zero_optimization": {"stage": 2},\n "zero_optimization": {"stage": 1}}')
    assert "twice" in refused("--ds_config", str(path))
