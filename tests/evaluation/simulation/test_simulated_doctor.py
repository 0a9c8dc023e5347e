"""The simulated doctor: corrections, and the count of changes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_model import tiny_model

from csr.evaluation.bootstrap import Bootstrap, drawn_images
from csr.evaluation.simulation.changes import count_changes, score_plays
from csr.evaluation.simulation.doctor import Play, doctor_edits, peak_cells, play_doctor, plays_of

NAN = float("nan")
CONCEPT = torch.tensor([[0.0, 1, NAN], [1, 0, 0.5]])
CALLED = torch.tensor([[True, False, True], [True, False, True]])
BATCH = {
    "concept": CONCEPT,
    "box": torch.tensor([[0.1, 0.1, 0.4, 0.5], [0.2, 0.2, 0.6, 0.6], [0.5, 0.5, 0.9, 0.9]]),
    "box_row": torch.tensor([0, 0, 1]),
    "box_class": torch.tensor([1, 2, 1]),
}


KEPT = torch.ones(3, 4, dtype=torch.bool)
PEAK = torch.tensor([0.2, 0.2, 0.4, 0.4]).expand(2, 3, 4)


def edits_of(kind: str, **more):
    return doctor_edits(
        CONCEPT, CALLED, BATCH, play=Play(kind, True), peak_BK4=more.pop("peak", PEAK), **more
    )


def test_a_mode_is_played_with_medians_where_there_are_some_and_with_zeros():
    assert [p.name for p in plays_of("concept", has_medians=False)] == ["rejections, zero", "concepts, zero"]
    assert [p.name for p in plays_of("box", has_medians=True)] == [
        "boxes, medians",
        "boxes, zero",
        "not here, medians",
        "not here, zero",
    ]
    assert [p.name for p in plays_of("both", has_medians=True)] == [
        "rejections, medians",
        "rejections, zero",
        "confirmations, medians",
        "concepts, medians",
        "concepts, zero",
        "boxes, medians",
        "boxes, zero",
        "not here, medians",
        "not here, zero",
        "concepts and boxes, medians",
        "concepts and boxes, zero",
    ]
    assert plays_of(None, has_medians=True) == ()


def test_the_doctor_corrects_wrong_calls_only_and_leaves_what_is_not_annotated():
    for kind, decisions in (
        ("concepts", [[-1, 1, 0], [0, 0, 0]]),
        ("rejections", [[-1, 0, 0], [0, 0, 0]]),
        ("confirmations", [[0, 1, 0], [0, 0, 0]]),
    ):
        edits = edits_of(kind)
        assert edits.decision_BK.tolist() == decisions and not len(edits.box_R4)


def test_the_doctor_draws_boxes_of_present_concepts_only():
    edits = edits_of("boxes", alpha=0.5)
    assert not edits.decision_BK.any() and edits.row_R.tolist() == [0] and edits.positive_R.all()
    torch.testing.assert_close(edits.box_R4, BATCH["box"][:1])
    assert edits.alpha_B.tolist() == [0.5, 0.5]


def test_the_doctor_rules_out_the_cell_of_a_wrong_call_unless_something_is_there():
    far = torch.tensor([0.6, 0.6, 0.8, 0.8]).expand(2, 3, 4)
    edits = edits_of("not here", peak=far)
    assert edits.row_R.tolist() == [0] and not edits.positive_R.any() and not edits.decision_BK.any()
    torch.testing.assert_close(edits.box_R4, far[0, :1])
    assert not len(edits_of("not here").box_R4), "the centre lies in the box of a concept that is present"
    gone = torch.full((2, 3, 4), NAN)
    assert not len(edits_of("not here", peak=gone).box_R4), "no map of a concept without prototypes"


def test_the_peak_is_the_cell_of_the_highest_value_of_kept_prototypes():
    sim = torch.zeros(1, 2, 2, 2, 4)
    sim[0, 0, 0, 1, 2], sim[0, 0, 1, 0, 0] = 0.5, 0.9
    kept = torch.tensor([[True, False], [False, False]])
    assert peak_cells(sim, kept)[0, 0].tolist() == [0.5, 0.5, 0.75, 1.0]
    assert peak_cells(sim, kept)[0, 1].isnan().all()
    assert peak_cells(sim, torch.ones(2, 2, dtype=torch.bool))[0, 0].tolist() == [0.0, 0.0, 0.25, 0.5]


def test_diagnoses_after_each_play_equal_a_slow_loop():
    model = tiny_model()
    assert model.card is not None
    reference = model.card.reference
    sim = torch.rand(2, 3, 4, 5, 5, generator=torch.Generator().manual_seed(0)) * 2 - 1
    plays = plays_of("both", has_medians=True)
    with torch.no_grad():
        rows = play_doctor(
            sim,
            CALLED,
            BATCH,
            plays=plays,
            card=model.card,
            kept_KM=KEPT,
            diagnose=lambda s: model.task_head(s).sigmoid(),
            alpha=0.3,
        )
    assert reference.absent_KM is not None and reference.present_KM is not None
    for v, play in enumerate(plays):
        for b in range(2):
            maps, drawn = sim[b].clone(), False
            at = int(sim[b, 0].amax(dim=0).argmax())
            centre = ((at % 5 + 0.5) / 5, (at // 5 + 0.5) / 5)
            ruled_out = not (0.1 <= centre[0] <= 0.4 and 0.1 <= centre[1] <= 0.5)
            looks, rules = play.kind in ("boxes", "concepts and boxes"), play.kind == "not here" and ruled_out
            if b == 0 and (looks or rules):
                drawn = True
                for y in range(5):
                    for x in range(5):
                        inside = 0.1 <= (x + 0.5) / 5 <= 0.4 and 0.1 <= (y + 0.5) / 5 <= 0.5
                        importance = (1.0 if inside else 0.3) if looks else float((y, x) != divmod(at, 5))
                        here = maps[:, :, y, x]
                        above = (here - reference.absent_KM).clamp(min=0)
                        usual = here - (1 - importance) * above
                        maps[:, :, y, x] = usual if play.medians else here.clamp(min=0) * importance
            score = maps.flatten(2).amax(2)
            if b == 0 and play.kind in ("rejections", "concepts", "concepts and boxes"):
                score[0], drawn = reference.absent_KM[0] if play.medians else 0.0, True
            if b == 0 and play.kind in ("confirmations", "concepts", "concepts and boxes"):
                drawn = True
                score[1] = torch.maximum(score[1], reference.present_KM[1]) if play.medians else score[1]
            with torch.no_grad():
                torch.testing.assert_close(rows["after"][b, v], model.task_head(score[None])[0].sigmoid())
            assert bool(rows["edited"][b, v]) == drawn


def table(*rows: list[float]) -> np.ndarray:
    return np.array(rows)


def test_changes_are_counted_over_annotated_decisions():
    target = table([1, 0], [1, 1], [0, NAN], [NAN, NAN])
    before = table([0, 0], [1, 1], [1, 1], [1, 1]).astype(bool)
    after = table([1, 1], [1, 0], [0, 0], [0, 0]).astype(bool)
    counts = count_changes(before, after, target, np.array([True, True, False, True]), bootstrap=Bootstrap(0))
    assert counts == {
        "images": 3,
        "edited": 2,
        "decisions": 5,
        "right_before": 3,
        "right_after": 3,
        "fixed": 2,
        "broken": 2,
        "net": {"value": 0.0, "low": None, "high": None},
        "helps": False,
        "images_right_before": 1,
        "images_right_after": 1,
        "images_fixed": 1,
        "images_broken": 1,
    }


def test_the_net_share_has_the_interval_of_a_loop_over_the_same_resamples():
    draw = np.random.default_rng(0)
    before, after, target = (draw.random((30, 2)) < 0.5 for _ in range(3))
    counts = count_changes(before, after, target.astype(float), np.ones(30, bool), bootstrap=Bootstrap(50, 4))
    gain = (after == target).astype(float) - (before == target)
    slow = [gain[drawn_images(30, r, seed=4)].mean() for r in range(50)]
    assert counts["net"]["value"] == pytest.approx((counts["fixed"] - counts["broken"]) / counts["decisions"])
    np.testing.assert_allclose(
        [counts["net"]["low"], counts["net"]["high"]], np.quantile(slow, [0.025, 0.975]), atol=1e-12
    )


def test_doubtful_images_are_counted_apart():
    plays = plays_of("box", has_medians=False)[:1]
    before = np.array([[True], [False], [False]])
    scores = score_plays(
        before,
        ~before[:, None],
        np.ones((3, 1)),
        edited_NV=np.ones((3, 1), bool),
        doubtful_N=np.array([True, False, True]),
        plays=plays,
        bootstrap=Bootstrap(0),
    )["boxes, zero"]
    assert (scores["all"]["images"], scores["all"]["fixed"], scores["all"]["broken"]) == (3, 2, 1)
    doubtful = scores["doubtful"]
    assert (doubtful["images"], doubtful["fixed"], doubtful["broken"]) == (2, 1, 1)


def test_no_doubtful_image_is_no_error():
    scores = score_plays(
        np.ones((2, 1), bool),
        np.ones((2, 1, 1), bool),
        np.ones((2, 1)),
        edited_NV=np.zeros((2, 1), bool),
        doubtful_N=np.zeros(2, bool),
        plays=plays_of("box", has_medians=False)[:1],
        bootstrap=Bootstrap(5),
    )
    assert scores["boxes, zero"]["all"]["helps"] is None, "nothing changed"
    assert (
        scores["boxes, zero"]["doubtful"]["images"] == 0
        and scores["boxes, zero"]["doubtful"]["net"]["value"] is None
    )
