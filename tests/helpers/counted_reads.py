"""`python counted_reads.py JSON FLAGS..`: csr train, counting what a GPU would have to stop for in its steps.

Writes [{stage: {"file:function": reads in the training epoch}}, steps of an epoch].
"""

from __future__ import annotations

import json
import sys
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from csr import train
from csr.training.open_stage import OpenStage
from csr.training.trainer import Trainer

ROOT = Path(train.__file__).resolve().parent
# a device waits for the host to hear these: a number is read, or the shape of the answer is one
READS = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal")


class Reads(TorchDispatchMode):
    """Counts by the innermost line of csr that asks."""

    def __init__(self) -> None:
        super().__init__()
        self.by_line: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        boolean_index = func.overloadpacket.__name__ in ("index", "index_put_") and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        if func.overloadpacket.__name__ in READS or boolean_index:
            frames = [f for f in traceback.extract_stack() if Path(f.filename).is_relative_to(ROOT)]
            self.by_line[f"{Path(frames[-1].filename).name}:{frames[-1].name}" if frames else "?"] += 1
        return func(*args, **(kwargs or {}))


def main(answer: str, *flags: str) -> int:
    seen: dict[str, Counter[str]] = {}
    steps: list[int] = []
    original = Trainer._train_epoch

    def counted(self: Trainer, opened: OpenStage) -> Any:
        steps.append(self.windows_per_epoch)
        with Reads() as reads:
            result = original(self, opened)
        seen[opened.stage.name] = reads.by_line
        return result

    Trainer._train_epoch = counted  # type: ignore[method-assign]
    code = train.main(list(flags))
    Path(answer).write_text(json.dumps([seen, steps[0]]))
    return code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
