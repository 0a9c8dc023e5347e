"""The arithmetic of a run: bf16, fp16 or fp32, and why."""

from __future__ import annotations

from typing import NamedTuple

from csr.engine.ds_config import DsFile, precision_of
from csr.runtime.errors import InputError


class Precision(NamedTuple):
    """Name of the arithmetic (fp16, bf16 or fp32), and the reason for it."""

    name: str
    reason: str


def check_request(requested: str, *, ds_file: DsFile | None, device: str) -> None:
    """Check `--precision` and `--ds_config` as far as one rank alone can.

    Args:
        requested: auto, fp16, bf16 or fp32.
        ds_file: the JSON given by the user, or None.
        device: "cuda" or "cpu".

    Raises:
        InputError: fp16 without a GPU, or a flag and a JSON that contradict each other.
    """
    name, reason = requested, "as --precision asks"
    if ds_file is not None:
        name, reason = precision_of(ds_file.parsed), f"as {ds_file.name} asks"
        if requested not in ("auto", name):
            raise InputError(
                f"--precision {requested} contradicts {ds_file.name}, which computes in {name}: give one of "
                "them "
                "alone"
            )
    if name == "fp16" and device != "cuda":
        raise InputError(
            f"fp16 needs a GPU and this machine has none ({reason}): use --precision bf16 or fp32"
        )


def choose_precision(
    requested: str,
    *,
    ds_file: DsFile | None,
    device: str,
    has_bf16: bool = False,
    earlier: str | None = None,
) -> Precision:
    """Choose the arithmetic of a run by its request, an unfinished run, and the hardware, in this order.

    Args:
        requested: auto, fp16, bf16 or fp32.
        ds_file: the JSON given by the user, or None.
        device: "cuda" or "cpu".
        has_bf16: whether the devices of all ranks have bf16 products of their own; without, bf16 is slow.
        earlier: precision of the unfinished run that is resumed, or None.

    Raises:
        InputError: see `check_request`.
    """
    check_request(requested, ds_file=ds_file, device=device)
    if ds_file is not None:
        return Precision(precision_of(ds_file.parsed), f"as {ds_file.name} asks")
    if requested != "auto":
        return Precision(requested, "as --precision asks")
    if earlier in ("bf16", "fp32") or (earlier == "fp16" and device == "cuda"):
        return Precision(earlier, "the unfinished run computes in it")
    if device == "cuda" and has_bf16:
        return Precision("bf16", "the GPUs have instructions for it; weights stay fp32")
    if device == "cuda":
        return Precision("fp16", "there is a GPU older than Ampere, which has no bf16 of its own")
    if has_bf16:
        return Precision("bf16", "there is no GPU, and the CPU has instructions for it; weights stay fp32")
    return Precision("fp32", "there is no GPU, and the CPU has neither AVX512-BF16 nor AMX")
