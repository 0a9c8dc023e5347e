"""`csr bench peak`: how fast this device multiplies matrices, which MFU is measured against."""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path

import torch

from csr.command import Parser
from csr.engine import device_kind, local_device
from csr.errors import InputError
from csr.flops import measured_peaks


def main(argv: list[str] | None = None) -> int:
    """Measure, print, and write JSON where asked; returns the exit code.

    Raises:
        InputError: a flag that cannot be used, or a file that cannot be written.
    """
    options = _parser().parse_args(argv)
    if not 0 < options.seconds <= 600:
        raise InputError(f"--seconds {options.seconds:g}: give a number above 0, up to 600")
    device = local_device()
    name = device_name(device)
    print(f"{name}, torch {torch.__version__}: fastest square matrix product")
    peaks = measured_peaks(device, seconds=options.seconds)
    for precision, rate in peaks.items():
        print(f"{precision:<6} {rate / 1e12:10.3f} TFLOP/s")
    if options.json is not None:
        result = {"device": name, "torch": torch.__version__, "peak_flops_per_s": peaks}
        try:
            options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            raise InputError(f"--json {options.json}: cannot be written ({error.strerror})") from None
    return 0


def device_name(device: torch.device) -> str:
    """The GPU's name, or the CPU's with the threads that this process uses."""
    if device_kind() == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{models[0] if models else platform.machine()}, {torch.get_num_threads()} threads"


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="csr bench", description="Measure this device.", allow_abbrev=False)
    parser.add_argument("what", choices=("peak",), help="peak: FLOP/s of matrix products by precision")
    parser.add_argument(
        "--seconds", type=float, default=1.0, help="spent on each precision and size (default: 1.0)"
    )
    parser.add_argument("--json", type=Path, help="file for the result (default: none)")
    return parser
