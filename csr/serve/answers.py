"""Answers of the server, built from explanations and safety reports; numbers as they were computed.

Letters: K concepts, M prototypes per concept, T targets, N maps, R boxes, H W feature map.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from csr.explain.explanation import Explanation
from csr.model import CSR
from csr.model.interaction import ALPHA
from csr.report.pictures import heat_colours
from csr.serve import schemas
from csr.serve.case import Case, Outcome, default_replacement
from csr.serve.edit_warnings import EditWarnings
from csr.serve.edits import MEDIAN, ZERO
from csr.serve.limits import HEARTBEAT_S, MAX_BOXES, Limits
from csr.serve.upload import Upload

_PALETTE = 64  # colours


def model_facts(
    model: CSR, *, name: str, sha256: str, limits: Limits, has_atlas: bool, warnings: EditWarnings
) -> schemas.ModelFacts:
    """Return what is the same for all images."""
    card = model.card
    assert card is not None
    has_medians = card.reference.absent_KM is not None
    return schemas.ModelFacts(
        name=name,
        sha256=sha256,
        concepts=list(card.concept_names),
        targets=list(card.target_names),
        num_prototypes=model.num_prototypes_per_concept,
        one_diagnosis=card.exactly_one,
        replacements=[MEDIAN, ZERO] if has_medians else [ZERO],
        default_replacement=default_replacement(model),
        contributions_from="absent medians" if has_medians else "zero",
        zero_warning=warnings.zero,
        edit_warning=warnings.medians,
        # so often that a page is heard twice before its images are forgotten
        heartbeat_s=min(HEARTBEAT_S, limits.timeout_s / 3),
        notices=card.notices(),
        default_alpha=ALPHA,
        has_atlas=has_atlas,
        max_bytes=limits.max_bytes,
        max_pixels=limits.max_pixels,
        max_boxes=MAX_BOXES,
        palette=heat_colours(np.linspace(0, 1, _PALETTE)[None])[0].tolist(),
    )


def image_facts(upload: Upload) -> schemas.ImageFacts:
    """Return what a record keeps of an image."""
    return schemas.ImageFacts(
        name=upload.name,
        sha256=upload.sha256,
        bytes=upload.num_bytes,
        height=upload.height,
        width=upload.width,
    )


def result_of(case: Case, outcome: Outcome) -> schemas.Result:
    """Return the diagnoses under edits, beside those without."""
    e = outcome.explanation
    return schemas.Result(
        diagnoses=_diagnoses(case, e),
        gap=e.gap,
        needs_doctor=e.doubt is not None,
        doubt=e.doubt,
        novelty_note=None if case.seen is None else case.seen.note,
        concepts=[_concept(case, e, k) for k in range(len(case.card.concept_names))],
        safety=_safety(outcome, case.card.concept_names),
    )


def _diagnoses(case: Case, e: Explanation) -> list[schemas.Diagnosis]:
    plain = case.plain
    present_T, present_before_T = e.present_T.tolist(), plain.present_T.tolist()
    return [
        schemas.Diagnosis(
            name=name,
            probability=float(e.probability_T[t]),
            calibration=case.card.target_calibration_T[t].method,
            logit=float(e.logit_T[t]),
            base=float(e.base_T[t]),
            bias=float(e.bias_T[t]),
            threshold=None if case.card.exactly_one else float(case.card.target_threshold_T[t]),
            present=present_T[t],
            before=schemas.Before(
                probability=float(plain.probability_T[t]),
                logit=float(plain.logit_T[t]),
                present=present_before_T[t],
            ),
        )
        for t, name in enumerate(case.card.target_names)
    ]


def _concept(case: Case, e: Explanation, k: int) -> schemas.Concept:
    best = int(e.best_K[k])
    has_map = best >= 0  # refining a model may have dropped all prototypes of a concept
    return schemas.Concept(
        name=case.card.concept_names[k],
        probability=float(e.concept_probability_K[k]),
        calibration=case.card.concept_calibration_K[k].method,
        threshold=float(case.card.concept_threshold_K[k]),
        active=bool(e.active_K[k]),
        best_prototype=best if has_map else None,
        similarity=float(e.map_KHW[k].max()) if has_map else None,
        score=float(e.score_KM[k, best]) if has_map else None,
        peak=list(e.peak(k)) if has_map else None,
        contribution=e.share_TKM[:, k].sum(1).tolist(),
        contribution_before=case.plain.share_TKM[:, k].sum(1).tolist(),
    )


def _safety(outcome: Outcome, concept_names: Sequence[str]) -> schemas.Safety:
    safety = outcome.safety
    boxes = [
        schemas.BoxEvidence(
            peak=float(safety.peak_R[r]),
            concept=concept_names[int(safety.concept_R[r])],
            prototype=int(safety.prototype_R[r]),
            is_high=bool(safety.is_high_R[r]),
            moved=float(safety.box_moved_R[r]),
            contradicts=bool(safety.contradicts_R[r]),
            cells=outcome.cells_R4[r],
        )
        for r in range(len(safety.peak_R))
    ]
    return schemas.Safety(
        moved=float(safety.moved_B[0]),
        regions_moved=float(safety.regions_B[0]),
        flips=bool(safety.flips_B[0]),
        warn=bool(safety.warn_B[0]),
        boxes=boxes,
    )


def prototypes_of(case: Case, e: Explanation, k: int) -> schemas.Prototypes:
    """Return every prototype of concept k with its score and its contribution to each diagnosis."""
    kept_M = case.model.prototypes.kept_KM[k].tolist()
    return schemas.Prototypes(
        concept=case.card.concept_names[k],
        if_rejected=None if e.rejected_TK is None else e.rejected_TK[:, k].tolist(),
        prototypes=[
            schemas.Prototype(
                prototype=m,
                score=float(e.score_KM[k, m]),
                absent_median=float(e.usual_KM[k, m]) if e.is_centred else None,
                weight=e.weight_TKM[:, k, m].tolist(),
                contribution=e.share_TKM[:, k, m].tolist(),
            )
            for m, kept in enumerate(kept_M)
            if kept
        ],
    )


def maps_of(case: Case, places: Sequence[tuple[int, int]], map_NHW: np.ndarray) -> schemas.Maps:
    """Return maps for the page to colour; four decimals are finer than a colour.

    Args:
        case: of the image, for the scales.
        places: (concept, prototype) of each map.
        map_NHW: the maps.
    """
    num, height, width = map_NHW.shape
    rows = np.round(map_NHW.reshape(num, -1).astype(np.float64), 4).tolist()
    maps = []
    for (k, m), row in zip(places, rows, strict=True):
        low, high = case.scale_of(k, m)
        maps.append(schemas.Map(concept=k, prototype=m, low=low, high=high, values=row))
    return schemas.Maps(height=height, width=width, maps=maps)
