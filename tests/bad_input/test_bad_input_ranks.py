"""Mistakes under launchers: reported once, by rank 0."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from csv_edits import edit
from train_command import contents, flags, train

from csr.cli import exit_codes
from csr.cli.exit_codes import run_command
from csr.runtime.errors import InputError


@pytest.mark.parametrize("rank, waits", [("0", []), ("1", [exit_codes.RANK_0_SPEAKS_FIRST_S])])
def test_other_ranks_let_rank_0_speak_first_because_the_launcher_ends_all_with_the_first(
    rank, waits, monkeypatch, capsys
):
    waited: list[float] = []
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setattr(exit_codes.time, "sleep", waited.append)

    def main(argv):
        raise InputError("labels.csv\nline 3")

    assert run_command(main) == 2
    assert waited == waits
    assert capsys.readouterr().err == "csr: error: labels.csv line 3\n"


def assert_reported_once(done, folder: Path, named: str) -> None:
    errors = [line for line in done.stderr.splitlines() if "csr: error:" in line]
    assert done.returncode != 0
    assert len(errors) == 1 and errors[0].startswith("csr: error: ") and named in errors[0], done.stderr
    assert 'File "' not in done.stderr.replace(launchers_own_traceback(done.stderr), ""), done.stderr
    assert "=== Stage" not in done.stdout
    assert contents(folder) == {}


def launchers_own_traceback(text: str) -> str:
    """torchrun closes every failed run with a traceback of its own, which no program under it can prevent."""
    at = text.find("torch.distributed.elastic.multiprocessing.errors.ChildFailedError")
    return text[text.rfind("Traceback", 0, at) : at] if at >= 0 else ""


@pytest.mark.dist
def test_what_only_deepspeed_can_refuse_is_refused_before_training(phantom_folder, tmp_path):
    path = tmp_path / "ds.json"
    path.write_text(json.dumps({"zero_optimization": {"stage": 2, "overlap_com": True}}))
    done = train(*flags(phantom_folder, tmp_path / "results", "--ds_config", str(path)))
    assert_reported_once(done, tmp_path / "results", "overlap_com")
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1


@pytest.mark.dist
@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["torchrun", "deepspeed"])
@pytest.mark.parametrize("mistake", ["flag", "table", "image"])
def test_two_ranks_report_a_mistake_once(data, tmp_path, launcher, mistake):
    more: tuple[str, ...] = ()
    if mistake == "flag":
        more, named = ("--lr", "0"), "--lr"
    elif mistake == "table":
        edit(data / "labels_train.csv", lambda rows: rows[3].__setitem__(2, "2"))
        named = "line 4"
    else:
        broken = sorted((data / "test").iterdir())[-1]
        broken.write_bytes(b"no image")
        named = broken.name
    done = train(*flags(data, tmp_path / "results", *more), launcher=launcher)
    assert_reported_once(done, tmp_path / "results", named)
    # torchrun itself always ends with 1
    assert done.returncode == (2 if launcher == "deepspeed" else 1)
