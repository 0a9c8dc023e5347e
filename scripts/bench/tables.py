"""Seconds to read a label table: `csr`'s checked reader beside a plain `pandas.read_csv`.

    python scripts/bench/tables.py              300,000 rows: 100,000 images, three readers each, 28 labels
    python scripts/bench/tables.py --quick      does it work? numbers mean nothing

The table has the shape of VinDr-CXR's and is drawn into a temporary folder. Both sides read it in turn, in
one process; pandas infers the types of the columns, as it does by default. csr also checks every cell and
every id, and merges the readers. Results are printed and written to scripts/bench/results/NAME.txt and
NAME.json.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from measuring import RESULTS, Report, median, spread

from csr.data.importers.vindr import DIAGNOSES, FINDINGS
from csr.data.labels.table import read_label_table

READERS = 17  # of whom three read an image
POSITIVE_SHARE = 0.05
SPELLINGS = {
    "0 and 1": (int, csv.QUOTE_MINIMAL),
    "ids quoted": (int, csv.QUOTE_NONNUMERIC),
    "0.0 and 1.0": (float, csv.QUOTE_MINIMAL),
}


def write_table(path: Path, *, num_images: int, dtype: type, quoting: int) -> None:
    """Write a label table with three rows for each image."""
    rng = np.random.default_rng(0)
    label_RL = rng.random((3 * num_images, len(FINDINGS) + len(DIAGNOSES))) < POSITIVE_SHARE
    reader_N3 = rng.permuted(np.tile(np.arange(READERS), (num_images, 1)), axis=1)[:, :3]
    table = pd.DataFrame(label_RL.astype(dtype), columns=[*FINDINGS, *DIAGNOSES])
    table.insert(0, "rad_id", [f"R{reader + 1}" for reader in reader_N3.flatten()])
    table.insert(0, "image_id", np.repeat([rng.bytes(16).hex() for _ in range(num_images)], 3))
    table.to_csv(path, index=False, quoting=quoting)


def seconds(call: Callable[[], object]) -> float:
    """Return the wall seconds of a call."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def measure(report: Report, options: argparse.Namespace, folder: Path) -> None:
    """Read tables of all spellings by both sides in turn and report medians and ratios."""
    path = folder / "labels.csv"
    for name, (dtype, quoting) in SPELLINGS.items():
        write_table(path, num_images=options.images, dtype=dtype, quoting=quoting)
        times: dict[str, list[float]] = {"pandas": [], "csr": []}
        for _ in range(options.repeats + 1):
            times["pandas"].append(seconds(lambda: pd.read_csv(path)))
            times["csr"].append(seconds(lambda: read_label_table(path)))
        times = {side: values[1:] for side, values in times.items()}  # the first round imports and warms up
        ratio = median(times["csr"]) / median(times["pandas"])
        report.numbers[name] = {**times, "ratio": ratio}
        report.say(
            f"{name:<12} {path.stat().st_size / 2**20:>6.1f} MiB   pandas {spread(times['pandas'])} s   "
            f"csr {spread(times['csr'])} s   ratio {ratio:.2f}"
        )
        report.write()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--images", type=int, default=100_000, help="each has three rows")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--name", default="tables", help="of the result files")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the result files")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: only to see that it works")
    options = parser.parse_args()
    if options.quick:
        options.images, options.repeats = 100, 1
    report = Report(options.name, options.results)
    report.say(f"{3 * options.images} rows, {len(FINDINGS) + len(DIAGNOSES)} labels; median (range)")
    with tempfile.TemporaryDirectory(prefix="csr-bench-") as folder:
        measure(report, options, Path(folder))


if __name__ == "__main__":
    main()
