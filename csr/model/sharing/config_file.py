"""The config.json of a model's folder, read as an untrusted file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from csr.model.sharing import not_found
from csr.runtime.errors import InputError
from csr.runtime.json_file import MAX_BYTES, read_json

CONFIG = "config.json"
MAX_CONFIG_BYTES = MAX_BYTES


def read_config(path: Path) -> dict[str, Any]:
    """Return the JSON object in an untrusted file.

    Raises:
        InputError: missing, far too large, no JSON, or no object.
    """
    try:
        value = read_json(path)
    except FileNotFoundError:
        raise InputError(not_found.not_there(path)) from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not readable as JSON ({str(error)[:120]})") from None
    if not isinstance(value, dict):
        raise InputError(f"{path}: holds no JSON object")
    return value
