"""The only file that imports deepspeed: start it, build one engine per stage, step, export, close.

What is guarded against here was measured on DeepSpeed 0.19: hooks and masters that outlive `destroy()`,
process-wide autocast flags, empty parameter groups, channels-last weights, a JIT compile at start-up.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import torch

from csr.engine import cpu, loss_scale, zero_partitions
from csr.engine.clipped_adamw import ClippedAdamW
from csr.engine.device import inference_precision, local_device, prefers_channels_last
from csr.engine.ds_config import fit_to_stage, precision_of
from csr.engine.optimizer_state import (
    State,
    counters_of,
    gather_optimizer_state,
    scatter_optimizer_state,
    set_counters,
)
from csr.engine.process_group import _import_deepspeed
from csr.engine.stage_tensors import (
    batchnorms,
    copies_of_constants,
    copies_of_frozen,
    has_batchnorm,
    is_trained,
    use_channels_last,
)
from csr.runtime import distributed
from csr.runtime.progress import PROGRESS


class Engine:
    """One DeepSpeed engine around one stage.

    Args:
        stage: module whose forward(batch) returns an object with a scalar `loss`.
        param_groups: dicts with params, lr, weight_decay; frozen parameters and empty groups are dropped.
        ds_config: merged JSON of this run.
        lr_factor: optimizer step -> factor on every group's lr.
        always_shards: keeps ZeRO where one rank would do without.
    """

    def __init__(
        self,
        stage: torch.nn.Module,
        *,
        param_groups: list[dict[str, Any]],
        ds_config: dict[str, Any],
        lr_factor: Callable[[int], float],
        always_shards: bool = False,
    ) -> None:
        groups = _trainable_only(param_groups)
        num_trainable = sum(p.numel() for g in groups for p in g["params"])
        config = fit_to_stage(
            ds_config,
            num_trainable=num_trainable,
            has_batchnorm=has_batchnorm(stage),
            keeps_fp32_statistics=all(hasattr(n, "keeps_fp32_statistics") for n in batchnorms(stage)),
            world_size=2 if always_shards else distributed.world_size(),
            trains_norms=any(is_trained(norm) for norm in batchnorms(stage)),
            on_gpu=local_device().type == "cuda",
        )
        self.precision = precision_of(ds_config)
        self._shards = config["zero_optimization"]["stage"] > 0
        casts = self._shards and self.precision == "fp16"
        self._frozen_fp32 = copies_of_frozen(stage) if casts else {}
        self._constants = copies_of_constants(stage) if casts else {}
        for parameter in stage.parameters():  # ZeRO refuses channels-last weights
            if not parameter.is_contiguous():
                parameter.data = parameter.data.contiguous()
        stage.to(local_device())
        optimizer: torch.optim.AdamW
        if self._shards:
            optimizer = torch.optim.AdamW(groups, fused=True)
        else:
            scaler = loss_scale.scaler_of(ds_config["fp16"]) if self.precision == "fp16" else None
            optimizer = ClippedAdamW(groups, clip=ds_config["gradient_clipping"], loss_scaler=scaler)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lr_factor)
        self._deepspeed, *_ = _import_deepspeed().initialize(
            args=_arguments(local_device()),
            model=stage,
            optimizer=optimizer,
            lr_scheduler=schedule,
            config=config,
        )
        if casts:
            loss_scale.without_end(self._deepspeed.optimizer.loss_scaler)
            loss_scale.grow_after_steps(self._deepspeed.optimizer)
        if not self._shards:
            self._deepspeed.enable_backward_allreduce = False  # it copies gradients even for one rank
            self._deepspeed.torch_autocast_z0_gradscaler = None  # of fp16: it has other rules than ZeRO's
        if not self._shards and prefers_channels_last(self.device) and has_batchnorm(stage):
            use_channels_last(stage)
        # with BatchNorm all buffers were cast to half; a stage's own constants stay what they were
        self._restore_constants({n: v for n, v in self._constants.items() if not n.startswith("model.")})

    def _restore_constants(self, constants: dict[str, torch.Tensor]) -> None:
        for name, buffer in self.stage.named_buffers():
            if name in constants:
                buffer.data = constants[name].to(buffer.device, copy=True)

    @property
    def stage(self) -> torch.nn.Module:
        return self._deepspeed.module

    @property
    def device(self) -> torch.device:
        return self._deepspeed.device

    @property
    def steps(self) -> int:
        """Optimizer steps tried, skipped ones included."""
        return int(self._deepspeed.global_steps)

    @property
    def skipped_steps(self) -> int:
        return int(self._deepspeed.skipped_steps)

    @property
    def learning_rates(self) -> dict[str, float]:
        return {g.get("name", str(i)): g["lr"] for i, g in enumerate(self._deepspeed.optimizer.param_groups)}

    @property
    def loss_scale(self) -> float:
        return float(self._deepspeed.optimizer.loss_scale) if self.precision == "fp16" else 1.0

    @property
    def gradient_norm(self) -> float:
        """Norm before clipping of the last step, infinite if it was skipped; NaN while there is none.

        Syncs.
        """
        norm = self._deepspeed.get_global_grad_norm()
        return float("nan") if norm is None else float(norm)

    def micro_step(self, batch: Any) -> Any:
        """Run forward and backward of one micro batch, and the optimizer's step at the window's last one."""
        with PROGRESS:
            output = self._deepspeed(batch)
        with PROGRESS:
            self._deepspeed.backward(self._scaled(output.loss))
        with PROGRESS:
            self._deepspeed.step()
        return output

    def _scaled(self, loss: torch.Tensor) -> torch.Tensor:
        """Return the loss whose gradients the optimizer expects; ZeRO scales it itself."""
        return loss if self._shards or self.precision != "fp16" else loss * self.loss_scale

    @contextlib.contextmanager
    def inference(self) -> Iterator[torch.nn.Module]:
        """Yield the stage in eval mode and this engine's precision, without gradients."""
        stage = self.stage
        stage.eval()
        try:
            with inference_precision(self.precision, self.device):
                yield stage
        finally:
            stage.train()

    def weights_changed(self) -> None:
        """Copy parameters that were edited in place to the masters (else the next step undoes the edit).

        Masters of numbers that were not edited keep what half precision cannot hold.
        """
        if self._shards:
            zero_partitions.adopt_edits(self._deepspeed)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return a copy of the stage's full state in fp32 on the CPU, from the masters. Collective."""
        masters = gather_optimizer_state(self._deepspeed, device=local_device(), masters_only=True)[0]
        return {name: value.clone() for name, value in self._present_state(masters).items()}

    def _present_state(self, masters: State) -> dict[str, torch.Tensor]:
        """Return the state that `state_dict` copies.

        Where nothing has to be converted, the tensors under training.
        """
        full = {}
        for name, value in self.stage.state_dict().items():
            source = masters[name]["fp32"] if name in masters else self._frozen_fp32.get(name, value)
            source = source.detach().cpu().contiguous()
            full[name] = source.float() if source.is_floating_point() else source
        return full

    def training_state(self) -> dict[str, Any]:
        """Return all that a resumed run needs, for any number of ranks: on rank 0, {} on the others.

        Collective.

        To be written or copied before the next step: it may hold the very tensors under training.

        Returns:
            `weights`, the stage's state as `state_dict` gives it; `moments` by parameter name, `scalars` and
            `counters` of optimizer, loss scale and schedule.
        """
        keep = distributed.is_main()
        state, scalars = gather_optimizer_state(self._deepspeed, device=local_device(), keep=keep)
        if not keep:
            return {}
        weights = self._present_state(state)
        moments = {name: {k: v for k, v in tensors.items() if k != "fp32"} for name, tensors in state.items()}
        counters = counters_of(self._deepspeed)
        return {"weights": weights, "moments": moments, "scalars": scalars, "counters": counters}

    def load_training_state(self, saved: dict[str, Any]) -> None:
        """Continue from `training_state`, in an engine around a stage that has its weights. Collective."""
        weights = saved["weights"]
        for name in self._frozen_fp32:
            self._frozen_fp32[name] = weights[name].clone()
        state = {name: {"fp32": weights[name], **tensors} for name, tensors in saved["moments"].items()}
        scatter_optimizer_state(self._deepspeed, state, saved["scalars"])
        set_counters(self._deepspeed, saved["counters"])

    def close(self) -> torch.nn.Module:
        """Give back the bare stage: fp32 weights with own storage, no hook, no engine. Collective."""
        engine, stage = self._deepspeed, self.stage
        state = self.state_dict()
        engine.destroy()
        for name in ("module_forward_pre_hook", "module_forward_post_hook"):
            hook = getattr(engine, name, None)
            if hook is not None:
                hook.remove()
        with torch.no_grad():
            for name, parameter in stage.named_parameters():
                parameter.data = state[name].to(parameter.device, copy=True)
                parameter.grad = None
            for name, buffer in stage.named_buffers():
                source = state.get(name, buffer)
                buffer.data = source.to(buffer.device, copy=True)
        self._restore_constants(self._constants)
        _reset_autocast_flags(stage)
        engine.optimizer = engine.basic_optimizer = engine.client_optimizer = None
        del engine, self._deepspeed
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        cpu.give_back_memory()
        return stage


def _arguments(device: torch.device) -> SimpleNamespace | None:
    """Return what names the GPU of this rank to DeepSpeed, which would take LOCAL_RANK; None on a CPU."""
    return None if device.index is None else SimpleNamespace(device_rank=device.index)


def _trainable_only(param_groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    trained = [[p for p in g["params"] if p.requires_grad and p.numel()] for g in param_groups]
    groups = [{**g, "params": p} for g, p in zip(param_groups, trained, strict=True) if p]
    assert groups, "a stage has something to train"
    return groups


def _reset_autocast_flags(stage: torch.nn.Module) -> None:
    from deepspeed.runtime import torch_autocast

    torch_autocast.TORCH_AUTOCAST_INITIALIZED, torch_autocast.TORCH_AUTOCAST_DTYPE = False, None
    for parameter in stage.parameters():
        parameter.__dict__.pop(torch_autocast.PARAM_COMM_DTYPE_ATTR_NAME, None)
