"""What csr does with one GPU, beside a bare timm and torch loop: speed, waits, memory, start-up.

    python scripts/bench/gpu.py                          ViT-B/16 and ResNet-50 at 224, within 8 minutes
    python scripts/bench/gpu.py --device cpu --quick     does it work? numbers mean nothing

Blocks of steps take turns within one process on the same random data; times are medians. `launch` is how
long Python is busy with a step, `stops` how often it waits for the GPU. The bare loop has fused AdamW,
autocast (with a GradScaler in fp16), clipping, channels-last convolutions and cuDNN's trials, as csr has.
`csr, ZeRO-2` shards as several ranks do; `csr, timers` has the throughput timer that DeepSpeed starts by
default, and csr switches off.
A part for which no time is left is left out, and said so. Results are printed and written to
scripts/bench/results/ after each part: NAME.txt and NAME.json.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from measuring import RESULTS, Report

MODELS = ("vit_base_patch16_224", "resnet50")
SIZES = (16, 64, 256)
STEPS_SHARE = 0.4  # of all time: the part that matters most
COLUMNS = ("images_per_s", "ms", "launch_ms", "stops", "step_mib", "mfu_percent")


def the_device(report: Report, o: argparse.Namespace) -> None:
    """The card, its copies, and its fastest matrix products: what MFU is a share of."""
    from csr.engine.flops import measured_peaks

    o.peaks = measured_peaks(o.device, seconds=0.01 if o.quick else 1.0)
    found: dict[str, Any] = {"tflops": {name: rate / 1e12 for name, rate in o.peaks.items()}}
    if o.device.type == "cuda":
        properties = torch.cuda.get_device_properties(o.device)
        found["gib"] = properties.total_memory / 2**30
        a = torch.empty(2**28, dtype=torch.float32, device=o.device)
        b = torch.empty_like(a)
        events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
        for event in events:
            event.record()
            for _ in range(10):
                b.copy_(a)
        torch.cuda.synchronize()
        found["copy_gb_per_s"] = 10 * 2 * a.nbytes / events[0].elapsed_time(events[1]) / 1e6
    report.numbers["device"] = found
    for name, value in found.items():
        report.say(f"{name:<14} {value}")


def steps(report: Report, o: argparse.Namespace) -> None:
    """Training steps of stage 1 through the engine and in the bare loop."""
    from gpu_steps import batch_of, concept_stage

    from csr.engine.flops import training_flops

    report.numbers["steps"] = {}
    until = o.left() - STEPS_SHARE * o.seconds
    head = " ".join(f"{name:>12}" for name in COLUMNS)
    for name in o.models:
        flops = training_flops(concept_stage(name, o.side, device=o.device), batch_of(1, o.side, o.device))
        report.say(f"{name}, {flops / 1e9:.1f} GFLOP an image")
        report.say(f"{'':<34} {head}")
        for size in o.sizes:
            for precision in o.precisions:
                if o.left() < until and not o.quick:
                    report.say(f"batch {size} in {precision}: left out, no time is left")
                    continue
                _row(report, o, name, size, precision, flops)


def _row(report: Report, o: argparse.Namespace, name: str, size: int, precision: str, flops: float) -> None:
    from gpu_steps import bare_step, batch_of, concept_stage, engine_of, in_turns, use_timers

    from csr.engine.memory import is_exhausted

    kinds = {"csr": (False, False), "csr, ZeRO-2": (True, False), "csr, timers": (False, True)}
    engines: list[Any] = []
    try:
        timed: dict[str, Callable[[dict[str, Any]], object]] = {}
        timed["bare"] = bare_step(name, o.side, precision=precision, device=o.device)
        for label, (sharded, timers) in kinds.items():
            stage = concept_stage(name, o.side, device=o.device, half=precision == "fp16")
            engines.append(engine_of(stage, precision=precision, batch_size=size, sharded=sharded))
            if timers:
                use_timers(engines[-1])
            timed[label] = engines[-1].micro_step
        batch = batch_of(size, o.side, o.device)
        found = in_turns(timed, batch, blocks=3, each=o.each, device=o.device)
    except RuntimeError as error:
        if not is_exhausted(error):
            raise
        report.say(f"batch {size} in {precision}: out of memory")
        return
    finally:
        for engine in engines:
            engine.close()
        gc.collect()
        if o.device.type == "cuda":
            torch.cuda.empty_cache()
    rows = {
        label: one.record(images=size, flops_per_image=flops, peak=o.peaks[precision])
        for label, one in found.items()
    }
    report.numbers["steps"][f"{name}, {size}, {precision}"] = rows
    for label, row in rows.items():
        ratio = row["images_per_s"] / rows["bare"]["images_per_s"]
        numbers = " ".join(f"{row[column]:>12}" for column in COLUMNS)
        report.say(f"{size:>4} {precision:<5} {label:<12} {ratio:6.3f} x  {numbers}")


def overhead(report: Report, o: argparse.Namespace) -> None:
    """Small steps, where what Python does in a step shows most."""
    from gpu_steps import bare_step, batch_of, concept_stage, engine_of, in_turns

    report.numbers["overhead"] = {}
    for name, side in o.small:
        for precision in o.precisions:
            stage = concept_stage(name, side, device=o.device, half=precision == "fp16")
            engine = engine_of(stage, precision=precision, batch_size=8)
            bare = bare_step(name, side, precision=precision, device=o.device)
            timed = {"bare": bare, "csr": engine.micro_step}
            batch = batch_of(8, side, o.device)
            found = in_turns(timed, batch, blocks=5, each=o.each, device=o.device)
            engine.close()
            row = {label: {"ms": one.ms, "launch_ms": one.launch_ms} for label, one in found.items()}
            report.numbers["overhead"][f"{name}, {precision}"] = row
            percent = 100 * (found["csr"].ms / found["bare"].ms - 1)
            report.say(
                f"{name:<24} {precision:<5} bare {found['bare'].ms:7.2f} ms, csr {found['csr'].ms:7.2f} ms "
                f"({percent:+.1f} %), launched in {found['bare'].launch_ms:.2f} and "
                f"{found['csr'].launch_ms:.2f} ms"
            )


def compiling(report: Report, o: argparse.Namespace) -> None:
    """--compile: seconds of the first step, and the steps after it beside plain ones."""
    from gpu_steps import batch_of, concept_stage, engine_of, in_turns

    report.numbers["compile"] = {}
    precision = o.precisions[0]
    for name in o.models[:1] if o.quick else o.models:
        batch = batch_of(o.batch, o.side, o.device)
        found = {}
        for kind in ("plain", "compiled"):
            stage = concept_stage(name, o.side, device=o.device, compiled=kind == "compiled")
            engine = engine_of(stage, precision=precision, batch_size=o.batch)
            began = time.perf_counter()
            engine.micro_step(batch)
            first = time.perf_counter() - began
            timed = in_turns({kind: engine.micro_step}, batch, blocks=3, each=o.each, device=o.device)[kind]
            engine.close()
            found[kind] = {"first_s": first, "ms": timed.ms, "step_mib": timed.step_mib}
            report.say(f"{name:<24} {kind:<9} first step {first:6.1f} s, then {timed.ms:8.2f} ms")
        report.numbers["compile"][name] = found


def parts(o: argparse.Namespace) -> list[tuple[str, float, Callable[[Report, argparse.Namespace], None]]]:
    """Return title, seconds that a part takes at most, and the part, in order."""
    import gpu_feeding
    import gpu_parts

    listed = [
        ("the device", 20, the_device),
        ("training steps of stage 1, csr / bare", 170, steps),
        ("engine overhead on small steps, batch 8", 30, overhead),
        ("stages 2 and 3 from cached features", 45, gpu_parts.later_stages),
        ("what frozen layers compute", 30, gpu_feeding.feature_pass),
        ("feeding", 30, gpu_feeding.feeding),
        ("norms over ranks", 25, gpu_parts.norms),
        ("checkpoints", 25, gpu_parts.checkpoints),
        ("torch.compile", 60, compiling),
        ("start-up", 50, gpu_parts.start_up),
    ]
    return [(title, 0 if o.quick else budget, part) for title, budget, part in listed]


def resolved(argv: list[str] | None) -> argparse.Namespace:
    """Return flags with what follows from them; ends with a line and 2 where there is no such device."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--models", nargs="+", default=list(MODELS), help="timm names, a ViT first")
    parser.add_argument("--sizes", nargs="+", type=int, default=list(SIZES), help="images of a step")
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--seconds", type=float, default=480.0, help="of all parts together")
    parser.add_argument("--name", default="gpu", help="of the result files")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the result files")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: only to see that it works")
    o = parser.parse_args(argv)
    if o.device == "cuda" and not torch.cuda.is_available():
        sys.stderr.write("gpu.py: error: torch finds no GPU (--device cpu --quick only tries the script)\n")
        raise SystemExit(2)
    os.environ["DS_ACCELERATOR"] = o.device
    began = time.monotonic()
    o.left = lambda: o.seconds - (time.monotonic() - began)
    o.device = torch.device("cuda", 0) if o.device == "cuda" else torch.device("cpu")
    o.precisions = ["bf16", "fp16"] if o.device.type == "cuda" else ["fp32", "bf16"]
    o.small = [("vit_tiny_patch16_224", 224), ("resnet18", 128)]
    o.batch, o.each, o.later_steps, o.passes = 64, 20, 300, [32, 128]
    if o.quick:
        o.models, o.sizes, o.side, o.small = ["test_vit", "test_resnet"], [2], 64, [("test_vit", 64)]
        o.batch, o.each, o.later_steps, o.passes = 4, 1, 5, [4]
    return o


def main(argv: list[str] | None = None) -> None:
    o = resolved(argv)
    from csr.engine.process_group import start
    from csr.runtime import distributed

    distributed.adopt_launcher_environment()
    start(10.0)
    report = Report(o.name, o.results)
    report.numbers["left_out"] = []
    for title, budget, part in parts(o):
        report.say(f"--- {title}")
        if o.left() < budget:
            report.say("left out: no time is left")
            report.numbers["left_out"].append(title)
            continue
        part(report, o)
        report.say(f"({o.left():.0f} s left)")
        report.say()
        report.write()
    report.write()
    distributed.shut_down()


if __name__ == "__main__":
    main()
