"""The image in full size and depth over the wire: values, reductions, limits, hostile requests."""

from __future__ import annotations

import gc
import io

import numpy as np
import pydicom
import pytest
from hostile_pictures import RAMP, RGB, dicom
from serving import opened, png

from csr.data.images.full_depth import decode_full_depth
from csr.serve.pixels import schemas
from csr.serve.pixels.cutting import Part, cut
from csr.serve.pixels.source import Decoded, Source

DEEP = np.random.default_rng(3).integers(0, 4096, (90, 140), dtype=np.uint16)
WINDOWS = {
    "WindowCenter": [1000, 2000],
    "WindowWidth": [500, 4000],
    "WindowCenterWidthExplanation": ["A", "<b>\n"],
}


def raw(client, session, **query):
    answer = client.get(f"/api/sessions/{session}/depth/raw", params=query)
    assert answer.status_code == 200, answer.text
    kind = {"8": np.uint8, "16": "<u2"}[answer.headers["x-bits"]]
    shape = (int(answer.headers["x-height"]), int(answer.headers["x-width"]))
    numbers = np.frombuffer(answer.content, kind)
    return numbers.reshape(shape if numbers.size == shape[0] * shape[1] else (*shape, 3)), answer.headers


def whole(pixels):
    return {"x": 0, "y": 0, "width": pixels.shape[1], "height": pixels.shape[0]}


def test_raw_numbers_make_the_values_of_pydicom(client):
    data = dicom(DEEP, RescaleSlope=0.5, RescaleIntercept=-1000, RescaleType="HU", **WINDOWS)
    session = opened(client, data)["session"]
    numbers, headers = raw(client, session, x=17, y=5, width=60, height=80)
    dataset = pydicom.dcmread(io.BytesIO(data))
    wanted = dataset.pixel_array[5:85, 17:77] * 0.5 - 1000
    np.testing.assert_array_equal(float(headers["x-slope"]) * numbers + float(headers["x-intercept"]), wanted)
    facts = client.get(f"/api/sessions/{session}/depth").json()
    schemas.Depth.model_validate(facts)
    assert (facts["height"], facts["width"], facts["bits"], facts["unit"]) == (90, 140, 16, "HU")
    assert [one["name"] for one in facts["windows"]] == ["A", "<b>?", "full range"]
    assert facts["window"] == {"name": "as the model sees it", "centre": 1000, "width": 500}


def test_the_table_gives_the_pixels_that_the_model_sees(client, tmp_path):
    data = dicom(DEEP, PhotometricInterpretation="MONOCHROME1", **WINDOWS)
    session = opened(client, data)["session"]
    table = np.frombuffer(client.get(f"/api/sessions/{session}/depth/shown").content, np.uint8)
    numbers, _ = raw(client, session, **whole(DEEP))
    wanted = 255 - np.rint(np.clip((DEEP.astype(np.float32) - 999.5) / 499 + 0.5, 0, 1) * 255)
    np.testing.assert_array_equal(table[numbers], wanted)


def test_colour_has_three_numbers_a_pixel(client):
    session = opened(client, png(RGB))["session"]
    numbers, _ = raw(client, session, x=3, y=2, width=9, height=7)
    np.testing.assert_array_equal(numbers, RGB[2:9, 3:12])


def test_reduced_parts_are_means_of_blocks_by_a_loop_without_padding(tmp_path):
    pixels = np.where(DEEP < 800, 0, DEEP).astype(np.uint16)
    pixels[:8, :8] = 0
    (tmp_path / "a").write_bytes(dicom(pixels, PixelPaddingValue=0))
    depth = decode_full_depth(tmp_path / "a")
    reduced = cut(depth, Part(0, 0, 138, 90, reduce=4))
    for i, j in np.ndindex(reduced.shape):
        block = pixels[4 * i : 4 * i + 4, 4 * j : min(138, 4 * j + 4)]
        seen = block[block > 0]
        assert reduced[i, j] == (np.rint(seen.astype(float).mean()) if seen.size else 0)
    assert reduced[0, 0] == 0 and reduced.shape == (23, 35)


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("x=0&y=0&width=141&height=1", "beyond the image of 140 x 90"),
        ("x=139&y=89&width=1&height=2", "beyond the image"),
        ("x=-1&y=0&width=1&height=1", "greater than or equal to 0"),
        ("x=0&y=0&width=0&height=1", "greater than or equal to 1"),
        ("x=0&y=0&width=1&height=1&reduce=65", "less than or equal to 64"),
        ("x=0&y=0&width=1e3&height=1", "valid integer"),
        ("x=0&y=0&width=99999999999999999999&height=1", "less than or equal"),
        ("x=0&y=0&width=1", "height"),
        ("x=NaN&y=0&width=1&height=1", "valid integer"),
    ],
)
def test_parts_that_are_none_are_refused(client, query, reason):
    session = opened(client)["session"]
    answer = client.get(f"/api/sessions/{session}/depth/raw?{query}")
    assert answer.status_code == 422 and reason in answer.json()["detail"]


def test_a_part_of_too_many_pixels_is_refused_and_reduced_it_is_not(tmp_path):
    (tmp_path / "a.png").write_bytes(png(np.zeros((8, 4100), dtype=np.uint8)))
    depth = decode_full_depth(tmp_path / "a.png")
    with pytest.raises(ValueError, match="2048"):
        cut(depth, Part(0, 0, 4100, 8))
    assert cut(depth, Part(0, 0, 4100, 8, reduce=3)).shape == (3, 1367)


@pytest.mark.parametrize("name", ["", "/shown", "/raw?x=0&y=0&width=1&height=1"])
def test_a_closed_session_has_no_pixels(client, name):
    session = opened(client)["session"]
    client.delete(f"/api/sessions/{session}")
    assert client.get(f"/api/sessions/{session}/depth{name}").status_code == 404


def test_pixels_want_the_token_as_everything_does(serve):
    with serve(token="secret") as client:
        assert client.get("/api/sessions/x/depth").status_code == 401


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("text", [b"nan ", b"inf ", b"1e99", b"\xff\xfe<>"])
def test_headers_that_are_no_numbers_give_an_answer_without_them(client, text):
    data = dicom(RAMP, WindowCenter=[1234, 77], WindowWidth=[5678, 99], RescaleType="x" * 16)
    answer = client.get(f"/api/sessions/{opened(client, data.replace(b'1234', text))['session']}/depth")
    assert answer.status_code == 200
    windows = answer.json()["windows"]
    assert windows[-1]["name"] == "full range" and all(abs(one["centre"]) < 1e12 for one in windows)
    assert len(answer.json()["unit"]) <= 12


def test_decoded_images_stay_within_bytes_and_leave_with_their_sessions():
    data = png(np.zeros((100, 100), dtype=np.uint8))
    decoded = Decoded(kept_bytes=25_000)
    sources = [Source(data, max_pixels=10**6) for _ in range(4)]
    for source in sources:
        assert decoded.depth(source).raw.shape == (100, 100)
    assert [source.num_bytes for source in sources] == [0, 0, 10_000, 10_000]
    decoded.depth(sources[0])
    assert [source.num_bytes for source in sources] == [10_000, 0, 0, 10_000], "the last used stay"
    one = Decoded(kept_bytes=5)
    assert one.depth(sources[1]).raw.size == 10_000 and sources[1].num_bytes == 10_000, "one is always kept"
    del source
    sources.clear()
    gc.collect()
    assert decoded.num_alive == 0
