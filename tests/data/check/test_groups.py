"""Groups are the connected components of the pairs that joined them."""

from __future__ import annotations

import numpy as np

from csr.data.check.groups import Groups


def test_groups_join_by_way_of_others():
    groups = Groups(10)
    groups.join(np.array([[5, 2], [1, 7]]))
    groups.join(np.array([[2, 9], [5, 5]]))
    assert groups.several() == [[1, 7], [2, 5, 9]]
    assert groups.apart(np.array([[5, 9], [1, 9]])).tolist() == [False, True]
    assert Groups(0).several() == [] and Groups(3).several() == []


def test_groups_are_those_of_a_slow_walk():
    rng = np.random.default_rng(0)
    pairs = rng.integers(0, 200, (120, 2))
    groups = Groups(200)
    for part in np.array_split(pairs, 7):
        groups.join(part)
    sets = [{n} for n in range(200)]
    for a, b in pairs:
        one = next(s for s in sets if a in s)
        other = next(s for s in sets if b in s)
        if one is not other:
            sets.remove(other)
            one |= other
    assert groups.several() == sorted(sorted(map(int, s)) for s in sets if len(s) > 1)
    joins = groups.joins
    groups.join(pairs)
    assert groups.joins == joins, "nothing new"
