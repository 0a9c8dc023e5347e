"""A trained model as a folder that anyone can load: config.json, model.safetensors, README.md.

Nothing in such a folder is executed; what it claims is checked against its tensors before the model is
built, so that a hostile one costs an error and neither memory nor time.
"""

from __future__ import annotations

import math
import os
import tempfile
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from csr.model import hub_download
from csr.model.backbones.build import BACKBONE_TYPES
from csr.model.backbones.names import FILE_SUFFIXES
from csr.model.backbones.vit_architecture import (
    ARCHITECTURE_KEYS,
    architecture_of_tensors,
    architecture_problem,
)
from csr.model.layers.concept_head import POOLS
from csr.model.sharing import not_found
from csr.model.sharing.card import (
    MAX_NAME,
    MAX_SIDE_PX,
    Card,
    card_from_dict,
    check_counts,
    is_count,
    plain_card,
)
from csr.model.sharing.readme import write_readme
from csr.model.tensor_file import read_tensors
from csr.runtime.errors import InputError
from csr.runtime.files import write_atomic, write_json
from csr.runtime.json_file import MAX_BYTES, read_json
from csr.runtime.torch_file import not_finite, of_another_type

CONFIG, WEIGHTS, README = "config.json", "model.safetensors", "README.md"
FORMAT, FORMAT_VERSION = "csr", 1
MAX_CONFIG_BYTES = MAX_BYTES
MAX_CELLS = 2**16
_ARCHITECTURE = {
    "num_concepts": int,
    "num_classes": int,
    "num_prototypes_per_concept": int,
    "backbone_type": str,
    "model_name": str,
    "image_size": int,
    "embedding_dim": int,
    "projector_blocks": int,
    "concept_pool": str,
    "architecture": (dict, type(None)),
}
_BACKBONE = "backbone.net."

Self = TypeVar("Self", bound="Shareable")


class Shareable(nn.Module):
    """`save_pretrained`, `from_pretrained` and `push_to_hub` for CSR.

    Attributes:
        card: names, preprocessing and thresholds, None for a model that was only built.
    """

    card: Card | None = None

    def description(self) -> dict[str, Any]:
        """Constructor arguments, plain JSON."""
        raise NotImplementedError

    def save_pretrained(self, folder: str | Path, *, card: Card | None = None) -> Path:
        """Write the model into a folder, made if missing: each file atomically, config.json last.

        Args:
            folder: where; files of other names in it stay.
            card: what the model must know besides its weights; None: its own, or made-up names.

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
        """Upload what `save_pretrained` writes; the hub's own login (`hf auth login`) is used.

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
    """A model in eval mode out of parsed JSON and tensors, neither trusted.

    Args:
        architecture: what should be `CSR.description()`.
        card: what should be `Card.to_dict()`, other keys allowed.
        state: what should be the state dict.
        where: the two files, for messages.

    Raises:
        InputError: one contradicts itself or the other.
    """
    config_name, weights_name = where
    checked = _check_architecture(architecture, config_name)
    read = card_from_dict(card, num_prototypes=checked["num_prototypes_per_concept"], where=config_name)
    sizes = (checked["num_concepts"], checked["num_classes"])
    check_counts(read, sizes=sizes, image_size=checked["image_size"], where=config_name)
    _check_sizes(checked, state, where)
    _check_shapes(cls, checked, state, where)
    model = cls(**checked)
    fill(model, state, where=weights_name)
    model.card = read
    return model.eval()


def fill(model: nn.Module, state: dict[str, torch.Tensor], *, where: str) -> None:
    """Load a whole state dict, or say in one line what does not fit.

    Raises:
        InputError: missing, unknown or wrongly shaped tensors, or numbers that are not finite.
    """
    for what, names in (
        ("not finite (NaN or infinity)", not_finite(state)),
        ("of another type than weights", of_another_type(model.state_dict(), state)),
    ):
        if names:
            raise InputError(f"{where}: {', '.join(name[:80] for name in names[:4])}: {what}")
    try:
        model.load_state_dict(state)
    except (RuntimeError, ValueError) as error:
        reasons = [line.strip() for line in str(error).splitlines()[1:] if line.strip()] or [str(error)]
        more = f"; and {len(reasons) - 2} more" if len(reasons) > 2 else ""
        told = "; ".join(reason[:240] for reason in reasons[:2])
        raise InputError(f"{where}: does not fit the model of its config.json: {told}{more}") from None


def read_config(path: Path) -> dict[str, Any]:
    """A JSON object from a file that is not trusted.

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


def _locate(source: str | Path, revision: str | None) -> tuple[Path, Path]:
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
    """The description without the path of a weights file on this machine: with sizes given, it is a label."""
    name = architecture["model_name"]
    is_path = name.lower().endswith(FILE_SUFFIXES) or Path(name).is_absolute() or Path(name).is_dir()
    return {**architecture, "model_name": Path(name).name} if is_path else architecture


def _check_architecture(value: Any, where: str) -> dict[str, Any]:
    """Types and plausible sizes of constructor arguments, before anything is built of them."""
    if not isinstance(value, dict) or set(value) != set(_ARCHITECTURE):
        keys = set(value) if isinstance(value, dict) else set()
        different = ", ".join(sorted(set(_ARCHITECTURE) ^ keys))
        raise InputError(f"{where}: architecture: missing or unknown: {different[:160]}")
    for key, kind in _ARCHITECTURE.items():
        if not isinstance(value[key], kind) or isinstance(value[key], bool):  # type: ignore[arg-type]
            raise InputError(f"{where}: architecture: {key} is {str(value[key])[:40]!r}")
        if kind is str and len(value[key]) > MAX_NAME:
            raise InputError(f"{where}: architecture: {key} is longer than {MAX_NAME}")
        if kind is int and not is_count(value[key], 10**6, minimum=0 if key == "projector_blocks" else 1):
            raise InputError(f"{where}: architecture: {key} {value[key]} is out of range")
    if value["image_size"] > MAX_SIDE_PX:
        raise InputError(f"{where}: architecture: image_size {value['image_size']}: at most {MAX_SIDE_PX}")
    if value["backbone_type"] not in BACKBONE_TYPES or value["concept_pool"] not in POOLS:
        raise InputError(f"{where}: architecture: unknown backbone_type or concept_pool")
    # without sizes a name would be looked up: a file of this machine, or the hub
    if (value["backbone_type"] == "medmae") != (value["architecture"] is not None):
        raise InputError(f"{where}: architecture: sizes of the backbone belong to 'medmae', and to it alone")
    return value


def _check_sizes(checked: dict[str, Any], state: dict[str, torch.Tensor], where: tuple[str, str]) -> None:
    """What config.json says is as large as what the tensors are: it cannot make us build a giant."""
    config_name, weights_name = where
    num_concepts, num_per_concept = checked["num_concepts"], checked["num_prototypes_per_concept"]
    expected = {
        "prototypes.proto_KMD": (num_concepts, num_per_concept, checked["embedding_dim"]),
        "task_head.linear.weight": (checked["num_classes"], num_concepts * num_per_concept),
    }
    for key, shape in expected.items():
        found = tuple(state[key].shape) if key in state else "missing"
        if found != shape:
            raise InputError(f"{weights_name}: {key} is {found}, {config_name} says {shape}")
    if checked["projector_blocks"] > len(state):
        raise InputError(f"{config_name}: {checked['projector_blocks']} projector blocks, but few tensors")
    if checked["backbone_type"] != "medmae":
        return
    inner = {k.removeprefix(_BACKBONE): v for k, v in state.items() if k.startswith(_BACKBONE)}
    if not inner:
        raise InputError(f"{weights_name}: holds no backbone")
    seen = architecture_of_tensors(inner, source=weights_name)
    for key in ("hidden_size", "num_hidden_layers", "intermediate_size", "patch_size", "qkv_bias"):
        if checked["architecture"].get(key) != seen[key]:
            raise InputError(f"{config_name}: architecture: {key} is not the tensors' {seen[key]}")
    _check_vit(checked["architecture"], checked["image_size"], config_name)


def _check_shapes(
    cls: type[Self], checked: dict[str, Any], state: dict[str, torch.Tensor], where: tuple[str, str]
) -> None:
    """The name of a backbone may mean a giant: it is built without memory first, then compared with the file."""
    try:
        with torch.device("meta"):
            shapes = {key: value.shape for key, value in cls(**checked).state_dict().items()}
    except InputError as error:
        if error.__cause__ is None:
            raise InputError(f"{where[0]}: {error}") from None
        return  # an operation that is not there for tensors without memory
    except (RuntimeError, TypeError):
        return
    claimed = sum(math.prod(shape) for shape in shapes.values())
    there = sum(value.numel() for value in state.values())
    if claimed > 2 * there:
        raise InputError(
            f"{where[1]}: does not fit the model of its config.json, which has {claimed} values and not {there}"
        )


def _check_vit(sizes: dict[str, Any], image_size: int, where: str) -> None:
    """What no shape tells."""
    if set(sizes) != set(ARCHITECTURE_KEYS):
        raise InputError(f"{where}: architecture: sizes must be {', '.join(ARCHITECTURE_KEYS)}")
    problem = architecture_problem(sizes)
    if problem:
        raise InputError(f"{where}: architecture: {problem}")
    if (image_size // sizes["patch_size"]) ** 2 > MAX_CELLS:
        raise InputError(
            f"{where}: architecture: more than {MAX_CELLS} patches in an image of {image_size} px"
        )
