"""Files that are not what their name says, by their first bytes: what a clone or a download left instead."""

from __future__ import annotations

import os

_CONTENT = (
    (b"version https://git-lfs", "is a Git LFS pointer, not the file itself: run `git lfs pull`"),
    (b"<!doctype html", "is a web page: the download was refused or needs a login"),
    (b"<html", "is a web page: the download was refused or needs a login"),
)


def placeholder(path: str | os.PathLike[str]) -> str | None:
    """Return what a file is if it only stands for another one, or None."""
    with open(path, "rb") as file:
        start = file.read(64).lstrip().lower()
    return next((meaning for sign, meaning in _CONTENT if start.startswith(sign)), None)
