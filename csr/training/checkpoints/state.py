"""The state of training that a checkpoint keeps beside the engine's, and how it is read back."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from csr.engine.device import device_kind
from csr.runtime import distributed
from csr.runtime.errors import InputError
from csr.runtime.tensor_files import Written, load_tensors
from csr.stages.runner import STAGE_NUMBER, Weights
from csr.training.checkpoints.checkpoint_folder import STATE

PLAIN = (
    "stage",
    "epoch",
    "windows",
    "global_step",
    "streak",
    "best_score",
    "best_loss",
    "history",
    "record",
    "seconds",
    "waited",
    "in_collectives",
)


def best_file_of(stage: str) -> str:
    """Return the name of a stage's best model in the result folder."""
    return f"best_model_stage{STAGE_NUMBER[stage]}.pth"


@dataclass
class TrainState:
    """The place that training has come to. Saved between two optimizer steps.

    Attributes:
        stage, epoch: current ones; an epoch past the last one means that the stage is done.
        windows: optimizer steps done in this epoch.
        global_step: optimizer steps of all stages.
        streak: skipped steps in a row.
        loss_sum: of this rank's micro steps in this epoch (one in a short window weighs less), a scalar on
            the device, unread.
        images: trained on in this epoch by this rank.
        seconds, waited, in_collectives: of this epoch on this rank: in all, for data, in collectives.
        record: results of the epoch's training while its validation is still to come.
        best_score, best_loss, best_weights: of the current stage; weights in fp32 on the CPU.
        best_files: best models written so far, of all stages.
        history: one record for each epoch of all stages.
    """

    stage: str = ""
    epoch: int = 1
    windows: int = 0
    global_step: int = 0
    streak: int = 0
    loss_sum: torch.Tensor | float = 0.0
    images: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    in_collectives: float = 0.0
    record: dict[str, Any] | None = None
    best_score: float = -math.inf
    best_loss: float = math.inf
    best_weights: Weights | None = None
    best_files: dict[str, Written] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)

    def begin_stage(self, name: str) -> None:
        """Begin a stage; steps, history and files of those before it stay."""
        self.stage, self.epoch, self.streak = name, 0, 0
        self.best_score, self.best_loss, self.best_weights = -math.inf, math.inf, None
        self.begin_epoch()

    def step_done(self) -> None:
        """Count an optimizer step."""
        self.global_step += 1
        self.windows += 1

    def begin_epoch(self) -> None:
        """Begin the next epoch: nothing of it is done."""
        self.epoch += 1
        self.windows, self.images, self.loss_sum = 0, 0, 0.0
        self.seconds = self.waited = self.in_collectives = 0.0
        self.record = None

    def place(self) -> dict[str, Any]:
        """Return stage, epoch and steps as plain values, for a manifest."""
        return {
            "stage": self.stage,
            "epoch": self.epoch,
            "step_in_epoch": self.windows,
            "step": self.global_step,
        }

    def to_save(self) -> dict[str, Any]:
        """Return plain values that are the same on all ranks."""
        plain = {name: getattr(self, name) for name in PLAIN}
        return {**plain, "best_files": {name: list(written) for name, written in self.best_files.items()}}

    def of_this_rank(self) -> dict[str, Any]:
        """Return values of this rank alone. A sync point: the loss sum is read."""
        return {"loss_sum": float(self.loss_sum), "images": self.images, "generators": generators()}


@dataclass(frozen=True)
class Saved:
    """A checkpoint in memory.

    Attributes:
        state: of training; this rank's part is filled in if there were as many ranks.
        engine: of `Engine.training_state`.
        generators: states of this rank's random generators; None if the number of ranks has changed.
        board: bytes of the TensorBoard files at that time, by name.
    """

    state: TrainState
    engine: dict[str, Any]
    generators: dict[str, torch.Tensor] | None
    board: dict[str, int]

    @property
    def weights(self) -> Weights:
        """The stage's state dict, fp32 on the CPU."""
        return self.engine["weights"]


def load_saved(checkpoint: Path, *, accumulation: int) -> Saved:
    """Read a checkpoint that `csr.training.checkpoints.checkpoint_folder` has verified.

    Args:
        checkpoint: its folder.
        accumulation: micro steps per window in this run.

    Raises:
        InputError: it cannot be read here, or was written by another csr.
    """
    blob = load_tensors(checkpoint / STATE)
    try:
        state = TrainState(**{name: blob["state"][name] for name in PLAIN})
        state.best_files = {name: Written(*values) for name, values in blob["state"]["best_files"].items()}
        ranks = blob["ranks"]
        own = ranks[distributed.rank()] if len(ranks) == distributed.world_size() else None
        state.images = (own or ranks[0])["images"]
        if own and blob["accumulation"] == accumulation:
            state.loss_sum = own["loss_sum"]
        else:  # each rank sums the losses of its micro steps: spread over those of this run
            mean = sum(r["loss_sum"] for r in ranks) / (len(ranks) * blob["accumulation"])
            state.loss_sum = mean * accumulation
        saved = Saved(state, blob["engine"], own["generators"] if own else None, blob["board"])
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise InputError(f"{checkpoint}: was written by another version of csr ({reason})") from None
    if math.isfinite(state.best_score):
        state.best_weights = load_tensors(checkpoint / best_file_of(state.stage))
    return saved


def generators() -> dict[str, torch.Tensor]:
    """Return the states of torch's generators on this rank; csr draws from no others."""
    states = {"cpu": torch.get_rng_state()}
    if device_kind() == "cuda":
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def set_generators(states: dict[str, torch.Tensor]) -> None:
    """Set torch's generators on this rank to states of `generators`."""
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and device_kind() == "cuda":
        torch.cuda.set_rng_state(states["cuda"])


def seed_generators(*numbers: int) -> None:
    """Start torch's generators on this rank from some numbers: seed, stage, step."""
    seed = 0
    for number in (*numbers, distributed.rank()):
        seed = (seed * 1_000_003 + number + 1) % 2**63
    torch.manual_seed(seed)
