"""Files that are not what their name says, by their first bytes: what a clone or a download left instead."""

from __future__ import annotations

import os

_START_BYTES = 1024
_LFS = b"version https://git-lfs"
_WEB_PAGE = (b"<!doctype html", b"<html")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def placeholder(path: str | os.PathLike[str]) -> str | None:
    """Return what a file is if it only stands for another one, or None."""
    with open(path, "rb") as file:
        start = file.read(_START_BYTES).removeprefix(_BYTE_ORDER_MARK).lstrip().lower()
    if start.startswith(_LFS):
        return "is a Git LFS pointer, not the file itself: run `git lfs pull`"
    # A declaration of XML or a comment may stand before the page.
    if start.startswith(b"<") and any(sign in start for sign in _WEB_PAGE):
        return "is a web page: the download was refused or needs a login"
    return None
