"""Any timm model with a spatial map as a backbone: NCHW, NHWC and token outputs become feat_BCHW.

Letters: B batch, C channels, H W feature map, N tokens.
"""

from __future__ import annotations

import difflib
from typing import Any

import torch
from torch import nn

from csr.model.backbones.base import Backbone
from csr.runtime.errors import InputError


class TimmBackbone(Backbone):
    """A timm model without pooling and classifier; what follows its last stage (a norm) is applied."""

    def maps(self, images_B3HW: torch.Tensor) -> torch.Tensor:
        output = self.net(images_B3HW)
        if not isinstance(output, torch.Tensor) or output.ndim not in (3, 4):
            raise InputError(f"{self.label}: it gives no spatial map (a pooled vector); use another model")
        if output.ndim == 3:
            return self._from_tokens(output, images_B3HW)
        return output.permute(0, 3, 1, 2) if self._channels_last(output) else output

    def _set_recomputing(self, enable: bool) -> None:
        net: Any = self.net
        net.set_grad_checkpointing(enable)

    def _from_tokens(self, tokens_BNC: torch.Tensor, images_B3HW: torch.Tensor) -> torch.Tensor:
        prefix = getattr(self.net, "num_prefix_tokens", 0)
        patch_BNC = tokens_BNC[:, prefix:]
        height, width = images_B3HW.shape[-2:]
        rows = round((patch_BNC.shape[1] * height / width) ** 0.5)
        if rows < 1 or patch_BNC.shape[1] % rows:
            raise InputError(f"{self.label}: its {patch_BNC.shape[1]} tokens form no grid; use another model")
        return patch_BNC.transpose(1, 2).unflatten(2, (rows, -1))

    def _channels_last(self, output: torch.Tensor) -> bool:
        declared = getattr(self.net, "output_fmt", None)
        if declared is not None:
            return str(getattr(declared, "value", declared)).upper() == "NHWC"
        widths = {getattr(self.net, name, None) for name in ("num_features", "head_hidden_size")}
        return output.shape[3] in widths and output.shape[1] not in widths


def build_timm(backbone_type: str, model_name: str, *, image_size: int) -> TimmBackbone:
    """Build a timm backbone with random weights.

    Raises:
        InputError: unknown name, images that do not fit, a pooled or a 1x1 map.
    """
    _check_known(model_name)
    net = _create(model_name, image_size)
    _check_patches(net, model_name, image_size)
    return TimmBackbone(
        net, backbone_type=backbone_type, model_name=model_name, image_size=image_size, architecture=None
    )


def _check_known(model_name: str) -> None:
    import timm  # heavy: 2 s

    base_name = model_name.split(".")[0]
    if not timm.is_model(base_name):
        close = difflib.get_close_matches(base_name, timm.list_models(), n=3)
        hint = f"did you mean {', '.join(close)}?" if close else "see timm.list_models()"
        raise InputError(f"--model_name {model_name!r}: timm has no such model; {hint}")


def _create(model_name: str, image_size: int) -> nn.Module:
    """Create the network: with position embeddings for the image size, others take any."""
    import timm

    options: dict[str, Any] = {"pretrained": False, "num_classes": 0, "global_pool": ""}
    try:
        try:
            return timm.create_model(model_name, img_size=image_size, **options)
        except TypeError:  # the usual sign of a model without img_size
            return timm.create_model(model_name, **options)
    except (TypeError, AssertionError, ValueError, RuntimeError, KeyError) as error:
        raise InputError(
            f"--model_name {model_name!r} with {image_size} px images: timm cannot build it without its head "
            f"({str(error).splitlines()[0][:120] if str(error) else type(error).__name__})"
        ) from error


def _check_patches(net: nn.Module, model_name: str, image_size: int) -> None:
    """Refuse sizes with a cut patch: its pixels would be dropped in silence, and boxes would shift."""
    patch = getattr(getattr(net, "patch_embed", None), "patch_size", None)
    sides = patch if isinstance(patch, tuple) else () if patch is None else (patch,)
    for side in sides:
        if image_size % side:
            below = image_size - image_size % side
            raise InputError(
                f"--image_size {image_size}: {model_name} cuts {side} px patches; "
                f"take {max(below, 2 * side)} or {below + side}"
            )
