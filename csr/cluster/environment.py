"""The environment that a run's hosts are given.

DeepSpeed's `.deepspeed_env`, and what matters of this shell's.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from csr.runtime.errors import InputError

# what changes numbers, speed or the network; DeepSpeed itself passes PYTHON* and NCCL* on
PREFIXES = (
    "CSR_",
    "DS_",
    "GLOO_",
    "HF_",
    "KMP_",
    "MALLOC_",
    "MKL_",
    "NCCL_",
    "OMP_",
    "TORCH_",
    "TRANSFORMERS_",
)
NAMES = ("CUDA_DEVICE_ORDER", "LD_LIBRARY_PATH", "PATH", "VIRTUAL_ENV")
NOT_PASSED = ("DS_ENV_FILE", "CSR_RUN_ID")
FILE = ".deepspeed_env"
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
# what DeepSpeed leaves without quotes; anything else it puts between double quotes as it is
PLAIN = re.compile(r"[A-Za-z0-9_@+=:,./-]+\Z")


def environment_for_hosts(shell: Mapping[str, str]) -> dict[str, str]:
    """Return the variables for every host.

    Args:
        shell: this process's environment. Its `DS_ENV_FILE` names the file to read instead of
            `.deepspeed_env` in the home folder and here.

    Raises:
        InputError: a line of such a file is no NAME=VALUE.
    """
    passed = {
        name: value
        for name, value in shell.items()
        if (name in NAMES or name.startswith(PREFIXES)) and name not in NOT_PASSED
    }
    home = os.path.expanduser("~")  # "~" itself for a user without a home
    for folder in (Path(home), Path.cwd()):
        path = folder / shell.get("DS_ENV_FILE", FILE)
        if path.is_file():
            passed |= read_environment_file(path)
    return passed


def read_environment_file(path: Path) -> dict[str, str]:
    """Return NAME=VALUE lines; empty ones and comments, which DeepSpeed itself stumbles over, are left out.

    Raises:
        InputError: it cannot be read, or has another kind of line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        raise InputError(f"{path}: cannot be read") from None
    found = {}
    for number, line in enumerate(lines, start=1):
        name, equals, value = line.strip().partition("=")
        if not name or name.startswith("#"):
            continue
        if not equals or not NAME.match(name.strip()):
            raise InputError(f"{path}: line {number}: write NAME=VALUE, without `export`")
        found[name.strip()] = value.strip()
    return found


def deepspeed_file(variables: Mapping[str, str]) -> str:
    """Return the text of a file that gives every host exactly these variables, whatever is in their values.

    Raises:
        InputError: a value with a line break.
    """
    lines = []
    for name, value in variables.items():
        if "\n" in value or "\r" in value or "\0" in value:
            raise InputError(f"the environment variable {name} has a line break: unset it")
        if not value:
            value = '""'
        elif not PLAIN.match(value):
            # between double quotes a shell still reads these; pdsh replaces %h
            value = re.sub(r'([\\$`"])', r"\\\1", value).replace("%", "%%")
        lines.append(f"{name}={value}\n")
    return "".join(lines)


def check_plain(what: str, path: str | os.PathLike[str]) -> None:
    """Raise InputError for a path that DeepSpeed would hand to the hosts' shells unquoted and broken."""
    if not PLAIN.match(os.fspath(path)):
        raise InputError(
            f"{what} {ascii(os.fspath(path))}: the deepspeed launcher needs a path of letters, digits and "
            "@+=:,./-_ alone"
        )
