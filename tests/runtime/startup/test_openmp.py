"""How OpenMP's threads wait: asleep, unless the user chose, and settled before torch is loaded."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from csr.runtime.startup import openmp

BY_A_COMMAND = """
import os
from csr.cli.exit_codes import run_command

def command(argv):
    print(os.environ.get("OMP_WAIT_POLICY"), os.environ.get("GOMP_SPINCOUNT"), flush=True)
    import torch

run_command(command)
"""


def by_a_command(**changed: str) -> tuple[str, str]:
    """Return what a command finds set, and what torch's OpenMP says that it has read."""
    env = {k: v for k, v in os.environ.items() if k not in openmp.OF_THE_USER}
    done = subprocess.run(
        [sys.executable, "-c", BY_A_COMMAND],
        env={**env, "OMP_DISPLAY_ENV": "verbose", **changed},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip(), done.stderr


def test_threads_of_a_command_wait_asleep():
    found, shown = by_a_command()
    assert found == "passive 1000"
    if "GOMP_SPINCOUNT" not in shown:
        pytest.skip("this torch has another OpenMP than libgomp, which shows nothing")
    assert "OMP_WAIT_POLICY = 'PASSIVE'" in shown and "GOMP_SPINCOUNT = '1000'" in shown


@pytest.mark.parametrize(
    "chosen, found",
    [
        ({"OMP_WAIT_POLICY": "active"}, "active None"),
        ({"GOMP_SPINCOUNT": "7"}, "None 7"),
        ({"KMP_BLOCKTIME": "200"}, "None None"),
    ],
)
def test_what_the_user_has_set_stays(chosen, found):
    assert by_a_command(**chosen)[0] == found


def test_nothing_is_set_once_torch_is_loaded(monkeypatch):
    for name in openmp.OF_THE_USER:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setitem(sys.modules, "torch", sys)
    openmp.wait_asleep()
    assert not set(openmp.OF_THE_USER) & set(os.environ)
