"""Loader rates in images per second: the reference's DataLoader and csr's decoded-image cache.

Both deliver augmented, normalised float batches. Letters: B batch, C channels, H W image.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from measuring import Report, median
from PIL import Image
from reference import Images, make_loader

from csr.data.dataset import LabelledImages, WindowSampler
from csr.data.image_cache.store import open_store
from csr.data.labels.table import LabelTable, read_label_table
from csr.data.prefetch import ahead
from csr.data.transforms import TrainTransform, stored_size

KINDS = (("png", 512), ("png", 1024), ("png", 2048), ("jpg", 1024), ("jpg", 2048), ("dcm", 2048))


@dataclass(frozen=True)
class Sizes:
    """The images, sizes and repetitions of the measurement."""

    num_images: int = 96
    image_size: int = 224
    batch_size: int = 16
    workers: int = len(os.sched_getaffinity(0))
    passes: int = 5
    kinds: tuple[tuple[str, int], ...] = KINDS


def radiograph(side: int, rng: np.random.Generator) -> np.ndarray:
    """Return grey values of 12 bits as smooth and grainy as a radiograph, which decides how they compress.

    Args:
        side: H and W in pixels.
        rng: draws them.

    Returns:
        uint16 (side, side).
    """
    coarse = Image.fromarray(rng.normal(size=(16, 16)).astype(np.float32))
    coarse = coarse.resize((side, side), Image.Resampling.BICUBIC)
    grain = rng.normal(scale=0.03, size=(side, side))
    return np.clip((np.asarray(coarse) * 0.2 + 0.5 + grain) * 4095, 0, 4095).astype(np.uint16)


def write_image(path: Path, value_HW: np.ndarray) -> None:
    """Write 12-bit grey values, uint16 (H, W), in the format of the suffix."""
    if path.suffix == ".dcm":
        write_dicom(path, value_HW)
    else:
        options = {"quality": 90} if path.suffix == ".jpg" else {}
        Image.fromarray((value_HW >> 4).astype(np.uint8)).save(path, **options)


def write_dicom(path: Path, value_HW: np.ndarray) -> None:
    """Write an uncompressed 12-bit digital radiograph, uint16 (H, W)."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    meta.MediaStorageSOPInstanceUID, meta.TransferSyntaxUID = generate_uid(), ExplicitVRLittleEndian
    image = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    image.SOPClassUID, image.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    image.Rows, image.Columns = value_HW.shape
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 12, 11, 0
    image.WindowCenter, image.WindowWidth, image.Modality = 2048, 4096, "DX"
    image.PixelData = value_HW.astype("<u2").tobytes()
    image.save_as(path)


def make_images(folder: Path, kind: str, side: int, num_images: int) -> tuple[list[Path], LabelTable]:
    """Write images of a suffix and a side in pixels, and return their paths and labels."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    paths = [folder / f"{n}.{kind}" for n in range(num_images)]
    for path in paths:
        write_image(path, radiograph(side, rng))
    rows = "".join(f"{path.stem},{n % 2},1\n" for n, path in enumerate(paths))
    (folder / "labels.csv").write_text(f"image_id,Opacity,Pneumonia\n{rows}")
    return paths, read_label_table(folder / "labels.csv")


def rate(batches: Iterable[torch.Tensor], num_images: int) -> float:
    """Return the images per second of batches (B, ...) that hold `num_images`."""
    began = time.perf_counter()
    seen = sum(len(batch) for batch in batches)
    assert seen >= num_images
    return num_images / (time.perf_counter() - began)


def measure(folder: Path, kind: str, side: int, sizes: Sizes) -> dict[str, float]:
    """Return images/s of the reference, and of csr's first (decoding) and later epochs."""
    paths, table = make_images(folder / f"{kind}{side}", kind, side, sizes.num_images)
    usual = make_loader(
        Images(paths, table, size=sizes.image_size, augment=True),
        batch_size=sizes.batch_size,
        workers=sizes.workers,
        shuffle=True,
    )
    rates = [rate((images for images, *_ in usual), len(paths)) for _ in range(min(3, sizes.passes))]
    # the first pass starts the workers: leave it out where there are more
    reference = median(rates[1:] or rates)
    transform = TrainTransform(sizes.image_size)
    sampler = WindowSampler(len(paths), micro_batch=sizes.batch_size)

    def epoch(images: LabelledImages, number: int) -> Iterable[torch.Tensor]:
        sampler.set_epoch(number)
        loaded = (images.load(*positions) for positions in sampler)
        for batch in ahead(loaded, device=torch.device("cpu")):
            yield transform(batch["image"], index_B=batch["index"], epoch=number, seed=0)[0]

    began = time.perf_counter()
    store = open_store(
        paths, size=stored_size(sizes.image_size), cache_dir=folder / "cache", workers=sizes.workers
    )
    images = LabelledImages(store, table)
    rate(epoch(images, 1), len(paths))
    first = len(paths) / (time.perf_counter() - began)
    later = median([rate(epoch(images, n), len(paths)) for n in range(2, 2 + sizes.passes)])
    return {"reference": reference, "csr_first_epoch": first, "csr_later_epochs": later}


def compare_loaders(report: Report, folder: Path, sizes: Sizes) -> None:
    """Measure all kinds of files and report a table of images per second."""
    report.say(f"Loader, images/s ({sizes.image_size} px input, {sizes.workers} workers)")
    report.say(f"{'files':<12} {'reference':>10} {'csr epoch 1':>12} {'csr later':>10} {'ratio later':>12}")
    rates_of = report.numbers["loader"] = {}
    for kind, side in sizes.kinds:
        rates = measure(folder, kind, side, sizes)
        rates_of[f"{kind} {side}"] = rates
        ratio = rates["csr_later_epochs"] / rates["reference"]
        report.say(
            f"{kind:<4} {side:<7} {rates['reference']:>10.1f} {rates['csr_first_epoch']:>12.1f} "
            f"{rates['csr_later_epochs']:>10.1f} {ratio:>11.1f}x"
        )
    report.say()
