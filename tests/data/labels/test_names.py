"""Spellings of one name and of one image, and how a message shows them."""

import pytest

from csr.data.labels.names import clean_name, id_problem, image_key, name_key, print_key, show, show_some


def test_width_case_invisible_characters_and_composition_do_not_make_a_new_name():
    wide = "".join(chr(ord(c) + 0xFEE0) for c in "Mass")
    for twin in ("mass", wide, " MASS ", "Ma\u200bss", "\ufeffMass", "Mass\u00a0"):
        assert name_key(twin) == name_key("Mass")
    assert name_key("ope\u0301ra") == name_key("op\u00e9ra")
    assert clean_name(" Lung\u00a0  tumor\t") == "Lung tumor"
    assert name_key("Other diseases") == name_key("OTHER DISEASE")


def test_letters_of_other_alphabets_make_another_name_that_prints_alike():
    assert name_key("C\u041ePD") != name_key("COPD")
    assert print_key("C\u041ePD") == print_key("COPD")


def test_long_values_are_cut_and_twins_differ_in_messages():
    assert show("x" * 1000) == "'" + "x" * 60 + "...'"
    assert show("\u0430") == r"'\u0430'"
    assert show_some(["a", "b", "c"], limit=2) == "a; b; and 1 more"
    assert show_some(["a", "b"], limit=2) == "a; b"


def test_spellings_of_one_image_share_a_key_and_other_images_do_not():
    assert {image_key(i) for i in ("a", "a.png", "./a", "a.DICOM", ".//a.jpeg")} == {"a"}
    assert image_key("1.2.840.1") == "1.2.840.1"
    assert image_key("A") != image_key("a") and image_key("s/a") != image_key("a")


@pytest.mark.parametrize("image_id", ["a", "a.png", "s/a", "1.2.840", "a..b", "b\u00e9b\u00e9", "a b"])
def test_plain_ids_are_accepted(image_id):
    assert id_problem(image_id) is None


@pytest.mark.parametrize(
    "image_id",
    [
        "",
        "..",
        "../a",
        "a/../b",
        "/a",
        "~/a",
        "C:\\a",
        "c:a",
        "a\\b",
        "a\0",
        "a\nb",
        "\u202ea",
        ".",
        "a/",
    ]
    + ["x" * 300],
)
def test_ids_that_are_no_name_inside_the_folder_are_refused(image_id):
    assert id_problem(image_id)
