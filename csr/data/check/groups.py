"""Things that belong together, directly or by way of others.

Letters: N things, P pairs.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components


class Groups:
    """N things, each alone at first.

    Attributes:
        first_N: int64, the smallest member of the group of each thing: equal numbers are one group.
        joins: grows whenever groups become one.
    """

    def __init__(self, num_things: int) -> None:
        self.first_N = np.arange(num_things)
        self.joins = 0

    def join(self, pair_P2: np.ndarray) -> None:
        """Make one group of the groups of the two things of each pair."""
        first_P2 = self.first_N[pair_P2]
        first_P2 = first_P2[first_P2[:, 0] != first_P2[:, 1]]
        if not len(first_P2):
            return
        old, place_P2 = np.unique(first_P2, return_inverse=True)
        one, other = place_P2.reshape(-1, 2).T
        graph = coo_matrix((np.ones(len(one), dtype=np.int8), (one, other)), shape=(len(old), len(old)))
        count, part = connected_components(graph, directed=False)
        smallest = np.full(count, len(self.first_N))
        np.minimum.at(smallest, part, old)
        renamed_N = np.arange(len(self.first_N))
        renamed_N[old] = smallest[part]
        self.first_N = renamed_N[self.first_N]
        self.joins += 1

    def apart(self, pair_P2: np.ndarray) -> np.ndarray:
        """Return whether the two things of each pair are in different groups yet, bool (P,)."""
        return self.first_N[pair_P2[:, 0]] != self.first_N[pair_P2[:, 1]]

    def several(self) -> list[list[int]]:
        """Return the groups of two things and more; each group and all groups in order."""
        order = np.argsort(self.first_N, kind="stable")
        starts = np.flatnonzero(np.diff(self.first_N[order], prepend=-1))
        return [group.tolist() for group in np.split(order, starts[1:]) if len(group) > 1]
