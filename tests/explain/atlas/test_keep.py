"""keep.csv: every form that a person may give it is read as meant, or refused in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from refined_models import ALL, dropping, every_row, keep_file
from tiny_model import CONCEPTS, K, M

from csr.explain.atlas.keep import read_keep, write_keep
from csr.runtime.errors import InputError

VECTORS = np.array([[f"v{k}{m}" for m in range(M)] for k in range(K)])


def read(path: Path, *, kept_KM: np.ndarray, names: tuple[str, ...] = CONCEPTS, say=print) -> np.ndarray:
    return read_keep(path, concept_names=names, kept_KM=kept_KM, vector_KM=VECTORS, say=say)


def test_what_a_doctor_rejects_is_read_in_any_order_and_with_other_columns(tmp_path):
    rows = [f"x,{row}" for row in every_row((0, 1), (2, 3))]
    path = keep_file(tmp_path / "k.csv", *reversed(rows), header="reader,concept,prototype,keep,note")
    keep = read(path, kept_KM=ALL)
    assert np.argwhere(~keep).tolist() == [[0, 1], [2, 3]]


def test_a_concept_may_lose_all_its_prototypes_and_old_files_fit_refined_models(tmp_path):
    gone = [(1, m) for m in range(M)]
    path = keep_file(tmp_path / "k.csv", *every_row(*gone))
    assert not read(path, kept_KM=ALL)[1].any()
    assert not read(path, kept_KM=~dropping(*gone).numpy())[1].any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[1:], "1 prototype.s. have no row .'Cavity' 0."),
        (lambda rows: [*rows, rows[3]], "line 14: prototype 3 of 'Cavity' is in line 5 too"),
        (lambda rows: [*rows, "Fever,0,1,"], "line 14: no concept 'Fever'"),
        (lambda rows: ["Cavity,4,1,", *rows], "line 2, column prototype: '4'.*prototypes 0 to 3"),
        (lambda rows: ["Cavity,-1,1,", *rows], "column prototype: '-1'"),
        (lambda rows: ["Cavity,1.0,1,", *rows], "column prototype"),
        (lambda rows: ["Cavity,0,yes,", *rows[1:]], "line 2, column keep: 'yes': write 1 .keep. or 0"),
        (lambda rows: ["Cavity,0,,", *rows[1:]], "column keep: ''"),
        (lambda rows: ["Cavity,0,1.0,", *rows[1:]], "column keep: '1.0'"),
        (lambda rows: ["Cavity,0,1", *rows[1:]], "line 2: 3 cells"),
        (lambda rows: rows[:-1] + [rows[-1].upper()], "line 13: no concept"),
        (lambda rows: [row.replace("Cavity,1,1", "Cavity,1,0") for row in rows], None),
    ],
)
def test_a_keep_csv_that_is_not_clear_is_refused_in_one_line(tmp_path, change, message):
    path = keep_file(tmp_path / "keep.csv", *change(every_row()))
    if message is None:
        assert not read(path, kept_KM=ALL)[0, 1]
        return
    with pytest.raises(InputError, match=message) as error:
        read(path, kept_KM=ALL)
    assert "keep.csv" in str(error.value) and "\n" not in str(error.value)


def test_other_files_and_prototypes_that_are_gone_are_refused(tmp_path):
    with pytest.raises(InputError, match="dropped before"):
        read(keep_file(tmp_path / "a.csv", *every_row()), kept_KM=~dropping((0, 0)).numpy())
    with pytest.raises(InputError, match="no column 'keep'"):
        read(keep_file(tmp_path / "b.csv", "Cavity,0", header="concept,prototype"), kept_KM=ALL)
    all_rejected = every_row(*np.ndindex(K, M))
    with pytest.raises(InputError, match="rejects every prototype"):
        read(keep_file(tmp_path / "c.csv", *all_rejected), kept_KM=ALL)
    with pytest.raises(InputError, match="cannot be read"):
        read(tmp_path / "gone.csv", kept_KM=ALL)


def test_what_an_atlas_writes_is_read_back_whatever_the_names(tmp_path):
    names = ('a "quoted", name', "<b>x</b>", "=cmd")
    record = {
        "wins": 3,
        "alive": True,
        "weights": {"T": {"weight": 0.5}},
        "top_target": "T",
        "hints": ["x, y"],
    }
    concepts = [
        {
            "name": name,
            "prototypes": [
                {"prototype": m, "vector": VECTORS[k, m], **record} for m in range(M) if (k, m) != (0, 2)
            ],
        }
        for k, name in enumerate(names)
    ]
    (tmp_path / "keep.csv").write_text(write_keep({"concepts": concepts}))
    kept = ~dropping((0, 2)).numpy()
    notices: list[str] = []
    assert (
        read(tmp_path / "keep.csv", kept_KM=kept, names=names, say=notices.append) == kept
    ).all() and not notices


def test_a_file_of_another_model_is_refused_and_one_without_vectors_is_read_with_a_notice(tmp_path):
    def rows(change: dict[tuple[int, int], str], *rejected: tuple[int, int]) -> Path:
        cells = [
            f"{row}{change.get(place, VECTORS[place])}"
            for place, row in zip(np.ndindex(K, M), every_row(*rejected), strict=True)
        ]
        return keep_file(tmp_path / "keep.csv", *cells, header="concept,prototype,keep,vector")

    notices: list[str] = []
    assert read(rows({}), kept_KM=ALL, say=notices.append).all() and not notices
    path = rows({(1, 2): "v99", (2, 0): "v98"}, (1, 2), (2, 0))
    with pytest.raises(
        InputError, match="keep.csv: belongs to another model.*'Nodule/Mass' 2; .*' 0.: run"
    ) as error:
        read(path, kept_KM=ALL)
    assert "\n" not in str(error.value)
    kept = ~dropping((1, 2), (2, 0)).numpy()
    assert (read(path, kept_KM=kept, say=notices.append) == kept).all() and not notices, (
        "dropped ones are not compared"
    )
    assert read(rows({(0, 1): ""}), kept_KM=ALL, say=notices.append).all()
    assert read(keep_file(tmp_path / "keep.csv", *every_row()), kept_KM=ALL, say=notices.append).all()
    assert [line.split(": ")[2].split()[0] for line in notices] == ["1", "12"]
    assert all(line.startswith("Notice: ") for line in notices)
