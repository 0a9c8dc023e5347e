"""The arithmetic of a run: bf16, fp16 or fp32, and why."""

from __future__ import annotations

from typing import NamedTuple

from csr.engine.ds_config import load_ds_config, precision_of
from csr.runtime.errors import InputError


class Precision(NamedTuple):
    name: str
    reason: str


def choose_precision(
    requested: str,
    *,
    ds_config: str | None,
    device: str,
    cpu_has_bf16: bool = False,
    earlier: str | None = None,
) -> Precision:
    """Settle `--precision` with the hardware and `--ds_config`.

    Args:
        requested: auto, fp16, bf16 or fp32.
        ds_config: path of the JSON the user gave, or None.
        device: "cuda" or "cpu".
        cpu_has_bf16: whether the CPU has instructions for it; without, bf16 is slower there than fp32.
        earlier: what the run that this one goes on with computes in.

    Raises:
        InputError: fp16 on a CPU, or a flag and a JSON that contradict each other.
    """
    if ds_config is not None:
        parsed, name = load_ds_config(ds_config, "fp32")
        in_file = precision_of(parsed)
        if requested not in ("auto", in_file):
            raise InputError(
                f"--precision {requested} contradicts {name}, which computes in {in_file}: give one of them alone"
            )
        chosen = Precision(in_file, f"{name} says so")
    elif requested != "auto":
        chosen = Precision(requested, "--precision says so")
    elif earlier in ("bf16", "fp32") or (earlier == "fp16" and device == "cuda"):
        chosen = Precision(earlier, "the unfinished run computes in it")
    elif device == "cuda":
        chosen = Precision("fp16", "there is a GPU; --precision bf16 is the alternative on Ampere and later")
    elif cpu_has_bf16:
        chosen = Precision("bf16", "there is no GPU, and the CPU has instructions for it; weights stay fp32")
    else:
        chosen = Precision("fp32", "there is no GPU, and the CPU has neither AVX512-BF16 nor AMX")
    if chosen.name == "fp16" and device != "cuda":
        raise InputError(
            f"fp16 needs a GPU and this machine has none ({chosen.reason}): use --precision bf16 or fp32"
        )
    return chosen
