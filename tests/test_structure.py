"""The order of imports, what code must not do, and that every script and host file parses."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from csr.config import options

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted((ROOT / "csr").rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
SCRIPTS = [*sorted((ROOT / "scripts").glob("*.s*h")), ROOT / ".ci" / "run"]
ROOT_FILES = {"__init__.py", "__main__.py", "train.py", "README.md"}
LARGEST_ROOM = 17
# who may import whom: strictly downward, the same row never (a room's own files may import each other)
ROWS = (
    ("__main__",),
    ("train",),
    ("cli",),
    ("serve",),
    ("explain", "cluster"),
    ("training",),
    ("evaluation", "stages"),
    ("model",),
    ("data",),
    ("config", "engine", "report"),
    ("runtime",),
)
ROW_OF = {name: number for number, row in enumerate(ROWS) for name in row}
# the files that may import a delicate package, wherever in them
ONLY_IN = {
    "deepspeed": {
        *("csr/engine/engine.py", "csr/engine/process_group.py", "csr/engine/config_check.py"),
        "csr/engine/loss_scale.py",
    },
    "torch.distributed": {"csr/runtime/distributed.py"},
    "mlflow": {"csr/training/trackers/mlflow_tracker.py"},
    "wandb": {"csr/training/trackers/wandb_tracker.py"},
}
# the one file that may import a heavy package at module level; others may inside functions
HEAD_ONLY_IN = {
    "transformers": "csr/model/backbones/vit_backbone.py",
    "timm": "csr/model/backbones/timm_backbone.py",
}
PRINTING = (
    "csr/cli/",
    "csr/__main__.py",
    "csr/train.py",
    "csr/cluster/launch.py",
    "csr/cluster/host_",
    "csr/runtime/monitor.py",
    "csr/config/parser.py",
)


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def short(path: Path) -> str:
    return str(path.relative_to(ROOT))


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported(path: Path) -> Iterator[str]:
    """Yield dotted names of what a file imports, wherever in it; `from csr import x` gives csr.x."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{path}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def part(dotted: str) -> str:
    """Return the room of a dotted name: csr.data.labels.table.read_label_table -> data."""
    return dotted.split(".")[1] if "." in dotted else ""


def own_imports(path: Path) -> set[str]:
    """Return rooms, or files beside them, that a file imports from csr; the version counts as none."""
    names = {name for name in imported(path) if name.split(".")[0] == "csr" and name != "csr.__version__"}
    return {part(name) for name in names}


@pytest.mark.parametrize("path", SOURCES, ids=short)
def test_modules_import_only_from_rows_below(path):
    own = part(module_name(path))
    if own == "":
        return
    assert own in ROW_OF, f"{short(path)} lies in no room: give it one, or a row here"
    wrong = sorted(n for n in own_imports(path) - {own} if n not in ROW_OF or ROW_OF[n] <= ROW_OF[own])
    assert not wrong, f"{short(path)} is in row {ROW_OF[own]} and imports {wrong}"


def test_the_top_of_the_package_has_rooms_and_nothing_else():
    found = {p.name for p in (ROOT / "csr").iterdir() if p.name != "__pycache__"}
    rooms = {name for row in ROWS for name in row} - {"__main__", "train"}
    assert found == rooms | ROOT_FILES


@pytest.mark.parametrize("room", ["runtime", "report"])
def test_the_lowest_rooms_import_nothing_of_csr(room):
    for path in SOURCES:
        if part(module_name(path)) == room:
            assert own_imports(path) <= {room}, short(path)


def test_no_room_is_a_hall():
    folders = {path.parent for path in SOURCES}
    sizes = {short(f): len([p for p in f.glob("*.py") if p.name != "__init__.py"]) for f in folders}
    assert {name: size for name, size in sizes.items() if size > LARGEST_ROOM} == {}


def test_model_and_stages_know_no_configuration():
    for path in SOURCES:
        if part(module_name(path)) in ("model", "stages"):
            assert "config" not in own_imports(path), short(path)


@pytest.mark.parametrize("package", ONLY_IN)
def test_delicate_packages_are_imported_by_the_named_files_and_by_no_other(package):
    importing = {
        short(path)
        for path in SOURCES
        if any(name == package or name.startswith(f"{package}.") for name in imported(path))
    }
    assert importing == ONLY_IN[package]


@pytest.mark.parametrize("package", HEAD_ONLY_IN)
def test_heavy_packages_have_one_file_that_imports_them_at_module_level(package):
    for path in SOURCES:
        heads = [n for n in module_level_imports(path) if n.split(".")[0] == package]
        assert not heads or short(path) == HEAD_ONLY_IN[package], short(path)


@pytest.mark.parametrize("package", ["mlflow", "wandb"])
def test_trackers_are_imported_inside_functions_alone(package):
    for path in SOURCES:
        assert package not in {n.split(".")[0] for n in module_level_imports(path)}, short(path)


def module_level_imports(path: Path) -> Iterator[str]:
    for node in tree(path).body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield str(node.module)


IMPORT_ALL = """
import importlib, os, sys
before, here = dict(os.environ), set(os.listdir("."))
for name in sys.argv[1:]:
    importlib.import_module(name)
assert "deepspeed" not in sys.modules, "deepspeed was imported"
changed = {key for key, value in os.environ.items() if before.get(key) != value}
assert not changed & {"RANK", "WORLD_SIZE", "MASTER_PORT", "DS_ACCELERATOR", "OMP_NUM_THREADS"}
assert set(os.listdir(".")) == here, "files were written"
import torch
assert not (torch.distributed.is_initialized() or torch.cuda.is_initialized())
"""


@pytest.mark.dist
@pytest.mark.slow
def test_every_module_imports_without_side_effects(tmp_path):
    names = [module_name(p) for p in SOURCES if p.name != "__main__.py"]
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL, *names],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("path", TESTS, ids=short)
def test_tests_share_by_way_of_helpers_and_never_import_each_other(path):
    modules = {p.stem for p in TESTS if p.name.startswith("test_")} | {"tests", "conftest"}
    wrong = sorted(name for name in imported(path) if name.split(".")[0] in modules)
    assert not wrong, f"{short(path)} imports {wrong}: move what they share into tests/helpers"


# what code must not do


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    """Yield (dotted name, node) of every call in a file."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def keyword(call: ast.Call, name: str) -> object:
    found = [k.value for k in call.keywords if k.arg == name]
    return found[0].value if found and isinstance(found[0], ast.Constant) else None


@pytest.mark.parametrize("path", SOURCES, ids=short)
def test_nothing_runs_code_from_files_or_loads_half_of_them(path):
    for name, call in calls(path):
        where = f"{short(path)}:{call.lineno}"
        last = name.rsplit(".", 1)[-1]
        assert name not in ("eval", "exec", "compile", "__import__", "os.system"), where
        assert name not in ("pickle.load", "pickle.loads", "pickle.Unpickler", "joblib.load"), where
        assert keyword(call, "allow_pickle") is not True and keyword(call, "shell") is not True, where
        assert keyword(call, "weights_only") is not False, where
        if last == "load_state_dict":
            assert keyword(call, "strict") is not False, where
            assert len(call.args) == 1, where
        if name == "torch.load":
            assert keyword(call, "weights_only") is True, where


def test_command_lines_are_parsed_in_two_rooms():
    allowed = (
        "csr/cli/",
        "csr/config/",
        "csr/model/tensor_file.py",
    )  # the last one reads MAE's pickled options
    wrong = [short(p) for p in SOURCES if "argparse" in imported(p) and not short(p).startswith(allowed)]
    assert wrong == []


@pytest.mark.parametrize("path", SOURCES, ids=short)
def test_no_exception_is_swallowed(path):
    for node in ast.walk(tree(path)):
        if not isinstance(node, ast.ExceptHandler):
            continue
        where = f"{short(path)}:{node.lineno}"
        assert node.type is not None, f"{where}: a bare except"
        if ast.unparse(node.type) in ("Exception", "BaseException"):
            handed_on = any(isinstance(n, ast.Raise) for n in ast.walk(node))
            # the command reports it and ends; the loader's thread hands it to the thread that uses the batch
            assert handed_on or short(path) in ("csr/cli/exit_codes.py", "csr/data/prefetch.py"), where


@pytest.mark.parametrize("path", SOURCES, ids=short)
def test_only_commands_print_and_sources_are_plain_ascii(path):
    text = path.read_text(encoding="utf-8")
    assert text.isascii(), short(path)
    assert not re.search(r"\b(TODO|FIXME|XXX)\b", text), short(path)
    if not short(path).startswith(PRINTING):
        assert not [c.lineno for name, c in calls(path) if name == "print"], short(path)


@pytest.mark.parametrize("path", SOURCES, ids=short)
def test_html_is_written_in_templates_alone(path):
    tags = re.compile(
        r"</?(html|head|body|div|p|table|t[rdh]|h[1-6]|span|section|figure|ul|li|svg|img|a)[ >/]"
    )
    literals = (node for node in ast.walk(tree(path)) if isinstance(node, ast.Constant))
    assert [node.lineno for node in literals if isinstance(node.value, str) and tags.search(node.value)] == []


def test_every_source_has_a_docstring():
    assert [short(p) for p in SOURCES if not ast.get_docstring(tree(p))] == []


# scripts and host files


@pytest.mark.parametrize("path", SCRIPTS, ids=short)
def test_shell_scripts_parse(path):
    done = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    if path.name != "environment.sh":  # sourced
        assert os.access(path, os.X_OK), f"{short(path)} is not executable"
        assert "set -euo pipefail" in path.read_text()


@pytest.mark.parametrize("path", sorted((ROOT / "scripts").glob("*.ps1")), ids=short)
def test_powershell_scripts_are_balanced(path):
    text = re.sub(r"#.*", "", path.read_text())
    text = re.sub(r'"[^"\n]*"|\'[^\'\n]*\'', '""', text)
    for opening, closing in ("{}", "()", "[]"):
        assert text.count(opening) == text.count(closing), opening
    assert text.count('"') % 2 == 0 and "csr.train @args" in text


@pytest.mark.parametrize(
    "path", sorted(p for p in (ROOT / "hostfiles").iterdir() if p.suffix != ".md"), ids=short
)
def test_host_files_have_comments_and_hosts_with_slots(path):
    lines = path.read_text().splitlines()
    hosts = [line for line in lines if not line.startswith("#")]
    assert lines[0].startswith("# ") and hosts
    assert all(re.fullmatch(r"[A-Za-z0-9.-]+ slots=[1-9]\d*", line) for line in hosts)
    assert len({line.split()[0] for line in hosts}) == len(hosts)


def test_flags_that_scripts_give_to_the_command_exist():
    known = {f for group in options.groups().values() for f in group.__dataclass_fields__}
    for path in [*SCRIPTS, *(ROOT / "scripts").glob("*.ps1")]:
        text = path.read_text()
        for command in re.findall(r"csr\.train((?:.*\\\n)*.*)", text):
            unknown = set(re.findall(r"--([a-z]\w*)\b", command)) - known
            assert not unknown, f"{short(path)}: {sorted(unknown)}"
