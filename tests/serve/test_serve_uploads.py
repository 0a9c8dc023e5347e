"""Hostile and odd uploads: refused in one line, without a file, a path or a large allocation."""

from __future__ import annotations

import builtins
import io
import os
import struct
import tempfile
import zlib

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid
from serving import BINARY, opened, png, saved, sent

from csr.data.images.decode import decode_image
from csr.runtime.errors import InputError, TooLargeError
from csr.serve.limits import MAX_NAME, Limits
from csr.serve.upload import in_memory, read_upload, shown_name


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_claiming(width: int, height: int) -> bytes:
    """A PNG whose header promises more pixels than its data has."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(10**6))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + data


def dicom(stored: np.ndarray, *, claim: tuple[int, int] | None = None) -> bytes:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.Rows, dataset.Columns = claim or stored.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation = 15, 0
    dataset.WindowCenter, dataset.WindowWidth = 2048, 4096
    dataset.PixelData = stored.astype("<u2").tobytes()
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


RAMP = np.linspace(0, 4095, 80 * 60).reshape(80, 60)


@pytest.mark.parametrize(
    "data",
    [
        saved(Image.fromarray((RAMP / 16).astype(np.uint8)), "JPEG"),
        png((RAMP * 16).astype(np.uint16)),
        dicom(RAMP),
        png(np.dstack([(RAMP / 16).astype(np.uint8)] * 3)),
    ],
    ids=["jpeg", "16-bit png", "dicom", "rgb png"],
)
def test_formats_are_shown_as_a_viewer_shows_them(client, data):
    state = opened(client, data)
    assert (state["image"]["height"], state["image"]["width"]) == (80, 60)
    view = client.get(f"/api/sessions/{state['session']}/image").content
    shown = np.asarray(Image.open(io.BytesIO(view)).convert("L")).astype(float)
    assert np.abs(shown - RAMP / 4095 * 255).max() <= 3


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"junk",
        b"\x89PNG\r\n\x1a\n",
        png()[:400],
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"%PDF-1.4",
        b"GIF89a" + bytes(20),
        bytes(128) + b"DICM" + bytes(64),
        b"%!PS-Adobe-3.0 EPSF-3.0\n",
        dicom(RAMP, claim=(800, 600)),
        png_claiming(1000, 1000)[:-40],
    ],
)
def test_files_that_are_no_image_are_refused_in_one_line_without_a_path(client, data):
    answer = sent(client, data)
    detail = answer.json()["detail"]
    assert answer.status_code == 422, detail
    assert "\n" not in detail and "/proc" not in detail and "/dev" not in detail
    assert len(client.service.sessions) <= client.service.limits.max_sessions


@pytest.mark.parametrize(
    "data",
    [png_claiming(60_000, 60_000), dicom(RAMP, claim=(60_000, 60_000)), png_claiming(2**31 - 1, 2**31 - 1)],
    ids=["png", "dicom", "largest png"],
)
def test_decompression_bombs_are_refused_before_they_are_decoded(client, data):
    answer = sent(client, data)
    assert answer.status_code == 413 and "pixels" in answer.json()["detail"]


def test_limits_on_bytes_and_pixels_are_exact(serve):
    data = png(np.zeros((90, 140), dtype=np.uint8))
    with serve(Limits(max_bytes=len(data), max_pixels=90 * 140)) as client:
        assert sent(client, data).status_code == 201
        assert sent(client, data + b"x").status_code == 413
        wider = png(np.zeros((90, 141), dtype=np.uint8))
        assert sent(client, wider[: len(data)]).status_code == 413, "known from the header"


def test_a_body_without_a_stated_length_is_counted(serve):
    def parts():
        for _ in range(100):
            yield bytes(1000)

    with serve(Limits(max_bytes=50_000)) as client:
        answer = client.post("/api/images", content=parts(), headers=BINARY)
        assert answer.status_code == 413 and "MiB" in answer.json()["detail"]


def test_max_pixels_holds_for_files_too(tmp_path):
    (tmp_path / "a.png").write_bytes(png())
    assert decode_image(tmp_path / "a.png", max_pixels=90 * 140).height == 90
    with pytest.raises(TooLargeError, match="a.png"):
        decode_image(tmp_path / "a.png", max_pixels=90 * 140 - 1)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("../../etc/passwd", "../../etc/passwd"),
        ("<img src=x onerror=alert(1)>", "<img src=x onerror=alert(1)>"),
        ("a\r\nX-Evil: 1", "a??X-Evil: 1"),
        ("a\0b.png", "a?b.png"),
        ("\u202egnp.exe", "?gnp.exe"),
        ("", "image"),
        ("   ", "image"),
        ("x" * 5000, "x" * MAX_NAME),
        ("Th\u00f6rax 1.png", "Th\u00f6rax 1.png"),
    ],
)
def test_names_are_text(client, name, shown):
    from urllib.parse import quote

    answer = sent(client, png(), name=quote(name))
    assert answer.json()["image"]["name"] == shown == shown_name(name)
    headers = client.get(f"/api/sessions/{answer.json()['session']}/record").headers
    assert "x-evil" not in headers and "etc" not in headers["content-disposition"]


def test_an_upload_is_written_to_no_file(client, monkeypatch):
    opened_files = []
    real_open, real_os_open = builtins.open, os.open
    monkeypatch.setattr(builtins, "open", lambda *a, **k: opened_files.append((a, k)) or real_open(*a, **k))
    monkeypatch.setattr(os, "open", lambda *a, **k: opened_files.append((a, k)) or real_os_open(*a, **k))
    monkeypatch.setattr(tempfile, "_get_candidate_names", lambda: pytest.fail("a temporary file"))
    large = np.random.default_rng(0).integers(0, 256, (1500, 1500), dtype=np.uint8)
    for data in (png(large), dicom(RAMP)):
        opened(client, data)
    assert opened_files, "the readers open it"
    for where, _ in opened_files:
        assert isinstance(where[0], int) or str(where[0]).startswith("/proc/self/fd/"), where


def test_the_file_in_memory_is_gone_afterwards():
    before = len(os.listdir("/proc/self/fd"))
    with in_memory(b"abc") as path:
        assert path.read_bytes() == b"abc"
    with pytest.raises(InputError):
        read_upload(b"junk", name="x", size=8, max_pixels=100)
    assert len(os.listdir("/proc/self/fd")) == before


def test_only_raw_bodies_are_taken(client):
    answer = client.post("/api/images", files={"file": ("a.png", png())})
    assert answer.status_code == 415
    assert client.post("/api/images", data={"a": "b"}).status_code == 415
