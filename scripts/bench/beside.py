"""A training step alone and beside busy processes, by how OpenMP's threads wait at barriers.

    python scripts/bench/beside.py             resnet10t at 128 px, batches of 16, one thread a core
    python scripts/bench/beside.py --quick     does it work? numbers mean nothing

Settings: libgomp's own, csr's (`csr/runtime/startup/openmp.py`), one thread. Busy processes are endless
loops, one a core. Rounds alternate between settings, as the machine may be busy anyway: CPU seconds a step
tell what waiting costs then. Results are printed and written to scripts/bench/results/: NAME.txt, NAME.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
from pathlib import Path

from compare import PYTHON
from measuring import RESULTS, Report, median, run

from csr.engine.cpu import cores
from csr.runtime.startup.openmp import OF_THE_USER, WAITING

SETTINGS: dict[str, dict[str, str]] = {
    "libgomp's own": {},
    "csr": WAITING,
    "one thread": {"OMP_NUM_THREADS": "1"},
}
# ends with this process, whatever ends that
BUSY = "import os\nstarter = os.getppid()\nwhile os.getppid() == starter:\n    pass"
STEPS = """
import json, sys, time
import timm, torch
name, side, steps, target = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
torch.manual_seed(0)
net, image_B3HW = timm.create_model(name, num_classes=5), torch.randn(16, 3, side, side)
optimizer = torch.optim.AdamW(net.parameters(), fused=True)
taken = []
for _ in range(steps + 2):
    began, cpu = time.perf_counter(), time.process_time()
    net(image_B3HW).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    taken.append((time.perf_counter() - began, time.process_time() - cpu))
json.dump(taken[2:], open(target, "w"))
"""


def steps_of(setting: dict[str, str], target: Path, options: argparse.Namespace) -> list[tuple[float, float]]:
    """Return wall and CPU seconds of each step in a process of its own."""
    for name in (*OF_THE_USER, "OMP_NUM_THREADS"):
        os.environ.pop(name, None)
    os.environ.update(setting)
    words = [options.model, str(options.image_size), str(options.steps), str(target)]
    run([PYTHON, "-c", STEPS, *words])
    return [(wall, cpu) for wall, cpu in json.loads(target.read_text())]


def measure(report: Report, options: argparse.Namespace, target: Path) -> None:
    report.numbers["steps"] = {}
    for num_busy in (0, options.busy):
        busy = [subprocess.Popen([PYTHON, "-c", BUSY]) for _ in range(num_busy)]
        try:
            found: dict[str, list[tuple[float, float]]] = {name: [] for name in SETTINGS}
            for _ in range(options.rounds):
                for name, setting in SETTINGS.items():
                    found[name] += steps_of(setting, target, options)
        finally:
            for process in busy:
                process.kill()
        report.numbers["steps"][f"{num_busy} busy"] = found
        for name, steps in found.items():
            wall, cpu = (median([step[i] for step in steps]) for i in (0, 1))
            least = min(step[0] for step in steps)
            took = f"{wall:.2f} s a step (least {least:.2f}), {cpu:.2f} s of CPU"
            report.say(f"{num_busy} busy processes, {name:<14} {took}")
        report.write()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--model", default="resnet10t", help="of timm")
    parser.add_argument("--image_size", type=int, default=128)
    parser.add_argument("--busy", type=int, default=cores(), help="processes beside (default: one a core)")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--name", default="beside", help="of the result files")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the result files")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: only to see that it works")
    options = parser.parse_args()
    if options.quick:
        options.model, options.image_size, options.steps, options.rounds = "test_resnet", 64, 2, 1
    report = Report(options.name, options.results)
    with tempfile.TemporaryDirectory(prefix="csr-bench-") as folder:
        measure(report, options, Path(folder) / "steps.json")
    report.write()


if __name__ == "__main__":
    main()
