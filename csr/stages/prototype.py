"""Stage 2: projector and prototypes learn on local concept vectors of present concepts (Eqs. 6-9).

Letters: B batch, K concepts, M prototypes per concept, C channels, D embedding, H W feature map; N all local
vectors of the training images, R those of a batch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from csr.data.batch import Batch, Rows
from csr.data.labels.positive import is_positive
from csr.model import CSR
from csr.stages.base import Features, Stage, StageOutput, decayed
from csr.stages.clustering import kmeans_prototypes, restart_dead
from csr.stages.losses import contrastive, prototype_similarity

PROJECT_CHUNK = 8192


class PrototypeStage(Stage):
    """Contrastive loss between concepts on soft assignments to prototypes; dead prototypes are restarted.

    Args:
        model: CSR with a trained backbone and concept head.
        gamma, lam, delta, margin_mode: of Eqs. 6 and 9.
        mask_present: the other present concepts of an image are no negatives of its vectors.
        restart: move dead prototypes to badly covered vectors after each epoch but the last.
        lr: of projector and prototypes.
        weight_decay: of the projector's matrices; prototypes have none.
        seed: of k-means.
    """

    name, requires, label = "prototype", "concept", None
    trainable = ("model.projector", "model.prototypes")
    frozen_inputs = True
    input_parts = ("model.backbone.", "model.concept_head.")

    def __init__(
        self,
        model: CSR,
        *,
        gamma: float,
        lam: float,
        delta: float,
        margin_mode: str,
        mask_present: bool,
        restart: bool,
        lr: float,
        weight_decay: float,
        seed: int,
    ) -> None:
        super().__init__(model)
        self.gamma, self.lam, self.delta, self.margin_mode = gamma, lam, delta, margin_mode
        self.mask_present, self.restart = mask_present, restart
        self.lr, self.weight_decay, self.seed = lr, weight_decay, seed

    def param_groups(self) -> list[dict[str, Any]]:
        projector = list(self.model.projector.named_parameters())
        prototypes = list(self.model.prototypes.parameters())
        return [
            *decayed(projector, lr=self.lr, weight_decay=self.weight_decay, name="projector"),
            {"params": prototypes, "lr": self.lr, "weight_decay": 0.0, "name": "prototypes"},
        ]

    def inputs(self, batch: Batch) -> Rows:
        feat_BCHW = self.maps(batch)
        local_BKC = self.model.local_vectors(feat_BCHW, self.model.cams(feat_BCHW))
        row_R, concept_R = torch.nonzero(is_positive(batch["concept"]), as_tuple=True)
        return {"local": local_BKC[row_R, concept_R].float(), "concept_row": concept_R, "row": row_R}

    def input_floats(self, concept_NK: np.ndarray) -> int:
        return int(np.sum(is_positive(concept_NK))) * self.model.backbone.channels

    def forward(self, batch: Batch) -> StageOutput:
        rows = batch if "local" in batch else {**self.inputs(batch), "concept": batch["concept"]}
        vec_RD = self.project(rows["local"])
        sim_RK = prototype_similarity(vec_RD, self.model.prototypes.unit(), gamma=self.gamma)
        present_RK = is_positive(batch["concept"])[rows["row"]] if self.mask_present else None
        loss = contrastive(
            sim_RK,
            rows["concept_row"],
            present_RK,
            lam=self.lam,
            delta=self.delta,
            margin_mode=self.margin_mode,
        )
        loss = loss * batch["scale"]["vector"]
        return StageOutput(loss, {"contrastive_loss": loss.detach()})

    def project(self, local_RC: torch.Tensor) -> torch.Tensor:
        """Return unit vectors (R,D), fp32, of local concept vectors."""
        dtype = next(self.model.projector.parameters()).dtype
        return self.model.projector(local_RC.to(dtype)).float()

    def counts(self, labels: dict[str, np.ndarray]) -> dict[str, float]:
        return {"vector": float(np.sum(is_positive(labels["concept"])))}

    @torch.no_grad()
    def begin(self, features: Features) -> None:
        """Start prototypes from k-means of projected local vectors."""
        vec_ND, concept_N = self._project_all(features)
        proto_KMD = kmeans_prototypes(
            vec_ND,
            concept_N,
            num_concepts=self.model.num_concepts,
            num_per_concept=self.model.num_prototypes_per_concept,
            seed=self.seed,
        )
        self.model.prototypes.set_(proto_KMD)

    @torch.no_grad()
    def end_epoch(self, features: Features | None, *, last: bool) -> dict[str, float]:
        """Move dead prototypes to badly covered vectors; return how many lived and how many moved."""
        assert features is not None, "this stage has frozen layers"
        vec_ND, concept_N = self._project_all(features)
        fresh_KMD, alive, moved = restart_dead(self.model.prototypes.unit().float(), vec_ND, concept_N)
        total = fresh_KMD.shape[0] * fresh_KMD.shape[1]
        if not self.restart or last or not moved:
            return {"prototypes_alive": alive, "prototypes": total, "restarted": 0}
        self.model.prototypes.set_(fresh_KMD)
        return {"prototypes_alive": alive, "prototypes": total, "restarted": moved}

    def _project_all(self, features: Features) -> tuple[torch.Tensor, torch.Tensor]:
        device = next(self.model.projector.parameters()).device
        chunks = [self.project(c.to(device)) for c in features.all("local").split(PROJECT_CHUNK)]
        return torch.cat(chunks), features.all("concept_row").to(device)
