"""The frame of reports: one HTML page that carries everything inside it and reads well in light and dark."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from csr.report import charts
from csr.report.charts import escaped

STYLE = """
:root { color-scheme: light dark; --page: #fff; --ink: #1b1e23; --soft: #5c6570; --line: #d9dde2;
  --c0: #1f6fb2; --c1: #c2571a; --c2: #5c6570; --note: #fdf3e4; }
@media (prefers-color-scheme: dark) { :root { --page: #14171b; --ink: #e7eaee; --soft: #a3adb8;
  --line: #363c44;
  --c0: #6cb6f0; --c1: #f2a065; --c2: #a3adb8; --note: #33291a; } }
body { background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; max-width: 72rem;
  margin: 1.5rem auto 4rem; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.5rem 0 .5rem; } h3 { font-size: 1rem; margin: 1.5rem 0 .3rem; }
p { max-width: 46rem; } .soft { color: var(--soft); } nav a { margin-right: 1rem; color: var(--c0); }
.wide { overflow-x: auto; } .row { display: flex; flex-wrap: wrap; gap: .5rem; } .row svg { width: 244px; }
table { border-collapse: collapse; font-size: .9rem; margin: .5rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .5rem; border-bottom: 1px solid var(--line); text-align: right;
  vertical-align: top; }
th:first-child, td:first-child { text-align: left; min-width: 9rem; max-width: 16rem;
  overflow-wrap: break-word; }
tr.sum td { border-top: 2px solid var(--soft); font-weight: 600; }
td small { color: var(--soft); display: block;
  white-space: nowrap; font-weight: 400; }
.note { background: var(--note); border-left: 4px solid var(--c1); padding: .4rem .8rem; }
.tiles { display: flex; flex-wrap: wrap; gap: .8rem; margin: 1rem 0; }
.tiles div { border: 1px solid var(--line); border-radius: .4rem; padding: .5rem .9rem; }
.tiles b { display: block; font-size: 1.35rem; } .tiles span { color: var(--soft); font-size: .85rem; }
"""


def page(title: str, sections: Mapping[str, str], *, above: str, below: str, style: str = "") -> str:
    """A whole page.

    Args:
        title: plain text.
        sections: heading -> HTML; empty ones are left out.
        above, below: HTML before and after the links to the sections.
        style: further CSS.
    """
    shown = {heading: body for heading, body in sections.items() if body}
    places = {heading: heading.lower().replace(" ", "-") for heading in shown}
    links = "".join(f'<a href="#{place}">{heading}</a>' for heading, place in places.items())
    body = "".join(f'<section id="{places[h]}"><h2>{h}</h2>{text}</section>\n' for h, text in shown.items())
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escaped(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE}{charts.STYLE}{style}</style></head>\n<body>\n<h1>{escaped(title)}</h1>\n"
        f"{above}\n<nav>{links}</nav>\n{below}\n{body}</body></html>\n"
    )


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, ends: Iterable[Sequence[str]] = ()) -> str:
    """Cells of `rows` and `ends` are HTML."""
    body = [f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows]
    body += [f'<tr class="sum">{"".join(f"<td>{cell}</td>" for cell in row)}</tr>' for row in ends]
    head = "".join(f"<th>{escaped(name)}</th>" for name in heads)
    return (
        f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'
    )
