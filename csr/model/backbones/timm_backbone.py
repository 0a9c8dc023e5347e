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
from csr.runtime.startup import collector


class TimmBackbone(Backbone):
    """A timm model without pooling and classifier; what follows its last stage (a norm) is applied.

    Of models that cannot be built so, what their pooling would be given. Of maps in several scales, the last.
    """

    def __init__(self, net: nn.Module, *, keeps_pooling: bool, **description: Any) -> None:
        self._keeps_pooling = keeps_pooling
        super().__init__(net, **description)

    def maps(self, images_B3HW: torch.Tensor) -> torch.Tensor:
        net: Any = self.net
        output = net.forward_features(images_B3HW) if self._keeps_pooling else net(images_B3HW)
        if isinstance(output, list | tuple):
            output = output[-1]
        if not isinstance(output, torch.Tensor) or output.ndim not in (3, 4):
            raise InputError(f"{self.label}: it gives no spatial map (a pooled vector); use another model")
        if output.ndim == 3:
            return self._from_tokens(output, images_B3HW)
        return output.permute(0, 3, 1, 2) if self._channels_last(output) else output

    def _set_recomputing(self, enable: bool) -> None:
        net: Any = self.net
        net.set_grad_checkpointing(enable)

    def _loosen_size(self) -> None:
        """Let ViTs interpolate their positions, and Swin mask its windows, as timm builds them for this."""
        net: Any = self.net
        patches = getattr(net, "patch_embed", None)
        if patches is None or not getattr(patches, "strict_img_size", False):
            return
        patches.strict_img_size = False
        if getattr(net, "dynamic_img_size", None) is False:
            net.dynamic_img_size = True
            if getattr(patches, "flatten", False):  # the grid of patches tells the positions their new size
                patches.flatten, patches.output_fmt = False, type(patches.output_fmt)("NHWC")
        for module in net.modules():
            if getattr(module, "dynamic_mask", None) is False:
                module.dynamic_mask = True

    def _from_tokens(self, tokens_BNC: torch.Tensor, images_B3HW: torch.Tensor) -> torch.Tensor:
        declared = getattr(self.net, "num_prefix_tokens", None)
        height, width = images_B3HW.shape[-2:]
        for prefix in (
            (0, 1) if declared is None else (declared,)
        ):  # some have a class token and do not say so
            patch_BNC = tokens_BNC[:, prefix:]
            rows = round((patch_BNC.shape[1] * height / width) ** 0.5)
            if rows >= 1 and patch_BNC.shape[1] == rows * round(rows * width / height):
                return patch_BNC.transpose(1, 2).unflatten(2, (rows, -1))
        raise InputError(f"{self.label}: its {tokens_BNC.shape[1]} tokens form no grid; use another model")

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
    net, keeps_pooling = _create(model_name, image_size)
    _check_patches(net, model_name, image_size)
    _calm(net)
    return TimmBackbone(
        net,
        keeps_pooling=keeps_pooling,
        backbone_type=backbone_type,
        model_name=model_name,
        image_size=image_size,
        architecture=None,
    )


def _calm(net: nn.Module) -> None:
    """Turn stochastic depth and dropout off, which some models (Swin, NesT) have by default.

    A step then depends on its images alone, whatever the number of ranks.
    """
    for module in net.modules():
        for name in ("drop_prob", "p"):
            if isinstance(getattr(module, name, None), float) and "Drop" in type(module).__name__:
                setattr(module, name, 0.0)


def _check_known(model_name: str) -> None:
    with collector.paused():
        import timm  # heavy: a second and more

    base_name = model_name.split(".")[0]
    if not timm.is_model(base_name):
        close = difflib.get_close_matches(base_name, timm.list_models(), n=3)
        hint = f"did you mean {', '.join(close)}?" if close else "see timm.list_models()"
        raise InputError(f"--model_name {model_name!r}: timm has no such model; {hint}")


def _create(model_name: str, image_size: int) -> tuple[nn.Module, bool]:
    """Create the network: with position embeddings for the image size, others take any.

    Returns:
        The network, and whether it is of a family that cannot be built without its pooling.
    """
    import timm

    with_pooling: dict[str, Any] = {"pretrained": False, "num_classes": 0}
    without: dict[str, Any] = {**with_pooling, "global_pool": ""}
    problem: BaseException | None = None
    for given in (without, with_pooling):
        try:
            try:
                return timm.create_model(model_name, img_size=image_size, **given), given is with_pooling
            except TypeError:  # the usual sign of a model without img_size
                return timm.create_model(model_name, **given), given is with_pooling
        except (TypeError, AssertionError, ValueError, RuntimeError, KeyError) as error:
            problem = problem or error
    reason = str(problem).splitlines()[0][:120] if str(problem) else type(problem).__name__
    raise InputError(
        f"--model_name {model_name!r} with {image_size} px images: timm cannot build it without its head "
        f"({reason})"
    ) from problem


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
