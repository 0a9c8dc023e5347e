"""Pictures of validation images: marks agree with labels, contributions add up, captions are whole."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tiny_model import CONCEPTS, SIZE, TARGETS, M, tiny_card, tiny_model

from csr.data.transforms import EvalTransform
from csr.training.logs import board_images
from csr.training.logs.board_images import Drawn, cam_figure, similarity_figure, verdict


class FewImages:
    """Two stored images with labels; the third of the table belongs to training."""

    def __init__(self) -> None:
        self.indices = np.array([2, 0])
        self.table = SimpleNamespace(
            image_ids=["one", "training", "an id that is longer than a tile is wide, by far, and then some"],
            concept_names=CONCEPTS,
            concept_NK=np.array([[1, 0, np.nan], [1, 1, 1], [0, 1, 1]], dtype=np.float32),
            target_NT=np.array([[1, 0], [0, 0], [np.nan, np.nan]], dtype=np.float32),
        )

    def load(self, positions_B: np.ndarray) -> dict[str, torch.Tensor]:
        side = SIZE + SIZE // 8
        generator = torch.Generator().manual_seed(0)
        images = torch.randint(0, 256, (2, 1, side, side), generator=generator, dtype=torch.uint8)
        return {"image": images[torch.from_numpy(positions_B.copy())]}


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], bool | None]]:
    """Captions, each with the mark of its picture (`...` without one)."""
    marks: dict[int, bool | None] = {}
    captions: list[Any] = []
    marked, captioned = board_images.marked, board_images.captioned

    def mark(image: np.ndarray, is_right: bool | None) -> np.ndarray:
        picture = marked(image, is_right)
        marks[id(picture)] = is_right
        kept.append(picture)  # its id stays its own
        return picture

    def caption(image: np.ndarray, lines: list[str]) -> np.ndarray:
        captions.append((lines, marks.get(id(image), ...)))
        return captioned(image, lines)

    kept: list[np.ndarray] = []
    monkeypatch.setattr(board_images, "marked", mark)
    monkeypatch.setattr(board_images, "captioned", caption)
    return captions


def drawn() -> Drawn:
    data: Any = FewImages()
    return Drawn(data, EvalTransform(SIZE), torch.device("cpu"), tiny_card())


def test_activation_maps_are_of_the_likeliest_concepts_marked_by_their_labels(seen):
    model = tiny_model()
    picture = cam_figure(model, drawn())
    assert picture.dtype == np.uint8 and picture.shape[2] == 3 and len(seen) == 2 * (1 + len(CONCEPTS))
    assert seen[3][0] == [
        "an id that is longer than a tile is wide, by far, and then some",
        "has: Nodule/Mass, <b>Pleural | effusion",
    ]
    _, _, images_B = drawn().images()
    probability_BK = model(images_B).concept_logits.sigmoid().detach()
    for b, label_K in enumerate(FewImages().table.concept_NK[[2, 0]]):
        order = probability_BK[b].argsort(descending=True).tolist()
        for k, (lines, mark) in zip(order, seen[4 * b : 4 * b + 3]):
            called = bool(probability_BK[b, k] >= tiny_card().concept_threshold_K[k])
            assert lines[0] == CONCEPTS[k] and f"p {float(probability_BK[b, k]):.2f}" in lines[-1]
            assert mark == (None if np.isnan(label_K[k]) else called == bool(label_K[k]))


def test_diagnoses_are_marked_and_contributions_add_up(seen):
    model = tiny_model()
    linear = model.task_head.linear
    similarity_figure(model, drawn(), (linear.weight, linear.bias))
    with torch.no_grad():
        output = model(drawn().images()[2])
    firsts = [seen[3], seen[7]]
    assert firsts[0][1] is None, "no diagnosis of the first image is annotated"
    for b, (lines, mark) in enumerate(firsts):
        t = int(output.logits[b].argmax())
        assert lines[-1].startswith(
            f"{TARGETS[t]}: logit {float(output.logits[b, t]):+.2f}, without findings"
        )
        base = float(lines[-1].split()[-1])
        added = [
            float(said.split()[1]) for tile, _ in seen[4 * b : 4 * b + 3] for said in tile if "adds" in said
        ]
        assert base + sum(added) == pytest.approx(float(output.logits[b, t]), abs=0.03)
    called_T = (output.logits[1].sigmoid() >= tiny_card().target_threshold_T).tolist()
    assert firsts[1][1] == (called_T == [True, False])


def test_without_a_trained_head_the_likeliest_concepts_are_drawn(seen):
    similarity_figure(tiny_model(), drawn(), None)
    assert not any("adds" in line or "logit" in line for lines, _ in seen for line in lines)
    assert sum("cosine" in line for lines, _ in seen for line in lines) == 2 * len(CONCEPTS) and M > 1


@pytest.mark.parametrize(
    "called, label, right", [(True, 1.0, True), (True, 0.0, False), (False, 0.5, False), (False, 0.2, True)]
)
def test_a_verdict_agrees_with_the_label(called, label, right):
    said, is_right = verdict(called, label)
    assert is_right is right and said.startswith("right" if right else "wrong")
    assert verdict(called, float("nan"))[1] is None
