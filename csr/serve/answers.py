"""What the page is told: plain JSON of explanations and safety reports, numbers as they were computed.

Letters: K concepts, M prototypes per concept, T targets, R boxes, H W feature map.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from csr.explain.explanation import Explanation
from csr.model import CSR
from csr.model.interaction import ALPHA, DOCTOR_GAP, SafetyReport
from csr.report.pictures import heat_colours
from csr.serve.case import Case, Outcome, default_replacement
from csr.serve.edits import MEDIAN, ZERO
from csr.serve.limits import MAX_BOXES, Limits

Answer = dict[str, Any]
_PALETTE = 64


def tell_model(model: CSR, *, name: str, sha256: str, limits: Limits, has_atlas: bool) -> Answer:
    """What stays the same for all images."""
    card = model.card
    assert card is not None
    has_medians = card.reference.absent_KM is not None
    return {
        "name": name,
        "sha256": sha256,
        "concepts": list(card.concept_names),
        "targets": list(card.target_names),
        "num_prototypes": model.num_prototypes_per_concept,
        "one_diagnosis": card.task_loss == "ce",
        "replacements": [MEDIAN, ZERO] if has_medians else [ZERO],
        "default_replacement": default_replacement(model),
        "default_alpha": ALPHA,
        "doctor_gap": DOCTOR_GAP,
        "has_atlas": has_atlas,
        "max_bytes": limits.max_bytes,
        "max_pixels": limits.max_pixels,
        "max_boxes": MAX_BOXES,
        "palette": heat_colours(np.linspace(0, 1, _PALETTE)[None])[0].tolist(),
    }


def tell_outcome(case: Case, outcome: Outcome) -> Answer:
    """A diagnosis under edits, beside the one without."""
    e = outcome.explanation
    return {
        "edits": outcome.edits.to_dict(case.card.concept_names),
        "diagnoses": tell_diagnoses(case, e),
        "gap": e.gap,
        "needs_doctor": e.gap < DOCTOR_GAP,
        "concepts": [_concept(case, e, k) for k in range(len(case.card.concept_names))],
        "safety": tell_safety(outcome.safety, case.card.concept_names),
    }


def tell_diagnoses(case: Case, e: Explanation) -> list[Answer]:
    before = case.plain
    return [
        {
            "name": name,
            "probability": float(e.probability_T[t]),
            "logit": float(e.logit_T[t]),
            "bias": float(e.bias_T[t]),
            "threshold": float(case.card.target_threshold_T[t]),
            "present": bool(e.present_T[t]),
            "before": {
                "probability": float(before.probability_T[t]),
                "logit": float(before.logit_T[t]),
                "present": bool(before.present_T[t]),
            },
        }
        for t, name in enumerate(case.card.target_names)
    ]


def _concept(case: Case, e: Explanation, k: int) -> Answer:
    best = int(e.best_K[k])
    is_there = best >= 0  # refining a model may have dropped all prototypes of a concept
    return {
        "name": case.card.concept_names[k],
        "probability": float(e.concept_probability_K[k]),
        "threshold": float(case.card.concept_threshold_K[k]),
        "active": bool(e.active_K[k]),
        "best_prototype": best if is_there else None,
        "similarity": float(e.map_KHW[k].max()) if is_there else None,
        "score": float(e.score_KM[k, best]) if is_there else None,
        "peak": list(e.peak(k)) if is_there else None,
        "contribution": e.share_TKM[:, k].sum(1).tolist(),
        "contribution_before": case.plain.share_TKM[:, k].sum(1).tolist(),
    }


def tell_prototypes(case: Case, e: Explanation, k: int) -> Answer:
    """Every prototype of a concept: score, contribution to each diagnosis."""
    kept_M = case.model.prototypes.kept_KM[k].tolist()
    rejected = None if e.rejected_TK is None else e.rejected_TK[:, k].tolist()
    return {
        "concept": case.card.concept_names[k],
        "if_rejected": rejected,
        "prototypes": [
            {
                "prototype": m,
                "score": float(e.score_KM[k, m]),
                "contribution": e.share_TKM[:, k, m].tolist(),
            }
            for m, kept in enumerate(kept_M)
            if kept
        ],
    }


def tell_safety(safety: SafetyReport, concept_names: tuple[str, ...]) -> Answer:
    boxes = [
        {
            "peak": float(safety.peak_R[r]),
            "concept": concept_names[int(safety.concept_R[r])],
            "prototype": int(safety.prototype_R[r]),
            "is_high": bool(safety.is_high_R[r]),
            "contradicts": bool(safety.contradicts_R[r]),
        }
        for r in range(len(safety.peak_R))
    ]
    return {
        "moved": float(safety.moved_B[0]),
        "flips": bool(safety.flips_B[0]),
        "warn": bool(safety.warn_B[0]),
        "boxes": boxes,
    }


def tell_maps(places: list[tuple[int, int]], map_NHW: np.ndarray) -> Answer:
    """Maps for the page to colour; four decimals are finer than a colour."""
    num, height, width = map_NHW.shape
    assert num == len(places)
    rows = np.round(map_NHW.reshape(num, -1).astype(np.float64), 4).tolist()
    maps = [{"concept": k, "prototype": m, "values": row} for (k, m), row in zip(places, rows, strict=True)]
    return {"height": height, "width": width, "maps": maps}
