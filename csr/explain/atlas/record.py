"""An atlas as plain JSON: every number of every prototype.

Letters: K concepts, M prototypes, T targets, N images, L places of a list.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from csr.data.dataset import LabelledImages
from csr.data.images.square import Frame, box_on_image, point_on_image
from csr.data.labels.positive import is_negative, is_positive
from csr.explain.atlas.hints import hints
from csr.explain.atlas.layout import FORMAT, FORMAT_VERSION, crop_name, image_name
from csr.explain.atlas.regions import Box, Place, Sight, centre, is_in, region_on_image
from csr.explain.atlas.scan import NONE, Scan
from csr.explain.neighbours import FORMAT as NEAREST_FORMAT
from csr.explain.neighbours import FORMAT_VERSION as NEAREST_VERSION
from csr.explain.neighbours import vector_names
from csr.model import CSR
from csr.model.contributions import model_contributions
from csr.model.sharing.origin import origin_of

Record = dict[str, Any]


class Recorder:
    """Turns what was seen into records.

    Args:
        model: with a card.
        images: the training images that were looked at.
        scan: of them.
        sights, cells: of `collect_regions`.
    """

    def __init__(
        self,
        model: CSR,
        images: LabelledImages,
        scan: Scan,
        *,
        sights: dict[Place, Sight],
        cells: dict[Place, Box],
    ) -> None:
        assert model.card is not None
        self.model = model
        self.card, self.images, self.scan, self.sights, self.cells = model.card, images, scan, sights, cells
        table = images.table
        self.concept_NK, self.target_NT = table.concept_NK[images.indices], table.target_NT[images.indices]
        parts = model_contributions(model, torch.zeros(1, *scan.kept_KM.shape))
        self.weight_TKM = parts.weight_TKM
        self.is_centred = self.card.reference.absent_KM is not None
        usual_KM = parts.usual_KM if self.is_centred else scan.mean_absent_KM.double()
        self.rise_KM = scan.mean_present_KM.double() - usual_KM
        self.vector_KM = vector_names(model)
        self.frame_N4 = images.store.frame_N4
        self.given_2KT = shares_given(self.concept_NK, self.target_NT)

    def concept(self, k: int) -> Record:
        """Return everything of one concept."""
        kept_M = self.scan.kept_KM[k].tolist()
        prototypes = [self.prototype(k, m) for m, kept in enumerate(kept_M) if kept]
        return {
            "concept": k,
            "name": self.card.concept_names[k],
            "images": int(np.sum(is_positive(self.concept_NK[:, k]))),
            "prevalence": share(self.concept_NK[:, k]),
            "alive": sum(record["alive"] for record in prototypes),
            "dropped": [m for m, kept in enumerate(kept_M) if not kept],
            "prototypes": prototypes,
        }

    def prototype(self, k: int, m: int) -> Record:
        """Return everything of one prototype."""
        scan = self.scan
        mean_sd = {
            "mean": scan.mean_KM,
            "sd": scan.sd_KM,
            "mean_present": scan.mean_present_KM,
            "mean_absent": scan.mean_absent_KM,
        }
        sd = float(scan.sd_KM[k, m])
        rise = float(self.rise_KM[k, m])
        weights = {
            name: {"weight": weight, "effect": known(weight * rise), "spread": abs(weight) * sd}
            for name, weight in zip(self.card.target_names, self.weight_TKM[:, k, m].tolist(), strict=True)
        }
        top = max(weights, key=lambda name: abs(weights[name]["weight"]))
        nearest = self._nearest(k, m)
        record = {
            "concept": k,
            "prototype": m,
            "vector": str(self.vector_KM[k, m]),
            "alive": bool(scan.alive_KM[k, m]),
            "wins": int(scan.wins_KM[k, m]),
            "max_present": int(scan.max_present_KM[k, m]),
            "max_all": int(scan.max_all_KM[k, m]),
            "score": {name: known(float(value[k, m])) for name, value in mean_sd.items()},
            "map_scale": self.card.reference.map_scale(k, m),
            "weights": weights,
            "top_target": top,
            "crop": crop_name(k, m) if nearest else None,
            "nearest": nearest,
            "similar": self._similar(k, m),
        }
        return {**record, "hints": hints(record)}

    def _nearest(self, k: int, m: int) -> list[Record]:
        found = []
        vectors, table = self.scan.vectors, self.images.table
        for position, cosine in zip(
            vectors.image_KML[k, m].tolist(), vectors.value_KML[k, m].tolist(), strict=True
        ):
            if position == NONE:
                continue
            sight, row = self.sights[k, m, position], int(self.images.indices[position])
            x_min, y_min, x_max, y_max = self.frame_N4[row].tolist()
            frame = (x_min, y_min, x_max, y_max)
            box, in_black = region_on_image(sight.box, frame)
            found.append(
                {
                    "image_id": table.image_ids[row],
                    "image": image_name(row, table.image_ids[row]),
                    "row": row,
                    "similarity": min(1.0, cosine),
                    "score": sight.score,
                    "frame": list(frame),
                    "box": list(box),
                    "in_black": in_black,
                    "peak": list(point_on_image(sight.peak, frame)),
                    "cam_peak": list(point_on_image(sight.cam_peak, frame)),
                    "cam_share": sight.cam_share,
                    "in_box": self._in_box(position, k, sight.cell),
                    "boxes": self._boxes_on_image(position, k, frame),
                    "targets": [
                        n
                        for t, n in enumerate(self.card.target_names)
                        if is_positive(self.target_NT[position, t])
                    ],
                }
            )
        return found

    def _in_box(self, position: int, k: int, cell: Box) -> bool | None:
        """Return whether a cell lies in a box of the concept; None where there is none to lie in."""
        mine_R4 = self._boxes(position, k)
        return bool(is_in(cell, mine_R4).any()) if len(mine_R4) else None

    def _boxes(self, position: int, k: int) -> np.ndarray:
        """Return the boxes of a concept that is present, (R, 4), fractions of the square that is seen."""
        if self.images.boxes is None or not is_positive(self.concept_NK[position, k]):
            return np.zeros((0, 4), dtype=np.float32)
        class_R, box_R4 = self.images.boxes.for_image(int(self.images.indices[position]))
        return box_R4[class_R == k]

    def _boxes_on_image(self, position: int, k: int, frame: Frame) -> list[list[float]]:
        """Return the same as fractions of the image."""
        return [
            [min(1.0, max(0.0, side)) for side in box_on_image((x_min, y_min, x_max, y_max), frame)]
            for x_min, y_min, x_max, y_max in self._boxes(position, k).tolist()
        ]

    def _similar(self, k: int, m: int) -> Record:
        """Return what the images with the highest scores have in common; they may lack the concept."""
        position_L = [p for p in self.scan.scores.image_KML[k, m].tolist() if p != NONE]
        peak_L2 = np.array([centre(self.cells[k, m, p]) for p in position_L])
        in_box = [self._in_box(p, k, self.cells[k, m, p]) for p in position_L]
        judged = [inside for inside in in_box if inside is not None]
        offset_L2 = peak_L2 - peak_L2.mean(axis=0)
        has_L = self.concept_NK[position_L, k]
        return {
            "images": len(position_L),
            "image_ids": [self.images.table.image_ids[self.images.indices[p]] for p in position_L],
            "concept": share(has_L),
            "concept_at_most": self._at_most(k, int(np.sum(~np.isnan(has_L)))),
            "targets": {
                name: share(self.target_NT[position_L, t]) for t, name in enumerate(self.card.target_names)
            },
            "predicted": dict(zip(self.card.target_names, self._predicted(k, share(has_L)), strict=True)),
            "annotated": {
                name: int(np.sum(~np.isnan(self.target_NT[position_L, t])))
                for t, name in enumerate(self.card.target_names)
            },
            "peak_mean": peak_L2.mean(axis=0).tolist(),
            "peak_spread": float(np.sqrt((offset_L2**2).sum(axis=1).mean())),
            "with_boxes": len(judged),
            "in_box": float(np.mean(judged)) if judged else None,
        }

    def _at_most(self, k: int, number: int) -> float | None:
        """Return the largest share with the concept that this many annotated images can have."""
        return min(1.0, float(np.sum(is_positive(self.concept_NK[:, k]))) / number) if number else None

    def _predicted(self, k: int, concept: float | None) -> list[float | None]:
        """Return the share with each target among images of which a share has the concept, if no more is
        known of
        them.
        """
        if concept is None:
            return [None] * len(self.card.target_names)
        part_21 = np.array([[concept], [1 - concept]])
        with_each_2T = np.where(part_21 > 0, part_21 * self.given_2KT[:, k], 0.0)
        return [known(value) for value in with_each_2T.sum(axis=0).tolist()]

    @property
    def _prevalence(self) -> dict[str, float | None]:
        return {name: share(self.target_NT[:, t]) for t, name in enumerate(self.card.target_names)}

    def summary(self, concepts: Sequence[Record], *, source: Path, csv: str) -> Record:
        """Return the whole atlas: what goes into atlas.json. Names of files without their folders."""
        origin = origin_of(self.model, source)
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            **asdict(origin),
            "origin": origin.line,
            "csv": Path(csv).name,
            "images": self.scan.num_images,
            "concept_names": list(self.card.concept_names),
            "target_names": list(self.card.target_names),
            "num_prototypes": int(self.scan.kept_KM.shape[1]),
            "target_prevalence": self._prevalence,
            "effect_from": "absent medians" if self.is_centred else "means without the concept",
            "has_boxes": self.images.boxes is not None,
            "concepts": list(concepts),
        }


def nearest_json(atlas: Record) -> Record:
    """Return the list that `csr.explain.neighbours` reads, out of the whole atlas."""
    keys = ("image", "box", "similarity", "image_id")
    prototypes = [
        {
            "concept": record["concept"],
            "prototype": record["prototype"],
            "vector": record["vector"],
            "crop": record["crop"],
            "nearest": [{key: one[key] for key in keys} for one in record["nearest"]],
        }
        for concept in atlas["concepts"]
        for record in concept["prototypes"]
    ]
    return {
        "format": NEAREST_FORMAT,
        "format_version": NEAREST_VERSION,
        "concept_names": atlas["concept_names"],
        "num_prototypes": atlas["num_prototypes"],
        "prototypes": prototypes,
    }


def shares_given(concept_NK: np.ndarray, target_NT: np.ndarray) -> np.ndarray:
    """Return the share with each target among the images with and without each concept, (2,K,T).

    NaN without any.
    """
    known_NT, positive_NT = ~np.isnan(target_NT), is_positive(target_NT)
    group_2KN = np.stack([is_positive(concept_NK), is_negative(concept_NK)]).transpose(0, 2, 1).astype(float)
    count_2KT = group_2KN @ known_NT.astype(float)
    return np.where(count_2KT > 0, group_2KN @ positive_NT.astype(float) / count_2KT.clip(min=1), np.nan)


def share(label_N: np.ndarray) -> float | None:
    """Return the share of positive images among the annotated ones; None without any."""
    known_N = label_N[~np.isnan(label_N)]
    return float(np.mean(is_positive(known_N))) if len(known_N) else None


def known(value: float) -> float | None:
    return None if np.isnan(value) else value
