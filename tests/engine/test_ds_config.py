"""The DeepSpeed JSON: read, checked, and merged with the flags."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from csr.engine.ds_config import (
    DEFAULT_FILES,
    fit_to_stage,
    load_ds_config,
    merge_ds_config,
    precision_of,
    zero_stage_of,
)
from csr.runtime.errors import InputError

FOLDER = Path(__file__).resolve().parents[2] / "ds_configs"
EXPECTED = {
    "zero2_fp16.json": ("fp16", 2),
    "zero2_bf16.json": ("bf16", 2),
    "zero2_fp32.json": ("fp32", 2),
    "zero2_offload.json": ("bf16", 2),
    "zero1_bf16.json": ("bf16", 1),
}


def written(tmp_path: Path, **content: object) -> str:
    path = tmp_path / "ds.json"
    path.write_text(json.dumps({"zero_optimization": {"stage": 2}, **content}))
    return str(path)


def merged(path: str, **flags: object) -> dict:
    parsed, name = load_ds_config(path, "fp32")
    options = {"batch_size": 4, "accumulation": 2, "clip": 1.0, "world_size": 3} | flags
    return merge_ds_config(parsed, name=name, **options)


def test_the_folder_holds_the_files_that_the_readme_names():
    assert {p.name for p in FOLDER.glob("*.json")} == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_every_shipped_file_loads_and_computes_in_what_its_name_says(name):
    parsed, _ = load_ds_config(str(FOLDER / name), "fp32")
    precision, stage = EXPECTED[name]
    assert precision_of(parsed) == precision
    assert parsed["zero_optimization"]["stage"] == stage


@pytest.mark.parametrize("precision", DEFAULT_FILES)
def test_without_a_json_the_precision_names_the_shipped_file(precision):
    parsed, name = load_ds_config(None, precision)
    assert precision_of(parsed) == precision and name.endswith(DEFAULT_FILES[precision])


@pytest.mark.parametrize(
    "content, message",
    [
        ({"zero_optimisation": {}}, "unknown key 'zero_optimisation'"),
        ({"optimizer": {"type": "Adam"}}, "remove 'optimizer'"),
        ({"scheduler": {}}, "remove 'scheduler'"),
        ({"zero_optimization": {"stage": 3}}, "ZeRO 1 or 2"),
        ({"zero_optimization": 2}, "must be a JSON object"),
        ({"fp16": {"enabled": "auto"}}, "true or false"),
        ({"bf16": {"enabled": True}}, "torch_autocast"),
        ({"torch_autocast": {"enabled": True, "dtype": "float16"}}, "breaks clipping"),
    ],
)
def test_sections_that_cannot_be_honoured_are_refused(tmp_path, content, message):
    with pytest.raises(InputError, match=message):
        load_ds_config(written(tmp_path, **content), "fp32")


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"a": 1,}'])
def test_a_file_that_is_no_json_object_is_refused(tmp_path, text):
    path = tmp_path / "broken.json"
    path.write_text(text)
    with pytest.raises(InputError, match="broken.json"):
        load_ds_config(str(path), "fp32")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match="nowhere.json"):
        load_ds_config(str(tmp_path / "nowhere.json"), "fp32")


def test_our_flags_are_merged_into_the_json(tmp_path):
    config = merged(written(tmp_path))
    assert config["train_micro_batch_size_per_gpu"] == 4
    assert config["gradient_accumulation_steps"] == 2
    assert config["train_batch_size"] == 24
    assert config["gradient_clipping"] == 1.0


@pytest.mark.parametrize(
    "key, value",
    [("train_micro_batch_size_per_gpu", 8), ("gradient_clipping", 0.5), ("train_batch_size", 16)],
)
def test_a_json_that_contradicts_a_flag_is_refused_and_both_are_named(tmp_path, key, value):
    with pytest.raises(InputError, match=f"{key}.*--"):
        merged(written(tmp_path, **{key: value}))


def test_a_json_that_agrees_with_the_flags_is_accepted(tmp_path):
    assert merged(written(tmp_path, train_micro_batch_size_per_gpu=4))["train_batch_size"] == 24


def test_buckets_are_even_and_near_the_stage_and_batchnorm_buffers_follow_fp16(tmp_path):
    sizes = {"num_trainable": 1001, "has_batchnorm": True, "world_size": 3}
    config = fit_to_stage(merged(written(tmp_path)), **sizes)
    assert config["zero_optimization"]["reduce_bucket_size"] == 1002
    assert "data_types" not in config
    half = merged(written(tmp_path, fp16={"enabled": True}))
    assert fit_to_stage(half, **sizes)["data_types"]["buffer_dtype"] == "fp16"


@pytest.mark.parametrize(
    "name, world_size, stage, clip",
    [
        ("zero2_fp32.json", 1, 0, 0.0),
        ("zero2_bf16.json", 1, 0, 0.0),
        ("zero1_bf16.json", 1, 0, 0.0),
        ("zero2_fp16.json", 1, 2, 1.0),
        ("zero2_offload.json", 1, 2, 1.0),
        ("zero2_fp32.json", 2, 2, 1.0),
        ("zero1_bf16.json", 2, 1, 1.0),
    ],
)
def test_one_rank_shards_nothing_unless_masters_or_offloading_need_it(name, world_size, stage, clip):
    whole = merged(str(FOLDER / name))
    config = fit_to_stage(whole, num_trainable=10, has_batchnorm=False, world_size=world_size)
    assert config["zero_optimization"]["stage"] == stage and config["gradient_clipping"] == clip
    assert whole["zero_optimization"]["stage"] > 0, "what is written down stays what was given"


@pytest.mark.parametrize(
    "content, stage",
    [
        ({"zero_optimization": {"stage": 2, "cpu_offload": True}}, 2),
        ({"zero_optimization": {"stage": 1, "offload_optimizer": {"device": "cpu"}}}, 1),
        ({"zero_optimization": {"stage": 2, "offload_optimizer": None, "cpu_offload": False}}, 0),
        ({"data_types": {"grad_accum_dtype": "bf16"}}, 2),
        ({"data_types": {"grad_accum_dtype": "fp32"}}, 0),
    ],
)
def test_one_rank_keeps_zero_for_what_only_zero_does(tmp_path, content, stage):
    assert zero_stage_of(merged(written(tmp_path, **content)), world_size=1) == stage


@pytest.mark.parametrize("norm, world_size, overlaps", [(True, 2, False), (False, 2, True), (True, 1, True)])
def test_gradients_do_not_overlap_with_sums_of_norms_over_ranks(norm, world_size, overlaps):
    parsed, name = load_ds_config(None, "fp16")
    merged_json = merge_ds_config(
        parsed, name=name, batch_size=1, accumulation=1, clip=0.0, world_size=world_size
    )
    sizes = {"num_trainable": 10, "has_batchnorm": norm, "world_size": world_size}
    assert fit_to_stage(merged_json, **sizes)["zero_optimization"]["overlap_comm"] is overlaps
    assert merged_json["zero_optimization"]["overlap_comm"] is True


def test_norms_with_fp32_statistics_keep_their_buffers_in_fp16():
    parsed, name = load_ds_config(None, "fp16")
    merged_json = merge_ds_config(parsed, name=name, batch_size=1, accumulation=1, clip=0.0, world_size=1)
    sizes = {"num_trainable": 10, "has_batchnorm": True, "world_size": 1}
    assert "buffer_dtype" not in fit_to_stage(merged_json, keeps_fp32_statistics=True, **sizes)["data_types"]
    assert fit_to_stage(merged_json, **sizes)["data_types"]["buffer_dtype"] == "fp16"
