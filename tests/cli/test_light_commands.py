"""Light commands: help and version import no heavy package, and old module names lead to the new ones."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

from csr.__main__ import COMMANDS
from csr.runtime.moved_names import MOVED

HEAVY = (
    "torch",
    "torchvision",
    "deepspeed",
    "timm",
    "transformers",
    "sklearn",
    "scipy",
    "pandas",
    "tensorboard",
)
LISTED = """
import sys
from csr.__main__ import dispatch
try:
    dispatch(sys.argv[1:])
except SystemExit as left:
    assert not left.code
print("LOADED", *sorted({name.split(".")[0] for name in sys.modules}))
"""
RUN_AS_MAIN = """
import runpy, sys
del sys.argv[0]
try:
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
except SystemExit as left:
    assert not left.code
print("LOADED", *sorted({name.split(".")[0] for name in sys.modules}))
"""


def loaded(*words: str) -> tuple[str, set[str]]:
    """Return what a command prints, and the packages that it has loaded by then."""
    done = subprocess.run([sys.executable, "-c", LISTED, *words], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    printed, _, names = done.stdout.rpartition("LOADED ")
    return printed, set(names.split())


@pytest.mark.parametrize(
    "words", [[], ["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)], ids=" ".join
)
def test_help_and_version_load_no_heavy_package(words):
    printed, packages = loaded(*words)
    assert printed.strip() and not packages & set(HEAVY)


@pytest.mark.parametrize("module, words", [("csr.train", []), ("csr", []), ("csr", ["evaluate"])])
def test_a_module_that_is_run_answers_without_heavy_packages_too(module, words):
    done = subprocess.run(
        [sys.executable, "-c", RUN_AS_MAIN, module, *words, "--help"],
        capture_output=True,
        text=True,
        check=False,
    )
    printed, _, names = done.stdout.rpartition("LOADED ")
    assert "usage: csr" in printed and not set(names.split()) & set(HEAVY), done.stderr


@pytest.mark.parametrize("name", MOVED)
def test_an_old_module_name_leads_to_its_new_place(name):
    old = name.removesuffix(".__main__")
    with pytest.raises(ModuleNotFoundError, match=f"^{old} has moved: use {MOVED[name]}$"):
        importlib.import_module(name)
    target = MOVED[name].split()[-1]
    assert target in COMMANDS or importlib.import_module(target)


@pytest.mark.parametrize(
    "words",
    [
        ["-m", "csr.evaluate", "x"],
        ["-m", "csr.explain", "x"],
        ["-c", "from csr.interaction import top_two_gap"],
    ],
)
def test_an_old_command_line_fails_with_the_new_one(words):
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and " has moved: use " in done.stderr.splitlines()[-1]


def test_the_network_is_found_under_its_public_name_only():
    import csr.model

    assert csr.model.CSR.__name__ == "CSR" and set(csr.model.__all__) == {"CSR", "CSROutput"}
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        csr.model.Nothing
