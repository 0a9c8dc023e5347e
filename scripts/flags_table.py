#!/usr/bin/env python
"""Print the README's table of flags from csr/config/options.py, where they are defined."""

from __future__ import annotations

import dataclasses

from csr.config.options import groups


def flags_table() -> str:
    """A Markdown table: flag, default, meaning; one group after another."""
    lines = ["| flag | default | meaning |", "|---|---|---|"]
    for group in groups().values():
        lines.append(f"| **{group.__doc__}** | | |")
        for f in dataclasses.fields(group):
            default = "off" if f.default is False else "" if f.default is None else f"{f.default}"
            choices = f.metadata["choices"]
            meaning = f.metadata["help"] + (f" ({', '.join(choices)})" if choices else "")
            lines.append(f"| `--{f.name}` | {f'`{default}`' if default else ''} | {meaning} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(flags_table())
