"""`python bombs.py FOLDER MIB`: read every file of a folder with little more memory than the imports took."""

from __future__ import annotations

import json
import resource
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

from csr.data.images.decode import read_image
from csr.data.labels.table import read_label_table
from csr.engine.ds_config import load_ds_config
from csr.model import CSR
from csr.model.tensor_file import read_tensors
from csr.runtime.errors import InputError
from csr.runtime.tensor_files import load_tensors

READERS: dict[str, Callable[[Path], object]] = {
    "image": read_image,
    "table": read_label_table,
    "weights": read_tensors,
    "state": load_tensors,
    "ds": lambda path: load_ds_config(str(path), "fp32"),
    "model": CSR.from_pretrained,
}


def virtual_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()


if __name__ == "__main__":
    folder, mib = Path(sys.argv[1]), int(sys.argv[2])
    warnings.simplefilter("ignore")
    CSR(
        2, 2, backbone_type="timm", model_name="test_resnet", image_size=64
    )  # imports what readers import late
    limit = virtual_bytes() + mib * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    measured = {}
    for path in sorted(folder.iterdir()):
        began = time.monotonic()
        try:
            READERS[path.name.split("-")[0]](path)
            result = "read"
        except InputError as error:
            result = f"refused: {error}"
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        measured[path.name] = {"result": result, "seconds": time.monotonic() - began, "peak_mib": peak}
    sys.stdout.write(json.dumps(measured))
