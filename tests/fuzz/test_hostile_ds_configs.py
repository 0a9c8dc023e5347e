"""Hostile DeepSpeed JSON files."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
from hostile import refuse

from csr.engine.ds_config import load_ds_config, merge_ds_config

GOOD_DS = '{"zero_optimization": {"stage": 2}}'
DS_TEXTS = {
    "empty": "",
    "blank": "  \n",
    "word": "zero",
    "half": '{"zero_optimization": {"stage": 2}',
    "two": GOOD_DS * 2,
    "single quotes": "{'a': 1}",
    "comment": "// zero\n" + GOOD_DS,
    "trailing comma": '{"zero_optimization": {"stage": 2},}',
    "nan": '{"zero_optimization": {"stage": NaN}}',
    "infinity": '{"gradient_clipping": Infinity}',
    "null": "null",
    "list": "[]",
    "number": "3",
    "string": '"a"',
    "true": "true",
    "deep list": "[" * 200_000,
    "deep object": '{"a":' * 200_000,
    "deep section": '{"zero_optimization": ' + '{"a":' * 3000 + "1" + "}" * 3001,
    "huge number": '{"steps_per_print": 1' + "0" * 9000 + "}",
    "twice": '{"fp16": {}, "fp16": {}}',
    "twice inside": '{"zero_optimization": {"stage": 2, "stage": 1}}',
    "many keys": "{" + ",".join(f'"k{n}": 1' for n in range(50_000)) + "}",
    "a long key": '{"' + "k" * 1_000_000 + '": 1}',
    "a key of controls": '{"\\u0000\\u001b[31m\\u202e": 1}',
    "yaml": "zero_optimization:\n  stage: 2\n",
    "python": "dict(stage=2)",
}
DS_BYTES = {
    "utf-16": GOOD_DS.encode("utf-16"),
    "bom": b"\xef\xbb\xbf" + GOOD_DS.encode(),
    "latin-1": b'{"\xe9": 1}',
    "nul": bytes(100),
    "pickle": pickle.dumps({"zero_optimization": {"stage": 2}}),
    "20 MB": b" " * 20_000_000 + GOOD_DS.encode(),
}
DS_VALUES: list[tuple[dict[str, Any], str]] = [
    ({}, "stage"),
    ({"zero_optimization": 2}, "zero_optimization"),
    ({"zero_optimization": []}, "zero_optimization"),
    ({"zero_optimization": None}, "zero_optimization"),
    ({"zero_optimization": {"stage": "2"}}, "stage"),
    ({"zero_optimization": {"stage": 2.5}}, "stage"),
    ({"zero_optimization": {"stage": -1}}, "stage"),
    ({"zero_optimization": {"stage": True}}, "stage"),
    ({"zero_optimization": {"stage": None}}, "stage"),
    ({"zero_optimization": {"stage": [2]}}, "stage"),
    ({"zero_optimization": {"stage": {}}}, "stage"),
    ({"zero_optimization": {"stage": "x" * 100_000}}, "stage"),
    ({"zero_optimization": {"stage": "auto"}}, "stage"),
    ({"fp16": True}, "fp16"),
    ({"fp16": {"enabled": "auto"}}, "fp16"),
    ({"fp16": {"enabled": 1}}, "fp16"),
    ({"fp16": {"enabled": []}}, "fp16"),
    ({"bf16": {"enabled": True}}, "bf16"),
    ({"bf16": "yes"}, "bf16"),
    ({"torch_autocast": {"enabled": True}}, "dtype"),
    ({"torch_autocast": {"enabled": True, "dtype": ["bf16"]}}, "dtype"),
    ({"torch_autocast": {"dtype": "x", "x": 1}}, "unknown key"),
    ({"torch_autocast": 1}, "torch_autocast"),
    ({"optimizer": {"type": "Adam"}}, "--lr"),
    ({"scheduler": {}}, "--schedule"),
    ({"optimizer": "auto"}, "--lr"),
    ({"train_micro_batch_size_per_gpu": 3}, "--batch_size"),
    ({"train_micro_batch_size_per_gpu": "16"}, "--batch_size"),
    ({"train_batch_size": [16]}, "train_batch_size"),
    ({"gradient_clipping": -1}, "--clip"),
    ({"gradient_clipping": None}, "--clip"),
    ({"gradient_accumulation_steps": 10**300}, "--accumulation"),
    ({"data_types": {"x": 1}}, "unknown key"),
    ({"zero_optimisation": {}}, "unknown key"),
    ({"": 1}, "unknown key"),
    ({"compile": {}}, "unknown key"),
    ({"zero_optimization": {"stage": 2, "offload_param": {}}}, "offload_param"),
    ({"flops_profiler": "x"}, "flops_profiler"),
    (
        {"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "nvme", "nvme_path": "/etc"}}},
        "nvme",
    ),
]


def merged(path: Path) -> dict[str, Any]:
    parsed, name = load_ds_config(str(path), "fp32")
    return merge_ds_config(parsed, name=name, batch_size=16, accumulation=1, clip=1.0, world_size=1)


@pytest.mark.parametrize("name", [*DS_TEXTS, *DS_BYTES])
def test_a_deepspeed_file_that_is_no_json_object_of_ours_is_named(tmp_path, name):
    path = tmp_path / "ds.json"
    path.write_bytes(DS_BYTES[name] if name in DS_BYTES else DS_TEXTS[name].encode())
    refuse(lambda: merged(path), str(path), folder=tmp_path)


@pytest.mark.parametrize("content, expected", DS_VALUES, ids=lambda v: str(v)[:50])
def test_a_deepspeed_value_that_cannot_be_honoured_is_named(tmp_path, content, expected):
    path = tmp_path / "ds.json"
    if "zero_optimization" not in content and content:
        content = {"zero_optimization": {"stage": 2}, **content}
    path.write_text(json.dumps(content))
    refuse(lambda: merged(path), str(path), expected)


@pytest.mark.parametrize("kind", ["pipe", "folder", "absent", "device"])
def test_a_deepspeed_file_that_is_no_file_is_named_and_not_waited_for(tmp_path, kind):
    path = tmp_path / "ds.json"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path = Path("/dev/zero")
    refuse(lambda: merged(path), str(path))


def test_auto_leaves_a_value_to_the_flags(tmp_path):
    path = tmp_path / "ds.json"
    auto = dict.fromkeys(
        (
            "train_batch_size",
            "train_micro_batch_size_per_gpu",
            "gradient_accumulation_steps",
            "gradient_clipping",
        ),
        "auto",
    )
    path.write_text(json.dumps({"zero_optimization": {"stage": 2}, **auto}))
    config = merged(path)
    assert (
        config["train_batch_size"],
        config["gradient_clipping"],
        config["gradient_accumulation_steps"],
    ) == (16, 1.0, 1)
