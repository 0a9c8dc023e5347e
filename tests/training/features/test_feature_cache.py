"""The feature cache: the same rows from memory and disk, never those of other weights, labels or images."""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from forked_ranks import on_ranks
from PIL import Image

from csr.data.dataset import LabelledImages
from csr.data.image_cache.store import open_store
from csr.data.labels.table import read_label_table
from csr.data.transforms import EvalTransform, TrainTransform
from csr.model import CSR
from csr.runtime.errors import InputError
from csr.stages.base import Stage
from csr.stages.prototype import PrototypeStage
from csr.stages.task import TaskStage
from csr.training.features import cache
from csr.training.features.cache import FeatureOptions, frozen_features, key_of, rows_of_segment
from csr.training.features.maps import KeptMaps, map_batches
from csr.training.features.shared_build import build_on_disk
from csr.training.features.store import FeatureStore
from csr.training.features.views import AugmentedView, PlainView

N, K, T, SIZE = 11, 3, 2, 64
CPU = torch.device("cpu")


def model() -> CSR:
    torch.manual_seed(0)
    return CSR(K, T, 2, backbone_type="timm", model_name="test_resnet", image_size=SIZE, embedding_dim=8)


def prototype_stage() -> PrototypeStage:
    return PrototypeStage(
        model(),
        gamma=1000.0,
        lam=20.0,
        delta=0.1,
        margin_mode="softtriple",
        mask_present=True,
        restart=True,
        lr=1e-2,
        weight_decay=0.0,
        seed=0,
    )


def task_stage() -> TaskStage:
    return TaskStage(model(), loss="bce", pos_weight_T=torch.ones(T), lr=1e-2, weight_decay=0.0)


STAGES = {"prototype": prototype_stage, "task": task_stage}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    lines = ["image_id,A,B,C,COPD,No finding"]
    for n in range(N):
        Image.fromarray(rng.integers(0, 256, (40, 36), dtype=np.uint8)).save(tmp_path / "images" / f"{n}.png")
        lines.append(",".join([str(n), *(str(v) for v in rng.integers(0, 2, K)), "1", "0"]))
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def images(folder: Path, *, cached: bool = True) -> LabelledImages:
    table = read_label_table(folder / "labels.csv")
    paths = [folder / "images" / f"{name}.png" for name in table.image_ids]
    store = open_store(paths, size=SIZE + 4, cache_dir=folder / "store" if cached else None)
    return LabelledImages(store, table, indices=np.arange(1, N))


def settings(folder: Path, **changed) -> FeatureOptions:
    options = FeatureOptions("disk", folder / "features", "fp32", 0, 2, "fp32", 0)
    return dataclasses.replace(options, **changed)


def features(
    stage: Stage, dataset: LabelledImages, options: FeatureOptions, seen: list | None = None, **more
):
    def show(batches, total):
        for batch in batches:
            if seen is not None:
                seen.append(batch["position"].tolist())
            yield batch

    with torch.no_grad():
        return frozen_features(
            stage.eval(),
            dataset,
            options=options,
            eval_transform=EvalTransform(SIZE),
            device=CPU,
            show=show,
            **more,
        )


def assert_same(one, other) -> None:
    everything = np.arange(N - 1), np.ones(N - 1, dtype=bool)
    for a, b in zip(one.tables, other.tables, strict=True):
        left, right = a.gather(*everything), b.gather(*everything)
        assert left.keys() == right.keys()
        for name in left:
            torch.testing.assert_close(left[name], right[name], rtol=0, atol=0)


@pytest.mark.parametrize("name", STAGES)
def test_rows_from_disk_are_those_from_memory_and_are_computed_once(name, folder):
    stage, dataset, seen = STAGES[name](), images(folder), []
    memory = features(stage, dataset, settings(folder, mode="memory"))
    built = features(stage, dataset, settings(folder), seen)
    assert sum(seen, []) == list(range(N - 1)) and "computed" in built.source
    again = features(stage, dataset, settings(folder), seen)
    assert len(sum(seen, [])) == N - 1 and "read from" in again.source
    assert_same(built, memory)
    assert_same(again, memory)
    assert len(list((folder / "features").iterdir())) == 1


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_names_all_weights_that_its_features_depend_on_and_no_others(name, folder):
    stage, dataset = STAGES[name](), images(folder)
    before = features(stage, dataset, settings(folder, mode="memory"))
    column = "local" if name == "prototype" else "score"
    with torch.no_grad():
        for key, value in stage.state_dict().items():
            if not key.startswith(stage.input_parts) and value.is_floating_point():
                value.add_(torch.rand_like(value))
    assert_same(features(stage, dataset, settings(folder, mode="memory")), before)
    for part in stage.input_parts:
        fresh = STAGES[name]()
        with torch.no_grad():
            for key, value in fresh.state_dict().items():
                if key.startswith(part) and value.is_floating_point():
                    value.add_(torch.rand_like(value))
        after = features(fresh, dataset, settings(folder, mode="memory"))
        assert not torch.allclose(after.all(column), before.all(column), rtol=1e-4), part


def change_weight(stage, folder):
    with torch.no_grad():
        next(p for n, p in stage.named_parameters() if n.startswith(stage.input_parts)).view(-1)[3] += 1e-6


def change_statistics(stage, folder):
    next(b for n, b in stage.named_buffers() if n.endswith("running_mean"))[0] += 1e-6


def change_label(stage, folder):
    lines = (folder / "labels.csv").read_text().splitlines()
    cells = lines[5].split(",")
    cells[1] = str(1 - int(cells[1]))
    (folder / "labels.csv").write_text("\n".join([*lines[:5], ",".join(cells), *lines[6:]]) + "\n")


def change_image(stage, folder):
    pixels = np.array(Image.open(folder / "images" / "4.png"))
    pixels[0, 0] ^= 1
    Image.fromarray(pixels).save(folder / "images" / "4.png")


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("change", [None, change_weight, change_statistics, change_label, change_image])
def test_a_change_of_a_weight_a_label_or_an_image_gives_another_key(change, cached, folder):
    stage = prototype_stage()

    def key():
        dataset = images(folder, cached=cached)
        return key_of(
            stage,
            dataset,
            PlainView(EvalTransform(SIZE)),
            options=settings(folder),
            device=CPU,
            images=[dataset.store.identity],
        )

    before = key()
    if change is not None:
        change(stage, folder)
    assert (key() == before) == (change is None)


def test_transform_arithmetic_split_and_stage_are_in_the_key(folder):
    dataset, stage = images(folder), prototype_stage()
    plain, light = EvalTransform(SIZE), TrainTransform(SIZE, strength="light")
    smaller = LabelledImages(dataset.store, dataset.table, indices=np.arange(2, N))

    def key(stage=stage, dataset=dataset, view=PlainView(plain), **changed):
        return key_of(stage, dataset, view, options=settings(folder, **changed), device=CPU, images=["a"])

    variants = [
        key(),
        key(view=PlainView(EvalTransform(SIZE, mean=(0.5, 0.5, 0.5)))),
        key(dataset=smaller),
        key(view=PlainView(EvalTransform(SIZE + 2))),
        key(precision="bf16"),
        key(dtype="fp16"),
        key(task_stage()),
        *(key(view=AugmentedView(light, number=n, seed=s)) for n, s in ((0, 0), (1, 0), (0, 1))),
        key(view=AugmentedView(TrainTransform(SIZE, strength="flip"), number=0, seed=0)),
    ]
    assert len(set(variants)) == len(variants)
    assert key() == key(batch_size=5) == variants[0]


def test_epochs_take_turns_at_augmented_views_which_do_not_repeat(folder):
    dataset, stage = images(folder), task_stage()
    options = settings(folder, views=2)
    augmented = TrainTransform(SIZE, strength="light")
    views = features(stage, dataset, options, train_transform=augmented)
    memory = features(stage, dataset, dataclasses.replace(options, mode="memory"), train_transform=augmented)
    assert_same(views, memory)
    first, second = views.at_epoch(1).all("score"), views.at_epoch(2).all("score")
    assert not torch.equal(first, second) and views.at_epoch(3) is views.at_epoch(1)
    plain = features(stage, dataset, options)
    assert len(plain.tables) == 1, "validation images are not augmented"
    assert not torch.equal(plain.all("score"), first)


def test_auto_is_memory_until_the_rows_take_too_much_of_it(folder, monkeypatch):
    auto = settings(folder, mode="auto")
    monkeypatch.setattr(cache, "free_host_bytes", lambda: 4000)
    assert cache.choose_mode(auto, num_bytes=1000) == "memory"
    assert cache.choose_mode(auto, num_bytes=1001) == "disk"
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert cache.choose_mode(auto, num_bytes=600) == "disk"
    assert cache.choose_mode(settings(folder, mode="off"), num_bytes=9999) == "memory"


def test_free_memory_is_a_plausible_number_of_bytes():
    assert 2**20 < cache.free_host_bytes() < 2**50


@pytest.mark.parametrize("mode", ["memory", "disk"])
def test_maps_that_no_longer_fit_in_the_midst_of_a_pass_change_no_row(mode, folder):
    """As after a kill: maps of a later part alone are kept, and the others are one too many."""
    stage, dataset, seen = task_stage(), images(folder), []
    wanted = features(stage, dataset, settings(folder, mode="memory"))
    later, view = [np.arange(4, 6), np.arange(8, 10)], PlainView(EvalTransform(SIZE))
    with torch.no_grad():
        batches = list(
            map_batches(stage.model, dataset, later, view, device=CPU, kept=(first := KeptMaps(limit=2**30)))
        )
    maps = KeptMaps(limit=first.nbytes)
    for places, batch in zip(later, batches, strict=True):
        maps.keep(dataset, view, places, batch["feat"])
    assert maps.nbytes == first.nbytes > 0
    built = features(stage, dataset, settings(folder, mode=mode), seen, maps=maps)
    assert maps.nbytes == 0 and sum(seen, []) == list(range(N - 1))
    assert_same(built, wanted)
    assert_same(features(stage, dataset, settings(folder, mode=mode)), wanted)


@pytest.mark.parametrize(
    "places", [[[2, 3]], [[0, 1], [4, 5]], [[1, 0]], [[0, 1], [2]], [[0, 1], [2, 3, 4, 5]], [[]]]
)
def test_a_segment_takes_no_rows_of_other_places(places):
    """The last batch is not the segment's next: other images, another order, too many, or none."""
    stage: Any = SimpleNamespace(inputs=lambda batch: {"row": torch.arange(len(batch["position"]))})
    batches: Any = ({"position": torch.tensor(one, dtype=torch.int64)} for one in [*places, [9]])
    with pytest.raises(RuntimeError, match="are next"):
        rows_of_segment(stage, batches, range(4))
    right: Any = iter([{"position": torch.tensor([4, 5])}, {"position": torch.tensor([6])}])
    assert rows_of_segment(stage, right, range(4, 7))["count"].tolist() == [1, 1, 1]


def test_a_build_killed_in_the_midst_serves_nothing_and_is_taken_up_where_it_was(folder):
    stage, dataset, seen = task_stage(), images(folder), []
    wanted = features(stage, dataset, settings(folder, mode="memory"))
    real = FeatureStore.write_part
    written = []

    def stop(self, segment, rows):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(segment)
        real(self, segment, rows)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FeatureStore, "write_part", stop)
        with pytest.raises(KeyboardInterrupt):
            features(stage, dataset, settings(folder))
    assert {f.suffix for f in (folder / "features").iterdir()} == {".part"}
    resumed = features(stage, dataset, settings(folder), seen)
    assert sum(seen, []) == list(range(written[-1].stop, N - 1))
    assert_same(resumed, wanted)


def test_two_runs_may_build_the_same_features_at_the_same_time(folder):
    dataset, results = images(folder), []
    wanted = features(task_stage(), dataset, settings(folder, mode="memory"))
    stages = [task_stage() for _ in range(3)]

    def work(stage):
        results.append(features(stage, dataset, settings(folder)))

    threads = [threading.Thread(target=work, args=(stage,)) for stage in stages]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(results) == 3
    for result in results:
        assert_same(result, wanted)


def test_a_folder_that_cannot_be_written_is_one_line_for_the_user(folder):
    (folder / "features").write_text("in the way")
    with pytest.raises(InputError, match="feature cache cannot be written.*--cache_dir"):
        features(task_stage(), images(folder), settings(folder))


def _arrays(segment: range) -> dict[str, np.ndarray]:
    return {"score": np.array([[float(i)] for i in segment], np.float32), "count": np.ones(len(segment), int)}


@pytest.mark.dist
@pytest.mark.parametrize("shared", [True, False])
def test_ranks_share_the_work_and_hosts_without_a_common_folder_send_each_other_parts(shared, tmp_path):
    segments = [range(a, min(a + 2, 7)) for a in range(0, 7, 2)]

    def body():
        from csr.runtime import distributed

        if not shared:
            import os

            os.environ["LOCAL_RANK"] = "0"
        place = tmp_path / ("all" if shared else f"host{distributed.rank()}")
        store = FeatureStore(place, "k" * 64, num_images=7)
        if distributed.rank() == 1 and not shared:
            store.write_part(segments[0], _arrays(segments[0]))  # of a killed run
        mine = []

        def compute(todo):
            for segment in todo:
                mine.append(segment)
                yield segment, _arrays(segment)

        table = build_on_disk(store, segments, compute)
        return mine, table.all("score").flatten().tolist(), [f.suffix for f in place.iterdir()]

    results = on_ranks(body)
    assert all(values == list(range(7)) and left == [".rows"] for _, values, left in results), results
    done = results[0][0] + results[1][0]
    assert sorted(done, key=lambda s: s.start) == (segments if shared else segments[1:])
