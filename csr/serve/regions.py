"""Pictures of the training regions behind prototypes, made when they are first asked for.

An address names them by concept, prototype and rank; files are those that the atlas lists, and no other.
"""

from __future__ import annotations

from collections import OrderedDict

from csr.explain.neighbours import Neighbours
from csr.explain.page import neighbour_picture
from csr.report.pictures import png_bytes
from csr.serve.schemas import Region

_KEPT = 512  # pictures of about 100 KB
MAX_RANKS = 8


class Regions:
    """Training regions of an atlas.

    Args:
        neighbours: of the atlas; empty without one.
        show_ids: tell the names of their files, which are often ids of patients.
    """

    def __init__(self, neighbours: Neighbours, *, show_ids: bool = False) -> None:
        self._neighbours, self._show_ids = neighbours, show_ids
        self._pictures: OrderedDict[tuple[int, int, int], bytes | None] = OrderedDict()

    def nearest(self, k: int, m: int) -> list[Region]:
        """Return the regions nearest to prototype m of concept k, nearest first, without paths."""
        return [
            Region(
                image=one.image.name if self._show_ids else None,
                box=list(one.box),
                similarity=one.similarity,
            )
            for one in self._neighbours.get((k, m), [])[:MAX_RANKS]
        ]

    def picture(self, k: int, m: int, rank: int) -> bytes | None:
        """Return a PNG with the region framed, None if there is none or its file is gone.

        To be called from one thread only: pictures are kept.
        """
        key = (k, m, rank)
        if key in self._pictures:
            self._pictures.move_to_end(key)
            return self._pictures[key]
        near = self._neighbours.get((k, m), [])[:MAX_RANKS]
        if not 0 <= rank < len(near):
            return None
        pixels, _ = neighbour_picture(near[rank])
        self._pictures[key] = None if pixels is None else png_bytes(pixels)
        while len(self._pictures) > _KEPT:
            self._pictures.popitem(last=False)
        return self._pictures[key]
