"""Time of a stage on each rank, by what it was spent on, and the share of the device's arithmetic in use.

Seconds of an epoch are split into `compute` (the rest), waiting for `data`, `communication`, `evaluation`,
`caches` (of what frozen layers compute) and `saving`. MFU is the model FLOPs of the images trained on, per
second of training, over the measured peak of matrix products in this precision. The peak is measured between
epochs, when this process computes nothing else; where training was faster than the peak, it is measured once
more, and MFU is left out (NaN) if that does not explain it.
"""

from __future__ import annotations

import math
import time
from typing import NamedTuple

import torch

from csr.engine import cpu, flops, matmul_peak
from csr.runtime import distributed
from csr.stages.base import Stage
from csr.training.checkpoints.state import TrainState
from csr.training.features.table import FeatureViews
from csr.training.feeder import Feeder

PARTS = ("compute", "data", "communication", "evaluation", "caches", "saving")
SMALL_MFU = 0.01
AGAIN_S = 1.0
BUSY_SHARE = 0.1
SHORT_S = 10.0  # a shorter stage is mostly what happens once: no advice would help a longer one
HINTS = {
    "data": "more --workers, a faster disk, or --image_cache",
    "communication": "a larger --batch_size or --accumulation; or a rank is slower than the others",
    "evaluation": "a smaller --val_fraction",
    "caches": "--cache disk, which keeps them for the next run",
    "saving": "a faster disk",
}


class Spent(NamedTuple):
    """Seconds of this rank in one epoch. The last three parts of `train` are within it.

    Attributes:
        train: training steps, with all that happens between them.
        evaluation, caches, saving: outside of training.
        data, communication, saving_within: parts of `train`.
        images: trained on.
        full_images: as many of the full size as take the same arithmetic.
    """

    train: float
    evaluation: float
    caches: float
    saving: float
    data: float
    communication: float
    saving_within: float
    images: int
    full_images: float

    @classmethod
    def of_epoch(
        cls, state: TrainState, *, work: float, evaluation: float, saving: float, saving_within: float
    ) -> Spent:
        """Return the seconds of a state's epoch.

        Args:
            state: at the end of its epoch.
            work: of an image in it, as a share of that of one of the full size.
            evaluation, saving: seconds.
            saving_within: the part of `saving` between steps.
        """
        assert state.record is not None
        return cls(
            train=state.seconds,
            evaluation=evaluation,
            caches=state.record.get("features_s", 0.0),
            saving=saving - saving_within,
            saving_within=saving_within,
            data=state.waited,
            communication=state.in_collectives,
            images=state.images,
            full_images=work * state.images,
        )

    def by_part(self) -> dict[str, float]:
        """Return the seconds of each of `PARTS`."""
        within = self.data + self.communication + self.saving_within
        return {
            "compute": max(0.0, self.train - within),
            "data": self.data,
            "communication": self.communication,
            "evaluation": self.evaluation,
            "caches": self.caches,
            "saving": self.saving + self.saving_within,
        }


class DevicePeak:
    """The peak of a device in a precision, measured when it is asked for."""

    def __init__(self, device: torch.device, precision: str) -> None:
        self._device, self._precision = device, precision

    def flops_per_s(self) -> float:
        """Return what is known; the first time in a process it is measured, in a fraction of a second."""
        return matmul_peak.peak(self._device, self._precision)

    def measured_again(self) -> float:
        """Return the best of another, longer measurement and all before."""
        return matmul_peak.measured_again(self._device, self._precision, seconds=AGAIN_S)


class StageTelemetry:
    """Keeps account of one stage on this rank.

    Args:
        flops_per_image: of forward and backward, of the model's mathematics, at the full image size.
        peak: of this device; it is asked between epochs alone.
    """

    def __init__(self, *, flops_per_image: float, peak: DevicePeak) -> None:
        self._flops_per_image, self._device_peak = flops_per_image, peak
        self._peak, self._measured_again = math.nan, False
        self._began = time.perf_counter(), cpu.seconds_without_core()
        self._seconds = dict.fromkeys(PARTS, 0.0)
        self._train, self._images, self._full_images = 0.0, 0, 0.0

    def epoch(self, spent: Spent) -> dict[str, float]:
        """Add an epoch; return a share of its time for each part, images/s, model TFLOP/s and MFU."""
        parts = spent.by_part()
        self._seconds = {name: self._seconds[name] + parts[name] for name in PARTS}
        self._train += spent.train
        self._images += spent.images
        self._full_images += spent.full_images
        return self._rates(parts, train=spent.train, images=spent.images, full_images=spent.full_images)

    def stage(self) -> dict[str, float]:
        """Return the same of all epochs so far, with their `seconds`."""
        return {
            **self._rates(
                self._seconds, train=self._train, images=self._images, full_images=self._full_images
            ),
            "seconds": self._total(),
            "without_core_share": self._without_core_share(),
        }

    def _total(self) -> float:
        return sum(self._seconds.values())

    def _without_core_share(self) -> float:
        began, waited = self._began
        return (cpu.seconds_without_core() - waited) / max(time.perf_counter() - began, 1e-9)

    def _mfu(self, done: float) -> float:
        """Return the share of the peak that `done` FLOP/s are; NaN where it would be more than all of it."""
        if math.isnan(self._peak):
            self._peak = self._device_peak.flops_per_s()
        if done > self._peak and not self._measured_again:
            self._measured_again = True
            self._peak = self._device_peak.measured_again()
        return done / self._peak if done <= self._peak and self._peak else math.nan

    def _rates(
        self, parts: dict[str, float], *, train: float, images: int, full_images: float
    ) -> dict[str, float]:
        total = sum(parts.values())
        shares = {f"{name}_share": seconds / total if total else 0.0 for name, seconds in parts.items()}
        rate, full_rate = (number / train if train else 0.0 for number in (images, full_images))
        done = full_rate * self._flops_per_image
        return {**shares, "images_per_s": rate, "model_tflops": done / 1e12, "mfu": self._mfu(done)}


def over_ranks(rates: dict[str, float]) -> dict[str, float]:
    """Return the mean of each number over the ranks, the slowest rank's images/s, the largest memory.

    Collective.
    """
    ranks = distributed.all_gather_object(rates)
    mean = {name: sum(rank[name] for rank in ranks) / len(ranks) for name in rates}
    extremes = {"slowest_images_per_s": min(rank["images_per_s"] for rank in ranks)}
    if "memory_mib" in rates:
        extremes["memory_mib"] = max(rank["memory_mib"] for rank in ranks)
    return {**mean, **extremes}


def line_of(rates: dict[str, float], *, stage_number: int, save_every: int = 0, advise: bool = True) -> str:
    """Return a line on what a stage's time was spent on, and what limits it.

    Args:
        rates: of `over_ranks`.
        stage_number: 1 to 3.
        save_every: the flag; 0 already saves the least.
        advise: False for a dry run, whose few steps are no measure of a whole run.
    """
    shares = {name: rates[f"{name}_share"] for name in PARTS}
    first = max(shares, key=lambda name: shares[name])
    listed = ", ".join(f"{name} {100 * share:.0f} %" for name, share in shares.items() if share >= 0.005)
    line = f"Stage {stage_number} took {rates['seconds']:.1f} s: {listed}"
    if not advise or rates["seconds"] < SHORT_S:
        return line
    if rates["without_core_share"] > BUSY_SHARE:
        line += f" ({100 * rates['without_core_share']:.0f} % of it waiting for a core that others had)"
    if first in HINTS:
        rarer = "a larger --save_every, or " if first == "saving" and save_every else ""
        return f"{line}; most on {first} (what helps: {rarer}{HINTS[first]})"
    rate = f"{rates['images_per_s']:.1f} images/s per rank"
    if math.isnan(rates["mfu"]):
        return (
            f"{line}; compute binds: {rate}, {rates['model_tflops']:.3g} TFLOP/s each; no MFU, as this is "
            f"more than the fastest matrix product measured here: run `{_bench()}` while nothing else runs"
        )
    if rates["mfu"] < SMALL_MFU:
        return f"{line}; compute binds: {rate}, in steps too small to keep the device busy"
    return (
        f"{line}; compute binds: {rate}, {rates['model_tflops']:.3g} TFLOP/s each, "
        f"{100 * rates['mfu']:.0f} % of this device's matrix products (MFU)"
    )


def _bench() -> str:
    """Return the command that measures the peak of a rank of this run."""
    number = distributed.local_world_size()
    return "csr bench peak" if number == 1 else f"csr bench peak --ranks {number}"


def begin(
    stage: Stage, feeder: Feeder, features: FeatureViews | None, *, precision: str, device: torch.device
) -> StageTelemetry:
    """Count a stage's FLOPs on a few images; nothing is measured yet.

    Args:
        stage: on the device, before its engine is built.
        feeder: of the run.
        features: cached ones; None: from images, of which one is enough.
        precision: of training.
        device: of this rank.
    """
    num_images = 1 if features is None else feeder.batch_size
    backbone = stage.model.backbone
    recomputes = backbone.recomputes
    if recomputes:  # work done twice is no more mathematics
        backbone.recompute_activations(False)
    counted = flops.training_flops(stage, feeder.example(stage, features, num_images=num_images))
    if recomputes:
        backbone.recompute_activations()
    return StageTelemetry(flops_per_image=counted / num_images, peak=DevicePeak(device, precision))
