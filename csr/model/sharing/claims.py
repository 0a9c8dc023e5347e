"""Claims of an untrusted config.json, compared with the tensors before and while a model is built of both.

A hostile file costs an error and neither memory nor time.

Letters: K concepts, M prototypes per concept, T targets, D embedding.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from csr.model.backbones.build import BACKBONE_TYPES
from csr.model.backbones.hf.architecture import hf_architecture_problem
from csr.model.backbones.hf.backbone import num_values
from csr.model.backbones.vit_architecture import (
    ARCHITECTURE_KEYS,
    architecture_of_tensors,
    architecture_problem,
)
from csr.model.layers.concept_head import POOLS
from csr.model.sharing.card import MAX_NAME
from csr.model.sharing.preprocessing import MAX_SIDE_PX, is_count
from csr.runtime.errors import InputError
from csr.runtime.torch_file import not_finite, of_another_type

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
_WITH_SIZES = ("medmae", "hf")  # no name says all of them


def check_architecture(value: Any, where: str) -> dict[str, Any]:
    """Check types and plausible sizes of constructor arguments, before anything is built of them.

    Args:
        value: parsed JSON.
        where: the file, for messages.

    Returns:
        The same value: arguments of `CSR`, image sizes in pixels.

    Raises:
        InputError: a key is missing or unknown, or its value is none that a model could have.
    """
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
    if (value["backbone_type"] in _WITH_SIZES) != (value["architecture"] is not None):
        raise InputError(f"{where}: architecture: sizes of the backbone belong to 'medmae' and 'hf' alone")
    if value["backbone_type"] == "hf":
        problem = hf_architecture_problem(value["architecture"])
        if problem:
            raise InputError(f"{where}: architecture: {problem}")
    return value


def check_against_tensors(
    checked: dict[str, Any],
    state: dict[str, torch.Tensor],
    *,
    build: Callable[..., nn.Module],
    where: tuple[str, str],
) -> None:
    """Check that the claimed sizes are the tensors' sizes: config.json cannot make us build a giant.

    Args:
        checked: of `check_architecture`.
        state: a state dict, shapes as in CSR.
        build: makes the model of these arguments.
        where: the two files, for messages.

    Raises:
        InputError: a claim that is not the tensors', or sizes that no ViT has.
    """
    _check_heads(checked, state, where)
    check_backbone(checked, state, build=build, where=where)


def check_backbone(
    checked: dict[str, Any],
    state: dict[str, torch.Tensor],
    *,
    build: Callable[..., nn.Module],
    where: tuple[str, str],
) -> None:
    """Check the claimed sizes of the backbone, and of the whole model by its number of values.

    Args:
        checked, state, build, where: see `check_against_tensors`.

    Raises:
        InputError: a claim that is not the tensors', or sizes that no ViT has.
    """
    if checked["backbone_type"] == "medmae":
        _check_vit(checked, state, where)
    if checked["backbone_type"] == "hf":
        _check_hf(checked, state, where)
    _check_total(checked, state, build, where)


def _check_heads(checked: dict[str, Any], state: dict[str, torch.Tensor], where: tuple[str, str]) -> None:
    config_name, weights_name = where
    num_concepts, num_per_concept = checked["num_concepts"], checked["num_prototypes_per_concept"]
    expected = {
        "prototypes.proto_KMD": (num_concepts, num_per_concept, checked["embedding_dim"]),
        "task_head.linear.weight": (checked["num_classes"], num_concepts * num_per_concept),
    }
    for key, shape in expected.items():
        actual = tuple(state[key].shape) if key in state else "missing"
        if actual != shape:
            raise InputError(f"{weights_name}: {key} is {actual}, {config_name} has {shape}")
    if checked["projector_blocks"] > len(state):
        raise InputError(f"{config_name}: {checked['projector_blocks']} projector blocks, but few tensors")


def _check_vit(checked: dict[str, Any], state: dict[str, torch.Tensor], where: tuple[str, str]) -> None:
    config_name, weights_name = where
    inner = {k.removeprefix(_BACKBONE): v for k, v in state.items() if k.startswith(_BACKBONE)}
    if not inner:
        raise InputError(f"{weights_name}: holds no backbone")
    sizes, actual = checked["architecture"], architecture_of_tensors(inner, source=weights_name)
    for key in ("hidden_size", "num_hidden_layers", "intermediate_size", "patch_size", "qkv_bias"):
        if sizes.get(key) != actual[key]:
            raise InputError(f"{config_name}: architecture: {key} is not the tensors' {actual[key]}")
    # from here on the sizes that no shape tells
    if set(sizes) != set(ARCHITECTURE_KEYS):
        raise InputError(f"{config_name}: architecture: sizes must be {', '.join(ARCHITECTURE_KEYS)}")
    problem = architecture_problem(sizes)
    if problem:
        raise InputError(f"{config_name}: architecture: {problem}")
    _check_cells(checked["image_size"], sizes["patch_size"], config_name)


def _check_hf(checked: dict[str, Any], state: dict[str, torch.Tensor], where: tuple[str, str]) -> None:
    config_name, weights_name = where
    sizes = checked["architecture"]
    claimed = num_values(sizes, model_name=config_name)
    actual = sum(value.numel() for key, value in state.items() if key.startswith(_BACKBONE))
    if claimed > 2 * actual:
        raise InputError(
            f"{weights_name}: does not fit the backbone of {config_name}, which has {claimed} values and not "
            f"{actual}"
        )
    if isinstance(sizes.get("patch_size"), int):
        _check_cells(checked["image_size"], sizes["patch_size"], config_name)


def _check_cells(image_size: int, patch_size: int, config_name: str) -> None:
    if (image_size // patch_size) ** 2 > MAX_CELLS:
        raise InputError(
            f"{config_name}: architecture: more than {MAX_CELLS} patches in an image of {image_size} px"
        )


def _check_total(
    checked: dict[str, Any],
    state: dict[str, torch.Tensor],
    build: Callable[..., nn.Module],
    where: tuple[str, str],
) -> None:
    """Compare the number of values, without memory: the name of a backbone may mean a giant."""
    try:
        with torch.device("meta"):
            shapes = {key: value.shape for key, value in build(**checked).state_dict().items()}
    except InputError as error:
        if error.__cause__ is None:
            raise InputError(f"{where[0]}: {error}") from None
        return  # an operation that does not exist for tensors without memory
    except (RuntimeError, TypeError):
        return
    claimed = sum(math.prod(shape) for shape in shapes.values())
    actual = sum(value.numel() for value in state.values())
    if claimed > 2 * actual:
        raise InputError(
            f"{where[1]}: does not fit the model of its config.json, "
            f"which has {claimed} values and not {actual}"
        )


def fill(model: nn.Module, state: dict[str, torch.Tensor], *, where: str) -> None:
    """Load a whole state dict, or raise one line that names what does not fit.

    Args:
        model: filled in place.
        state: a state dict, shapes as in the model.
        where: the file, for messages.

    Raises:
        InputError: missing, unknown or wrongly shaped tensors, or numbers that are not finite.
    """
    for problem, names in (
        ("not finite (NaN or infinity)", not_finite(state)),
        ("of another type than weights", of_another_type(model.state_dict(), state)),
    ):
        if names:
            raise InputError(f"{where}: {', '.join(name[:80] for name in names[:4])}: {problem}")
    try:
        model.load_state_dict(state)
    except (RuntimeError, ValueError) as error:
        reasons = [line.strip() for line in str(error).splitlines()[1:] if line.strip()] or [str(error)]
        more = f"; and {len(reasons) - 2} more" if len(reasons) > 2 else ""
        shown = "; ".join(reason[:240] for reason in reasons[:2])
        raise InputError(f"{where}: does not fit the model of its config.json: {shown}{more}") from None
