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
        ("zero2_fp16.json", 1, 0, 0.0),
        ("zero2_fp16.json", 2, 2, 1.0),
        ("zero2_offload.json", 1, 2, 1.0),
        ("zero2_fp32.json", 2, 2, 1.0),
        ("zero1_bf16.json", 2, 1, 1.0),
    ],
)
def test_one_rank_shards_nothing_unless_offloading_needs_it(name, world_size, stage, clip):
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


def test_fp16_of_one_rank_keeps_fp32_weights_under_autocast_and_that_of_several_casts_them(tmp_path):
    whole = merged(written(tmp_path, fp16={"enabled": True, "hysteresis": 3}))
    sizes = {"num_trainable": 10, "has_batchnorm": True}
    alone = fit_to_stage(whole, world_size=1, **sizes)
    assert "fp16" not in alone and "buffer_dtype" not in alone.get("data_types", {})
    assert alone["torch_autocast"]["dtype"] == "float16"
    assert alone["torch_autocast"]["lower_precision_safe_modules"] == []
    assert fit_to_stage(whole, world_size=2, **sizes)["fp16"] == {"enabled": True, "hysteresis": 3}
    assert precision_of(whole) == "fp16"


LARGE = 80_000_001


@pytest.mark.parametrize("precision", list(DEFAULT_FILES))
@pytest.mark.parametrize(
    "changed, overlaps",
    [
        ({}, True),
        ({"trains_norms": True}, False),
        ({"has_batchnorm": True}, True),  # frozen ones sum nothing
        ({"on_gpu": False}, False),
        ({"world_size": 1}, False),
        ({"num_trainable": 19_999_999}, False),
    ],
    ids=["ViT", "trained norms", "frozen norms", "CPUs", "one rank", "small"],
)
def test_gradients_overlap_with_backward_where_it_pays_and_no_norm_sums_beside_them(
    precision, changed, overlaps
):
    parsed, name = load_ds_config(None, precision)
    sizes = {"num_trainable": LARGE, "has_batchnorm": False, "world_size": 2, "on_gpu": True, **changed}
    merged_json = merge_ds_config(
        parsed, name=name, batch_size=1, accumulation=1, clip=0.0, world_size=sizes["world_size"]
    )
    zero = fit_to_stage(merged_json, **sizes)["zero_optimization"]
    assert zero["overlap_comm"] is overlaps
    whole = min(50_000_000, sizes["num_trainable"] + 1)
    assert zero["reduce_bucket_size"] == (10_000_000 if overlaps else whole), "one bucket hides nothing"


@pytest.mark.parametrize("asked", [True, False])
@pytest.mark.parametrize("trains_norms", [True, False])
def test_a_json_of_the_user_decides_what_overlaps(tmp_path, asked, trains_norms):
    zero = {"stage": 2, "overlap_comm": asked, "reduce_bucket_size": 1234}
    given = merged(written(tmp_path, zero_optimization=zero))
    sizes = {"num_trainable": LARGE, "has_batchnorm": trains_norms, "world_size": 4, "on_gpu": True}
    found = fit_to_stage(given, trains_norms=trains_norms, **sizes)["zero_optimization"]
    assert (found["overlap_comm"], found["reduce_bucket_size"]) == (asked, 1234)


def test_norms_with_fp32_statistics_keep_their_buffers_in_fp16():
    parsed, name = load_ds_config(None, "fp16")
    merged_json = merge_ds_config(parsed, name=name, batch_size=1, accumulation=1, clip=0.0, world_size=2)
    sizes = {"num_trainable": 10, "has_batchnorm": True, "world_size": 2}
    assert "buffer_dtype" not in fit_to_stage(merged_json, keeps_fp32_statistics=True, **sizes)["data_types"]
    assert fit_to_stage(merged_json, **sizes)["data_types"]["buffer_dtype"] == "fp16"
