"""Feature folders: rows written are read back, parts join to the whole, nothing unfinished is served."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from csr.runtime.errors import InputError
from csr.training.features import store as stores
from csr.training.features.arrays import HEADER, discard, read_arrays
from csr.training.features.store import FeatureStore

KEY, N = "k" * 64, 5
COUNT = np.array([2, 0, 1, 3, 0])
VALUE = np.arange(12, dtype=np.float32).reshape(6, 2) / 7
SEGMENTS = [range(0, 2), range(2, 4), range(4, 5)]


def rows(segment: range) -> dict[str, np.ndarray]:
    first, last = COUNT[: segment.start].sum(), COUNT[: segment.stop].sum()
    return {"local": VALUE[first:last], "count": COUNT[segment.start : segment.stop]}


@pytest.fixture
def store(tmp_path) -> FeatureStore:
    return FeatureStore(tmp_path / "cache", KEY, num_images=N)


def fill(store: FeatureStore) -> None:
    for segment in SEGMENTS:
        store.write_part(segment, rows(segment))


def test_parts_join_to_the_whole_table(store):
    fill(store)
    assert store.load() is None
    store.join(SEGMENTS)
    table = store.load()
    np.testing.assert_array_equal(table.all("local").numpy(), VALUE)
    np.testing.assert_array_equal(table.num_rows_N, COUNT)
    batch = table.gather(np.array([3, 1, 0]), np.array([True, True, True]))
    np.testing.assert_array_equal(batch["local"].numpy(), VALUE[[3, 4, 5, 0, 1]])
    store.clean_up()
    assert [f.name for f in store.folder.iterdir()] == [store.whole.name]


@pytest.mark.parametrize("joined", [False, True])
def test_a_segment_is_read_from_its_part_or_from_the_whole(store, joined):
    fill(store)
    if joined:
        store.join(SEGMENTS)
        store.clean_up()
    for segment in SEGMENTS:
        assert store.has(segment)
        values = store.read(segment)
        assert {n: v.tolist() for n, v in values.items()} == {n: v.tolist() for n, v in rows(segment).items()}


def test_half_precision_is_kept_in_half_and_returned_in_full(tmp_path):
    store = FeatureStore(tmp_path, KEY, num_images=N, dtype="fp16")
    fill(store)
    store.join(SEGMENTS)
    assert store.load().all("local").dtype == torch.float16
    local = store.load().gather(np.array([0]), np.array([True]))["local"]
    assert local.dtype == torch.float32
    np.testing.assert_allclose(local, VALUE[:2], atol=1e-3)
    with pytest.raises(InputError, match="cache_dtype fp16"):
        store.write_part(SEGMENTS[1], {**rows(SEGMENTS[1]), "local": np.full((4, 2), 1e6, np.float32)})


def _shorten(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-3])


DAMAGES = {
    "a truncated array": lambda whole: _shorten(whole / "local.npy"),
    "an empty array": lambda whole: (whole / "local.npy").write_bytes(b""),
    "a lost array": lambda whole: (whole / "local.npy").unlink(),
    "an array of objects": lambda whole: np.save(whole / "local.npy", np.array([{}]), allow_pickle=True),
    "a truncated header": lambda whole: _shorten(whole / HEADER),
    "no header": lambda whole: (whole / HEADER).unlink(),
    "another key": lambda whole: (whole / HEADER).write_text('{"key": "jjj", "arrays": ["local", "count"]}'),
    "a file of its name": lambda whole: (discard(whole), whole.touch()),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_folder_that_is_not_whole_or_of_another_key_is_not_served_and_is_replaced(store, damage):
    fill(store)
    store.join(SEGMENTS)
    DAMAGES[damage](store.whole)
    assert store.load() is None
    store.join(SEGMENTS)
    np.testing.assert_array_equal(store.load().all("local").numpy(), VALUE)


def test_a_whole_folder_of_this_key_that_others_may_have_mapped_stays(store):
    fill(store)
    store.join(SEGMENTS)
    before = (store.whole / "local.npy").stat().st_ino
    store._join(SEGMENTS)
    assert (store.whole / "local.npy").stat().st_ino == before
    assert not list(store.folder.glob("*.tmp"))


def test_a_folder_that_holds_other_files_is_not_removed(store):
    fill(store)
    note = store.part(SEGMENTS[0]) / "note.txt"
    note.touch()
    with pytest.raises(OSError):
        discard(note.parent)
    assert note.exists()


def test_an_interrupted_write_leaves_nothing_that_is_served(store, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    fill(store)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", stop)
        with pytest.raises(KeyboardInterrupt):
            store.join(SEGMENTS)
    assert store.load() is None and not list(store.folder.glob("*.tmp"))


def _killed(store: FeatureStore) -> None:
    real, calls = os.rename, []

    def die_at_the_third(source, target):
        calls.append(target)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        real(source, target)

    os.rename = die_at_the_third
    fill(store)


@pytest.mark.dist
def test_a_killed_build_leaves_its_whole_parts_and_nothing_else_is_served(store):
    process = multiprocessing.get_context("fork").Process(target=_killed, args=(store,))
    process.start()
    process.join(20)
    assert process.exitcode == -signal.SIGKILL
    assert store.load() is None
    assert [store.has(segment) for segment in SEGMENTS] == [True, True, False]
    with pytest.raises(FileNotFoundError):
        store.join(SEGMENTS)
    store.write_part(SEGMENTS[2], rows(SEGMENTS[2]))
    store.join(SEGMENTS)
    np.testing.assert_array_equal(store.load().all("local").numpy(), VALUE)


def test_a_run_whose_parts_another_run_has_joined_and_removed_takes_that_runs_rows(store):
    fill(store)
    other = FeatureStore(store.folder, KEY, num_images=N)
    real, joined = store._join, []

    def too_late(segments):
        other.join(segments)
        other.clean_up()
        joined.append(True)
        real(segments)

    store._join = too_late
    store.join(SEGMENTS)
    assert joined and store.load() is not None


def test_a_lost_part_is_an_error(store):
    fill(store)
    discard(store.part(SEGMENTS[1]))
    with pytest.raises(FileNotFoundError):
        store.join(SEGMENTS)


def test_only_what_is_old_is_removed(store, tmp_path):
    fill(store)
    names = (
        "features-x.0-4.part",
        "features-y.0-4.part",
        "features-z.rows",
        "features-z.bin",
        "images-z.bin",
    )
    old, young, unused, earlier, foreign = (store.folder / name for name in names)
    for folder in (old, young, unused):
        folder.mkdir()
    (unused / "local.npy").touch()
    for file in (earlier, foreign):
        file.touch()
    for path in (old, unused, earlier, foreign):
        os.utime(path, (1, 1))
    store.clean_up()
    assert young.exists() and foreign.exists()
    assert not any(path.exists() for path in (old, unused, earlier))
    assert stores.UNUSED_S > stores.UNFINISHED_S


def test_an_array_without_rows_is_kept(tmp_path):
    store = FeatureStore(tmp_path, KEY, num_images=2)
    segment = range(0, 2)
    store.write_part(segment, {"local": np.empty((0, 3), np.float32), "count": np.zeros(2, int)})
    store.join([segment])
    assert store.load().all("local").shape == (0, 3)
    assert read_arrays(store.whole, KEY) is not None


def test_a_part_that_another_run_puts_in_place_while_it_is_removed_stays_with_that_run(store, monkeypatch):
    fill(store)
    remove = Path.rmdir

    def raced(path):
        (path / "local.npy").write_bytes(b"of another run")
        remove(path)

    monkeypatch.setattr(Path, "rmdir", raced)
    store.clean_up()
    assert len(list(store.folder.glob("*.part/local.npy"))) == len(SEGMENTS)
