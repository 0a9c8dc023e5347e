"""Small random images, some of which can be damaged, with their label tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

NUM = {"train": 210, "test": 100}
COLUMNS = "image_id,Cavity,Nodule,COPD,Pneumonia\n"


def draw(folder: Path) -> Path:
    """Small random images; every label is positive in half of them, by the bits of the image's number."""
    rng = np.random.default_rng(3)
    for split, num in NUM.items():
        (folder / split).mkdir(parents=True)
        rows = []
        for n in range(num):
            name = f"{split}{n:03d}"
            Image.fromarray(rng.integers(0, 256, (24, 24), dtype=np.uint8)).save(
                folder / split / f"{name}.png"
            )
            rows.append(f"{name},{n & 1},{n >> 1 & 1},{n >> 2 & 1},{n >> 3 & 1}\n")
        (folder / f"labels_{split}.csv").write_text(COLUMNS + "".join(rows))
    return folder


def damage(data: Path) -> dict[str, str]:
    """Damage two training images and a test image; return part of the reason for each."""
    (data / "train" / "train007.png").unlink()
    (data / "train" / "train100.png").write_bytes((data / "train" / "train100.png").read_bytes()[:200])
    (data / "test" / "test099.png").write_bytes(b"")
    return {"train007": "no file for image_id", "train100": "damaged", "test099": "the file is empty"}
