"""Hints: what is compared with what, and when images are too few."""

from __future__ import annotations

from csr.explain.atlas.hints import hints, place_words


def hints_of(
    *, concept: float, at_most: float = 1.0, share: float = 0.0, predicted: float = 0.0
) -> list[str]:
    similar = {
        "images": 20,
        "peak_mean": [0.5, 0.5],
        "peak_spread": 0.3,
        "with_boxes": 0,
        "in_box": None,
        "concept": concept,
        "concept_at_most": at_most,
        "targets": {"TB": share},
        "predicted": {"TB": predicted},
        "annotated": {"TB": 20},
    }
    return hints({"alive": True, "similar": similar})


def test_a_rare_concept_is_compared_with_what_its_images_can_fill():
    assert hints_of(concept=0.2, at_most=0.2) == [] == hints_of(concept=0.1, at_most=0.2)
    assert hints_of(concept=0.0, at_most=0.0) == [], "without an image with it there is no hint"
    assert hints_of(concept=0.05, at_most=0.2) == [
        "its images lack the concept (5% have it, at most 20% could)"
    ]
    assert hints_of(concept=0.45) == ["its images lack the concept (45% have it)"]


def test_a_shared_diagnosis_is_a_hint_where_the_concept_does_not_explain_it():
    expected = ["its images share TB (100%) more than the concept explains (50%)"]
    assert hints_of(concept=1.0, share=1.0, predicted=0.5) == expected
    for share, predicted in ((1.0, 1.0), (1.0, 0.9), (0.75, 0.5), (0.25, 0.1), (0.5, 0.9)):
        assert hints_of(concept=1.0, share=share, predicted=predicted) == [], (
            "follows from the concept, or chance"
        )


def test_places_have_words_and_not_numbers():
    ninths = [[place_words(x, y) for x in (0.1, 0.5, 0.9)] for y in (0.1, 0.5, 0.9)]
    assert ninths == [
        ["upper left", "upper middle", "upper right"],
        ["left, half-way up", "in the centre", "right, half-way up"],
        ["lower left", "lower middle", "lower right"],
    ]
    assert place_words(-0.2, 1.3) == "lower left" and place_words(1.0, 0.0) == "upper right"
    similar = {"images": 20, "peak_mean": [0.6, 0.9], "peak_spread": 0.01, "with_boxes": 0}
    similar |= {"concept": None, "concept_at_most": None, "targets": {}}
    assert hints({"alive": True, "similar": similar}) == [
        "looks at the same place in every image, at the edge, lower middle"
    ]
