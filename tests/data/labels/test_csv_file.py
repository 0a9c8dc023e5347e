"""The two parsers of a table's file: pandas for plain blocks, Python's strict reader for all others."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hostile import mutate

from csr.data.labels import csv_blocks, csv_file
from csr.data.labels.boxes import read_boxes
from csr.data.labels.csv_blocks import Block
from csr.data.labels.csv_plain import parse_plain
from csr.data.labels.table import read_label_table
from csr.runtime.errors import InputError

ODD_IDS = [
    "007",
    "1e5",
    "NA",
    "nan",
    "None",
    "True",
    "#N/A",
    "null",
    "-1",
    "0",
    "inf",
    "s/x.png",
    "b\u00e9b\u00e9",
]


@pytest.fixture(params=["by pandas", "without pandas"])
def both_ways(request, monkeypatch):
    """Read as files of many cells are read, and as those of few."""
    monkeypatch.setattr(csv_blocks, "FEW_CELLS", 0 if request.param == "by pandas" else 10**6)


def cells_of(block: Block) -> list[list[str]]:
    return [[column.text(row) for column in block.columns] for row in range(len(block))]


@pytest.mark.parametrize(
    "chunk, lines",
    [
        (b"a,0,1\nbb,,0\n", [5, 6]),
        (b"a,0,1\r\nbb,,0\r\n", [5, 6]),
        (b"a,0,1\nbb,,0", [5, 6]),
        (b"\na,0,1\n\r\n\nbb,,0\n\n", [6, 9]),
        (b' a ,0 , 1\nbb," ",0\n', [5, 6]),
        (b'"a","0",1\n"bb","","0"\n', [5, 6]),
    ],
)
@pytest.mark.usefixtures("both_ways")
def test_a_plain_block_is_parsed_with_all_cells_as_text(chunk, lines):
    block = parse_plain(chunk, width=3, first_line=5)
    assert block is not None and cells_of(block) == [["a", "0", "1"], ["bb", "", "0"]]
    assert block.line_R.tolist() == lines


@pytest.mark.parametrize("text", [*ODD_IDS, "a,b", "1.0", "00", " "])
@pytest.mark.usefixtures("both_ways")
def test_no_text_becomes_a_number_or_a_missing_value(text):
    block = parse_plain(f'"{text}",0,{"1.50"}\nxx,1,NA\n'.encode(), width=3, first_line=2)
    assert block is not None and cells_of(block) == [[text.strip(), "0", "1.50"], ["xx", "1", "NA"]]


@pytest.mark.parametrize(
    "chunk",
    [
        b"a,0\nb,0,1\n",
        b"a,0\nb,0,1,1\n",  # as many commas as two rows need
        b"a,0,1,1\nb,0\n",
        b"a,0,1\n  \n",
        b"a\0,0,1\n",
        b"a,0,1\rb,0,1\n",
        b"a,0,\xe9\n",
        b"\xef\xbb\xbfa,0,1\n",
        b'a,0,"1\n',
        b'"a\nb",0,1\n',
        b'"a""b",0,1\n',
        b'"a"b,0,1\n',
        b'a"b",0,1\n',
        b'a, "0",1\n',
        b'"a,0,1\nb,0",1,1\n',
        b"a" * 140_000 + b",0,1\n",
        b"a,0,1\n" * 2 + b"a,0," + b"1" * 2**20 + b"\n",
        b"\n\r\n",
    ],
    ids=lambda chunk: repr(chunk[:24]),
)
def test_what_is_not_plain_is_left_to_the_strict_reader(chunk):
    assert parse_plain(chunk, width=3, first_line=1) is None


def test_the_first_error_of_the_file_is_reported_whichever_parser_meets_it(read, monkeypatch):
    monkeypatch.setattr(csv_file, "BLOCK_BYTES", 16)
    head = "image_id,rad_id,M,COPD\n"
    good = "".join(f"im{n},R1,0,1\n" for n in range(9))
    for rows, line in (
        ("a,R1,2,0\nb,R1,1\n", "line 11, column 'M'"),
        ("b,R1,1\na,R1,2,0\n", "line 11: 3 cells"),
        ('"a\nc",R1,1,1\nb,R1,1\n', "line 11: image_id"),
        ("a,R1,1,x\n../b,R1,1,1\n", "line 11, column 'COPD'"),
        ("../b,R1,1,x\n", "line 11: image_id"),
        (' "a",R1,1,1\nim3.png,R1,1,1\n', "lines 5 and 12"),
    ):
        with pytest.raises(InputError, match=line):
            read(head + good + rows)


def test_lines_are_counted_across_blocks_of_both_parsers(read, monkeypatch):
    monkeypatch.setattr(csv_file, "BLOCK_BYTES", 24)
    rows = """a,0,1\n\nb,0,1\r\n  \n'c',0,1\nd, "0",1\ne,1,"1"\nf,0,1"""
    assert read("image_id,M,COPD\n" + rows).row_numbers == (2, 4, 6, 7, 8, 9)


def outcome(call: Callable[[], object]) -> str:
    try:
        return repr(call())
    except InputError as error:
        return str(error)


def read_all(path: Path) -> object:
    table = read_label_table(path)
    labels = np.concatenate([table.concept_NK, table.target_NT], axis=1)
    return (
        table.image_ids,
        table.row_numbers,
        table.patient_ids,
        table.num_readers_N.tolist(),
        labels.tolist(),
    )


def random_labels(draw: random.Random) -> bytes:
    """Return a label table, mostly valid, with quotes, blanks and blank lines of several kinds."""
    quote = draw.choice(["", "", '"'])
    lines = ["image_id,rad_id,patient_id,Mass,Edema,COPD"]
    ids = [*ODD_IDS, *(f"im{n}" for n in range(10))]
    for n in range(draw.randrange(1, 40)):
        cells = [ids[n % len(ids)], f"R{n // len(ids)}", "p1", *draw.choices(["0", "1", "", "1.0"], k=3)]
        lines.append(",".join(f"{quote}{cell}{quote}" for cell in cells))
    for _ in range(draw.choice([0, 0, 1, 3])):
        place = draw.randrange(len(lines))
        old, new = draw.choice(
            [(",", " , "), ("im", '"im'), ("R0", '"R0"'), ("1.0", "7"), (",", ""), ("p1", "p2")]
        )
        lines[place] = lines[place].replace(old, new, 1)
    lines.insert(draw.randrange(1, len(lines) + 1), draw.choice(["", " ", lines[-1]]))
    return draw.choice(["\n", "\r\n"]).join(lines).encode()


def random_boxes(draw: random.Random) -> bytes:
    lines = ["image_id,class_name,x_min,y_min,x_max,y_max"]
    for n in range(draw.randrange(1, 30)):
        low = draw.uniform(0, 9)
        box = draw.choice([f"{low},1,{low + 1:.3f},2e1", ",,,", "1,1,+2,2.", "0,0,1,1"])
        lines.append(f"im{n % 4},{draw.choice(['Mass', 'edema', 'Other'])},{box}")
    if draw.random() < 0.5:
        place = draw.randrange(len(lines))
        old, new = draw.choice([("1,", "nan,"), ("1,", '"1",'), ("im", "zz"), ("edema", ""), (",", ",-")])
        lines[place] = lines[place].replace(old, new, 1)
    return "\n".join(lines).encode()


@pytest.mark.parametrize("seed", range(40))
def test_both_parsers_give_the_same_table_or_the_same_error(tmp_path, monkeypatch, seed):
    labels = tmp_path / "labels.csv"
    labels.write_text("image_id,Mass,Edema,COPD\n" + "".join(f"im{n},0,1,0\n" for n in range(4)))
    table = read_label_table(labels)
    path = tmp_path / "t.csv"
    for number in range(12):
        draw = random.Random(1000 * seed + number)
        make, call = draw.choice(
            [(random_labels, read_all), (random_boxes, lambda p: read_boxes(p, table=table).__dict__)]
        )
        content = make(draw)
        path.write_bytes(mutate(content, number) if draw.random() < 0.3 else content)
        monkeypatch.setattr(csv_file, "BLOCK_BYTES", draw.choice([50, 400, 2**20]))
        monkeypatch.setattr(csv_file, "parse_plain", parse_plain)
        monkeypatch.setattr(csv_blocks, "FEW_CELLS", 10**6)
        without_pandas = outcome(lambda: call(path))
        monkeypatch.setattr(csv_blocks, "FEW_CELLS", 0)
        by_pandas = outcome(lambda: call(path))
        monkeypatch.setattr(csv_file, "parse_plain", lambda chunk, **_: None)
        assert outcome(lambda: call(path)) == by_pandas == without_pandas, path.read_bytes()


def test_first_rows_are_those_of_new_values_in_ascending_order(both_ways):
    assert csv_blocks.first_rows(np.array([7, 3, 7, 1, 3, 9])).tolist() == [0, 1, 3, 5]


READ = """
import sys
from csr.data.labels.table import read_label_table
print(read_label_table(sys.argv[1]).image_ids, "pandas" in sys.modules)
"""


@pytest.mark.parametrize("content", ["im0,0,1,0\nim1,1,0,1\n", '"im0",0, 1,0\nim1,1,0,1\n'])
def test_a_small_table_is_read_without_pandas(tmp_path, content):
    path = tmp_path / "labels.csv"
    path.write_text(f"image_id,Mass,Edema,COPD\n{content}")
    done = subprocess.run([sys.executable, "-c", READ, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout == "('im0', 'im1') False\n"
