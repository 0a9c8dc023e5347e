"""Hostile files of weights and checkpoints: none runs code, none takes more memory than it has."""

from __future__ import annotations

import argparse
import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hostile import quiet, refuse
from safetensors.torch import save
from weight_files import ENTRY, ONE, STATE, Bomb, header, rezipped, torch_bytes

from csr.model.backbones.weights import load_backbone_weights
from csr.model.tensor_file import read_tensors
from csr.runtime.tensor_files import load_tensors


def payloads(mark: Path) -> dict[str, bytes]:
    """Return files whose unpickling would make `mark`, in every wrapping."""
    touch = Bomb(Path.touch, mark)
    system = Bomb(os.system, f"touch {mark}")
    opened = Bomb(open, str(mark), "w")
    evil = Bomb(eval, f"__import__('os').system('touch {mark}')")
    values = {
        "touch": touch,
        "system": system,
        "open": opened,
        "eval": evil,
        "getattr": Bomb(getattr, touch, "call"),
    }
    found = {f"pickle {n}": pickle.dumps({"w": v}) for n, v in values.items()}
    found |= {f"torch {n}": torch_bytes({"w": v}) for n, v in values.items()}
    found |= {
        f"legacy {n}": torch_bytes({"w": v}, _use_new_zipfile_serialization=False) for n, v in values.items()
    }
    found["in a namespace"] = torch_bytes({"model": STATE, "args": argparse.Namespace(x=system)})
    found["as a key"] = torch_bytes({touch: 1})
    found["protocol 0"] = pickle.dumps(system, protocol=0)
    found["text opcode"] = f"cos\nsystem\n(S'touch {mark}'\ntR.".encode()
    found["behind a state"] = pickle.dumps(STATE) + pickle.dumps(system)
    out = io.BytesIO()
    with quiet():
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), out)
    found["torchscript"] = out.getvalue()
    return found


PAYLOADS = list(payloads(Path("mark")))
READERS: dict[str, Callable[[Path], object]] = {"weights": read_tensors, "checkpoint": load_tensors}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("name", PAYLOADS)
def test_no_code_of_a_file_runs(tmp_path, name, suffix, reader):
    mark, path = tmp_path / "ran", tmp_path / f"weights{suffix}"
    path.write_bytes(payloads(mark)[name])
    refuse(lambda: READERS[reader](path), str(path), folder=tmp_path)
    assert not mark.exists()


def sparse() -> torch.Tensor:
    with quiet():
        return torch.sparse_coo_tensor(torch.tensor([[0], [0]]), torch.ones(1), (10**6, 10**6))


def quantized() -> torch.Tensor:
    with quiet():
        return torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)


DAMAGED = {
    "empty": b"",
    "text": b"no weights",
    "zeros": bytes(5000),
    "list": torch_bytes([ONE]),
    "number": torch_bytes(3),
    "no tensors": torch_bytes({"a": 1}),
    "tensor alone": torch_bytes(ONE),
    "nothing": torch_bytes({}),
    "html": b"<html></html>",
    "lfs pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
    "cut": torch_bytes(STATE)[:-300],
    "half": torch_bytes(STATE)[:400],
    "head missing": torch_bytes(STATE)[60:],
    "legacy cut": torch_bytes(STATE, _use_new_zipfile_serialization=False)[:-20],
    "zip of nothing": rezipped(torch_bytes(STATE), lambda m, d: (m.filename, b""), 0),
    "compressed": rezipped(torch_bytes(STATE), lambda m, d: (m.filename, d), zipfile.ZIP_DEFLATED),
    "zip bomb": rezipped(
        torch_bytes(STATE),
        lambda m, d: (m.filename, bytes(10**7) if "/data/" in m.filename else d),
        zipfile.ZIP_DEFLATED,
    ),
    "path out of the zip": rezipped(
        torch_bytes(STATE), lambda m, d: (m.filename.replace("data.pkl", "../../data.pkl"), d), 0
    ),
    "a view of one value": torch_bytes({"w": ONE.expand(10**6, 10**6)}),
    "sparse": torch_bytes({"w": sparse()}),
    "a view in a list": torch_bytes({"w": ONE, "x": [[ONE.expand(10**7)]]}),
    "meta": torch_bytes({"w": torch.ones(3, device="meta")}),
    "quantized": torch_bytes({"w": quantized()}),
    "deep": torch_bytes({"w": ONE}).replace(b"X\x01\x00\x00\x00w", b"]]]]]]"),
    "opcode": b"\x80\x02}q\x00(X\x01\x00\x00\x00wJ\xff\xff\xff\x7f\x8c",
}


@pytest.mark.parametrize("name", DAMAGED)
def test_weights_that_are_none_are_named(tmp_path, name):
    path = tmp_path / "weights.pth"
    path.write_bytes(DAMAGED[name])
    refuse(lambda: read_tensors(path), str(path), folder=tmp_path)


SAFETENSORS = {
    "empty": b"",
    "no header": b"\x08",
    "header cut": header('{"w"', length=500),
    "2^63 header": header("{}", length=2**63),
    "2^40 header": header("{}", length=2**40),
    "header of 0": header(""),
    "not json": header("hello world"),
    "list": header("[]"),
    "no tensors": header("{}"),
    "metadata alone": header('{"__metadata__": {"a": "b"}}'),
    "deep": header('{"w":' * 50_000),
    "values missing": header(ENTRY % ("3", 0, 12)),
    "2^62 values": header(ENTRY % (2**62, 0, 12), body=bytes(12)),
    "overflowing shape": header(ENTRY % (f"{2**33}, {2**33}", 0, 12), body=bytes(12)),
    "offsets out": header(ENTRY % ("3", 0, 2**40), body=bytes(12)),
    "offsets reversed": header(ENTRY % ("3", 12, 0), body=bytes(12)),
    "negative shape": header(ENTRY % ("-3", 0, 12), body=bytes(12)),
    "negative offset": header(ENTRY % ("3", -12, 0), body=bytes(12)),
    "bytes left": header(ENTRY % ("3", 0, 12), body=bytes(99)),
    "unknown type": header((ENTRY % ("3", 0, 12)).replace("F32", "F99"), body=bytes(12)),
    "no type": header('{"w": {"shape": [1]}}', body=bytes(4)),
    "null": header('{"w": null}'),
    "utf-16": header('{"w": 1}'.encode("utf-16")),
    "nul": header(bytes(100)),
    "overlap": header(
        '{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, '
        '"b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}}',
        body=bytes(12),
    ),
    "twice": header(
        '{"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, '
        '"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}',
        body=bytes(4),
    ),
    "cut": save(STATE)[:-4],
    "pth inside": torch_bytes(STATE),
    "float4": header((ENTRY % ("3", 0, 12)).replace("F32", "F4"), body=bytes(12)),
}


@pytest.mark.parametrize("name", SAFETENSORS)
def test_safetensors_that_lie_are_named(tmp_path, name):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(SAFETENSORS[name])
    refuse(lambda: read_tensors(path), str(path), folder=tmp_path)


@pytest.mark.parametrize("kind", ["pipe", "folder", "absent", "device", "loop"])
@pytest.mark.parametrize("reader", READERS)
def test_weights_that_are_no_file_are_named_and_not_waited_for(tmp_path, kind, reader):
    path = tmp_path / "weights.pth"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path = Path("/dev/zero")
    elif kind == "loop":
        path.symlink_to(path)
    refuse(lambda: READERS[reader](path), str(path))


def renamed(state: dict[str, Any], change: Callable[[str, torch.Tensor], Any]) -> dict[str, Any]:
    return {key: change(key, value) for key, value in state.items()}


def cut(key: str, value: torch.Tensor) -> torch.Tensor:
    return value[..., :1].clone() if value.ndim else value


WRONG: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "flat": lambda s: renamed(s, lambda k, v: v.flatten()),
    "cut": lambda s: renamed(s, cut),
    "transposed": lambda s: renamed(s, lambda k, v: v.transpose(0, -1).contiguous() if v.ndim > 1 else v),
    "complex": lambda s: renamed(s, lambda k, v: v.to(torch.complex64)),
    "int8": lambda s: renamed(s, lambda k, v: v.to(torch.int8)),
    "bool": lambda s: renamed(s, lambda k, v: v.bool()),
    "int64": lambda s: renamed(s, lambda k, v: v.long()),
    "float8": lambda s: renamed(s, lambda k, v: v.to(torch.float8_e5m2)),
    "nan": lambda s: renamed(s, lambda k, v: v * float("nan")),
    "one infinity": lambda s: (
        {**s, "conv1.weight": s["conv1.weight"] / 0}
        if "conv1.weight" in s
        else renamed(s, lambda k, v: v / 0)
    ),
    "one missing": lambda s: dict(list(s.items())[1:]),
    "one more": lambda s: {**s, "extra.weight": ONE},
    "other": lambda s: STATE,
    "long names": lambda s: {"k" * 100_000 + k: v for k, v in s.items()},
    "names of controls": lambda s: {"\x1b[31m\n" + k: v for k, v in s.items()},
    "number names": lambda s: dict(enumerate(s.values())),
    "scalars": lambda s: renamed(s, lambda k, v: torch.tensor(1.0)),
}


@pytest.mark.parametrize("name", WRONG)
def test_weights_of_another_kind_are_named_and_leave_the_model_as_it_was(tmp_path, backbone, name):
    path = tmp_path / "weights.pth"
    net = backbone.backbone.net
    before = {key: value.clone() for key, value in net.state_dict().items()}
    torch.save(WRONG[name](before), path)
    refuse(
        lambda: load_backbone_weights(
            backbone.backbone, backbone_type="timm", model_name="test_resnet", weights_file=path
        ),
        str(path),
    )
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_precision_are_cast(tmp_path, backbone, dtype):
    path = tmp_path / "weights.pth"
    state = backbone.backbone.net.state_dict()
    torch.save(
        {key: value.to(dtype) if value.is_floating_point() else value for key, value in state.items()}, path
    )
    report = load_backbone_weights(
        backbone.backbone, backbone_type="timm", model_name="test_resnet", weights_file=path
    )
    assert report.matched == len(state)
