"""Precision and the DeepSpeed JSON: chosen by hardware, merged with our flags, contradictions refused."""

from __future__ import annotations

import copy
import json
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from csr.runtime.errors import InputError
from csr.runtime.json_file import parse_json, read_text

DEFAULT_FILES = {"fp16": "zero2_fp16.json", "bf16": "zero2_bf16.json", "fp32": "zero2_fp32.json"}

# what a flag of ours sets, by its name in DeepSpeed's JSON
FLAG_OF_KEY = {
    "train_micro_batch_size_per_gpu": "batch_size",
    "gradient_accumulation_steps": "accumulation",
    "gradient_clipping": "clip",
    "train_batch_size": "batch_size x ranks x accumulation",
}
# sections whose unknown keys DeepSpeed ignores in silence (of the others it complains)
KNOWN_SUBKEYS = {
    "torch_autocast": {"enabled", "dtype", "lower_precision_safe_modules"},
    "data_types": {"grad_accum_dtype", "buffer_dtype"},
    "flops_profiler": {"enabled", "profile_step", "module_depth", "top_modules", "detailed", "output_file"},
}
BF16_NAMES = ("bfloat16", "bf16", "torch.bfloat16")
OURS_ALONE = {"optimizer": "--lr and --weight_decay", "scheduler": "--schedule and --warmup"}
KNOWN_KEYS = {
    *FLAG_OF_KEY,
    "zero_optimization",
    "fp16",
    "bf16",
    "torch_autocast",
    "data_types",
    "steps_per_print",
    "wall_clock_breakdown",
    "zero_allow_untested_optimizer",
    "zero_force_ds_cpu_optimizer",
    "communication_data_type",
    "prescale_gradients",
    "gradient_predivide_factor",
    "dump_state",
    "comms_logger",
    "flops_profiler",
    "memory_breakdown",
}

OVERLAPPED_BUCKET = 10_000_000  # gradients summed at once beside the backward pass: 40 MB in fp32


class DsFile(NamedTuple):
    """A DeepSpeed JSON as read, and its name in messages."""

    parsed: dict[str, Any]
    name: str


def load_ds_config(path: str | None, precision: str) -> DsFile:
    """Read the JSON of `--ds_config`, or the one of `ds_configs/` for this precision.

    Raises:
        InputError: missing, not JSON, or with a key that DeepSpeed would ignore in silence.
    """
    name = path or f"ds_configs/{DEFAULT_FILES[precision]}"
    text = _read_text(Path(path)) if path else _read_shipped(DEFAULT_FILES[precision])
    try:
        parsed = parse_json(text, make_object=_without_repeats)
    except json.JSONDecodeError as error:
        raise InputError(f"{name}: line {error.lineno}: not JSON: {error.msg}") from None
    except ValueError as error:
        raise InputError(f"{name}: {error}") from None
    if not isinstance(parsed, dict):
        raise InputError(f"{name}: holds no JSON object ({{...}})")
    for key in parsed:
        if key in OURS_ALONE:
            raise InputError(f"{name}: remove {key!r}: csr sets it from {OURS_ALONE[key]}")
        if key not in KNOWN_KEYS:
            raise InputError(f"{name}: unknown key {_shown(key)}; known are {', '.join(sorted(KNOWN_KEYS))}")
    _check_sections(parsed, name)
    return DsFile(parsed, name)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"{_shown(key)} stands there twice: keep one")
        found[key] = value
    return found


def _shown(value: Any) -> str:
    """Return a key or value of an untrusted file, on one line of bounded length."""
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def _read_text(path: Path) -> str:
    try:
        return read_text(path)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: cannot read the DeepSpeed config ({error.__class__.__name__}: {error})"
        ) from None


def _read_shipped(file_name: str) -> str:
    return (resources.files("csr.engine") / "ds_configs" / file_name).read_text(encoding="utf-8")


def _check_sections(parsed: dict[str, Any], name: str) -> None:
    for key in ("zero_optimization", "fp16", "bf16", *KNOWN_SUBKEYS):
        section = parsed.get(key, {})
        if not isinstance(section, dict):
            raise InputError(f"{name}: {key!r} must be a JSON object")
        unknown = sorted(set(section) - KNOWN_SUBKEYS.get(key, set(section)))
        if unknown:
            known = ", ".join(sorted(KNOWN_SUBKEYS[key]))
            raise InputError(f"{name}: {key!r}: unknown key {_shown(unknown[0])}; known are {known}")
    for key in ("fp16", "bf16", "torch_autocast"):
        if not isinstance(parsed.get(key, {}).get("enabled", False), bool):
            raise InputError(f'{name}: "{key}": "enabled" must be true or false')
    zero_stage = parsed.get("zero_optimization", {}).get("stage", 0)
    if zero_stage not in (1, 2) or zero_stage is True:
        raise InputError(
            f'{name}: "zero_optimization": "stage" is {_shown(zero_stage)}: csr runs with ZeRO 1 or 2 (its '
            "models "
            "fit a GPU)"
        )
    if "offload_param" in parsed["zero_optimization"]:
        raise InputError(f'{name}: "offload_param" works under ZeRO 3 only: use "offload_optimizer"')
    if '"nvme"' in json.dumps(parsed["zero_optimization"].get("offload_optimizer")):
        raise InputError(f'{name}: "offload_optimizer" to "nvme" needs ZeRO 3: use "device": "cpu"')
    autocast = parsed.get("torch_autocast", {})
    if autocast.get("enabled") and autocast.get("dtype") not in BF16_NAMES:
        raise InputError(
            f'{name}: "torch_autocast": give "dtype": "bfloat16" (float16 there breaks clipping under ZeRO: '
            'use the "fp16" section)'
        )
    if autocast.get("enabled") and parsed.get("fp16", {}).get("enabled"):
        raise InputError(f'{name}: "fp16" and "torch_autocast" are both enabled: enable one')
    if parsed.get("bf16", {}).get("enabled"):
        raise InputError(
            f'{name}: "bf16" casts weights to bfloat16: use "torch_autocast" with "dtype": "bfloat16", '
            "as ds_configs/zero2_bf16.json does"
        )


def precision_of(parsed: dict[str, Any]) -> str:
    """Return the arithmetic of a parsed JSON: fp16, bf16 or fp32."""
    if parsed.get("fp16", {}).get("enabled"):
        return "fp16"
    return "bf16" if parsed.get("torch_autocast", {}).get("enabled") else "fp32"


def merge_ds_config(
    parsed: dict[str, Any], *, name: str, batch_size: int, accumulation: int, clip: float, world_size: int
) -> dict[str, Any]:
    """Return the JSON with the values of csr's flags.

    Raises:
        InputError: the JSON has another value for what a flag sets; both are named.
    """
    flags: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": batch_size,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": clip,
        "train_batch_size": batch_size * accumulation * world_size,
    }
    for key, value in flags.items():
        # "auto" leaves a value to the program's flags, in files written for other trainers too
        if key in parsed and parsed[key] not in (value, "auto"):
            raise InputError(
                f"{name}: {key!r} is {_shown(parsed[key])}, but --{FLAG_OF_KEY[key]} makes it {value!r}: "
                "remove it from the JSON or make them agree"
            )
    # csr brings its own AdamW, on the CPU too
    ours = {"zero_allow_untested_optimizer": True, "zero_force_ds_cpu_optimizer": False}
    return {**copy.deepcopy(parsed), **flags, **ours}


def zero_stage_of(merged: dict[str, Any], *, world_size: int) -> int:
    """Return the ZeRO stage that an engine runs with.

    One rank has nothing to shard: there ZeRO, which copies gradients and weights to and fro for it, is left
    out (0) where nothing else hangs on it: offloading, gradients kept in half precision.
    """
    zero = merged["zero_optimization"]
    needs_it = (
        bool(zero.get("offload_optimizer"))
        or bool(zero.get("cpu_offload"))
        or merged.get("data_types", {}).get("grad_accum_dtype") not in (None, "fp32")
    )
    return int(zero["stage"]) if needs_it or world_size > 1 else 0


def fit_to_stage(
    merged: dict[str, Any],
    *,
    num_trainable: int,
    has_batchnorm: bool,
    world_size: int,
    keeps_fp32_statistics: bool = False,
    trains_norms: bool = False,
    on_gpu: bool = False,
) -> dict[str, Any]:
    """Return the JSON for one stage: buckets near its size, what overlaps, and what its norms need.

    DeepSpeed's default bucket is 5e8 elements (2 GB), whatever the model.

    Args:
        merged: JSON of the run; stays as it is.
        num_trainable: numbers that the stage trains.
        has_batchnorm: whether it holds a BatchNorm.
        world_size: number of ranks.
        keeps_fp32_statistics: whether all of them take fp32 statistics beside half-precision weights.
        trains_norms: whether one of them takes its statistics over the ranks, in forward and backward.
        on_gpu: whether the ranks have GPUs.
    """
    config = copy.deepcopy(merged)
    config["timers"] = {"throughput": {"enabled": False}}  # it stops the whole device twice a micro step
    zero = config["zero_optimization"]
    zero["stage"] = zero_stage_of(merged, world_size=world_size)
    is_fp16 = precision_of(merged) == "fp16"
    if not zero["stage"]:
        config["gradient_clipping"] = 0.0  # the optimizer clips
        if is_fp16:
            # weights stay fp32, products are half: one copy of the weights instead of two
            del config["fp16"]
            autocast = {"enabled": True, "dtype": "float16", "lower_precision_safe_modules": []}
            config["torch_autocast"] = autocast
    bucket = max(2, min(50_000_000, num_trainable + num_trainable % 2))
    # sums of norms and of gradients are of two communicators: NCCL may stall where their kernels cannot be
    # resident together. Overlapping stops the device once a backward pass: a short one has nothing to hide
    pays = on_gpu and world_size > 1 and num_trainable >= 2 * OVERLAPPED_BUCKET
    if zero.setdefault("overlap_comm", pays and not trains_norms):
        bucket = min(bucket, OVERLAPPED_BUCKET)
    zero.setdefault("reduce_bucket_size", bucket)
    zero.setdefault("allgather_bucket_size", bucket)
    if has_batchnorm and is_fp16 and zero["stage"] and not keeps_fp32_statistics:
        config.setdefault("data_types", {}).setdefault("buffer_dtype", "fp16")
    return config
