"""Sizes as text."""

from __future__ import annotations


def gib_text(num_bytes: float) -> str:
    """Return a size in GiB with two decimals."""
    return f"{num_bytes / 2**30:.2f} GiB"


def mib_text(num_bytes: float) -> str:
    """Return a size in MiB with one decimal."""
    return f"{num_bytes / 2**20:.1f} MiB"
