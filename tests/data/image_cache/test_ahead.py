"""Decoding in a process of its own: the same files, nothing said, nothing left behind."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from csr.data.image_cache import ahead
from csr.data.image_cache.ahead import DecodingAhead
from csr.data.image_cache.store import open_store
from csr.runtime.errors import InputError

SIZE = 6


@pytest.fixture(autouse=True)
def few_are_enough(monkeypatch):
    monkeypatch.setattr(ahead, "FEWEST", 1)


def draw(folder: Path, num: int, side: int = 12) -> list[Path]:
    """Return square grey images of one value each: 0, 1, 2, .."""
    folder.mkdir()
    paths = [folder / f"{n}.png" for n in range(num)]
    for n, path in enumerate(paths):
        Image.fromarray(np.full((side, side), n % 256, np.uint8)).save(path)
    return paths


def start(sets: list[list[Path]], cache: Path | None) -> DecodingAhead:
    return DecodingAhead(sets, size=SIZE, cache_dir=cache, workers=2)


def test_the_files_are_there_when_the_store_is_opened(tmp_path, monkeypatch):
    train, test = draw(tmp_path / "train", 5), draw(tmp_path / "test", 3)
    with start([train, test], tmp_path / "cache") as decoding:
        decoding.finish()
        assert not decoding.is_running

    def decoded_again(*args, **options):
        raise AssertionError("this process decoded")

    monkeypatch.setattr("csr.data.image_cache.cache_file.write_part", decoded_again)
    for paths in (train, test):
        store = open_store(paths, size=SIZE, cache_dir=tmp_path / "cache")
        assert [int(store[n].unique()) for n in range(len(paths))] == list(range(len(paths)))
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_images_become_square_as_the_store_wants_them(tmp_path, monkeypatch):
    paths = draw(tmp_path / "train", 3)
    for n, path in enumerate(paths):
        wide = np.full((12, 24), 200, np.uint8)
        wide[:, 6:18] = n  # the central square
        Image.fromarray(wide).save(path)
    cache = tmp_path / "cache"
    with DecodingAhead([paths], size=SIZE, cache_dir=cache, workers=2, resize="crop") as decoding:
        decoding.finish()

    def decoded_again(*args, **options):
        raise AssertionError("this process decoded")

    monkeypatch.setattr("csr.data.image_cache.cache_file.write_part", decoded_again)
    store = open_store(paths, size=SIZE, cache_dir=cache, resize="crop")
    # the filter of the outermost columns reaches a little beyond the square
    assert [store[n][..., 1:-1].unique().tolist() for n in range(3)] == [[0], [1], [2]]


def test_an_unreadable_image_is_left_to_the_store_which_names_it(tmp_path, capfd):
    paths = draw(tmp_path / "train", 4)
    paths[2].write_bytes(b"this is no image")
    with start([paths], tmp_path / "cache") as decoding:
        decoding.finish()
    assert capfd.readouterr() == ("", "")
    with pytest.raises(InputError, match=r"1 image\(s\) cannot be read: .*2\.png"):
        open_store(paths, size=SIZE, cache_dir=tmp_path / "cache")


@pytest.mark.parametrize("broken", ["vanished", "not writable", "no cache", "few"])
def test_where_it_cannot_help_it_does_nothing(tmp_path, monkeypatch, broken):
    paths, cache = draw(tmp_path / "train", 4), tmp_path / "cache"
    if broken == "vanished":
        paths[0].unlink()
    elif broken == "not writable":
        cache.write_text("a file")
    elif broken == "few":
        monkeypatch.setattr(ahead, "FEWEST", 5)
    with start([paths], None if broken == "no cache" else cache) as decoding:
        assert decoding.is_running == (broken == "not writable")
        decoding.finish()
    assert cache.is_file() if broken == "not writable" else not cache.exists()


def test_what_is_in_the_cache_is_not_decoded_again(tmp_path):
    paths = draw(tmp_path / "train", 4)
    open_store(paths, size=SIZE, cache_dir=tmp_path / "cache")
    with start([paths], tmp_path / "cache") as decoding:
        assert not decoding.is_running


def until(condition, seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return bool(condition())


def test_leaving_early_ends_the_process_and_its_half_written_file(tmp_path):
    paths, cache = draw(tmp_path / "train", 40, side=1500), tmp_path / "cache"
    with pytest.raises(InputError), start([paths], cache) as decoding:
        assert until(lambda: any(cache.glob("*.tmp"))), "it never began"
        raise InputError("of another check")
    assert not decoding.is_running and not list(cache.iterdir())


STARTER = """
import os, sys
from pathlib import Path
from csr.data.image_cache import ahead
ahead.FEWEST = 1
decoding = ahead.DecodingAhead([sorted(Path("train").iterdir())], size=6, cache_dir=Path("cache"), workers=1)
print(decoding._process.pid, flush=True)
while not list(Path(".").glob("cache/*.tmp")):
    pass
os._exit(1)
"""


def test_it_ends_with_the_process_that_started_it(tmp_path):
    draw(tmp_path / "train", 40, side=1500)
    done = subprocess.run(
        [sys.executable, "-c", STARTER], cwd=tmp_path, text=True, stdout=subprocess.PIPE, check=False
    )
    status = Path("/proc") / done.stdout.strip() / "status"
    assert done.returncode == 1
    assert until(lambda: not status.exists() or "zombie" in status.read_text())
    assert not list((tmp_path / "cache").iterdir())


def test_progress_is_passed_on_and_may_leave(tmp_path, monkeypatch):
    paths, seen = draw(tmp_path / "train", 40, side=1500), []

    def leave(done: int, of: int) -> None:
        seen.append((done, of))
        raise InputError("asked to stop")

    with pytest.raises(InputError, match="asked to stop"), start([paths], tmp_path / "cache") as decoding:
        decoding.finish(leave)
    assert seen[0][1] == 40 and 0 < seen[0][0] <= 40
