"""What a run measures of itself at its end: the same on any number of ranks."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from forked_ranks import on_ranks
from PIL import Image
from tiny_model import CONCEPTS, SIZE, TARGETS, K, M, T, tiny_model

from csr.data.dataset import LabelledImages
from csr.data.image_cache.store import open_store
from csr.data.labels.table import read_label_table
from csr.data.labels.vocabulary import Vocabulary
from csr.data.transforms import EvalTransform, TrainTransform
from csr.evaluation import inference
from csr.model import CSR
from csr.model.calibration import PLATT, SCORE, UNWEIGHTED, fit_platt
from csr.model.novelty_fit import fit_novelty
from csr.model.sharing.reference import Reference
from csr.runtime import distributed
from csr.training.data import Splits
from csr.training.features.maps import map_batches
from csr.training.features.views import PlainView
from csr.training.final_test import FinalTest

NUM, NUM_TRAIN = 90, 40


@pytest.fixture
def splits(tmp_path) -> Splits:
    """Random images; a target is likely where its logit is high, the last concept is nearly always there."""
    draw = np.random.default_rng(5)
    for i in range(NUM):
        picture = draw.integers(0, 256, (12, 12), dtype=np.uint8)
        Image.fromarray(picture).resize((72, 72)).save(tmp_path / f"im{i}.png")
    paths = [tmp_path / f"im{i}.png" for i in range(NUM)]
    store = open_store(paths, size=72, cache_dir=None, workers=1)
    with torch.no_grad():
        logit = tiny_model()(EvalTransform(SIZE)(store.batch(range(NUM)))).logits.numpy()
    likely = 1 / (1 + np.exp(-4 * (logit - np.median(logit, axis=0)) / logit.std(axis=0)))
    lines = [",".join(["image_id", *CONCEPTS, *TARGETS])]
    for i in range(NUM):
        concepts = [int(draw.random() < 0.4), int(draw.random() < 0.4), int(i > 2)]
        targets = [int(draw.random() < p) for p in likely[i]]
        lines.append(",".join(map(str, [f"im{i}", *concepts, *targets])))
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    table = read_label_table(tmp_path / "labels.csv", vocabulary=Vocabulary(CONCEPTS, TARGETS))
    # threads of a store that was used would be missing in forked ranks
    store = open_store(paths, size=72, cache_dir=None, workers=1)
    parts = np.arange(NUM_TRAIN), np.arange(NUM_TRAIN, NUM)
    train, val = (LabelledImages(store, table, indices=part) for part in parts)
    transforms: tuple[Any, Any] = (TrainTransform(SIZE, strength="light"), EvalTransform(SIZE))
    return Splits(train, val, *transforms, names={"concept": CONCEPTS, "target": TARGETS}, map_size=(2, 2))


def final_test(splits: Splits) -> FinalTest:
    def batches(model: CSR, dataset: LabelledImages, title: str, *, keeps: bool = True) -> Any:
        chunks, view = inference.eval_chunks(len(dataset), 7), PlainView(splits.eval_transform)
        return map_batches(model, dataset, chunks, view, device=torch.device("cpu"), kept=None)

    def images(dataset: LabelledImages, title: str) -> Any:
        return inference.image_batches(
            dataset, transform=splits.eval_transform, batch_size=7, device=torch.device("cpu")
        )

    validator: Any = SimpleNamespace(map_batches=batches, batches=images)
    return FinalTest(tiny_model(), splits, "bce", 20.0, "fp32", validator)


@pytest.mark.dist
def test_the_reference_of_two_ranks_is_that_of_one(splits):
    def body() -> dict[str, Any]:  # plain: tensors do not survive the end of the process that made them
        return final_test(splits).reference().to_dict(concept_names=CONCEPTS, target_names=TARGETS)

    on_each, alone = on_ranks(body), body()
    methods = {one["method"] for one in alone["target_calibration"].values()}
    assert methods <= {PLATT, UNWEIGHTED}
    last = alone["concept_calibration"][CONCEPTS[-1]]["method"]
    assert last == SCORE, "no validation image is without it"
    for reference in on_each:
        for name in ("concept_thresholds", "target_thresholds"):
            assert reference[name] == pytest.approx(alone[name], abs=1e-4)
        for name in ("absent_medians", "present_medians"):
            for concept, row in alone[name].items():
                assert reference[name][concept] == pytest.approx(row, abs=1e-5)
        for name in ("concept_calibration", "target_calibration"):
            for label, one in alone[name].items():
                other = reference[name][label]
                assert other["method"] == one["method"]
                line = [one["scale"], one["offset"]]
                assert [other["scale"], other["offset"]] == pytest.approx(line, abs=1e-3)
        assert reference["novelty"]["limit"] == pytest.approx(alone["novelty"]["limit"], rel=1e-3)
        assert reference["novelty"]["num_validation"] == NUM - NUM_TRAIN


def test_calibration_takes_the_weights_of_the_training_labels_off_the_logits_of_validation_images(splits):
    reference = final_test(splits).reference()
    assert reference.absent_KM.shape == (K, M)
    train, val = splits.train, splits.val
    with torch.no_grad():
        pixels = val.store.batch(val.indices)
        logit = tiny_model()(EvalTransform(SIZE)(pixels)).logits.double().numpy()
    for t in range(T):
        one, label = reference.target_calibration_T[t], val.table.target_NT[val.indices, t]
        positives = train.table.target_NT[train.indices, t].sum()
        log_weight = np.log((NUM_TRAIN - positives) / positives)
        if one.method == UNWEIGHTED:
            assert (one.scale, one.offset) == (1.0, pytest.approx(-log_weight, abs=1e-6))
        else:
            scale, offset = fit_platt(logit[:, t] - log_weight, label.astype(np.float64))
            assert one.scale == pytest.approx(scale, rel=1e-3)
            assert one.offset == pytest.approx(offset - scale * log_weight, abs=1e-2)


@pytest.mark.parametrize("resize", ["squash", "letterbox", "crop"])
def test_the_card_says_how_the_images_of_the_run_became_square(splits, resize):
    store = open_store(splits.train.store.paths, size=72, cache_dir=None, workers=1, resize=resize)
    train = LabelledImages(store, splits.train.table, indices=splits.train.indices)
    card = final_test(replace(splits, train=train)).card(Reference())
    pre = card.preprocessing
    assert (pre.resize, pre.stored_size, pre.image_size) == (resize, 72, SIZE)
    assert (pre.mean, pre.std) == (splits.eval_transform.mean, splits.eval_transform.std)


def test_the_novelty_of_a_run_is_of_training_images_and_its_limit_of_validation_images(splits):
    novelty = final_test(splits).reference().novelty
    assert novelty is not None and novelty.num_validation == NUM - NUM_TRAIN
    with torch.no_grad():
        pixels = EvalTransform(SIZE)(splits.train.store.batch(splits.train.indices))
        pooled = tiny_model().features(pixels).mean(dim=(2, 3))
    np.testing.assert_allclose(
        novelty.spaces["features"].mean_D, pooled.double().mean(0), rtol=1e-3, atol=1e-5
    )


@pytest.mark.dist
def test_rank_0_alone_fits_the_novelty_and_all_ranks_hold_it(splits, monkeypatch):
    def fitted(*rows: dict[str, torch.Tensor]) -> Any:
        found = fit_novelty(*rows)
        assert found is not None
        return replace(found, limit=100.0 + distributed.rank())  # as processors of two kinds would differ

    monkeypatch.setattr("csr.training.final_test.fit_novelty", fitted)

    def body() -> Any:
        novelty = final_test(splits).reference().novelty
        return None if novelty is None else novelty.to_dict()

    first, second = on_ranks(body)
    assert first["limit"] == 100.0 and first == second


def test_statistics_are_of_every_nth_image_and_need_no_pass_of_their_own(splits, monkeypatch):
    run, rows, passed, features = final_test(splits), [], [], CSR.features

    def counted(model: CSR, images: torch.Tensor) -> torch.Tensor:
        passed.append(len(images))
        return features(model, images)

    monkeypatch.setattr("csr.training.final_test.MAX_IMAGES", 25)  # 40 images: every 2nd; 50: every 2nd
    monkeypatch.setattr("csr.training.final_test.fit_novelty", lambda *both: rows.extend(both))
    monkeypatch.setattr(CSR, "features", counted)
    assert run.reference().novelty is None
    assert sum(passed) == NUM, "each image passes the backbone once"
    mean, std = (
        np.array(v).reshape(3, 1, 1) for v in (splits.eval_transform.mean, splits.eval_transform.std)
    )
    for found, part in zip(rows, (splits.train, splits.val), strict=True):
        with torch.no_grad():
            pixels = EvalTransform(SIZE)(part.store.batch(part.indices[::2]))
            feat = features(tiny_model(), pixels)
            score = tiny_model()(pixels).similarity_scores
        np.testing.assert_allclose(found["features"], feat.numpy().mean(axis=(2, 3)), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found["similarity"], score.reshape(len(pixels), K * M), atol=1e-5)
        grey = (pixels.numpy() * std + mean).clip(0, 1).mean(axis=1)
        cells = grey.reshape(len(grey), 8, SIZE // 8, 8, SIZE // 8).mean(axis=(2, 4))
        np.testing.assert_allclose(found["layout"], cells.reshape(len(grey), 64), atol=1e-5)
