"""What is done with a trained model, on a GPU and on the CPU: the same numbers within stated tolerances."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from gpu_command import run, trained

pytestmark = pytest.mark.gpu
# fp32 products in fp32 on both: sums of other orders, through a network of some layers
NEAR = 1e-3
# clocks, and names that are drawn
DIFFERS = ("seconds", "time", "device", "session")


@pytest.fixture(scope="module")
def model(phantom_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was trained on the GPU, in fp32 so that its thresholds lie between scores on both."""
    place = {} if torch.cuda.is_available() else {"DS_ACCELERATOR": "cpu"}
    out = tmp_path_factory.mktemp("used") / "out"
    trained(phantom_folder, out, "--precision", "fp32", **place)
    return out / "csr_exp"


def on_both(device: torch.device, out: Path, *words: str | Path, flag: bool = True) -> tuple[Path, Path]:
    """Run a command on the GPU and on the CPU; return what each wrote."""
    found = []
    for number, name in enumerate((device.type, "cpu")):
        target = out / f"{number}-{name}"
        chosen = ["--device", name] if flag else []
        place = {"DS_ACCELERATOR": "cpu"} if name == "cpu" else {}
        done = run("csr", *words, *chosen, "--out", target, **place)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
        found.append(target)
    return found[0], found[1]


def numbers(folder: Path) -> dict[str, float]:
    """Return every number in the JSON and CSV files below a folder, by file and place."""
    found: dict[str, float] = {}
    for file in sorted(folder.rglob("*")):
        name = str(file.relative_to(folder))
        if file.suffix == ".json":
            found.update({f"{name}{place}": value for place, value in leaves(json.loads(file.read_text()))})
        elif file.suffix == ".csv":
            with open(file, newline="", encoding="utf-8") as table:
                for number, row in enumerate(csv.DictReader(table)):
                    found.update({f"{name}[{number}]{k}": v for k, v in leaves(row)})
    return found


def leaves(value: Any, place: str = "") -> Iterator[tuple[str, float]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            if not any(word in str(name) for word in DIFFERS):
                yield from leaves(inner, f"{place}.{name}")
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from leaves(inner, f"{place}[{number}]")
    elif not isinstance(value, bool):
        try:
            yield place, float(value)
        except (TypeError, ValueError):
            return


def assert_near(one: Path, other: Path, *, near: float = NEAR, least: int = 5) -> None:
    found, expected = numbers(one), numbers(other)
    assert set(found) == set(expected) and len(expected) >= least
    far = {
        place: (found[place], value)
        for place, value in expected.items()
        if not math.isclose(found[place], value, rel_tol=near, abs_tol=near)
        and not (math.isnan(value) and math.isnan(found[place]))
    }
    assert not far, dict(list(far.items())[:10])


def test_an_evaluation(gpu, model, phantom_folder, tmp_path):
    given = ("--csv", phantom_folder / "labels_test.csv", "--dir", phantom_folder / "test")
    words = ("evaluate", model, *given, "--bootstrap", "20", "--simulate", "concept", "--save_predictions")
    assert_near(*on_both(gpu, tmp_path, *words, flag=False), least=50)


def test_an_explanation(gpu, model, phantom_folder, tmp_path):
    image = sorted((phantom_folder / "test").iterdir())[0]
    assert_near(*on_both(gpu, tmp_path, "explain", model, image))


def test_an_atlas_and_a_model_without_some_of_its_prototypes(gpu, model, tmp_path):
    atlases = on_both(gpu, tmp_path / "atlas", "atlas", model)
    assert_near(*atlases)
    lines = (atlases[1] / "keep.csv").read_text().splitlines()
    at = lines[0].split(",").index("keep")
    rejected = lines[1].split(",")
    rejected[at] = "0"
    keep = tmp_path / "keep.csv"
    keep.write_text("\n".join([lines[0], ",".join(rejected), *lines[2:]]) + "\n")
    # the new head is trained: orders of sums add up over its steps
    words = ("refine", model, "--keep", keep, "--bootstrap", "20")
    one, other = on_both(gpu, tmp_path / "refined", *words)
    ours, theirs = (torch.load(p / "refined_model.pth", weights_only=True) for p in (one, other))
    assert set(ours) == set(theirs)
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-2, atol=1e-2)


def test_an_export_of_what_a_gpu_trained_is_read_without_one(model, phantom_folder, tmp_path):
    done = run("csr", "export", model, tmp_path / "exported")
    assert done.returncode == 0, done.stderr[-3000:]
    scores = []
    for number, source in enumerate((model, tmp_path / "exported")):
        table = tmp_path / f"{number}.csv"
        words = ("csr", "predict", source, phantom_folder / "test", "--device", "cpu", "--out", table)
        done = run(*words, CUDA_VISIBLE_DEVICES="", DS_ACCELERATOR="cpu")
        assert done.returncode == 0, done.stderr[-3000:]
        scores.append(table.read_text())
    assert scores[0] == scores[1]


def test_the_served_page_answers_with_the_cpus_numbers(gpu, tmp_path):
    pytest.importorskip("fastapi", reason="the extra is not installed: pip install -e .[serve]")
    from serving import BASE, box, opened, put
    from starlette.testclient import TestClient
    from tiny_model import tiny_model

    from csr.engine.device import use_true_fp32
    from csr.serve.access import Access
    from csr.serve.app import create_app
    from csr.serve.limits import Limits
    from csr.serve.service import Service

    use_true_fp32()
    answers = []
    for device in (gpu, torch.device("cpu")):
        limits = Limits()
        service = Service(tiny_model().to(device), name="tiny", limits=limits)
        with TestClient(create_app(service, Access(max_bytes=limits.max_bytes)), base_url=BASE) as client:
            first = opened(client)
            edited = put(client, first["session"], boxes=[box("positive", 0.2, 0.2, 0.7, 0.8)])
            assert edited.status_code == 200, edited.text
            answers.append([dict(leaves(first)), dict(leaves(edited.json()))])
    for found, expected in zip(*answers, strict=True):
        assert set(found) == set(expected) and len(expected) > 20
        assert all(math.isclose(found[k], v, rel_tol=NEAR, abs_tol=NEAR) for k, v in expected.items())
