"""`--profile`: a torch profiler trace of a few warm steps of a stage, for TensorBoard or Perfetto."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

FOLDER = "profile"
LOG_LEVEL = "KINETO_LOG_LEVEL"
COLD = 1  # steps that are left out before the profiler warms up with one more
Step = Callable[[], None]


@contextmanager
def profiled(file: Path, *, steps: int, report: Callable[[str], None]) -> Iterator[Step]:
    """Write a trace of the third and the following steps done inside.

    Args:
        file: *.pt.trace.json; its folder is made.
        steps: in the trace; 0 is none, and costs nothing.
        report: prints where the trace is.

    Yields:
        A function to call after each step.
    """
    if not steps:
        yield lambda: None
        return
    written: list[Path] = []

    def write(profiler: torch.profiler.profile) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        profiler.export_chrome_trace(str(file))
        written.append(file)

    # the profiler's own lines (of a missing GPU, of probes for tracers) do not help a user
    os.environ.setdefault(LOG_LEVEL, "99")
    # the activities are chosen by torch: the CPU, and the GPU where there is one
    with torch.profiler.profile(
        schedule=torch.profiler.schedule(wait=COLD, warmup=1, active=steps, repeat=1), on_trace_ready=write
    ) as profiler:
        yield profiler.step
    if written:
        report(
            f"Profile: {file} (tensorboard --logdir {file.parent} with torch-tb-profiler, or ui.perfetto.dev)"
        )
    else:
        report(f"--profile: this stage had no more than {COLD + 1} steps: no trace")
