"""Projections of radiographs: which of them an import keeps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field

from csr.data.importers.summary import Imported
from csr.data.labels.names import show

VIEWS = ("frontal", "lateral", "all")


@dataclass
class ViewFilter:
    """Keeps one kind of projection and counts the others.

    Attributes:
        wanted: one of `VIEWS`.
        frontal, lateral: what the data set calls them; anything else is kept by `all` alone.
        left_out: number of rows by projection.
    """

    wanted: str
    frontal: Collection[str]
    lateral: Collection[str]
    left_out: Counter[str] = field(default_factory=Counter)

    def keeps(self, view: str) -> bool:
        """Return whether a row of this projection is kept."""
        kinds = {"frontal": self.frontal, "lateral": self.lateral}
        kept = self.wanted == "all" or view in kinds[self.wanted]
        if not kept:
            self.left_out[view] += 1
        return kept

    def add_notice(self, imported: Imported) -> None:
        """Add a line on the rows that were left out, if there are any."""
        if self.left_out:
            views = ", ".join(f"{show(v) if v else 'blank'} {n:,}" for v, n in self.left_out.most_common(6))
            imported.notices.append(
                f"{self.left_out.total():,} images of other views are left out (--views {self.wanted}): "
                f"{views}"
            )
