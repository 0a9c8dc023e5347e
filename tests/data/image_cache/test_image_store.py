"""The decoded-image cache: right pixels, built by any number of ranks, never half a file."""

import os
import pickle
import threading

import numpy as np
import pytest
import torch
from PIL import Image

from csr.data.image_cache import cache_file
from csr.data.image_cache.store import check_images, list_unreadable, open_store
from csr.data.images.find import find_images
from csr.data.images.resize import resize_file
from csr.runtime.errors import InputError

SIZE = 6


@pytest.fixture
def paths(tmp_path):
    """Return seven grey images of different sizes and depths."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "images"
    folder.mkdir()
    found = []
    for n in range(7):
        value = rng.integers(0, 256, (8 + n, 20 - n), dtype=np.uint8)
        found.append(folder / f"{n}.png")
        Image.fromarray(value.astype(np.uint16) * 257 if n % 2 else value).save(found[-1])
    return found


def resized(path):
    value = np.asarray(Image.open(path))
    value = (value // 257).astype(np.uint8) if value.dtype == np.uint16 else value
    return np.asarray(Image.fromarray(value).resize((SIZE, SIZE), Image.Resampling.BILINEAR))


def open_on_ranks(paths, folder, world):
    """Open the store on `world` threads with a real barrier; return stores or errors."""
    gate = threading.Barrier(world)
    results = [None] * world

    def work(rank):
        try:
            results[rank] = open_store(
                paths,
                size=SIZE,
                cache_dir=folder,
                workers=1,
                shard=(rank, world),
                barrier=gate.wait,
            )
        except InputError as error:
            results[rank] = error

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    return results


def test_a_batch_holds_each_image_resized_in_the_requested_order(paths, tmp_path):
    store = open_store(paths, size=SIZE, cache_dir=tmp_path / "cache", workers=2)
    batch = store.batch([3, 0, 3])
    assert batch.shape == (3, 1, SIZE, SIZE) and batch.dtype == torch.uint8
    for image, index in zip(batch, (3, 0, 3)):
        np.testing.assert_array_equal(image[0], resized(paths[index]))
    torch.testing.assert_close(store[0], batch[1])
    assert store.original_sizes_N2.tolist() == [[8 + n, 20 - n] for n in range(7)]
    batch.zero_()  # a copy: the cache cannot be written through it
    np.testing.assert_array_equal(store[3][0], resized(paths[3]))


@pytest.mark.parametrize("world", [1, 2, 3, 9])
def test_any_number_of_ranks_builds_the_same_file(paths, tmp_path, world):
    stores = open_on_ranks(paths, tmp_path / "cache", world)
    wanted = torch.stack([torch.tensor(resized(path)) for path in paths]).unsqueeze(1)
    for store in stores:
        assert torch.equal(store.batch(range(7)), wanted)
    assert len(list((tmp_path / "cache").iterdir())) == 1, "parts are gone"


def test_one_colour_image_makes_three_channels_and_grey_rgb_does_not(paths, tmp_path):
    grey = np.asarray(Image.open(paths[0]))
    Image.fromarray(np.dstack([grey] * 3)).save(paths[0])
    assert open_store(paths, size=SIZE, cache_dir=tmp_path / "c").channels == 1
    Image.fromarray(np.dstack([grey, grey // 2, grey])).save(paths[0])
    for folder in (tmp_path / "c", None):
        store = open_store(paths, size=SIZE, cache_dir=folder)
        assert store.channels == 3
        batch = store.batch([0, 1])
        assert (batch[0, 0] != batch[0, 1]).any() and (batch[1, 0] == batch[1, 1]).all()


def test_without_a_folder_images_are_decoded_on_demand(paths, tmp_path):
    cached = open_store(paths, size=SIZE, cache_dir=tmp_path / "cache")
    fresh = open_store(paths, size=SIZE, cache_dir=None, workers=2)
    assert torch.equal(cached.batch(range(7)), fresh.batch(range(7)))
    np.testing.assert_array_equal(cached.original_sizes_N2, fresh.original_sizes_N2)


def test_a_second_opening_decodes_nothing_and_a_changed_image_does(paths, tmp_path):
    calls = []
    options = {"size": SIZE, "cache_dir": tmp_path / "c", "progress": lambda *a: calls.append(a)}
    first = open_store(paths, **options)
    assert calls == [(n, 7) for n in range(1, 8)]
    open_store(paths, **options)
    assert len(calls) == 7
    Image.new("L", (5, 5), 99).save(paths[2])
    assert (open_store(paths, **options)[2] == 99).all()
    assert len(calls) == 14
    assert (first[2] != 99).any(), "an open store keeps what it had"
    order = open_store(paths[::-1], **options)
    assert torch.equal(order[6], first[0])


@pytest.mark.parametrize("world", [1, 3])
def test_all_unreadable_images_are_named_at_once_on_every_rank(paths, tmp_path, world):
    paths[1].write_bytes(b"junk")
    paths[4].write_bytes(paths[4].read_bytes()[:60])
    errors = open_on_ranks(paths, tmp_path / "cache", world)
    assert all(isinstance(error, InputError) for error in errors)
    assert len({str(error) for error in errors}) == 1
    message = str(errors[0])
    assert message.startswith("2 image(s)") and "\n" not in message
    assert message.index("1.png") < message.index("4.png")
    assert not list((tmp_path / "cache").iterdir()), "nothing is left that could be served"
    with pytest.raises(InputError, match="2 image.*t.csv line 3: .*1.png.*t.csv line 6: .*4.png"):
        check_images(paths, where=lambda index: f"t.csv line {index + 2}")


def test_missing_and_unreadable_images_can_be_named_in_one_line(paths, read):
    paths[1].write_bytes(b"junk")
    paths[6].unlink()
    rows = "".join(f"{n},0,1\n" for n in range(7))
    with pytest.raises(InputError, match="2 image.*no file for image_id '6'.*1.png: is no image"):
        find_images(paths[0].parent, read("image_id,M,COPD\n" + rows), check=list_unreadable)


def test_at_most_twenty_unreadable_images_are_named(tmp_path):
    many = [tmp_path / f"{n}.png" for n in range(25)]
    for path in many:
        path.write_bytes(b"junk")
    with pytest.raises(InputError, match="25 image.*and 5 more") as caught:
        check_images(many)
    assert str(caught.value).count("no image") == 20


def test_an_interrupted_build_leaves_nothing_that_is_served(paths, tmp_path, monkeypatch):
    def stop(*_args):
        raise KeyboardInterrupt

    options = {"size": SIZE, "cache_dir": tmp_path / "c"}
    with pytest.raises(KeyboardInterrupt):
        open_store(paths, progress=lambda done, of: stop() if done == 3 else None, **options)
    assert not list((tmp_path / "c").iterdir())
    with monkeypatch.context() as patch:
        patch.setattr(cache_file, "read_planes", stop)
        with pytest.raises(KeyboardInterrupt):
            open_store(paths, **options)
    assert [path.suffix for path in (tmp_path / "c").iterdir()] == [".part"]
    np.testing.assert_array_equal(open_store(paths, **options)[5][0], resized(paths[5]))


@pytest.mark.parametrize("damage", ["truncated", "empty", "other magic"])
def test_a_damaged_cache_file_is_built_again(paths, tmp_path, damage):
    options = {"size": SIZE, "cache_dir": tmp_path / "c"}
    open_store(paths, **options)
    (file,) = (tmp_path / "c").iterdir()
    content = file.read_bytes()
    file.write_bytes({"truncated": content[:-1], "empty": b"", "other magic": b"x" + content[1:]}[damage])
    np.testing.assert_array_equal(open_store(paths, **options)[5][0], resized(paths[5]))


def test_a_folder_that_cannot_be_written_is_an_error_on_every_rank(paths, tmp_path):
    (tmp_path / "file").write_text("in the way")
    for result in open_on_ranks(paths, tmp_path / "file", 2):
        assert isinstance(result, InputError) and "image cache cannot be written" in str(result)


def test_two_builds_of_one_cache_at_the_same_time_do_no_harm(paths, tmp_path):
    wanted = [resized(path) for path in paths]
    results = []

    def work():
        results.append(open_store(paths, size=SIZE, cache_dir=tmp_path / "c", workers=2))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(results) == 4
    for store in results:
        np.testing.assert_array_equal(store.batch(range(7))[:, 0], wanted)


@pytest.mark.parametrize("package", ["pillow", "pydicom"])
def test_another_version_of_a_decoder_decodes_anew(package, paths, monkeypatch):
    before = cache_file.cache_key(paths, SIZE)
    known = cache_file.metadata.version
    monkeypatch.setattr(cache_file.metadata, "version", lambda n: "0.0" if n == package else known(n))
    assert cache_file.cache_key(paths, SIZE) != before


def test_files_that_a_killed_run_left_are_removed_when_they_are_old(paths, tmp_path):
    (tmp_path / "c").mkdir()
    old, new = tmp_path / "c" / "images-a.1.tmp", tmp_path / "c" / "images-b.2.tmp"
    old.touch()
    new.touch()
    os.utime(old, (1, 1))
    open_store(paths, size=SIZE, cache_dir=tmp_path / "c")
    assert not old.exists() and new.exists()


def test_a_store_travels_to_worker_processes_without_its_pixels(paths, tmp_path):
    store = open_store(paths, size=SIZE, cache_dir=tmp_path / "c")
    sent = pickle.dumps(store)
    assert len(sent) < 3000
    assert torch.equal(pickle.loads(sent).batch([1, 2]), store.batch([1, 2]))


def test_a_part_that_another_run_completes_meanwhile_is_left_to_it(paths, tmp_path, monkeypatch):
    file = tmp_path / "c" / "images-x.bin"
    first, second = (cache_file.CacheBuild(file, paths, SIZE, (0, 1)) for _ in range(2))
    real_index, real_write = cache_file.read_index, cache_file.write_part

    def look_before_they_write(part):
        monkeypatch.setattr(cache_file, "read_index", real_index)
        found = real_index(part)
        assert second.write_own_part(1, None) is None
        monkeypatch.setattr(cache_file, "write_part", write_while_they_join)
        return found

    def write_while_they_join(part, *args, **options):
        assert second.join() == ({}, None) and cache_file.is_complete(file, len(paths), SIZE)
        real_write(part, *args, **options)

    monkeypatch.setattr(cache_file, "read_index", look_before_they_write)
    assert first.write_own_part(1, None) is None
    assert first.join() == ({}, None)


def test_images_decoded_on_demand_by_several_threads_keep_their_order(paths):
    store = open_store(paths, size=SIZE, cache_dir=None, workers=3)
    order = [6, 0, 3, 3, 1]
    wanted = np.stack([resized(paths[n]) for n in order])
    np.testing.assert_array_equal(store.batch(order)[:, 0], wanted)
    paths[3].write_bytes(b"junk")
    with pytest.raises(InputError, match="3.png"):
        store.batch(order)


@pytest.mark.parametrize("cached", [True, False])
def test_a_store_is_identified_by_the_files_whose_pixels_it_serves(paths, tmp_path, cached):
    folder = tmp_path / "c" if cached else None
    store = open_store(paths, size=SIZE, cache_dir=folder)
    before = store.identity
    Image.new("L", (5, 5), 99).save(paths[2])
    assert (store.identity == before) == cached, "an open cache keeps its pixels"
    assert open_store(paths, size=SIZE, cache_dir=folder).identity != before


def test_pixels_of_an_older_reading_are_not_used_again(paths, tmp_path, monkeypatch):
    older = cache_file.cache_key(paths, SIZE)
    monkeypatch.setattr(cache_file, "DECODER_VERSION", cache_file.DECODER_VERSION + 1)
    assert cache_file.cache_key(paths, SIZE) != older


def test_each_way_to_a_square_has_a_file_of_its_own(paths, tmp_path):
    keys = {cache_file.cache_key(paths, SIZE, resize=way) for way in ("squash", "letterbox", "crop")}
    assert len(keys) == 3
    assert cache_file.cache_key(paths, SIZE) in keys
    for way in ("letterbox", "crop", "squash", "letterbox"):
        kept = open_store(paths, size=SIZE, cache_dir=tmp_path / "c", resize=way)
        fresh = open_store(paths, size=SIZE, cache_dir=None, resize=way)
        for index, path in enumerate(paths):
            wanted = resize_file(path, SIZE, resize=way)
            np.testing.assert_array_equal(kept[index], wanted.pixels_CSS)
            np.testing.assert_array_equal(fresh[index], wanted.pixels_CSS)
            assert tuple(kept.frame_N4[index]) == wanted.frame
        assert kept.identity == f"images-{fresh.identity}"
    assert len(list((tmp_path / "c").glob("images-*.bin"))) == 3
