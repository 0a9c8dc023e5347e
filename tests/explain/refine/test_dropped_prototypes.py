"""A dropped prototype is gone: it scores 0, never wins, and moves nothing, in every form of the model."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch
from refined_models import dropping, refined_model
from tiny_model import OPTIONS, K, M, T, tiny_model

from csr.evaluation.measure import count_used
from csr.evaluation.pointing_game import SCORES, pointing_rows
from csr.explain.explanation import explain as explain_images
from csr.model import CSR
from csr.model.edit_safety import check_safety
from csr.model.interaction import make_edits


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(3))


@torch.no_grad()
def test_a_dropped_prototype_scores_zero_and_the_rest_is_a_model_without_its_columns(images):
    dropped = dropping((0, 1), (2, 0), (2, 3))
    model, whole = refined_model(dropped), tiny_model()
    output, before = model(images), whole(images)
    assert (output.similarity_maps[:, dropped] == 0).all() and (
        output.similarity_scores[:, dropped] == 0
    ).all()
    kept = ~dropped
    assert torch.equal(output.similarity_maps[:, kept], before.similarity_maps[:, kept])
    columns = kept.flatten()
    head = whole.task_head.linear
    by_hand = before.similarity_scores.flatten(1)[:, columns] @ head.weight[:, columns].T + head.bias
    torch.testing.assert_close(output.logits, by_hand)
    assert torch.equal(model.prototypes.kept_KM, kept)


@torch.no_grad()
def test_what_is_dropped_stays_dropped_in_every_form_of_the_model(images, tmp_path):
    dropped = dropping((0, 1), (1, 0), (1, 1), (1, 2), (1, 3))
    model = refined_model(dropped)
    expected = model(images)
    loaded = CSR.from_pretrained(model.save_pretrained(tmp_path / "model"))
    torch.save(model.state_dict(), tmp_path / "model.pth")
    plain = CSR(K, T, M, **OPTIONS).eval()
    plain.load_state_dict(torch.load(tmp_path / "model.pth", weights_only=True))
    for other in (loaded, plain):
        assert torch.equal(other(images).logits, expected.logits)
        assert torch.equal(other.prototypes.kept_KM, ~dropped)


@torch.no_grad()
def test_it_never_wins_in_evaluation_explanation_and_pointing():
    model = refined_model(dropping((0, 0), (2, 0), (2, 1), (2, 2), (2, 3)))
    stored = torch.randint(
        0, 256, (4, 1, 72, 72), dtype=torch.uint8, generator=torch.Generator().manual_seed(2)
    )
    seen = model.embed(model.features(model.card.preprocessing.transform()(stored))).mean(dim=(0, 1, 2))
    model.prototypes.proto_KMD[0, 1:] -= 9 * seen / seen.norm()  # cosines below the 0 of what was dropped
    output = model(model.card.preprocessing.transform()(stored))
    assert (output.similarity_scores[:, 0, 1:].amax(1) < 0).all(), "else this test shows nothing"
    for e in explain_images(model, stored):
        assert e.best_K[0] != 0 and e.best_K[2] == -1
        assert (e.share_TKM[:, 0, 0] == 0).all() and (e.share_TKM[:, 2] == 0).all()
        torch.testing.assert_close((e.share_TKM.sum((1, 2)) + e.base_T).float(), e.logit_T, rtol=0, atol=1e-5)
        assert 2 not in e.shown(K) or not e.active_K[:2].any()
    batch = {
        "concept": torch.ones(4, K),
        "box": torch.tensor([[0.0, 0.0, 1.0, 1.0]]).repeat(8, 1),
        "box_class": torch.tensor([0, 2] * 4),
        "box_row": torch.arange(4).repeat_interleave(2),
    }
    value = pointing_rows(output.cams, output.similarity_maps, batch, kept_KM=model.prototypes.kept_KM)
    hit, iou = SCORES.index("similarity_hit"), SCORES.index("similarity_iou")
    assert (value[:, 0, hit] == 1).all() and (value[:, 2, [hit, iou]] == 0).all(), "no map hits nothing"
    winner = np.array([[0, -1], [2, -1]])
    kept = np.array([[True, False, True], [False, False, False]])
    used = count_used(winner, np.ones((2, 2)), kept_KM=kept, names=("a", "b"))
    assert (used["used"], used["total"]) == (2, 2) and used["labels"]["b"]["wins"] == [0, 0, 0]


def test_a_dropped_prototype_is_not_high_in_a_box():
    sim = torch.full((1, 1, 2, 2, 2), -0.3)
    sim[:, :, 0] = 0.0
    edits = make_edits(torch.zeros(1, 1, dtype=torch.int64), box_R4=torch.tensor([[0.0, 0.0, 1.0, 1.0]]))
    high = torch.tensor([[0.0, 0.4]])  # the median of a dropped prototype is 0
    assert not check_safety(sim, edits, diagnose=lambda s: s[:, :, 0], high_KM=high).is_high_R.any()


@pytest.mark.skipif(importlib.util.find_spec("onnx") is None, reason="needs the extra onnx")
@pytest.mark.slow
def test_the_exported_graph_has_no_dropped_prototype_either(images, tmp_path):
    import onnxruntime

    dropped = dropping((0, 1), (2, 0))
    model = refined_model(dropped)
    from csr.model.sharing.onnx import export_onnx

    export_onnx(model, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    logits, scores, *_ = session.run(None, {"image": images.numpy()})
    assert (scores[:, dropped.numpy()] == 0).all()
    np.testing.assert_allclose(logits, model(images).logits.detach().numpy(), atol=1e-4)
