"""What every backbone is: images in, a spatial feature map out, its size known when it is built.

Letters: B batch, C channels, H W feature map.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from csr.model.backbones.compiling import Maps, compiled, leave_out_collectives
from csr.model.layers.checkpointed_norm import count_batches_once
from csr.runtime.errors import InputError


class Backbone(nn.Module):
    """Base of the backbones. A subclass sets `net` and implements `maps`, then calls `measure`.

    Attributes:
        channels: C of the feature map.
        map_size: (H, W) of the feature map at `image_size`.
        map_sizes: of every side in pixels that the backbone is known to take.
        stride: input pixels per cell.
        backbone_type, model_name, image_size, architecture: what rebuilds it.
        recomputes: whether backward computes activations again instead of reading them.
    """

    channels: int
    map_size: tuple[int, int]
    map_sizes: dict[int, tuple[int, int]]
    stride: int

    def __init__(
        self,
        net: nn.Module,
        *,
        backbone_type: str,
        model_name: str,
        image_size: int,
        architecture: dict[str, Any] | None,
    ) -> None:
        super().__init__()
        self.net = net
        self.backbone_type, self.model_name = backbone_type, model_name
        self.image_size, self.architecture = image_size, architecture
        self.recomputes = self._counts_once = False
        self._compiled: Maps | None = None
        self._is_convolutional = any(isinstance(m, nn.BatchNorm2d) for m in net.modules())
        self._measure()

    def maps(self, images_B3HW: torch.Tensor) -> torch.Tensor:
        """Return feat_BCHW of images in the parameters' type.

        Raises:
            InputError: the network gives no map.
        """
        raise NotImplementedError

    def forward(self, images_B3HW: torch.Tensor) -> torch.Tensor:
        # a half-precision engine casts parameters only: the images follow them. Convolutions run faster
        # channels last; ZeRO refuses weights in that order, inputs alone are enough
        layout = torch.channels_last if self._is_convolutional else torch.preserve_format
        maps = self._compiled if self._compiled is not None and self.training else self.maps
        return maps(images_B3HW.to(next(self.net.parameters()).dtype, memory_format=layout))

    def compile_training(self) -> None:
        """Run training steps through torch.compile from now on; it compiles at the first one."""
        leave_out_collectives(self.net)
        self._compiled = compiled(self.maps, label=self.label)

    @contextmanager
    def uncompiled(self) -> Iterator[None]:
        """Keep steps inside from being compiled."""
        kept, self._compiled = self._compiled, None
        try:
            yield
        finally:
            self._compiled = kept

    def recompute_activations(self, enable: bool = True) -> None:
        """Keep few activations for backward and compute the others again there, or keep them all.

        Raises:
            InputError: the network cannot.
        """
        try:
            self._set_recomputing(enable)
        except (AttributeError, AssertionError, NotImplementedError, ValueError) as error:
            raise InputError(
                f"--activation_checkpointing: {self.label} does not support it: leave the flag away"
            ) from error
        if enable and not self._counts_once:
            count_batches_once(self.net)
            self._counts_once = True
        self.recomputes = enable

    def _set_recomputing(self, enable: bool) -> None:
        raise NotImplementedError

    def take_sides(self, sides: Iterable[int]) -> None:
        """Take square images of further sides, in pixels, from now on; what full size gives stays the same.

        Raises:
            InputError: the network takes images of one size only, or gives a 1x1 map.
        """
        was_training = self.training
        self.eval()
        with torch.no_grad():
            expected = self.maps(self._noise(self.image_size))
            self._loosen_size()
            for side in set(sides) - {self.image_size}:
                self.map_sizes[side] = self._map_size_at(side)
            got = self.maps(self._noise(self.image_size))
            if got.shape != expected.shape or not torch.allclose(got, expected, rtol=1e-4, equal_nan=True):
                raise InputError(
                    f"--progressive: {self.label} is another network after smaller images (windows that "
                    "shrink): give --progressive none"
                )
        self.train(was_training)

    def _loosen_size(self) -> None:
        """Set what a network needs to take several sizes; most need nothing."""

    def _map_size_at(self, side: int) -> tuple[int, int]:
        try:
            height, width = self.maps(self._noise(side)).shape[2:]
        except (RuntimeError, AssertionError, ValueError, TypeError) as error:
            raise InputError(
                f"--progressive: {self.label} does not take images of {side} px ({_first_line(error)}): give "
                "--progressive none"
            ) from error
        if height * width == 1:
            raise InputError(
                f"--progressive: {self.label} gives a 1x1 map of {side} px: give a larger START, or "
                "--progressive none"
            )
        return height, width

    def _noise(self, side: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        return torch.randn(1, 3, side, side, generator=generator).to(next(self.net.parameters()))

    @property
    def label(self) -> str:
        return f"{self.backbone_type} {self.model_name!r} with {self.image_size} px images"

    def _measure(self) -> None:
        """Run one blank image: read the map's size, refuse 1x1, freeze what the map does not depend on."""
        was_training = self.training
        self.eval()
        blank_13HW = next(self.net.parameters()).new_zeros(1, 3, self.image_size, self.image_size)
        try:
            with torch.inference_mode(False), torch.enable_grad():
                feat_1CHW = self.maps(blank_13HW)
        except (RuntimeError, AssertionError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{self.label}: it does not take them ({_first_line(error)})") from error
        self.channels, self.map_size = feat_1CHW.shape[1], (feat_1CHW.shape[2], feat_1CHW.shape[3])
        if self.map_size[0] * self.map_size[1] == 1:
            raise InputError(
                f"{self.label}: the feature map is 1x1, nothing is left to localise; "
                "use larger images or another backbone"
            )
        self.map_sizes = {self.image_size: self.map_size}
        self.stride = round(self.image_size / self.map_size[0])
        used = _parameters_behind(feat_1CHW)
        for parameter in self.net.parameters():
            if id(parameter) not in used:
                parameter.requires_grad_(False)  # it would only be weight-decayed
        self.train(was_training)


def _parameters_behind(output: torch.Tensor) -> set[int]:
    """Return ids of the leaves that the output's graph reaches; walks the graph, computes nothing."""
    found: set[int] = set()
    seen, waiting = set(), [output.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.add(id(node.variable))
        waiting.extend(following for following, _ in node.next_functions)
    return found


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:160] if text else type(error).__name__
