#!/usr/bin/env python
"""The table of flags in csr/config/README.md, from the options where they are defined.

python scripts/flags_table.py            print it
python scripts/flags_table.py --write    write it into the README
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from csr.config.options import groups

README = Path(__file__).resolve().parents[1] / "csr" / "config" / "README.md"
HEAD = "| flag | default | meaning |"


def flags_table() -> str:
    """Return a Markdown table: flag, default, meaning; one group after another."""
    lines = [HEAD, "|---|---|---|"]
    for group in groups().values():
        lines.append(f"| **{group.__doc__}** | | |")
        for f in dataclasses.fields(group):
            default = "off" if f.default is False else "" if f.default is None else f"{f.default}"
            choices = f.metadata["choices"]
            meaning = f.metadata["help"] + (f" ({', '.join(choices)})" if choices else "")
            lines.append(f"| `--{f.name}` | {f'`{default}`' if default else ''} | {meaning} |")
    return "\n".join(lines)


def with_table(text: str) -> str:
    """Return the README with its table replaced."""
    before, _, rest = text.partition(HEAD)
    after = rest.partition("\n\n")[2]
    return f"{before}{flags_table()}\n\n{after}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write the README instead of printing the table")
    if parser.parse_args().write:
        README.write_text(with_table(README.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        print(flags_table())
