"""Files of a hub repository: from the local cache, or fetched; one clear line if neither works."""

from __future__ import annotations

from pathlib import Path

from csr.runtime.errors import InputError

WEIGHT_NAMES = ("model.safetensors", "pytorch_model.bin")


class Unobtainable(InputError):
    """A repository, or these files of it, cannot be had."""


_ADVICE = (
    "Give a local copy, --model_name FOLDER (with config.json) or --backbone_weights FILE "
    "(.safetensors, .pth), or start from random weights with --no_pretrained"
)


def fetch(
    repo_id: str, names: tuple[str, ...], *, revision: str | None = None, advice: str = _ADVICE
) -> Path:
    """Return the first of these files that the repository has, as a local path.

    Args:
        repo_id: `name/model`.
        names: file names, the preferred one first.
        revision: branch, tag or commit; None: the main branch.
        advice: what the user can do where it fails.

    Raises:
        InputError: the path of no folder.
        Unobtainable: offline, unreachable, no such repository, or none of the files in it.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HFValidationError, LocalEntryNotFoundError

    if repo_id.startswith((".", "/", "~")):
        raise InputError(f"{repo_id}: no such folder. {advice}")
    for name in names:
        try:
            return Path(hf_hub_download(repo_id, name, revision=revision))
        except LocalEntryNotFoundError as error:  # not in the cache, and no connection
            raise _unreachable(repo_id, names, error, advice) from error
        except EntryNotFoundError:
            continue
        except (OSError, HFValidationError) as error:  # offline mode, no such repository, no access
            raise _unreachable(repo_id, names, error, advice) from error
    raise _cannot(repo_id, names, "the repository has none of these files", advice)


def _unreachable(repo_id: str, names: tuple[str, ...], error: Exception, advice: str) -> Unobtainable:
    lines = str(error).strip().splitlines()
    reason = ": ".join([type(error).__name__, *[line[:120] for line in lines[:1]]])
    return _cannot(repo_id, names, reason, advice)


def _cannot(repo_id: str, names: tuple[str, ...], reason: str, advice: str) -> Unobtainable:
    return Unobtainable(f"{repo_id}: cannot get {' or '.join(names)} from the hub ({reason}). {advice}")
