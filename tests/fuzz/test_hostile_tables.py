"""Hostile label tables and box tables, read by `csr train`."""

from __future__ import annotations

import os
import random
from pathlib import Path

import numpy as np
import pytest
from hostile import HEADER, refuse

from csr.data.labels.boxes import read_boxes
from csr.data.labels.table import read_label_table

ROWS = [f"train{n},R1,{n & 1},{n >> 1 & 1},{int(n % 3 == 0)},{int(n % 4 == 0)}" for n in range(12)]
GOOD = "\n".join([HEADER, *ROWS]) + "\n"
BOX_HEADER = "image_id,class_name,x_min,y_min,x_max,y_max"


def with_row(row: str, at: int = 3) -> str:
    rows = list(ROWS)
    rows[at] = row
    return "\n".join([HEADER, *rows]) + "\n"


def with_header(header: str) -> str:
    return "\n".join([header, *ROWS]) + "\n"


def with_cell(value: str) -> str:
    return with_row(f"train3,R1,{value},1,1,0")


ENCODINGS = {
    "utf-16": GOOD.encode("utf-16"),
    "utf-16-le": GOOD.encode("utf-16-le"),
    "utf-16-be": GOOD.encode("utf-16-be"),
    "utf-32": GOOD.encode("utf-32"),
    "latin-1": with_header(HEADER.replace("Cavity", "Cavit\xe9")).encode("latin-1"),
    "cp1252 quotes": with_row("train\x933\x94,R1,1,1,1,0").encode("latin-1"),
    "overlong utf-8": GOOD.replace("train3", "train\x00").encode().replace(b"train\x00", b"train\xc0\x80"),
    "surrogate": GOOD.encode().replace(b"train3", b"train\xed\xa0\x80"),
    "half a letter": GOOD.encode() + b"train12,R1,0,0,0,\xe2\x82",
    "gzip": b"\x1f\x8b\x08\x00" + bytes(range(256)),
    "xlsx": b"PK\x03\x04" + bytes(range(256)) * 4,
    "png": b"\x89PNG\r\n\x1a\n" + bytes(100),
    "nul bytes": GOOD.encode().replace(b"train3", b"train\x003"),
    "only nul": bytes(5000),
    "empty": b"",
    "newlines": b"\n\r\n\n",
    "blank": b"   \n",
    "bom alone": b"\xef\xbb\xbf",
    "two boms": b"\xef\xbb\xbf\xef\xbb\xbf" + GOOD.encode().replace(b"image_id", b"imageid"),
    "cr only": GOOD.replace("\n", "\r").encode(),
    "vertical tabs": GOOD.replace("\n", "\v").encode(),
    "line separators": GOOD.replace("\n", "\u2028").encode(),
}


@pytest.mark.parametrize("name", ENCODINGS)
@pytest.mark.parametrize("split", ["train", "test"])
def test_a_table_of_another_encoding_or_kind_is_named(refused, data, split, name):
    path = data / f"labels_{split}.csv"
    path.write_bytes(ENCODINGS[name].replace(b"train", split.encode()))
    refused(str(path))


SHAPES = {
    "open quote": with_row('"train3,R1,1,1,1,0'),
    "quote inside": with_row('train3,"R"1,1,1,1,0'),
    "quote at the end": GOOD + '"',
    "quoted lines": with_row('"train3\ntrain4",R1,1,1,1,0'),
    "a wide row": with_row("train3,R1,1,1,1,0,1"),
    "a narrow row": with_row("train3,R1,1,1,1"),
    "one cell": with_row("train3"),
    "commas alone": with_row(",,,,,"),
    "semicolons": GOOD.replace(",", ";"),
    "tabs": GOOD.replace(",", "\t"),
    "a very wide row": with_row("train3" + ",1" * 100_000),
    "a huge cell": with_row(f"{'a' * 1_000_000},R1,1,1,1,0"),
    "a huge quoted cell": with_row(f'"{"a" * 1_000_000}"'),
    "a huge reader": with_row(f"train3,{'r' * 1_000_000},1,1,1,0"),
    "a huge header": with_header(HEADER + "," + "x" * 1_000_000),
    "a line of 3 MB": with_row("a," * 1_500_000),
    "a long column name": with_header(HEADER.replace("Cavity", "C" * 201)),
    "many columns": with_header("image_id," + ",".join(f"c{n}" for n in range(50_000))),
    "header alone": HEADER + "\n",
    "header without line end": HEADER,
    "no header": "\n".join(ROWS) + "\n",
    "a column without name": with_header(HEADER.replace("Nodule", "")),
    "an index column": "\n".join([f",{HEADER}", *(f"{n},{row}" for n, row in enumerate(ROWS))]) + "\n",
    "a comment": "# exported\n" + GOOD,
    "sep=": "sep=,\n" + GOOD,
    "html": "<html><body><table><tr><td>image_id</td></tr></table></body></html>\n",
    "json": '[{"image_id": "train0", "Cavity": 1}]\n',
    "a diff": "<<<<<<< HEAD\n" + GOOD + "=======\n",
}


@pytest.mark.parametrize("name", SHAPES)
def test_a_table_of_another_shape_is_named(refused, data, name):
    path = data / "labels_train.csv"
    path.write_text(SHAPES[name])
    refused(str(path))


NAMES = [
    ("Cavity", "Cavity"),
    ("Cavity", "cavity"),
    ("Cavity", " CAVITY "),
    ("Cavity", "Cavity\u200b"),
    ("Cavity", "\u0421avity"),
    ("Cavity", "C\u0430vity"),
    ("Cavity", "\uff23avity"),
    ("Cavity", "Cav\u00adity"),
    ("COPD", "\u0421OPD"),
    ("COPD", "C\u041ePD"),
    ("Pneumonia", "Pneumoni\u0430"),
    ("image_id", "im\u0430ge_id"),
    ("rad_id", "rad_id"),
    ("rad_id", "r\u0430d_id"),
    ("Cavity", "\u202eCavity"),
    ("Cavity", "Cav\u0131ty"),
]


@pytest.mark.parametrize("first, twin", NAMES, ids=ascii)
def test_two_columns_that_cannot_be_told_apart_are_named(refused, data, first, twin):
    path = data / "labels_train.csv"
    other = "Nodule" if first != "rad_id" else "Cavity"
    path.write_text(with_header(HEADER.replace(other, twin)))
    refused(str(path), "line 1")


VALUES = [
    "2",
    "-1",
    "0.5",
    "1.5",
    "1e0",
    "1E0",
    "1e-999",
    "nan",
    "NaN",
    "inf",
    "-inf",
    "true",
    "True",
    "yes",
    "no",
    "x",
    "?",
    "N/A",
    "NULL",
    "None",
    "-",
    "1 1",
    "'1'",
    "=1+1",
    "=cmd|' /C calc'!A0",
    "+1",
    "@SUM(1)",
    "0x1",
    "01",
    "1.",
    ".0",
    "1,0"[:1] + "\u00a01",
    "\u0661",
    "\uff11",
    "\u00b9",
    "9" * 400,
    "1" + "0" * 5000,
    "1\u200b",
    "1_0",
    "\u22121",
]


@pytest.mark.parametrize("value", VALUES, ids=lambda v: ascii(v)[:30])
def test_a_label_that_is_neither_0_nor_1_nor_empty_is_named_with_its_line(refused, data, value):
    path = data / "labels_train.csv"
    path.write_text(with_cell(value))
    refused(f"{path} line 5", "Cavity")


IDS = [
    "../test/test0",
    "..",
    ".",
    "./",
    "a/../../test/test0",
    "/etc/passwd",
    "/",
    "~root/x",
    "~",
    "C:\\images\\a",
    "C:/images/a",
    "..\\test\\test0",
    "\\\\host\\share\\a",
    "train0\u200b",
    "train\u202e0",
    '=HYPERLINK("x")',
    "",
    "train0/",
    "//etc/passwd",
    "a" * 201,
    "a" * 5000,
    "\u0000",
    "train\x010",
    "train\x7f0",
    "train0\x1b[31m",
    "sub/../..",
    "train0/../../../etc/passwd",
    "file:///etc/passwd",
    "http://127.0.0.1/a.png",
    "$(touch ran)",
    "`id`",
    "|id",
    "a;b",
    "CON",
    "nul.png",
    "..%2f..%2fetc%2fpasswd",
    "\u2025/x",
    "train0.png/x",
    "*",
    "train?",
    "[a-z]0",
]


@pytest.mark.parametrize("image_id", IDS, ids=lambda v: ascii(v)[:30])
def test_an_id_that_is_no_file_of_the_folder_is_named_with_its_line(refused, data, image_id):
    path = data / "labels_train.csv"
    quoted = '"' + image_id.replace('"', '""') + '"'
    path.write_text(with_row(f"{quoted},R1,1,1,1,0"))
    refused(str(path), "line 5")


LINKS = [
    "/etc/passwd",
    "../../outside.png",
    "../labels_train.csv",
    ".",
    "..",
    "train3.png",
    "/dev/zero",
    "/proc/version",
]


@pytest.mark.parametrize("target", LINKS)
def test_a_link_out_of_the_folder_or_to_no_file_is_named_and_not_read(refused, data, tmp_path, target):
    (tmp_path / "outside.png").write_bytes((data / "train" / "train0.png").read_bytes())
    (data / "train" / "train3.png").unlink()
    (data / "train" / "train3.png").symlink_to(target)
    refused("labels_train.csv", "line 5", "train3")


@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "socket"])
@pytest.mark.parametrize("what", ["table", "image"])
def test_what_is_no_regular_file_is_named_and_not_waited_for(refused, data, what, kind):
    path = data / "labels_train.csv" if what == "table" else data / "train" / "train3.png"
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        try:
            os.mknod(path, 0o600 | 0o020000, os.makedev(1, 5))  # /dev/zero
        except PermissionError:
            pytest.skip("making a device needs root")
    else:
        import socket

        with socket.socket(socket.AF_UNIX) as server:
            os.chdir(path.parent)
            server.bind(path.name)
    refused(path.stem)


@pytest.mark.parametrize("what", ["table", "folder", "image"])
def test_what_may_not_be_read_is_named(refused, data, what):
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    path = {
        "table": data / "labels_train.csv",
        "folder": data / "train",
        "image": data / "train" / "train3.png",
    }[what]
    path.chmod(0)
    try:
        refused(str(path))
    finally:
        path.chmod(0o700)


@pytest.mark.parametrize(
    "path", ["", "\0", "a\0b", "/dev/null", "/dev/zero", "/", "x" * 5000, "~", "-", "\ud800"]
)
def test_a_path_that_is_no_table_is_named(refused, path):
    refused(train_csv=path)


# valid tables


VALID = {
    "bom": b"\xef\xbb\xbf" + GOOD.encode(),
    "windows lines": GOOD.replace("\n", "\r\n").encode(),
    "no last line end": GOOD.rstrip("\n").encode(),
    "blank lines": GOOD.replace("\n", "\n\n").encode(),
    "all quoted": "\n".join(
        ",".join(f'"{c}"' for c in line.split(",")) for line in GOOD.splitlines()
    ).encode(),
    "blanks around": GOOD.replace(",", " , ").encode(),
    "floats": with_cell("1.0").encode(),
    "upper case header": with_header(HEADER.upper()).encode(),
    "suffixes": GOOD.replace(",R1", ".png,R1").encode(),
    "full-width header": with_header(HEADER.replace("C", "\uff23")).encode(),
    "zero-width header": with_header(HEADER.replace("Cavity", "Cav\u200bity")).encode(),
    "a row twice": (GOOD + ROWS[3] + "\n").encode(),
    "readers": (GOOD + "train3,R2,0,0,0,0\n").encode(),
}


@pytest.mark.parametrize("name", VALID)
def test_valid_variants_give_the_same_labels(tmp_path, name):
    path = tmp_path / "labels.csv"
    path.write_bytes(VALID[name])
    table = read_label_table(path)
    wanted = np.array([[int(c) for c in row.split(",")[2:]] for row in ROWS], dtype=np.float32)
    np.testing.assert_array_equal(np.concatenate([table.concept_NK, table.target_NT], axis=1), wanted)
    assert [n.casefold() for n in table.concept_names] == ["cavity", "nodule"]
    assert [name.removesuffix(".png") for name in table.image_ids] == [f"train{n}" for n in range(12)]


# boxes


BOXES = [
    ("train3,Cavity,nan,1,2,3", "x_min"),
    ("train3,Cavity,1,NaN,2,3", "y_min"),
    ("train3,Cavity,1,1,inf,3", "x_max"),
    ("train3,Cavity,1,1,2,-inf", "y_max"),
    ("train3,Cavity,1e400,1,2,3", "x_min"),
    ("train3,Cavity,5,1,2,3", "x_max"),
    ("train3,Cavity,1,5,2,3", "y_max"),
    ("train3,Cavity,1,1,1,3", "x_max"),
    ("train3,Cavity,-1,1,2,3", "negative"),
    ("train3,Cavity,1,1,8.5,3", "outside"),
    ("train3,Cavity,1,1,2,900", "outside"),
    ("train3,Cavity,1,1,1e9,3", "outside"),
    ("train3,Cavity,1,1,1e99,1e99", "outside"),
    ("nowhere,Cavity,1,1,2,3", "nowhere"),
    ("test0,Cavity,1,1,2,3", "test0"),
    ("../train3,Cavity,1,1,2,3", "train3"),
    ("train3,,1,1,2,3", "class_name"),
    ("train3,Other,1,1,2,3", "Other"),
    ("train3,COPD,1,1,2,3", "COPD"),
    ("train3,Cavity,1,1,2", "5 cells"),
    ("train3,Cavity,1,1,2,3,4", "7 cells"),
    ("train3,Cavity,one,1,2,3", "one"),
    ("train3,Cavity,,1,2,3", "x_min"),
    ("train3,Cavity,0x1,1,2,3", "0x1"),
    ("train3,Cavity,1_0,1,20,3", "1_0"),
    ("train3,Cavity,=1,1,2,3", "=1"),
    ("train3,Cavity,\u0661,1,2,3", "x_min"),
    ("train3,Cavity,1 2,1,2,3", "1 2"),
    ("train3,Cavity,--1,1,2,3", "--1"),
    ('"train3,Cavity,1,1,2,3', "quote"),
    ("train3,Cavity," + "1" * 5000 + ",1,2,3", "x_min"),
    ("train3,C\u0430vity,1,1,2,3", "class_name"),
    ("train3,Cavity,True,1,2,3", "True"),
    ("train3,Cavity,1;1;2;3,,,", "x_min"),
    ("train3,Cavity,0,0,0,0", "x_max"),
]


@pytest.mark.parametrize("row, expected", BOXES, ids=lambda v: ascii(v)[:40])
def test_a_bad_box_is_named_with_its_line(refused, tmp_path, row, expected):
    path = tmp_path / "boxes.csv"
    path.write_text(f"{BOX_HEADER}\n{row}\n", encoding="utf-8")
    line = refused(str(path), expected, more=("--boxes_csv", str(path)))
    assert "line 2" in line or "class_name (" in line or "unexpected end" in line


BOX_FILES = {
    "empty": b"",
    "header alone": BOX_HEADER.encode() + b"\n",
    "utf-16": f"{BOX_HEADER}\n".encode("utf-16"),
    "no class": b"image_id,x_min,y_min,x_max,y_max\ntrain3,1,1,2,3\n",
    "two x_min": b"image_id,class_name,x_min,x_min,x_max,y_max\ntrain3,Cavity,1,1,2,3\n",
    "labels": GOOD.encode(),
    "noise": random.Random(1).randbytes(3000),
    "semicolons": BOX_HEADER.replace(",", ";").encode(),
}


@pytest.mark.parametrize("name", BOX_FILES)
def test_a_file_that_holds_no_boxes_is_named(refused, tmp_path, name):
    path = tmp_path / "boxes.csv"
    path.write_bytes(BOX_FILES[name])
    refused(str(path), more=("--boxes_csv", str(path)))


def test_valid_boxes_are_read(data, tmp_path):
    table = read_label_table(data / "labels_train.csv")
    path = tmp_path / "boxes.csv"
    path.write_bytes(
        b"\xef\xbb\xbf" + BOX_HEADER.upper().encode() + b"\r\ntrain3.png, cavity ,1e0,+1,2.5,.3e1\r\n"
    )
    assert read_boxes(path, table=table).pixel_R4.tolist() == [[1.0, 1.0, 2.5, 3.0]]


def test_a_million_rows_of_nonsense_end_at_the_first(tmp_path):
    path: Path = tmp_path / "labels.csv"
    path.write_text(HEADER + "\n" + "x,y,z\n" * 1_000_000)
    refuse(lambda: read_label_table(path), f"{path} line 2", within=10.0)
