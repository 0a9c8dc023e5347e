"""The options of `csr refine`, and the files of a refined model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

WEIGHTS, KEEP, RESULTS = "refined_model.pth", "keep.csv", "refine.json"  # files of a refined model
HEADS = ("refit", "occlude", "keep")


@dataclass(frozen=True)
class RefineOptions:
    """Options of one refinement; what is None is that of the run.

    Attributes:
        source: the model's folder as the user named it.
        keep: keep.csv of an atlas, edited.
        head: one of `HEADS`: fitted again, fitted on images without the marks, or kept.
        csv, dir, test_csv, test_dir: training and test data.
        boxes_csv: boxes on the test images, for the pointing game.
        batch_size: images that the network sees at once.
        effective_batch: images per step of the new head.
        workers: threads that decode images.
        cache_dir: folder of cached scores.
        bootstrap: resamples of the intervals.
        seed: of the order and the draws of the fit; the images stay split as they were for training.
    """

    source: str
    keep: Path
    head: str = "refit"
    csv: str | None = None
    dir: str | None = None
    test_csv: str | None = None
    test_dir: str | None = None
    boxes_csv: str | None = None
    batch_size: int = 32
    effective_batch: int | None = None
    workers: int = 4
    cache_dir: Path | None = None
    bootstrap: int = 1000
    seed: int | None = None
