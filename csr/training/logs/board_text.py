"""The TEXT tab: options, data and code of a run, as Markdown tables."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from csr.config.options import TrainConfig
from csr.training.logs.hyperparameters import changed_options, flat_options

SPLITS = ("train", "val", "test")


def board_texts(record: Mapping[str, Any], config: TrainConfig) -> dict[str, str]:
    """Return Markdown by tag.

    Args:
        record: content of config.json.
        config: options of the run.
    """
    return {
        "run/options": _options(config),
        "run/data": _data(record["data"]),
        "run/code": _code(record),
    }


def _options(config: TrainConfig) -> str:
    now, default = flat_options(config), flat_options(TrainConfig())
    changed = changed_options(config)
    rows = [(f"--{name}", now[name], default[name]) for name in changed]
    rest = [(f"--{name}", value, "") for name, value in now.items() if name not in changed]
    return table(("option", "value", "default"), [*rows, *rest])


def _data(facts: Mapping[str, Any]) -> str:
    words = [
        f"{_cell(key)}: {_cell(facts[key])}" for key in ("dataset", "source", "citation") if key in facts
    ]
    counts = [
        (what.replace("_", " "), *(facts[what][split] for split in SPLITS))
        for what in ("images", "patients", "readers_per_image")
        if what in facts
    ]
    labels = [
        (name, label["kind"], *(f"{label[s]['positive']} of {label[s]['annotated']}" for s in SPLITS))
        for name, label in facts["labels"].items()
    ]
    parts = [
        *words,
        table(("", *SPLITS), counts),
        table(("positive of annotated", "kind", *SPLITS), labels),
    ]
    return "\n\n".join(parts)


def _code(record: Mapping[str, Any]) -> str:
    rows = [
        ("revision of the folder that the run was started in", record["code_revision"] or "no git tree"),
        ("revision of csr", record["git_revision"] or "installed, no git tree"),
        *((f"version of {name}", version) for name, version in record["versions"].items()),
        ("ranks", record["world_size"]),
        ("images per optimizer step", record["effective_batch"]),
        ("precision", record["precision"]["name"]),
        ("ZeRO stage", record["zero_stage"]),
    ]
    return table(("what", "is"), rows)


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return a Markdown table whose cells show their text as it is."""
    lines = [head, ["---"] * len(head), *rows]
    cells = [[str(c) for c in line] if i == 1 else [_cell(c) for c in line] for i, line in enumerate(lines)]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def _cell(value: Any) -> str:
    text = " ".join(str(value).split())
    plain = re.sub(r"([\\`*_{}\[\]|#])", r"\\\1", text)
    return plain.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
