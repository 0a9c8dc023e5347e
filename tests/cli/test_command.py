"""A mistyped command line gets one line: the flag, and what was probably meant."""

from __future__ import annotations

import pytest
import torch

from csr import __main__
from csr.cli import cache, exit_codes
from csr.runtime.errors import InputError


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["trian"], r"^no command 'trian': did you mean train\? there are train, "),
        (["xyz"], "^no command 'xyz': there are train, "),
        (["train", "--train-csv", "x"], r"--train-csv x: did you mean --train_csv\? \(`csr train --help`"),
        (["train", "--zzz=1"], r"^unrecognized arguments: --zzz=1 \(`csr train"),
        (["train", "--batch_size", "foo"], "argument --batch_size: 'foo': give a whole number, or auto"),
        (["train", "--train_csv", "no.csv"], r"^--train_csv 'no\.csv': cannot be read \(no such file\)"),
        (["submit", "--partition", "gpu", "--train_csv", "x"], "flags of csr train stand after `--`"),
        (["submit", "--partitoin", "gpu"], r"did you mean --partition\?"),
        (["phantom"], r"^the following arguments are required: OUT \(`csr phantom --help`"),
        (["cache"], r"required: list\|prune \("),
        (["cache", "list", ".", "--days", "3"], "unrecognized arguments: --days 3"),
        (
            ["data", "check", "a.csv", "d", "--jsn"],
            r"--jsn: did you mean --json\? \(`csr data check --help` lists",
        ),
        (["bench"], r"required: peak \("),
    ],
)
def test_a_mistyped_command_line_gets_one_line_with_what_was_meant(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        __main__.dispatch(arguments)
    assert "\n" not in str(caught.value) and list(tmp_path.iterdir()) == []


def test_each_word_of_cache_has_a_help_of_its_own(capsys):
    with pytest.raises(SystemExit):
        cache.main(["list", "--help"])
    text = capsys.readouterr().out
    assert "usage: csr cache list" in text and "--days" not in text


@pytest.mark.parametrize(
    "error, first",
    [
        (
            torch.cuda.OutOfMemoryError(
                "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.15 GiB"
            ),
            "CUDA out of memory",
        ),
        (
            RuntimeError(
                "CUDA error: out of memory\nCUDA kernel errors might be reported at some other call"
            ),
            "CUDA error: out of memory",
        ),
    ],
    ids=["allocation", "context"],
)
def test_a_full_gpu_is_one_line_that_says_what_to_do(monkeypatch, capsys, error, first):
    monkeypatch.delenv("WORLD_SIZE", raising=False)

    def main(_: list[str] | None) -> int:
        raise error

    assert exit_codes.run_command(main, []) == 1
    written = capsys.readouterr().err
    assert written.startswith(f"csr: error: {first}: nvidia-smi shows what fills it")
    # what every command has: not all have --device
    assert "DS_ACCELERATOR=cpu" in written and "--device" not in written and written.count("\n") == 1
