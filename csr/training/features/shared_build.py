"""The building of one feature folder by all ranks, on hosts with and without a common folder.

Every rank computes segments of the images into parts, one process of each host joins them, and all its ranks
map the result; parts of a killed run are taken over, on any number of ranks. Hosts without a common folder
send each other the parts that they miss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from csr.runtime import distributed
from csr.runtime.errors import InputError
from csr.training.features.arrays import Arrays
from csr.training.features.store import FeatureStore
from csr.training.features.table import FeatureTable


def build_on_disk(
    store: FeatureStore,
    segments: list[range],
    compute: Callable[[list[range]], Iterable[tuple[range, Arrays]]],
) -> FeatureTable:
    """Compute what no rank has yet, join the parts on every host, map the result. Collective.

    Args:
        store: of this key.
        segments: places of all images in order; the same on all ranks.
        compute: yields the rows of each segment passed to it, in order, for `FeatureStore.write_part`.

    Returns:
        The rows of all images, mapped.

    Raises:
        InputError: some rank could not write; the same on all ranks.
    """
    owner: dict[range, int] = {}
    for rank, seen in enumerate(distributed.all_gather_object([s for s in segments if store.has(s)])):
        for segment in seen:
            owner.setdefault(segment, rank)
    world = distributed.world_size()
    todo = [segment for segment in segments if segment not in owner]
    owner.update({segment: i % world for i, segment in enumerate(todo)})
    with distributed.errors_agreed(), _os_errors_explained(store):
        for segment, rows in compute(todo[distributed.rank() :: world]):
            store.write_part(segment, rows)
    leads = distributed.local_rank() == 0
    _exchange(store, segments, owner, leads=leads)
    with distributed.errors_agreed(), _os_errors_explained(store):
        if leads:
            store.join(segments)
    with distributed.errors_agreed():
        table = store.load()
        if table is None:
            raise InputError(f"{store.folder}: a rank does not see the cache: choose another --cache_dir")
    if leads:
        store.clean_up()
    distributed.barrier()
    return table


def _exchange(store: FeatureStore, segments: list[range], owner: dict[range, int], *, leads: bool) -> None:
    """Give hosts the parts that they do not see; no traffic if the folder is common."""
    missing = [s for s in segments if not store.has(s)] if leads else []
    wanted = {s for lacking in distributed.all_gather_object(missing) for s in lacking}
    failure: OSError | None = None
    for segment in [s for s in segments if s in wanted]:
        sent: Arrays | None = None
        if owner[segment] == distributed.rank():
            try:
                sent = store.read(segment)
            except OSError as error:
                failure = error
        rows = next((r for r in distributed.all_gather_object(sent) if r is not None), None)
        if rows is not None and segment in missing:
            try:
                store.write_part(segment, rows)
            except OSError as error:
                failure = error
    with distributed.errors_agreed(), _os_errors_explained(store):
        if failure is not None:
            raise failure


@contextmanager
def _os_errors_explained(store: FeatureStore) -> Iterator[None]:
    """Turn an OSError inside into the user's line."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{store.folder}: the feature cache cannot be written ({error.strerror or error}): "
            "free space there, or choose another --cache_dir or --cache memory"
        ) from None
