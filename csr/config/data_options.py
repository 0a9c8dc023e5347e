"""Options of `csr train` on tables, images and the split; the others are in `csr.config.options`."""

from __future__ import annotations

from dataclasses import dataclass

from csr.config.option_field import option


@dataclass(frozen=True)
class DataOptions:
    """data"""

    train_csv: str = option("labels_train.csv", "training labels: one row per image and reader")
    test_csv: str = option("labels_test.csv", "test labels, same columns")
    train_dir: str = option("train/", "folder of the training images (png, jpg, dcm)")
    test_dir: str = option("test/", "folder of the test images")
    links_into: tuple[str, ...] | None = option(
        None, "folders outside of the image folders that links in them may lead to (default: none)", many=True
    )
    boxes_csv: str | None = option(
        None, "boxes on training images (pixels of the original); turns on box supervision in stage 1"
    )
    concept_cols: tuple[str, ...] | None = option(
        None, "label columns that are concepts (default: all that are not targets)", many=True
    )
    target_cols: tuple[str, ...] | None = option(
        None, "label columns that are diagnoses (default: COPD, Pneumonia, ... found by name)", many=True
    )
    reader_merge: str = option(
        "any", "how the readers of an image are merged", choices=("any", "majority", "soft")
    )
    group_col: str | None = option(
        None,
        "column of patients (or lesions), kept on one side of the validation split (default: patient_id)",
    )
    drop_rare: int = option(
        0, "drop concepts with fewer positive training images than this, with a notice", at_least=0
    )
    val_fraction: float = option(
        0.1,
        "share of the training images kept for validation",
        above=0,
        below=1,
        advice="give a share between 0 and 1, such as 0.1",
    )
    folds: int | None = option(
        None,
        "cross-validation: the training images in so many folds, of which --fold validates (default: none)",
        at_least=2,
        at_most=1_000,
    )
    fold: int | None = option(
        None, "the fold that validates, from 0 to --folds - 1; others train", at_least=0, at_most=999
    )
    num_images: int = option(
        0,
        "train on the first so many training images of a fixed, stratified order, for learning curves: the "
        "first 100 are among the first 200, patients stay together, validation images stay (0: all)",
        at_least=0,
        at_most=2**31 - 1,
    )
    image_size: int = option(
        224,
        "side of the square model input, pixels; auto takes what the backbone's weights were trained on",
        auto=True,
        above=0,
        at_most=4_096,
    )
    resize: str = option(
        "squash",
        "how an image becomes square: squash (sides scaled apart), letterbox (aspect kept, black beside it), "
        "crop (aspect kept, the central square alone)",
        choices=("squash", "letterbox", "crop"),
    )
    augment: str = option(
        "light",
        "training augmentation: light (small rotations, zooms and shifts), strong (larger ones, and "
        "contrast), flip (light and mirror)",
        choices=("none", "light", "strong", "flip"),
    )
    workers: int = option(4, "threads that decode images", above=0, at_most=1_024)
    image_cache: str = option("auto", "decoded images: auto (under output_dir/.cache), off, or a folder")
    on_bad_image: str = option(
        "error",
        "missing and unreadable images: error stops and lists them; quarantine leaves up to 1 % of the "
        "training and of the test images out and lists them in quarantine.csv",
        choices=("error", "quarantine"),
    )
