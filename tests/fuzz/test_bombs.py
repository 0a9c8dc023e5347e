"""Small files that claim to be huge: refused with little memory and in little time, in their own process."""

from __future__ import annotations

import json
import struct
import sys
import zipfile
import zlib
from pathlib import Path

import pytest
import torch
from hostile_pictures import GREY, RGB, chunk, dicom, huge_gif, nested, png, saved
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit, RLELossless
from safetensors.torch import save
from train_command import start
from weight_files import ENTRY, STATE, header, rezipped, torch_bytes

MEMORY_MIB = 900  # one image of the largest size that is read takes about 300
SECONDS = 60.0


def rows_of(width: int, height: int) -> bytes:
    """Return the compressed rows of a black PNG, made without holding all of them."""
    packer = zlib.compressobj(9)
    return b"".join(packer.compress(bytes(width + 1)) for _ in range(height)) + packer.flush()


def real_png(width: int, height: int) -> bytes:
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", rows_of(width, height))
        + chunk(b"IEND", b"")
    )


def lossless_size(width: int, height: int) -> bytes:
    """Return the size in the head of a lossless WebP: 14 bits each, less one."""
    return b"\x2f" + struct.pack("<I", width - 1 | height - 1 << 14)


def legacy(claimed: int) -> bytes:
    """Return a torch file of the old kind whose storage claims more values than follow."""
    content = torch_bytes({"w": torch.ones(999)}, _use_new_zipfile_serialization=False)
    return content.replace(b"M\xe7\x03", b"J" + struct.pack("<i", claimed))


def bombs() -> dict[str, bytes]:
    """Return files by name; a name begins with the reader that gets the file."""
    return {
        "image-png of 60,000 x 60,000": png(60_000, 60_000),
        "image-png of 20,000 x 20,000, whole": real_png(20_000, 20_000),
        "image-png text": png(
            4, 4, rows=bytes(20), extra=chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(10**8), 9))
        ),
        "image-png profile": png(
            4, 4, rows=bytes(20), extra=chunk(b"iCCP", b"k\0\0" + zlib.compress(bytes(10**8), 9))
        ),
        "image-png rows behind": png(4, 4, rows=bytes(10**8)),
        "image-gif": huge_gif(),
        "image-tiff": saved(GREY, "TIFF").replace(
            struct.pack("<HHII", 256, 4, 1, 20), struct.pack("<HHII", 256, 4, 1, 2**31 - 1)
        ),
        "image-tiff deflate": saved(Image.new("L", (60_000, 2000)), "TIFF", compression="tiff_deflate"),
        "image-webp": saved(RGB, "WEBP", lossless=True).replace(
            lossless_size(20, 24), lossless_size(16_384, 16_384)
        ),
        "image-jp2": saved(GREY, "JPEG2000").replace(
            struct.pack(">II", 20, 24), struct.pack(">II", 2**31, 2**31)
        ),
        "image-dicom of 65,535 x 65,535": dicom(Rows=65_535, Columns=65_535),
        "image-dicom samples": dicom(Rows=8000, Columns=8000, SamplesPerPixel=65_535),
        "image-dicom frames": dicom(NumberOfFrames=2**31 - 1),
        "image-dicom 64 bits": dicom(Rows=8000, Columns=8000, BitsAllocated=64),
        "image-dicom rle": dicom(
            GREY,
            syntax=RLELossless,
            Rows=8000,
            Columns=8000,
            SamplesPerPixel=255,
            PixelData=encapsulate([bytes(64)]),
        ),
        "image-dicom jpeg": dicom(
            GREY,
            syntax=JPEGBaseline8Bit,
            PixelData=encapsulate(
                [saved(GREY, "JPEG").replace(struct.pack(">HH", 24, 20), struct.pack(">HH", 65_000, 65_000))]
            ),
        ),
        "image-dicom jp2": dicom(
            GREY,
            syntax=JPEG2000Lossless,
            PixelData=encapsulate(
                [
                    saved(GREY, "JPEG2000", no_jp2=True).replace(
                        struct.pack(">II", 20, 24), struct.pack(">II", 2**30, 2**30)
                    )
                ]
            ),
        ),
        "image-dicom nested": dicom(ContentSequence=nested(150)),
        "image-dicom length": dicom()[:200] + b"\xe0\x7f\x10\x00OW\0\0\xfe\xff\xff\xff",
        "table-one line": b"image_id," + b"a" * 50_000_000,
        "table-quote": b'image_id,Cavity,COPD\n"' + b"a\n" * 25_000_000,
        "table-columns": b"image_id" + b",a" * 500_000 + b"\n",
        "table-nul": bytes(50_000_000),
        "weights-view.pth": torch_bytes({"w": torch.ones(1).expand(10**6, 10**6)}),
        "weights-legacy.pth": legacy(2**31 - 1),
        "weights-zip.pth": rezipped(
            torch_bytes(STATE),
            lambda m, d: (m.filename, bytes(10**8) if m.filename.endswith("data/0") else d),
            zipfile.ZIP_DEFLATED,
        ),
        "weights-header.safetensors": header("{}", length=2**40),
        "weights-values.safetensors": header(ENTRY % (2**40, 0, 2**42), body=bytes(99)),
        "weights-pickle.pth": b"\x80\x02" + b"]" * 2_000_000,
        "weights-long.pth": b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b"x",
        "weights-memo.pth": b"\x80\x02]r\xff\xff\xff\x7f.",
        "state-view.pth": torch_bytes([torch.ones(1).expand(2**40)]),
        "state-zip.pth": rezipped(
            torch_bytes(STATE),
            lambda m, d: (m.filename, bytes(10**8) if m.filename.endswith("data/0") else d),
            zipfile.ZIP_DEFLATED,
        ),
        "ds-spaces.json": b" " * 200_000_000,
        "ds-deep.json": b"[" * 10_000_000,
        "ds-keys.json": b"{" + b",".join(b'"k%d":1' % n for n in range(1_000_000)) + b"}",
    }


# what is behind the pixels is left there, and long texts and profiles are passed over
READ = {"image-png rows behind", "image-png text", "image-png profile", "image-dicom nested"}
GIANT = {
    "num_concepts": 2,
    "num_classes": 2,
    "num_prototypes_per_concept": 5,
    "backbone_type": "timm",
    "model_name": "vit_giant_patch16_gap_224",
    "image_size": 224,
    "embedding_dim": 128,
    "projector_blocks": 3,
    "concept_pool": "avg",
    "architecture": None,
}


def write_giant(folder: Path) -> None:
    """Write a model's folder that names a network of a billion weights beside a few of them."""
    folder.mkdir()
    card = {
        "format": "csr",
        "format_version": 1,
        "architecture": GIANT,
        "concept_names": ["a", "b"],
        "target_names": ["c", "d"],
        "preprocessing": {"image_size": 224, "stored_size": 256, "mean": [0, 0, 0], "std": [1, 1, 1]},
        "task_loss": "bce",
    }
    (folder / "config.json").write_text(json.dumps(card))
    state = {
        "prototypes.proto_KMD": torch.zeros(2, 5, 128),
        "task_head.linear.weight": torch.zeros(2, 10),
        "a": torch.zeros(2),
        "b": torch.zeros(2),
    }
    (folder / "model.safetensors").write_bytes(save(state))


@pytest.mark.dist
@pytest.mark.slow
def test_bombs_are_refused_with_little_memory_and_in_little_time(tmp_path):
    folder = tmp_path / "bombs"
    folder.mkdir()
    made = bombs()
    for name, content in made.items():
        (folder / name).write_bytes(content)
    write_giant(folder / "model-giant")
    done = start(
        Path(sys.executable).name,
        str(Path(__file__).parents[1] / "helpers" / "bombs.py"),
        str(folder),
        str(MEMORY_MIB),
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads(done.stdout)
    assert set(results) == {*made, "model-giant"}
    wrong = {n: t for n, t in results.items() if t["result"].startswith("refused") == (n in READ)}
    assert not wrong
    slow = {n: t["seconds"] for n, t in results.items() if t["seconds"] > SECONDS}
    assert not slow
    unnamed = [n for n, t in results.items() if t["result"] != "read" and n not in t["result"]]
    assert not unnamed
    peaks = [t["peak_mib"] for t in results.values()]
    assert max(peaks) - min(peaks) < MEMORY_MIB
