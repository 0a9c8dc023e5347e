"""CSR: backbone, concept head, projector, prototypes and task head composed (paper, Sec. 3.1, Eqs. 1, 2, 10).

Source: Huy et al., "Interactive Medical Image Analysis with Concept-based Similarity Reasoning", CVPR 2025.

Letters: B batch, K concepts, M prototypes per concept, T targets, C channels, D embedding, H W feature map.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from csr.model.backbones.build import build_backbone
from csr.model.layers.concept_head import POOLS, ConceptHead, local_concept_vectors, pool_cams
from csr.model.layers.projector import Projector
from csr.model.layers.prototypes import Prototypes
from csr.model.layers.task_head import TaskHead
from csr.model.sharing.pretrained import Shareable
from csr.runtime.errors import InputError


@dataclass
class CSROutput:
    """What CSR says about a batch; fields are read as attributes or as keys. All fp32.

    logits (B, T) of the diagnoses; similarity_scores (B, K, M); similarity_maps (B, K, M, H, W); cams
    (B, K, H, W); concept_logits (B, K).
    """

    logits: torch.Tensor
    similarity_scores: torch.Tensor
    similarity_maps: torch.Tensor
    cams: torch.Tensor
    concept_logits: torch.Tensor

    def __getitem__(self, key: str) -> torch.Tensor:
        if key not in self.keys():
            raise KeyError(key)
        return getattr(self, key)

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __len__(self) -> int:
        return len(self.keys())

    def keys(self) -> tuple[str, ...]:
        return tuple(f.name for f in dataclasses.fields(self))

    def values(self) -> tuple[torch.Tensor, ...]:
        return tuple(getattr(self, key) for key in self.keys())

    def items(self) -> tuple[tuple[str, torch.Tensor], ...]:
        return tuple(zip(self.keys(), self.values(), strict=True))


class CSR(Shareable):
    """Concept-based similarity reasoning: images in, diagnoses and what they rest on out.

    Building never touches the network and reads no weights (of a local file or folder only what tells the
    architecture); `csr.model.backbones.weights.load_backbone_weights` fills the backbone.

    Args:
        num_concepts: K.
        num_classes: T, the targets.
        num_prototypes_per_concept: M.
        backbone_type: `medmae`, `resnet50`, `vit`, `timm` or `hf`.
        model_name: hub id, local folder, timm name or weights file; see `build_backbone`.
        image_size: side of the square input, pixels.
        embedding_dim: D.
        projector_blocks: residual blocks of the projector.
        concept_pool: `avg`, `max` or `lse`.
        architecture: sizes of a `medmae` or `hf` backbone, as in `description()`; None finds them by
            model_name.

    Raises:
        InputError: the backbone cannot be built or gives no map of at least 2 cells; a size below 1.
    """

    def __init__(
        self,
        num_concepts: int = 14,
        num_classes: int = 6,
        num_prototypes_per_concept: int = 5,
        *,
        backbone_type: str = "medmae",
        model_name: str = "facebook/vit-mae-base",
        image_size: int = 224,
        embedding_dim: int = 128,
        projector_blocks: int = 3,
        concept_pool: str = "avg",
        architecture: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        _check_sizes(
            num_concepts=num_concepts,
            num_classes=num_classes,
            num_prototypes_per_concept=num_prototypes_per_concept,
            embedding_dim=embedding_dim,
            image_size=image_size,
        )
        if concept_pool not in POOLS:
            raise InputError(f"concept_pool {concept_pool!r}: one of {', '.join(POOLS)}")
        self.num_concepts, self.num_classes = num_concepts, num_classes
        self.num_prototypes_per_concept = num_prototypes_per_concept
        self.embedding_dim, self.projector_blocks = embedding_dim, projector_blocks
        self.concept_pool = concept_pool
        self.backbone = build_backbone(
            backbone_type, model_name, image_size=image_size, architecture=architecture
        )
        self.concept_head = ConceptHead(self.backbone.channels, num_concepts)
        self.projector = Projector(self.backbone.channels, embedding_dim, projector_blocks)
        self.prototypes = Prototypes(num_concepts, num_prototypes_per_concept, embedding_dim)
        self.task_head = TaskHead(num_concepts, num_prototypes_per_concept, num_classes)

    def forward(self, images_B3HW: torch.Tensor) -> CSROutput:
        return self.from_features(self.features(images_B3HW))

    def from_features(self, feat_BCHW: torch.Tensor) -> CSROutput:
        """Return what `forward` says about the images of these feature maps."""
        cam_BKHW = self.cams(feat_BCHW)
        sim_BKMHW = self.similarity_maps(feat_BCHW)
        score_BKM = sim_BKMHW.amax(dim=(3, 4))
        return CSROutput(
            logits=self.task_head(score_BKM),
            similarity_scores=score_BKM,
            similarity_maps=sim_BKMHW,
            cams=cam_BKHW,
            concept_logits=self.concept_logits(cam_BKHW),
        )

    def features(self, images_B3HW: torch.Tensor) -> torch.Tensor:
        """Return feat_BCHW, in the type that the backbone computes in, of normalised images."""
        return self.backbone(images_B3HW)

    def cams(self, feat_BCHW: torch.Tensor) -> torch.Tensor:
        """Return cam_BKHW, fp32."""
        return self.concept_head(feat_BCHW)

    def concept_logits(self, cam_BKHW: torch.Tensor) -> torch.Tensor:
        """Return (B, K), fp32."""
        return pool_cams(cam_BKHW, self.concept_pool)

    def local_vectors(self, feat_BCHW: torch.Tensor, cam_BKHW: torch.Tensor) -> torch.Tensor:
        """Return local_BKC (Eq. 2), fp32."""
        return local_concept_vectors(feat_BCHW, cam_BKHW)

    def embed(self, feat_BCHW: torch.Tensor) -> torch.Tensor:
        """Return unit vectors of every cell: (B, H, W, D), fp32."""
        return self.projector(feat_BCHW.permute(0, 2, 3, 1))

    def similarity_maps(self, feat_BCHW: torch.Tensor) -> torch.Tensor:
        """Return sim_BKMHW (Eq. 10), fp32."""
        return self.prototypes.similarity_maps(self.embed(feat_BCHW))

    def similarity_scores(self, feat_BCHW: torch.Tensor) -> torch.Tensor:
        """Return score_BKM, the maxima of the maps, without holding all maps; fp32."""
        return self.prototypes.scores(self.embed(feat_BCHW))

    def description(self) -> dict[str, Any]:
        """Return the arguments (plain JSON) that rebuild this architecture: `CSR(**description)`."""
        return {
            "num_concepts": self.num_concepts,
            "num_classes": self.num_classes,
            "num_prototypes_per_concept": self.num_prototypes_per_concept,
            "backbone_type": self.backbone.backbone_type,
            "model_name": self.backbone.model_name,
            "image_size": self.backbone.image_size,
            "embedding_dim": self.embedding_dim,
            "projector_blocks": self.projector_blocks,
            "concept_pool": self.concept_pool,
            "architecture": self.backbone.architecture,
        }


def _check_sizes(**sizes: int) -> None:
    for name, value in sizes.items():
        if value < 1:
            raise InputError(f"{name} {value}: give 1 or more")
