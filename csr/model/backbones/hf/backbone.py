"""`hf`: an image encoder of transformers, its last hidden state as feat_BCHW.

Letters: B batch, C channels, H W feature map, N tokens.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn

from csr.model.backbones.base import Backbone
from csr.model.backbones.hf.architecture import MODEL_TYPE, find_hf_architecture, hf_config
from csr.runtime.errors import InputError


class HfBackbone(Backbone):
    """An encoder that `AutoModel` builds; its prefix and register tokens are left out of the map.

    Position embeddings are interpolated as transformers does it, in every pass, so that the weights stay as
    they were published.
    """

    def maps(self, images_B3HW: torch.Tensor) -> torch.Tensor:
        output = self.net(**self._inputs(images_B3HW))
        hidden = output.last_hidden_state
        if hidden.ndim == 4:
            return hidden
        rows, columns = self._grid(hidden.shape[1], images_B3HW.shape[-2:])
        patch_BNC = hidden[:, hidden.shape[1] - rows * columns :]
        return patch_BNC.transpose(1, 2).unflatten(2, (rows, columns))

    def _inputs(self, images_B3HW: torch.Tensor) -> dict[str, Any]:
        kind, config = self._kind, self._config
        if kind == "siglip2_vision_model":
            return patches_of(images_B3HW, config.patch_size)
        inputs: dict[str, Any] = {"pixel_values": images_B3HW}
        height, width = images_B3HW.shape[-2:]
        native = getattr(config, "image_size", None)
        sides = tuple(native) if isinstance(native, list | tuple) else (native, native)
        if "interpolate_pos_encoding" in self._accepted and sides != (height, width):
            inputs["interpolate_pos_encoding"] = True
        if kind == "vit_mae":  # nothing is masked, and increasing noise keeps the order
            num_patches = (height // config.patch_size) * (width // config.patch_size)
            noise_N = torch.arange(num_patches, device=images_B3HW.device) / num_patches
            inputs["noise"] = noise_N.expand(len(images_B3HW), -1)
        return inputs

    def _grid(self, num_tokens: int, size: torch.Size) -> tuple[int, int]:
        """Return rows and columns of the patch tokens, which are the last ones."""
        height, width = size
        patch = getattr(self._config, "patch_size", None)
        if isinstance(patch, int):
            rows, columns = height // patch, width // patch
            if rows * columns <= num_tokens < 2 * rows * columns + 8:
                return rows, columns
        for prefix in (0, 1):  # of networks that halve the grid again and again
            rows = round(((num_tokens - prefix) * height / width) ** 0.5)
            if rows and (num_tokens - prefix) == rows * round(rows * width / height):
                return rows, round(rows * width / height)
        raise InputError(f"{self.label}: its {num_tokens} tokens form no grid; use another model")

    def _set_recomputing(self, enable: bool) -> None:
        net: Any = self.net
        if enable:
            net.gradient_checkpointing_enable({"use_reentrant": False})
        else:
            net.gradient_checkpointing_disable()

    @property
    def _config(self) -> Any:
        return self.net.config

    @property
    def _kind(self) -> str:
        assert self.architecture is not None
        return self.architecture[MODEL_TYPE]

    @property
    def _accepted(self) -> set[str]:
        return set(inspect.signature(self.net.forward).parameters)


def patches_of(images_B3HW: torch.Tensor, side: int) -> dict[str, torch.Tensor]:
    """Return images cut into patches, as SigLIP 2 with native resolution takes them.

    Args:
        images_B3HW: normalised.
        side: of a patch, pixels.

    Returns:
        `pixel_values` (B, N, side * side * 3), rows of patches from above, colours last within a patch;
        `pixel_attention_mask` (B, N) of ones; `spatial_shapes` (B, 2), rows and columns.
    """
    batch, _, height, width = images_B3HW.shape
    rows, columns = height // side, width // side
    cut = images_B3HW.unflatten(3, (columns, side)).unflatten(2, (rows, side))
    pixel_values = cut.permute(0, 2, 4, 3, 5, 1).reshape(batch, rows * columns, side * side * 3)
    shape = torch.tensor([rows, columns], device=images_B3HW.device).expand(batch, 2)
    mask = torch.ones(batch, rows * columns, dtype=torch.long, device=images_B3HW.device)
    return {"pixel_values": pixel_values, "pixel_attention_mask": mask, "spatial_shapes": shape}


def build_hf(model_name: str, *, image_size: int, architecture: dict[str, Any] | None = None) -> HfBackbone:
    """Build an encoder of transformers with random weights, offline.

    Args:
        model_name: local folder or hub id that tells the architecture; a label if that is given.
        image_size: side of the square input, pixels; a multiple of the patch size.
        architecture: `model_type` and the values of its configuration.

    Raises:
        InputError: unknown or contradictory, an image size that patches do not fill, or no map.
    """
    sizes = dict(architecture) if architecture is not None else find_hf_architecture(model_name)
    config = hf_config(sizes, model_name=model_name)
    _check_patches(config, model_name, image_size)
    return HfBackbone(
        _create(config, model_name),
        backbone_type="hf",
        model_name=model_name,
        image_size=image_size,
        architecture=sizes,
    )


def num_values(architecture: dict[str, Any], *, model_name: str) -> int:
    """Return how many numbers the weights of an encoder are; takes no memory for them.

    Raises:
        InputError: as `build_hf`.
    """
    config = hf_config(architecture, model_name=model_name)
    with torch.device("meta"):
        net = _create(config, model_name)
    return sum(value.numel() for value in net.state_dict().values())


def _create(config: Any, model_name: str) -> nn.Module:
    from transformers import AutoModel

    if config.model_type == "vit_mae":
        config.mask_ratio = 0.0
    mapping: Any = AutoModel._model_mapping
    has_pooler = "add_pooling_layer" in inspect.signature(mapping[type(config)]).parameters
    options = {"add_pooling_layer": False} if has_pooler else {}
    try:
        return AutoModel.from_config(config, **options)
    except (TypeError, ValueError, RuntimeError, LookupError, AttributeError, ImportError) as error:
        text = " ".join(str(error).split())[:160] or type(error).__name__
        raise InputError(f"{model_name}: transformers cannot build it ({text})") from error


def _check_patches(config: Any, model_name: str, image_size: int) -> None:
    """Refuse sizes with a cut patch: its pixels would be dropped in silence, and boxes would shift."""
    patch = getattr(config, "patch_size", None)
    if isinstance(patch, int) and patch > 0 and image_size % patch:
        below = image_size - image_size % patch
        raise InputError(
            f"--image_size {image_size}: {model_name} cuts {patch} px patches; "
            f"take {max(below, 2 * patch)} or {below + patch}"
        )
