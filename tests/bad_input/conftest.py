"""A phantom data set to damage, and the command that has to refuse it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from train_command import contents, flags

import csr.train
from csr.cli.exit_codes import run_command

Refused = Callable[..., str]


@pytest.fixture
def data(phantom_folder: Path, tmp_path: Path) -> Path:
    """A copy of the phantom data set, to be damaged."""
    return Path(shutil.copytree(phantom_folder, tmp_path / "data"))


@pytest.fixture
def refused(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Runs the command in this process, checks what every refusal has in common, and returns its line."""

    def run(*more: str, **changed: object) -> str:
        out = tmp_path / "results"
        arguments = flags(data, out, *more, **{"image_cache": "off", **changed})  # type: ignore[arg-type]
        before = contents(out)
        code = run_command(csr.train.main, arguments)
        printed = capsys.readouterr()
        lines = printed.err.splitlines()
        assert code == 2, printed
        assert len(lines) == 1 and lines[0].startswith("csr: error: "), printed.err
        assert "Traceback" not in printed.out + printed.err
        assert "=== Stage" not in printed.out, "training had begun"
        assert contents(out) == before
        return lines[0]

    return run
