"""One look at all training images: what each prototype wins, how it scores, and what is nearest to it.

Memory does not grow with the number of images: sums, counts and the best few of each prototype are kept.

Letters: B batch, K concepts, M prototypes, T targets, C channels, D embedding, N images, L places of a list.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from csr.data.batch import Batch
from csr.data.labels.positive import is_negative, is_positive
from csr.model import CSR
from csr.model.layers.prototypes import winners

NONE = -1  # an empty place of a list


class BestImages:
    """The images with the highest values of each prototype, the highest first.

    Args:
        num_concepts, num_per_concept: K, M.
        length: L, places of each list.
        device: where values come from.
    """

    def __init__(self, num_concepts: int, num_per_concept: int, length: int, *, device: torch.device) -> None:
        shape = (num_concepts, num_per_concept, length)
        self.value_KML = torch.full(shape, -torch.inf, device=device)
        self.image_KML = torch.full(shape, NONE, dtype=torch.int64, device=device)

    def add(self, value_BKM: torch.Tensor, position_B: torch.Tensor) -> None:
        """Take a batch's values; -inf has no place. Of equal values the image that came first stays."""
        new_KMB = value_BKM.permute(1, 2, 0)
        value = torch.cat([self.value_KML, new_KMB], dim=2)
        image = torch.cat([self.image_KML, position_B.to(value.device).expand_as(new_KMB)], dim=2)
        order = value.argsort(dim=2, descending=True, stable=True)[:, :, : self.value_KML.shape[2]]
        self.value_KML, image = value.gather(2, order), image.gather(2, order)
        self.image_KML = image.masked_fill(self.value_KML == -torch.inf, NONE)


@dataclass(frozen=True, eq=False)
class Scan:
    """The result of one pass over the images, on the CPU.

    Attributes:
        kept_KM: bool, prototypes that were not dropped.
        wins_KM: training vectors of its own concept whose nearest prototype it is.
        max_present_KM, max_all_KM: images (with the concept; all) in which it has its concept's highest
            score.
        mean_KM, sd_KM: of its score over all images, fp64.
        mean_present_KM, mean_absent_KM: over images with and without the concept; NaN without any.
        vectors: images with the concept whose local vectors are nearest (Eq. 11), cosines.
        scores: images, with or without the concept, with the highest scores.
        num_images: N.
    """

    kept_KM: torch.Tensor
    wins_KM: torch.Tensor
    max_present_KM: torch.Tensor
    max_all_KM: torch.Tensor
    mean_KM: torch.Tensor
    sd_KM: torch.Tensor
    mean_present_KM: torch.Tensor
    mean_absent_KM: torch.Tensor
    vectors: BestImages
    scores: BestImages
    num_images: int

    @property
    def alive_KM(self) -> torch.Tensor:
        """Return whether it is nearest to a training vector, or scores highest in an image with its
        concept.
        """
        return (self.wins_KM > 0) | (self.max_present_KM > 0)


class Counter:
    """Takes batches, gives a Scan.

    Args:
        model: in eval mode, on the device of the batches.
        top: nearest vectors to keep.
        similar: images with the highest scores to keep.
    """

    def __init__(self, model: CSR, *, top: int, similar: int) -> None:
        self.model = model
        proto_KMD = model.prototypes.unit().detach()
        num_concepts, num_per_concept, _ = proto_KMD.shape
        device = proto_KMD.device
        self.proto_KMD, self.kept_KM = proto_KMD, model.prototypes.kept_KM
        self.vectors = BestImages(num_concepts, num_per_concept, top, device=device)
        self.scores = BestImages(num_concepts, num_per_concept, similar, device=device)
        # counts, then sums: of the score, its square, and the score over images with and without the concept
        self.count_3KM = torch.zeros(3, num_concepts, num_per_concept, dtype=torch.int64, device=device)
        self.sum_4KM = torch.zeros(4, num_concepts, num_per_concept, dtype=torch.float64, device=device)
        self.labelled_2K = torch.zeros(2, num_concepts, dtype=torch.float64, device=device)
        self.num_images = 0

    def add(self, batch: Batch) -> None:
        """Count a batch of transformed images with labels and `position`."""
        feat_BCHW = self.model.features(batch["image"])
        local_BKC = self.model.local_vectors(feat_BCHW, self.model.cams(feat_BCHW))
        score_BKM = self.model.similarity_scores(feat_BCHW)
        cosine_BKM = torch.einsum("bkd,kmd->bkm", self.model.projector(local_BKC), self.proto_KMD)
        present_BK = is_positive(batch["concept"])
        absent_BK = is_negative(batch["concept"])  # what is not annotated is neither
        usable_BKM = present_BK.unsqueeze(2) & self.kept_KM
        self.vectors.add(cosine_BKM.masked_fill(~usable_BKM, -torch.inf), batch["position"])
        self.scores.add(score_BKM.masked_fill(~self.kept_KM, -torch.inf), batch["position"])
        nearest_BKM = self._one_hot(winners(cosine_BKM, self.kept_KM))
        highest_BKM = self._one_hot(winners(score_BKM, self.kept_KM))
        present_BK1 = present_BK.unsqueeze(2)
        counted = (nearest_BKM & present_BK1, highest_BKM & present_BK1, highest_BKM)
        self.count_3KM += torch.stack([each.sum(dim=0) for each in counted])
        score = score_BKM.double()
        parts = (score, score * score, score * present_BK1, score * absent_BK.unsqueeze(2))
        self.sum_4KM += torch.stack([each.sum(dim=0) for each in parts])
        self.labelled_2K += torch.stack([present_BK.sum(dim=0), absent_BK.sum(dim=0)])
        self.num_images += len(score_BKM)

    def _one_hot(self, winner_BK: torch.Tensor) -> torch.Tensor:
        return winner_BK.unsqueeze(2) == torch.arange(self.kept_KM.shape[1], device=winner_BK.device)

    def result(self) -> Scan:
        """Return everything counted so far."""
        mean_KM, square_KM = self.sum_4KM[:2] / max(1, self.num_images)
        mean_2KM = self.sum_4KM[2:] / self.labelled_2K.unsqueeze(2)  # 0 / 0 is NaN
        sd_KM = (square_KM - mean_KM * mean_KM).clamp_min(0).sqrt()
        wins_KM, max_present_KM, max_all_KM = self.count_3KM.cpu()
        mean_present_KM, mean_absent_KM = mean_2KM.cpu()
        for best in (self.vectors, self.scores):
            best.value_KML, best.image_KML = best.value_KML.cpu(), best.image_KML.cpu()
        return Scan(
            kept_KM=self.kept_KM.cpu(),
            wins_KM=wins_KM,
            max_present_KM=max_present_KM,
            max_all_KM=max_all_KM,
            mean_KM=mean_KM.cpu(),
            sd_KM=sd_KM.cpu(),
            mean_present_KM=mean_present_KM,
            mean_absent_KM=mean_absent_KM,
            vectors=self.vectors,
            scores=self.scores,
            num_images=self.num_images,
        )


@torch.no_grad()
def scan_images(model: CSR, batches: Iterable[Batch], *, top: int, similar: int) -> Scan:
    """Return what all batches give.

    Args:
        model: in eval mode, on the device of the batches.
        batches: transformed images with labels and `position`.
        top: nearest vectors to keep of each prototype.
        similar: images with the highest scores to keep of each prototype.
    """
    counter = Counter(model, top=top, similar=similar)
    for batch in batches:
        counter.add(batch)
    return counter.result()
