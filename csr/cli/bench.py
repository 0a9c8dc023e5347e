"""`csr bench peak`: how fast this device multiplies matrices, which MFU is measured against."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from csr.config.parser import Parser, Whole
from csr.runtime.errors import InputError


def main(argv: list[str] | None = None) -> int:
    """Measure, print, and write JSON where asked; return the exit code.

    Raises:
        InputError: a flag that cannot be used, or a file that cannot be written.
    """
    options = _parser().parse_args(argv)
    import torch

    from csr.engine import cpu, matmul_peak
    from csr.engine.device import local_device, use_true_fp32
    from csr.engine.flops import measured_peaks

    if not 0 < options.seconds <= 600:
        raise InputError(f"--seconds {options.seconds:g}: give a number above 0, up to 600")
    use_true_fp32()  # as commands compute
    device = local_device()
    if device.type == "cpu":
        cpu.share_cores(options.ranks)  # as runs of so many ranks do: a peak is one of its threads
    name = matmul_peak.device_name(device)
    print(f"{name}, torch {torch.__version__}: fastest square matrix product")
    rates = measured_peaks(device, seconds=options.seconds)
    for precision, rate in rates.items():
        print(f"{precision:<6} {rate / 1e12:10.3f} TFLOP/s")
    matmul_peak.keep(device, rates)
    kept = matmul_peak.kept_in(device, rates)
    if kept is not None:
        print(f"kept in {kept}: training runs measure their MFU against it")
    else:
        target = matmul_peak.file()
        reason = "this user has no home folder" if target is None else f"{target} cannot be written"
        print(f"not kept: {reason}; set CSR_CACHE_DIR to a folder of yours")
    if options.json is not None:
        result = {"device": name, "torch": torch.__version__, "peak_flops_per_s": rates}
        try:
            options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            raise InputError(f"--json {options.json}: cannot be written ({error.strerror})") from None
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="csr bench", description="Measure this device.", allow_abbrev=False)
    parser.add_argument(
        "what", choices=("peak",), metavar="peak", help="peak: FLOP/s of matrix products by precision"
    )
    parser.add_argument(
        "--seconds", type=float, default=4.0, help="spent on all precisions together, about (default: 4.0)"
    )
    parser.add_argument(
        "--ranks",
        type=Whole(1, 4096),
        default=1,
        help="ranks of the runs on this host, which share its cores (CPUs only; default: 1)",
    )
    parser.add_argument("--json", type=Path, help="file for the result (default: none)")
    return parser
