"""The numbers of an atlas are what the network computed, against plain loops."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from atlas_records import N, flags, flood, prototypes
from tiny_model import TARGETS, K, M, tiny_model

from csr.cli.atlas import main
from csr.explain.atlas.regions import peak_of
from csr.explain.atlas.scan import NONE, BestImages, Counter
from csr.model.layers.prototypes import winners
from csr.model.sharing.reference import Reference


def test_wins_and_maxima_equal_a_loop_over_images(numbers, seen):
    _, labels, cosine, maps, _ = seen
    wins, present, everywhere = (np.zeros((K, M), dtype=int) for _ in range(3))
    for i in range(N):
        for k in range(K):
            best = max(range(M), key=lambda m: maps[i, k, m].max())
            everywhere[k, best] += 1
            if labels[i, k] == 1:
                present[k, best] += 1
                wins[k, max(range(M), key=lambda m: cosine[i, k, m])] += 1
    assert wins.sum() == np.nansum(labels[:, :K]) > 0
    for k, m, record in prototypes(numbers):
        assert (record["wins"], record["max_present"], record["max_all"]) == (
            wins[k, m],
            present[k, m],
            everywhere[k, m],
        )
        assert record["alive"] == bool(wins[k, m] or present[k, m])


def test_scores_weights_and_effects_equal_numpy(numbers, seen, model):
    _, labels, _, maps, _ = seen
    absent = model.card.reference.absent_KM
    for k, m, record in prototypes(numbers):
        score = maps[:, k, m].max(axis=(1, 2)).astype(np.float64)
        expected = {
            "mean": score.mean(),
            "sd": score.std(),
            "mean_present": score[labels[:, k] == 1].mean(),
            "mean_absent": score[labels[:, k] == 0].mean(),
        }
        assert record["score"] == pytest.approx(expected, abs=1e-5)
        for t, name in enumerate(TARGETS):
            weight = float(model.task_head.linear.weight.detach()[t, k * M + m])
            assert record["weights"][name]["weight"] == pytest.approx(weight)
            assert record["weights"][name]["spread"] == pytest.approx(abs(weight) * score.std(), abs=1e-5)
            added = weight * (score[labels[:, k] == 1] - float(absent[k, m]))
            assert record["weights"][name]["effect"] == pytest.approx(added.mean(), abs=1e-5)


def test_effects_of_a_model_without_medians_count_from_the_mean_without_the_concept(seen, data, tmp_path):
    _, labels, _, maps, _ = seen
    other = tiny_model()
    other.card = dataclasses.replace(other.card, reference=Reference())
    folder = str(other.save_pretrained(tmp_path / "model"))
    assert main(flags(folder, data, tmp_path / "out")) == 0
    atlas = json.loads((tmp_path / "out" / "atlas.json").read_text())
    assert atlas["effect_from"] == "means without the concept"
    assert "mean score without it" in (tmp_path / "out" / "concept_000.html").read_text()
    for k, m, record in prototypes(atlas):
        score, has = maps[:, k, m].max(axis=(1, 2)).astype(np.float64), labels[:, k]
        rise = score[has == 1].mean() - score[has == 0].mean()
        weight = float(other.task_head.linear.weight.detach()[0, k * M + m])
        assert record["weights"][TARGETS[0]]["effect"] == pytest.approx(weight * rise, abs=1e-5)
        assert record["map_scale"] is None


def test_nearest_are_the_images_with_the_concept_by_cosine_and_regions_equal_a_loop(numbers, seen):
    names, labels, cosine, maps, cams = seen
    for k, m, record in prototypes(numbers):
        order = sorted((i for i in range(N) if labels[i, k] == 1), key=lambda i: -cosine[i, k, m])[:3]
        assert [one["image_id"] for one in record["nearest"]] == [names[i] for i in order]
        for one, i in zip(record["nearest"], order, strict=True):
            assert one["similarity"] == pytest.approx(cosine[i, k, m], abs=1e-5)
            cells = flood(maps[i, k, m])
            height, width = maps.shape[3:]
            xs, ys = [x for _, x in cells], [y for y, _ in cells]
            box = [min(xs) / width, min(ys) / height, (max(xs) + 1) / width, (max(ys) + 1) / height]
            assert one["box"] == pytest.approx(box)
            share = np.exp(cams[i, k] - cams[i, k].max())
            share /= share.sum()
            assert one["cam_share"] == pytest.approx(sum(share[y, x] for y, x in cells), abs=1e-5)


def test_the_most_similar_images_are_those_with_the_highest_scores_whatever_their_labels(numbers, seen):
    names, labels, _, maps, _ = seen
    for k, m, record in prototypes(numbers):
        score = maps[:, k, m].max(axis=(1, 2))
        order = sorted(range(N), key=lambda i: -score[i])[:6]
        similar = record["similar"]
        assert similar["image_ids"] == [names[i] for i in order]
        assert similar["concept"] == pytest.approx(np.nanmean(labels[order, k]))
        for t, name in enumerate(TARGETS):
            assert similar["targets"][name] == pytest.approx(labels[order, K + t].mean())
        peaks = np.array([peak_of(maps[i, k, m]) for i in order])
        assert similar["peak_mean"] == pytest.approx(peaks.mean(axis=0))
        assert similar["peak_spread"] == pytest.approx(np.sqrt(peaks.var(axis=0).sum()))


def test_whether_a_peak_lies_in_a_box_is_recorded_where_there_are_boxes(numbers, data):
    found = {}
    for k, _, record in prototypes(numbers):
        for one in record["nearest"]:
            in_corner = max(one["peak"]) < 0.5  # of the tiny model's map of 2 x 2 cells
            expected = {"im1": True, "im5": True, "im7": in_corner, "im9": in_corner} if k == 0 else {}
            assert one["in_box"] == expected.get(one["image_id"])
            found.setdefault(one["image_id"] in expected, set()).add(one["in_box"])
    assert found[True] == {True, False} and found[False] == {None}


def test_what_the_concept_predicts_of_a_diagnosis_equals_a_loop(numbers, seen):
    names, labels, *_ = seen
    label_of = dict(zip(names, labels, strict=True))
    for k, _, record in prototypes(numbers):
        similar, concept = record["similar"], record["similar"]["concept"]
        rows = [label_of[name] for name in similar["image_ids"]]
        known = [row for row in rows if not np.isnan(row[k])]
        positives = sum(row[k] == 1 for row in labels)
        assert similar["concept_at_most"] == min(positives, len(known)) / len(known)
        for t, name in enumerate(TARGETS):
            given = [np.mean([row[K + t] for row in labels if row[k] == value]) for value in (1, 0)]
            assert similar["predicted"][name] == pytest.approx(concept * given[0] + (1 - concept) * given[1])
            assert similar["annotated"][name] == 6


def test_the_best_of_many_batches_are_the_best_of_all():
    generator = torch.Generator().manual_seed(0)
    value = torch.randint(0, 9, (40, 2, 3), generator=generator).float()  # with equal ones
    value[torch.rand(40, 2, 3, generator=generator) < 0.3] = -torch.inf
    value[:, 1, 2] = -torch.inf
    value[7, 1, 2] = 0.5
    best = BestImages(2, 3, 5, device=torch.device("cpu"))
    for chunk in torch.arange(40).split(7):
        best.add(value[chunk], chunk)
    for k, m in np.ndindex(2, 3):
        usable = [i for i in range(40) if value[i, k, m] > -torch.inf]
        expected = sorted(usable, key=lambda i: (-float(value[i, k, m]), i))[:5]
        assert best.image_KML[k, m].tolist() == expected + [NONE] * (5 - len(expected))


def test_batches_do_not_change_what_is_counted(model):
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(9, 3, 64, 64, generator=generator)
    concept = torch.rand(9, K, generator=generator).round()
    results = []
    for size in (9, 2):
        counter = Counter(model, top=4, similar=4)
        with torch.no_grad():
            for rows in torch.arange(9).split(size):
                counter.add({"image": image[rows], "concept": concept[rows], "position": rows})
        results.append(counter.result())
    for name in ("wins_KM", "max_present_KM", "max_all_KM", "mean_KM", "sd_KM"):
        torch.testing.assert_close(getattr(results[0], name), getattr(results[1], name), rtol=0, atol=1e-6)
    assert torch.equal(results[0].vectors.image_KML, results[1].vectors.image_KML)


def test_a_winner_is_never_a_dropped_prototype():
    score = torch.tensor([[[0.0, -0.5, -0.2], [0.0, 0.0, 0.0]]])
    kept = torch.tensor([[False, True, True], [False, False, False]])
    assert winners(score, kept).tolist() == [[2, -1]]
    assert winners(score, torch.ones(2, 3) > 0).tolist() == [[0, 0]]
