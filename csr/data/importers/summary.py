"""The result of an import: counts for the user, and the commands that come next."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from pathlib import Path

from csr.data.labels.boxes import read_boxes
from csr.data.labels.csv_file import read_rows
from csr.data.labels.table import (
    LabelTable,
    check_disjoint,
    count_positives,
    read_label_table,
    shared_patients,
)

SPLITS = ("train", "test")


@dataclass
class Imported:
    """The result of one importer.

    Attributes:
        origin: dataset, source and citation, for the model's card.
        folders: image folder by split.
        target_cols: to name in `csr train`; None: its defaults fit.
        reader_merge: to name in `csr train`; None: its default fits.
        links_into: to name in `csr train`: folders that links among the images lead into.
        notices: lines about the data that a user should know.
    """

    origin: dict[str, str]
    folders: dict[str, Path] = field(default_factory=dict)
    target_cols: tuple[str, ...] | None = None
    reader_merge: str | None = None
    links_into: tuple[str, ...] = ()
    notices: list[str] = field(default_factory=list)


def summary(imported: Imported, out: Path) -> list[str]:
    """Return lines for the user: counts of the tables, read back by csr's own reader, and the next commands.

    Raises:
        InputError: csr cannot read what was written.
    """
    columns, merge = imported.target_cols, imported.reader_merge or "any"
    train = read_label_table(out / "labels_train.csv", target_cols=columns, reader_merge=merge)
    test = read_label_table(
        out / "labels_test.csv", target_cols=columns, reader_merge=merge, vocabulary=train
    )
    tables = {"train": train, "test": test}
    check_disjoint(train, tables["test"])
    lines = [f"{imported.origin['dataset']}: {out}"]
    num_boxes = {}
    for split, table in tables.items():
        boxes = num_boxes[split] = _count_boxes(out / f"boxes_{split}.csv", table)
        mean = table.num_readers_N.mean()
        readers = f", {mean:.2g} readers each" if mean > 1 else ""
        patients = "" if table.patient_ids is None else f" of {len(set(table.patient_ids))} patients"
        lines.append(
            f"{split}: {len(table)} images{patients}{readers}, {boxes} boxes, images in "
            f"{imported.folders[split]}"
        )
    lines += _label_lines(tables)
    rare = [n for n, count in zip(train.concept_names, count_positives(train.concept_NK)) if not count]
    lines += [f"Notice: {line}" for line in imported.notices]
    if shared := shared_patients(train, tables["test"]):
        lines.append(
            f"Notice: {len(shared)} patients have training and test images: test numbers are too good"
        )
    return [
        *lines,
        "",
        *_commands(imported, out, drop_rare=bool(rare), train_boxes=bool(num_boxes["train"])),
    ]


def _count_boxes(path: Path, table: LabelTable) -> int:
    if not path.is_file() or sum(1 for _ in read_rows(path)) < 2:
        return 0
    return len(read_boxes(path, table=table))


def _label_lines(tables: dict[str, LabelTable]) -> list[str]:
    train, test = tables["train"], tables["test"]
    names = (*train.concept_names, *train.target_names)
    width = max(map(len, names)) + 2
    counts = [
        [*count_positives(t.concept_NK).tolist(), *count_positives(t.target_NT).tolist()]
        for t in (train, test)
    ]
    lines = [f"{'images with':<{width}} {'train':>7} {'test':>7}"]
    lines += [f"{name:<{width}} {a:>7} {b:>7}" for name, a, b in zip(names, *counts, strict=True)]
    return lines


def _commands(imported: Imported, out: Path, *, drop_rare: bool, train_boxes: bool) -> list[str]:
    columns = ["--target_cols", *imported.target_cols] if imported.target_cols else []
    if imported.reader_merge:
        columns += ["--reader_merge", imported.reader_merge]
    if imported.links_into:
        columns += ["--links_into", *imported.links_into]
    check = [
        "csr",
        "data",
        "check",
        str(out / "labels_train.csv"),
        str(imported.folders["train"]),
        "--test_csv",
        str(out / "labels_test.csv"),
        "--test_dir",
        str(imported.folders["test"]),
        *(["--boxes_csv", str(out / "boxes_train.csv")] if train_boxes else []),
        *columns,
    ]
    train = [
        "csr",
        "train",
        "--recipe",
        "paper",
        "--train_csv",
        str(out / "labels_train.csv"),
        "--train_dir",
        str(imported.folders["train"]),
        "--test_csv",
        str(out / "labels_test.csv"),
        "--test_dir",
        str(imported.folders["test"]),
        *columns,
        *(["--drop_rare", "1"] if drop_rare else []),
    ]
    return ["Look at the data:", f"  {shlex.join(check)}", "Train on it:", f"  {shlex.join(train)}"]
