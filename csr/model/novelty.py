"""Whether the model has seen images like this one: distances to its training images, and their usual size.

A network answers with confidence on any picture, noise included. Each statistic of an image (`STATISTICS`)
is compared with those of training images by a Mahalanobis distance, whose covariance is that of probabilistic
PCA (Tipping and Bishop 1999): the largest axes, and one variance for all others. Distances are put on the
scale of validation images, which the weights were not fitted to, and the largest one is the score.

Letters: N images, B batch, K concepts, M prototypes per concept, C channels, H W pixels or cells, D
numbers of a statistic, A axes, S statistics.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from csr.model.image_statistics import CELLS, LEVELS, STATISTICS, image_statistics
from csr.runtime.errors import InputError

if TYPE_CHECKING:
    from csr.model.csr import CSR

MAX_IMAGES = 4000  # of training and of validation images that are looked at: more would change little
MIN_IMAGES = 20  # of either: with fewer no threshold of 5 % can be told
NO_NOVELTY = (
    "The model holds no statistics of its training images (an older run, or fewer than "
    f"{MIN_IMAGES} validation images): no note warns of images that it has never seen the like of."
)
_LARGEST = 1e30


@dataclass(frozen=True, eq=False)
class Space:
    """Where a statistic of training images lies.

    Attributes:
        mean_D: fp64.
        axis_AD: unit vectors of the largest variance.
        variance_A: along them.
        rest: variance along any other direction.
        usual, spread: mean and standard deviation of log(1 + distance) over validation images.
    """

    mean_D: torch.Tensor
    axis_AD: torch.Tensor
    variance_A: torch.Tensor
    rest: float
    usual: float = 0.0
    spread: float = 1.0

    def log_distance(self, value_ND: torch.Tensor) -> torch.Tensor:
        """Return log(1 + distance), (N,) fp64; distance is Mahalanobis's over sqrt(D), near 1 as a rule.

        Numbers that are NaN (scores of dropped prototypes) do not count, in D neither.
        """
        num_N = (~value_ND.isnan()).sum(dim=1).clamp_min(1).cpu()
        centred_ND = (value_ND.double().cpu() - self.mean_D).nan_to_num(0.0)
        along_NA = centred_ND @ self.axis_AD.T
        has_rest = len(self.axis_AD) < len(self.mean_D)  # else only rounding is left over
        beside_N = has_rest * (centred_ND.square().sum(1) - along_NA.square().sum(1)).clamp_min(0)
        square_N = (along_NA.square() / self.variance_A).sum(1) + beside_N / self.rest
        return (square_N / num_N).sqrt().log1p()

    def score(self, value_ND: torch.Tensor) -> torch.Tensor:
        """Return by how many standard deviations of validation images a distance is unusual, (N,)."""
        return (self.log_distance(value_ND) - self.usual) / self.spread


@dataclass(frozen=True)
class Seen:
    """How one image compares with the training images.

    Attributes:
        score: the largest of `by`, in standard deviations of validation images.
        limit: score above which the image is unlike the training images.
        by: statistic -> its score.
    """

    score: float
    limit: float
    by: dict[str, float]

    @property
    def is_novel(self) -> bool:
        """Whether the score is above the limit; numbers that are not finite are."""
        return not self.score <= self.limit

    @property
    def note(self) -> str | None:
        """Return a line that names the statistics above the limit, largest first; None without any."""
        if not self.is_novel:
            return None
        far = sorted((name for name, z in self.by.items() if not z <= self.limit), key=lambda n: -self.by[n])
        what = "; ".join(f"{STATISTICS[n][0]} ({self.by[n]:.1f}, limit {self.limit:.1f})" for n in far)
        return f"The model has not seen such an image: {what}. Its answers mean nothing here."

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON."""
        return {**asdict(self), "is_novel": self.is_novel, "note": self.note}


@dataclass(frozen=True, eq=False)
class Novelty:
    """Statistics of training images, and the score that validation images seldom exceed.

    Attributes:
        spaces: one for each of `STATISTICS`.
        limit: score above which an image is flagged.
        num_validation: images that the limit was chosen on.
    """

    spaces: dict[str, Space]
    limit: float
    num_validation: int

    @property
    def num_channels(self) -> int:
        """Channels of the backbone that this belongs to."""
        return len(self.spaces["features"].mean_D)

    def scores(self, rows: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the score of each statistic, (N, S) fp64, in the order of `STATISTICS`."""
        return torch.stack([self.spaces[name].score(rows[name]) for name in STATISTICS], dim=1)

    def judge(self, rows: Mapping[str, torch.Tensor]) -> list[Seen]:
        """Compare images with the training images.

        Args:
            rows: from `image_statistics`.
        """
        return [
            Seen(max(row), self.limit, dict(zip(STATISTICS, row, strict=True)))
            for row in self.scores(rows).nan_to_num(_LARGEST, _LARGEST).tolist()
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON, numbers to six digits."""
        return {
            "limit": self.limit,
            "num_validation": self.num_validation,
            "spaces": {
                name: {
                    "mean": _rounded(space.mean_D.tolist()),
                    "axes": [_rounded(axis_D) for axis_D in space.axis_AD.tolist()],
                    "variances": _rounded(space.variance_A.tolist()),
                    "rest": space.rest,
                    "usual": space.usual,
                    "spread": space.spread,
                }
                for name, space in self.spaces.items()
            },
        }


def _rounded(numbers: list[float]) -> list[float]:
    return [float(f"{number:.6g}") for number in numbers]


def novelty_from_dict(value: Any, *, num_scores: int, where: str) -> Novelty:
    """Read what `to_dict` wrote.

    Args:
        value: parsed JSON.
        num_scores: K x M of the model.
        where: the file, for messages.

    Raises:
        InputError: a statistic is missing, a number is not finite, a variance not above 0, or shapes differ.
    """
    if not isinstance(value, dict) or set(value) != {"limit", "num_validation", "spaces"}:
        raise InputError(f"{where}: has limit, num_validation and spaces")
    spaces = value["spaces"]
    if not isinstance(spaces, dict) or set(spaces) != set(STATISTICS):
        raise InputError(f"{where}: spaces has one entry for each of {', '.join(STATISTICS)}")
    limit, num = value["limit"], value["num_validation"]
    if not _is_finite(limit) or not isinstance(num, int):
        raise InputError(f"{where}: limit and num_validation are numbers")
    lengths = {
        "similarity": num_scores,
        "layout": CELLS**2,
        "grey_levels": LEVELS,
        "texture": 2,
        "colour": 2,
    }
    read = {name: _space(spaces[name], lengths.get(name), f"{where}: {name}") for name in STATISTICS}
    return Novelty(read, float(limit), num)


def _space(value: Any, length: int | None, where: str) -> Space:
    keys = {"mean", "axes", "variances", "rest", "usual", "spread"}
    if not isinstance(value, dict) or set(value) != keys:
        raise InputError(f"{where}: has {', '.join(sorted(keys))}")
    mean, axes, variances = (value[key] for key in ("mean", "axes", "variances"))
    length = length if length is not None or not isinstance(mean, list) else len(mean)
    is_matrix = isinstance(axes, list) and all(_is_row(axis, length) for axis in axes)
    if not length or not _is_row(mean, length) or not is_matrix or not _is_row(variances, len(axes)):
        raise InputError(
            f"{where}: mean, axes and variances are {length} numbers, rows of as many, one for each"
        )
    if not all(_is_finite(value[key]) for key in ("rest", "usual", "spread")):
        raise InputError(f"{where}: rest, usual and spread are numbers")
    if not min([value["rest"], value["spread"], *variances]) > 0:
        raise InputError(f"{where}: rest, spread and variances are above 0")
    mean_D, variance_A = (torch.tensor(v, dtype=torch.float64) for v in (mean, variances))
    axis_AD = torch.tensor(axes, dtype=torch.float64).view(len(axes), length)
    return Space(mean_D, axis_AD, variance_A, *(float(value[key]) for key in ("rest", "usual", "spread")))


def _is_row(value: Any, length: int | None) -> bool:
    return isinstance(value, list) and len(value) == length and all(map(_is_finite, value))


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LARGEST


def compare(
    model: CSR, image_B3HW: torch.Tensor, feat_BCHW: torch.Tensor, score_BKM: torch.Tensor
) -> list[Seen | None]:
    """Compare images with the training images, as far as the model's card tells; else None for each.

    Args:
        model: with a card.
        image_B3HW, feat_BCHW, score_BKM: see `image_statistics`.
    """
    card = model.card
    assert card is not None
    if card.reference.novelty is None:
        return [None] * len(image_B3HW)
    rows = image_statistics(model, image_B3HW, feat_BCHW, score_BKM, preprocessing=card.preprocessing)
    return list(card.reference.novelty.judge(rows))


def novelty_rows(
    model: CSR, image_B3HW: torch.Tensor, feat_BCHW: torch.Tensor, score_BKM: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Return `novelty`, the scores (B, S) of `Novelty.scores`; {} where the model's card cannot tell."""
    card = model.card
    assert card is not None
    if card.reference.novelty is None:
        return {}
    rows = image_statistics(model, image_B3HW, feat_BCHW, score_BKM, preprocessing=card.preprocessing)
    return {"novelty": card.reference.novelty.scores(rows)}
