"""What a run of Weights & Biases left in its folder, offline: records of a log in LevelDB's format."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BLOCK, FILE_HEADER, HEADER = 2**15, 7, struct.Struct("<IHB")
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def records(path: Path) -> Iterator[Any]:
    """Yield the records (protocol buffers) of a .wandb file."""
    from wandb.proto import wandb_internal_pb2

    data, at, parts = path.read_bytes(), FILE_HEADER, b""
    assert data[:4] == b":W&B"
    while at + HEADER.size <= len(data):
        left = BLOCK - at % BLOCK
        if left < HEADER.size:  # the rest of a block is too short for a header
            at += left
            continue
        _, length, kind = HEADER.unpack_from(data, at)
        assert kind in (FULL, FIRST, MIDDLE, LAST), kind
        parts += data[at + HEADER.size : at + HEADER.size + length]
        at += HEADER.size + length
        if kind in (FULL, LAST):
            yield wandb_internal_pb2.Record.FromString(parts)
            parts = b""


def told(folder: Path) -> dict[str, Any]:
    """Return what the offline runs of a folder say, oldest first: ids, config, points, files, exit codes."""
    found: dict[str, Any] = {"ids": [], "config": {}, "points": [], "files": [], "exits": []}
    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb"), key=lambda p: p.stat().st_mtime_ns):
        for record in records(path):
            kind = record.WhichOneof("record_type")
            if kind == "run":
                found["ids"].append(record.run.run_id)
                updates = record.run.config.update
            elif kind == "config":
                updates = record.config.update
            else:
                updates = []
            for item in updates:
                found["config"][item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
            if kind == "history":
                values = {
                    item.key or "/".join(item.nested_key): json.loads(item.value_json)
                    for item in record.history.item
                }
                step = record.history.step.num or values.get("_step", 0)
                found["points"] += [(tag, step, v) for tag, v in values.items() if not tag.startswith("_")]
            if kind == "artifact":
                found["files"] += [entry.path for entry in record.artifact.manifest.contents]
            if kind == "exit":
                found["exits"].append(record.exit.exit_code)
    return found
