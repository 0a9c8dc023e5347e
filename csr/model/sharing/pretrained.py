"""A trained model as a folder that anyone can load: config.json, model.safetensors, README.md.

Nothing in such a folder is executed, and `csr.model.sharing.claims` checks what it claims before the model is
built. huggingface_hub's PyTorchModelHubMixin is not used, because it cannot keep these guarantees: it builds
the model from config.json before anything is checked, loads with missing tensors by default, falls back to a
pickle where safetensors are missing, writes files in place, and prints.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import nn

from csr.model import hub_download
from csr.model.backbones.base import Backbone
from csr.model.backbones.names import FILE_SUFFIXES
from csr.model.sharing import not_found
from csr.model.sharing.card import Card, card_from_dict, check_counts, check_novelty, plain_card
from csr.model.sharing.claims import check_against_tensors, check_architecture, fill
from csr.model.sharing.config_file import CONFIG, read_config
from csr.model.sharing.readme import write_readme
from csr.model.tensor_file import read_tensors
from csr.runtime.errors import InputError
from csr.runtime.files import write_atomic, write_json

WEIGHTS, README = "model.safetensors", "README.md"
GRAPH = "model.onnx"  # `csr export --onnx` writes it beside them
FORMAT, FORMAT_VERSION = "csr", 1

Self = TypeVar("Self", bound="Shareable")


class Shareable(nn.Module):
    """`save_pretrained`, `from_pretrained` and `push_to_hub` for CSR.

    Attributes:
        card: names, preprocessing and thresholds, None for a model that was only built.
    """

    card: Card | None = None

    def description(self) -> dict[str, Any]:
        """Return the constructor arguments, plain JSON."""
        raise NotImplementedError

    def save_pretrained(self, folder: str | Path, *, card: Card | None = None) -> Path:
        """Write the model into a folder, made if missing: each file atomically, config.json last.

        Args:
            folder: files of other names in it stay, but model.onnx, which would be of other weights, goes.
            card: names, preprocessing and thresholds; None: the model's own, or made-up names.

        Returns:
            The folder.

        Raises:
            InputError: the card does not fit the model, or the folder cannot be written.
        """
        from safetensors.torch import save

        folder, architecture = Path(folder), _shown_name(self.description())
        sizes = (architecture["num_concepts"], architecture["num_classes"])
        card = card or self.card or plain_card(*sizes, image_size=architecture["image_size"])
        check_counts(card, sizes=sizes, image_size=architecture["image_size"], where="card")
        state = {k: v.detach().cpu().contiguous() for k, v in self.state_dict().items()}
        config = {"format": FORMAT, "format_version": FORMAT_VERSION, "architecture": architecture}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            data = save(state, metadata={"format": "pt"})
            (folder / GRAPH).unlink(missing_ok=True)
            write_atomic(folder / WEIGHTS, lambda file: file.write(data))
            text = write_readme(card, architecture)
            write_atomic(folder / README, lambda file: file.write(text.encode()))
            write_json(folder / CONFIG, {**config, **card.to_dict()})
        except OSError as error:
            raise InputError(f"{folder}: cannot be written ({error.strerror or error})") from None
        return folder

    @classmethod
    def from_pretrained(cls: type[Self], source: str | Path, *, revision: str | None = None) -> Self:
        """Load a model, in eval mode, on the CPU. A folder needs no network; training data is not needed.

        Args:
            source: folder that `save_pretrained` or `csr export` wrote, or a hub id such as `name/model`.
            revision: branch, tag or commit of a hub repository.

        Raises:
            InputError: not found, not reachable, not such a folder, or config and tensors disagree.
        """
        config_file, weights_file = _locate(source, revision)
        config = read_config(config_file)
        if config.get("format") != FORMAT:
            raise InputError(f"{config_file}: 'format' is not {FORMAT!r}: `csr export` writes such models")
        version = config.get("format_version")
        if version != FORMAT_VERSION:
            raise InputError(
                f"{config_file}: format_version {str(version)[:20]}, this csr reads {FORMAT_VERSION}"
            )
        return build_trained(
            cls,
            config.get("architecture"),
            card=config,
            state=read_tensors(weights_file),
            where=(str(config_file), str(weights_file)),
        )

    def push_to_hub(self, repo_id: str, *, private: bool = True, card: Card | None = None) -> str:
        """Upload the files of `save_pretrained`; the hub's own login (`hf auth login`) is used.

        Args:
            repo_id: `name/model`, made if missing.
            private: of a new repository.
            card: see `save_pretrained`.

        Returns:
            The address of the commit.
        """
        from huggingface_hub import HfApi

        api = HfApi()
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, card=card)
            api.create_repo(repo_id, private=private, exist_ok=True)
            return str(api.upload_folder(repo_id=repo_id, folder_path=folder))


def build_trained(
    cls: type[Self],
    architecture: Any,
    *,
    card: dict[str, Any],
    state: dict[str, torch.Tensor],
    where: tuple[str, str],
) -> Self:
    """Build a model in eval mode from parsed JSON and tensors, neither of them trusted.

    Args:
        architecture: as `CSR.description()` gives it.
        card: as `Card.to_dict()` gives it; other keys are ignored.
        state: a state dict, shapes as in CSR.
        where: the two files, for messages.

    Returns:
        The model, on the CPU, with its `card`.

    Raises:
        InputError: one contradicts itself or the other.
    """
    config_name, weights_name = where
    checked = check_architecture(architecture, config_name)
    read = card_from_dict(card, num_prototypes=checked["num_prototypes_per_concept"], where=config_name)
    sizes = (checked["num_concepts"], checked["num_classes"])
    check_counts(read, sizes=sizes, image_size=checked["image_size"], where=config_name)
    check_against_tensors(checked, state, build=cls, where=where)
    model = cls(**checked)
    fill(model, state, where=weights_name)
    check_novelty(read, channels=cast(Backbone, model.backbone).channels, where=config_name)
    model.card = read
    return model.eval()


def _locate(source: str | Path, revision: str | None) -> tuple[Path, Path]:
    """Return the config and weights files of a folder, or of a hub repository as local paths."""
    folder = Path(source)
    if os.path.isdir(folder):  # False, and no error, for a name that cannot be one
        if not (folder / WEIGHTS).is_file():
            raise InputError(not_found.no_model(folder, lacks=WEIGHTS))
        return folder / CONFIG, folder / WEIGHTS
    name = str(source)
    if (problem := not_found.no_folder(name)) is not None:
        raise InputError(problem)
    advice = "Give a folder that `csr export` wrote, or copy the repository to one"
    config, weights = (
        hub_download.fetch(name, (file,), revision=revision, advice=advice) for file in (CONFIG, WEIGHTS)
    )
    return config, weights


def _shown_name(architecture: dict[str, Any]) -> dict[str, Any]:
    """Return the description without paths of this machine: beside explicit sizes, the name is a label."""
    name = architecture["model_name"]
    is_path = name.lower().endswith(FILE_SUFFIXES) or Path(name).is_absolute() or Path(name).is_dir()
    return {**architecture, "model_name": Path(name).name} if is_path else architecture
