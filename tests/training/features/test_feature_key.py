"""The name of cached features changes with every source that computes them."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest

from csr.engine.device import inference_precision
from csr.runtime import fingerprint
from csr.runtime.fingerprint import PACKAGE, of_code
from csr.training.features.key import COMPUTING

# of the rooms below them engine/device.py alone decides values: autocast, and fp32 without TF32
ROOMS = ("data", "model", "stages", "evaluation", "training")
# imported on the way, without a say in the values
ELSEWHERE = {"evaluation/metrics.py", "evaluation/thresholds.py"}


def imported(path: Path) -> set[Path]:
    """Return the files of csr that a file imports, packages by their __init__."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    places = [PACKAGE.joinpath(*name.split(".")[1:]) for name in names if name.startswith("csr.")]
    return {
        file
        for place in places
        for file in (place.with_suffix(".py"), place / "__init__.py")
        if file.is_file()
    }


def test_every_source_that_computes_features_is_named():
    reached, queue = set(), [PACKAGE / "training" / "features" / "cache.py"]
    while queue:
        path = queue.pop()
        if path not in reached and path.relative_to(PACKAGE).parts[0] in ROOMS:
            reached.add(path)
            queue += imported(path)
    covered = {
        f
        for place in map(PACKAGE.joinpath, COMPUTING)
        for f in (place.rglob("*.py") if place.is_dir() else [place])
    }
    missing = {f.relative_to(PACKAGE).as_posix() for f in reached - covered if f.name != "__init__.py"}
    assert missing <= ELSEWHERE


def test_the_arithmetic_of_inference_is_named():
    assert inspect.getsourcefile(inspect.unwrap(inference_precision)) in {
        str(PACKAGE / place) for place in COMPUTING
    }


def test_every_named_source_exists():
    assert [place for place in COMPUTING if not (PACKAGE / place).exists()] == []


def test_the_hash_is_of_the_named_sources_and_a_missing_one_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(fingerprint, "PACKAGE", tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "one.py").write_text("1")
    (tmp_path / "two.py").write_text("2")
    both, one = of_code(), of_code("a")
    assert both != one == of_code("a/one.py") and of_code("a", "two.py") == both
    (tmp_path / "two.py").write_text("3")
    assert of_code() != both and of_code("a") == one
    with pytest.raises(FileNotFoundError):
        of_code("a", "b")
