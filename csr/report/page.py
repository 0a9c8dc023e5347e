"""Reports as single HTML files.

Jinja2 templates with autoescape and one stylesheet, everything inside the page.
"""

from __future__ import annotations

import base64
import hashlib
from functools import lru_cache
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

DASH = Markup("&ndash;")


def render(template: str, **values: Any) -> str:
    """Return a page.

    Args:
        template: name of a file in `csr/report/templates`.
        values: plain data and charts; text is escaped, bytes of file names that are no text are spelled out.
    """
    return _environment().get_template(template).render(**values)


def script_hash(template: str) -> str:
    """Return the source of a Content-Security-Policy that lets this script of a page run, and no other.

    Args:
        template: the script, a file in `csr/report/templates`, which a page includes as it is.
    """
    digest = hashlib.sha256(render(template).encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"


@lru_cache(maxsize=1)
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("csr.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_printable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=number, percent=percent, anchor=anchor, address=quote)
    return environment


def _printable(value: Any) -> Any:
    """Return text that every encoder takes: a file's name may hold bytes that are no text."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return value.encode("utf-8", "backslashreplace").decode()
    return value


def number(value: float | None, digits: int = 3, *, signed: bool = False) -> str:
    """Return a number with fixed decimals; None as a dash."""
    if value is None:
        return DASH
    return f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"


def percent(value: float | None, digits: int = 0) -> str:
    """Return a share in per cent; None as a dash."""
    return DASH if value is None else f"{value:.{digits}%}"


def anchor(heading: str) -> str:
    """Return the id of a section."""
    return heading.lower().replace(" ", "-")
