"""The reader of DICOM files: pixels as the file defines them; formulas are those of DICOM PS3.3 C.11."""

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.pixels import apply_modality_lut, apply_windowing, get_decoder
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

from csr.data.images.decode import read_image
from csr.data.images.windows import window_of
from csr.runtime.errors import InputError

RAMP = np.linspace(0, 4095, 64).astype(np.uint16).reshape(8, 8)


@pytest.fixture
def save(tmp_path):
    """Return a function that writes pixels with a header; None removes an element."""

    def write(pixels, *, syntax=ExplicitVRLittleEndian, **elements):
        meta = FileMetaDataset()
        meta.TransferSyntaxUID = syntax
        meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
        meta.MediaStorageSOPInstanceUID = generate_uid()
        dataset = FileDataset("a.dcm", {}, file_meta=meta, preamble=b"\0" * 128)
        dataset.Rows, dataset.Columns = pixels.shape[:2]
        dataset.SamplesPerPixel = 1 if pixels.ndim == 2 else pixels.shape[2]
        dataset.PhotometricInterpretation = "MONOCHROME2" if pixels.ndim == 2 else "RGB"
        dataset.BitsAllocated = pixels.dtype.itemsize * 8
        dataset.BitsStored = 12 if pixels.itemsize == 2 else 8
        dataset.HighBit = dataset.BitsStored - 1
        dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
        if pixels.ndim == 3:
            dataset.PlanarConfiguration = 0
        dataset.PixelData = pixels.tobytes()
        for name, value in elements.items():
            if value is None:
                delattr(dataset, name)
            else:
                setattr(dataset, name, value)
        dataset.save_as(tmp_path / "a.dcm", enforce_file_format=False)
        return tmp_path / "a.dcm"

    return write


def scaled(value, low, high):
    return np.rint(np.clip((value.astype(float) - low) / (high - low), 0, 1) * 255)


def test_without_a_window_the_darkest_is_black_and_the_brightest_white(save):
    value = RAMP // 2 + 100
    np.testing.assert_allclose(read_image(save(value)), scaled(value, 100, 2147), atol=1)


def test_padding_does_not_count_for_the_stretch_and_is_black(save):
    value = RAMP // 2 + 100
    value[3, 3] = 4095
    wanted = scaled(value, 100, 2147)
    wanted[3, 3] = 0
    np.testing.assert_allclose(read_image(save(value, PixelPaddingValue=4095)), wanted, atol=1)


def test_the_first_window_of_the_file_is_applied(save):
    wanted = np.clip((RAMP - (2000 - 0.5)) / (1000 - 1) + 0.5, 0, 1) * 255
    for centre, width in ((2000, 1000), ([2000, 40], [1000, 400])):
        path = save(RAMP, WindowCenter=centre, WindowWidth=width)
        np.testing.assert_allclose(read_image(path), wanted, atol=0.51)


def test_monochrome1_is_inverted_after_the_window(save):
    options = {"WindowCenter": 1000, "WindowWidth": 1500}
    straight = read_image(save(RAMP, **options)).astype(int)
    inverted = read_image(save(RAMP, PhotometricInterpretation="MONOCHROME1", **options))
    assert abs(inverted - (255 - straight)).max() <= 1
    assert inverted[0, 0] == 255 and inverted[-1, -1] == 0


@pytest.mark.parametrize(
    "elements",
    [
        {"RescaleSlope": "", "RescaleIntercept": ""},
        {"RescaleSlope": "1", "RescaleIntercept": ""},
        {"RescaleSlope": "", "RescaleIntercept": "0"},
        {"PixelRepresentation": None},
        {"PhotometricInterpretation": "monochrome2"},
    ],
    ids=str,
)
def test_elements_that_a_writer_left_empty_or_out_change_nothing(save, elements):
    window = {"WindowCenter": "1000", "WindowWidth": "800"}
    wanted = read_image(save(RAMP, **window))
    np.testing.assert_array_equal(read_image(save(RAMP, **window, **elements)), wanted)


def test_a_slope_without_an_intercept_scales(save):
    value = read_image(
        save(RAMP, RescaleSlope="2", RescaleIntercept="", WindowCenter="1000", WindowWidth="800")
    )
    np.testing.assert_array_equal(value, read_image(save(RAMP, WindowCenter="500.25", WindowWidth="400.5")))


def test_the_rescale_comes_before_the_window(save):
    path = save(RAMP, RescaleSlope=2, RescaleIntercept=-1000, WindowCenter=3000, WindowWidth=4001)
    wanted = np.clip((2.0 * RAMP - 1000 - 2999.5) / 4000 + 0.5, 0, 1) * 255
    np.testing.assert_allclose(read_image(path), wanted, atol=0.51)


@pytest.mark.filterwarnings("ignore:overflow")  # pydicom's own formula, far from the window
@pytest.mark.parametrize("kind", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize("width", [1, 2, 900.5])
def test_all_window_functions_agree_with_pydicom(kind, width):
    dataset = Dataset()
    dataset.PhotometricInterpretation, dataset.BitsStored = "MONOCHROME2", 12
    dataset.PixelRepresentation, dataset.VOILUTFunction = 0, kind
    dataset.WindowCenter, dataset.WindowWidth = 1800, width
    wanted = apply_windowing(apply_modality_lut(RAMP, dataset), dataset) / 4095
    np.testing.assert_allclose(window_of(dataset)(RAMP), wanted, atol=1e-5)


@pytest.mark.parametrize("declared_bits", [12, 16])
def test_a_voi_table_goes_before_the_window_and_may_overstate_its_bits(save, declared_bits):
    item = Dataset()
    item.LUTDescriptor = [4096, 0, declared_bits]
    item.LUTData = [4095 - n for n in range(4096)]
    item["LUTData"].VR = item["LUTDescriptor"].VR = "US"
    path = save(RAMP, VOILUTSequence=[item], WindowCenter=40, WindowWidth=400)
    np.testing.assert_allclose(read_image(path), (4095.0 - RAMP) / 4095 * 255, atol=0.51)


def test_overlay_bits_above_the_stored_ones_are_cut_off(save):
    dirty = RAMP | (np.uint16(1) << 15)
    np.testing.assert_array_equal(read_image(save(dirty)), read_image(save(RAMP)))


def test_signed_values_without_sign_extension_are_understood(save):
    signed = RAMP.astype(np.int16) - 2048
    plain = read_image(save(signed))
    np.testing.assert_array_equal(read_image(save(signed & 0xFFF)), plain)
    np.testing.assert_allclose(plain, scaled(RAMP, 0, 4095), atol=1)


def test_rgb_and_rle_decode(save):
    rgb = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    np.testing.assert_array_equal(read_image(save(rgb)), rgb)
    flat = np.full((4, 4), 9, dtype=np.uint8)
    flat[0, 0] = 0
    path = save(flat)
    from pydicom import dcmread

    dataset = dcmread(path)
    dataset.compress(RLELossless)
    dataset.save_as(path)
    assert read_image(path).tolist() == (255 * (flat > 0)).tolist()


@pytest.mark.parametrize(
    "elements, expected",
    [
        ({"PixelData": None}, "no pixel data"),
        ({"NumberOfFrames": 2}, "2 frames"),
        ({"Rows": 60000, "Columns": 60000}, "60000 x 60000 pixels"),
        ({"Rows": 0}, "0 pixels|x 0"),
        ({"Rows": 9}, "damaged"),
        ({"Rows": None}, "damaged"),
        ({"BitsAllocated": 12}, "damaged"),
        ({"BitsAllocated": 11, "BitsStored": 11}, "damaged"),
        ({"BitsStored": 0}, "damaged|bits stored"),
        ({"HighBit": 20}, "damaged|bits stored"),
        ({"PhotometricInterpretation": "CIELAB"}, "damaged|not supported"),
        ({"PhotometricInterpretation": None}, "damaged|not supported"),
        ({"RescaleSlope": "1", "RescaleIntercept": "-3", "VOILUTSequence": [Dataset()]}, "damaged"),
        ({"syntax": DeflatedExplicitVRLittleEndian}, "deflated"),
    ],
)
def test_a_bad_header_gets_one_line(save, elements, expected):
    path = save(RAMP, **elements)
    with pytest.raises(InputError, match=expected) as caught:
        read_image(path)
    assert "a.dcm" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.skipif(get_decoder(JPEGLSLossless).is_available, reason="a decoder of JPEG-LS is installed")
def test_a_compression_without_decoder_names_what_to_install(save):
    from pydicom.encaps import encapsulate

    pixels = encapsulate([b"\xff\xd8\xff\xd9"])
    with pytest.raises(InputError, match="no decoder for JPEG-LS.*install pylibjpeg"):
        read_image(save(RAMP, syntax=JPEGLSLossless, PixelData=pixels))
