"""Without a UTF-8 locale names are found all the same, and nothing dies of printing them."""

from __future__ import annotations

import io
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from csr.cli.exit_codes import run_command

NO_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
ASCII_STREAMS = {"PYTHONIOENCODING": "ascii"}


def run(module, *arguments, env):
    command = [sys.executable, "-m", module, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, env={**os.environ, **env}, check=False)


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "donn\u00e9es d'ici" / "\u80ba"
    folder.mkdir(parents=True)
    rows = []
    for n in range(12):
        name = f"im\u00e1gen {n}"
        noise = np.random.default_rng(n).integers(0, 256, (40, 40), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{name}.png")
        rows.append(f"{name},{n % 2},{n // 2 % 2},{n // 3 % 2}\n")
    table = folder.parent / "labels.csv"
    table.write_text("image_id,N\u00f3dulo,\u00c9panchement,COPD\n" + "".join(rows), encoding="utf-8")
    return table, folder


@pytest.mark.parametrize("env", [NO_LOCALE, ASCII_STREAMS])
def test_names_are_found_and_printed_as_escapes_and_files_stay_utf8(data, tmp_path, env):
    table, folder = data
    page = tmp_path / "r\u00e9sultat.html"
    done = run(
        "csr", *("data", "check", table, folder, "--out", page, "--concept_cols", "N\u00f3dulo"), env=env
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii() and rb"N\xf3dulo" in done.stdout
    assert rb"r\xe9sultat.html" in done.stdout
    assert "N\u00f3dulo" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize("module", ["csr", "csr.train"])
def test_an_error_about_a_name_is_one_line(module, tmp_path):
    words = ["train"] if module == "csr" else []
    done = run(module, *words, "--train_csv", tmp_path / "\u80ba.csv", env=NO_LOCALE)
    assert done.returncode == 2
    assert done.stderr.count(b"\n") == 1 and rb"\u80ba.csv" in done.stderr


def test_a_pipe_that_closes_is_a_word_on_the_other_stream():
    code = (
        "from csr.cli.exit_codes import exit_process, run_command\n"
        "def main(argv):\n    while True:\n        print('line', flush=True)\n"
        "exit_process(run_command(main))"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.readline()
        process.stdout.close()
        line = process.stderr.read()
        assert process.wait(timeout=60) == 1
    assert line.count(b"\n") == 1 and b"has closed it" in line


def test_a_command_prints_what_the_streams_cannot_hold(monkeypatch):
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="strict")
    monkeypatch.setattr(sys, "stdout", out)
    assert run_command(lambda argv: print("\u80ba and \udcff")) == 0
    out.flush()
    assert out.buffer.getvalue() == rb"\u80ba and \udcff" + b"\n"
