"""`csr cache`: what is listed, what is removed, what stays because it is young, in use, or somebody's own."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest

from csr.cli import cache
from csr.runtime.errors import InputError
from csr.training import cache_usage

DAY = 24 * 3600


def file_of(folder: Path, name: str, *, days: float, size: int = 4096) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    os.utime(path, (time.time() - days * DAY,) * 2)
    return path


@pytest.fixture
def caches(tmp_path: Path) -> dict[str, Path]:
    names = {
        "old": (".cache/images/images-a.bin", 40),
        "young": (".cache/images/images-b.bin", 3),
        "part": (".cache/images/images-a.0of1.part", 50),
        "feature": (".cache/features/features-c.bin", 31),
        "photo": ("photos/images-of-me.png", 400),
        "model": ("run/final_model.pth", 400),
    }
    return {key: file_of(tmp_path, name, days=days) for key, (name, days) in names.items()}


def there(caches: dict[str, Path]) -> set[str]:
    return {key for key, path in caches.items() if path.exists()}


def test_files_are_listed_with_their_sizes_newest_first(caches, tmp_path, capsys):
    assert cache.main(["list", str(tmp_path)]) == 0
    *lines, total = capsys.readouterr().out.splitlines()
    assert [line.rsplit("/", 1)[1] for line in lines] == [
        "images-b.bin",
        "features-c.bin",
        "images-a.bin",
        "images-a.0of1.part",
    ]
    assert "40.0 days" in lines[2] and total.startswith("4 files")
    assert there(caches) == set(caches)


def test_long_unused_files_are_removed_and_nothing_else(caches, tmp_path):
    assert cache.main(["prune", str(tmp_path), "--dry_run"]) == 0
    assert there(caches) == set(caches)
    assert cache.main(["prune", str(tmp_path)]) == 0
    assert there(caches) == {"young", "photo", "model"}
    assert cache.main(["prune", str(tmp_path), "--days", "2"]) == 0
    assert there(caches) == {"photo", "model"}


@pytest.mark.skipif(not Path("/proc/self/maps").is_file(), reason="this system does not list open files")
def test_a_file_that_a_process_has_mapped_or_open_stays(caches, tmp_path, capsys):
    mapped = np.memmap(caches["old"], np.uint8, "r")
    with open(caches["feature"], "rb"):
        cache.main(["prune", str(tmp_path)])
    assert there(caches) == {"old", "feature", "young", "photo", "model"}
    assert capsys.readouterr().out.count("kept, in use") == 2
    del mapped
    cache.main(["prune", str(tmp_path)])
    assert "old" not in there(caches)


def test_an_image_cache_that_a_run_opens_is_used_now(tmp_path):
    from PIL import Image

    from csr.data.image_cache.store import open_store

    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "a.png")
    for _ in range(2):
        open_store([tmp_path / "a.png"], size=8, cache_dir=tmp_path / "c")
        (entry,) = cache_usage.entries_in(tmp_path / "c")
        assert entry.age_days < 0.1
        os.utime(entry.path, (1, 1))


def rows_of(folder: Path, name: str, *, days: float) -> Path:
    path = folder / name
    for array in ("local.npy", "count.npy", "header.json"):
        file_of(path, array, days=days)
    os.utime(path, (time.time() - days * DAY,) * 2)
    return path


def test_a_folder_of_features_is_one_entry_removed_as_a_whole_unless_a_process_has_it_mapped(
    tmp_path, capsys
):
    old, used = (rows_of(tmp_path, f"features-{name}.rows", days=40) for name in "ab")
    (entry, _) = cache_usage.entries_in(tmp_path)
    assert (entry.kind, entry.size) == ("features", 3 * 4096)
    mapped = np.memmap(used / "local.npy", np.uint8, "r")
    cache.main(["prune", str(tmp_path)])
    assert not old.exists() and len(list(used.iterdir())) == 3
    assert "1 of 2 files" in capsys.readouterr().out
    del mapped


@pytest.mark.parametrize(
    "arguments", [["list", "nowhere"], ["prune", ".", "--days", "0.5"], ["prune", ".", "--days", "nan"]]
)
def test_what_cannot_be_done_is_an_error(arguments):
    with pytest.raises(InputError):
        cache.main(arguments)


def test_large_caches_are_told(caches, tmp_path, monkeypatch):
    assert cache_usage.notice(tmp_path) is None and cache_usage.notice(tmp_path / "nowhere") is None
    monkeypatch.setattr(cache_usage, "NOTICE_BYTES", 1000)
    assert f"csr cache prune {tmp_path}" in cache_usage.notice(tmp_path)
