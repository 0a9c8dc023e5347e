"""Links in an image folder: into which other folders they may lead, and the line on those that may not.

A table names files, and nobody reads every row of it: without leave of the user no row reaches a file outside
of the image folder, by a link or otherwise.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from csr.data.labels.names import show
from csr.runtime.errors import InputError

_SHOWN = 200
LINKS_OUT = "behind links that lead out of the image folder"


class OutsideLink(InputError):
    """A link to a file or folder outside of the image folder and of the folders that links may lead into.

    Attributes:
        target: where it leads in the end.
    """

    def __init__(self, folder: Path, link: Path, target: Path) -> None:
        self.target = target
        self.arrow = f"{show(str(link), limit=_SHOWN)} -> {show(str(target), limit=_SHOWN)}"
        super().__init__(
            f"a link leads out of the image folder {folder} ({self.arrow}); {_ways_out([target], folder)}"
        )


class Roots:
    """The image folder and those that its links may lead into.

    Args:
        folder: of the images; may itself be a link.
        links_into: further folders.

    Raises:
        InputError: one of them is no folder.
    """

    def __init__(self, folder: Path, links_into: Iterable[str | os.PathLike[str]] = ()) -> None:
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder; give the folder that holds the images")
        for other in links_into:
            if not os.path.isdir(other):
                raise InputError(
                    f"--links_into {os.fspath(other)}: no such folder; give the folder that links lead into"
                )
        self.folder = folder
        self._real = [Path(os.path.realpath(path)) for path in (folder, *links_into)]

    def in_folder(self, real: Path) -> bool:
        """Return whether a path without links lies in the image folder, or is it."""
        return self._real[0] == real or self._real[0] in real.parents

    def hold(self, real: Path) -> bool:
        """Return whether a path without links lies in one of the folders, or is one."""
        return any(root == real or root in real.parents for root in self._real)


def outside_line(folder: str | os.PathLike[str], outside: Mapping[int, OutsideLink], *, total: int) -> str:
    """Return one line for all images behind links that lead elsewhere: how many, the first, the ways out.

    Args:
        folder: of the images.
        outside: the links by their line of the table.
        total: images of the table.
    """
    first = min(outside)
    return (
        f"{len(outside)} of {total} images are {LINKS_OUT} {os.fspath(folder)} (the first: line {first}: "
        f"{outside[first].arrow}); {_ways_out([link.target for link in outside.values()], Path(folder))}"
    )


def linked_folders_line(folder: Path, targets: Mapping[Path, Path]) -> str:
    """Return one line for all linked sub-folders of `folder` that are not followed.

    Args:
        folder: that was searched.
        targets: where each of them leads.
    """
    link = min(targets)
    several = "s are links" if len(targets) > 1 else " is a link"
    return (
        f"{len(targets)} sub-folder{several} and not followed (the first: {show(str(link), limit=_SHOWN)} -> "
        f"{show(str(targets[link]), limit=_SHOWN)}); {_ways_out([*targets.values()], folder)}"
    )


def _ways_out(targets: Sequence[Path], folder: Path) -> str:
    common = os.path.commonpath([target if target.is_dir() else target.parent for target in targets])
    into = "DIR.. with the folders that they lead into" if common == os.sep else common
    return (
        f"give --links_into {into}, or make hard links (cp -rlL {folder} NEW_FOLDER); the image folder "
        "itself may be a link"
    )
