"""Reader agreement against scikit-learn, a published example and a slow loop."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from csr.data.check.reader_agreement import agreement, cohen_kappa, fleiss_kappa, read_reads
from csr.data.labels.table import read_label_table

Rows = list[tuple[str, str, tuple[str, ...]]]
LABELS = ("Opacity", "Nodule", "Pneumonia")


def write(path: Path, rows: Rows) -> Path:
    lines = [f"image_id,rad_id,{','.join(LABELS)}", *(f"{i},{r},{','.join(cells)}" for i, r, cells in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


def random_rows(seed: int, *, readers: int, images: int, missing: float = 0.0) -> Rows:
    """Return rows of readers in random order, who see the truth with errors; two or more read each image."""
    rng = np.random.default_rng(seed)
    rows = []
    for image in range(images):
        truth = rng.random(len(LABELS)) < 0.4
        for reader in rng.permutation(readers)[: rng.integers(2, readers + 1)]:
            cells = np.where(truth ^ (rng.random(len(LABELS)) < 0.2), "1", "0")
            cells = np.where(rng.random(len(LABELS)) < missing, "", cells)
            rows.append((f"i{image}", f"R{reader}", tuple(cells.tolist())))
    return [rows[i] for i in rng.permutation(len(rows))]


def agreed(path: Path):
    reads = read_reads(read_label_table(path))
    assert reads is not None
    return agreement(reads)


@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_cohens_kappa_is_the_mean_of_scikit_learns_over_pairs_of_readers(tmp_path, missing):
    rows = random_rows(1, readers=4, images=60, missing=missing)
    found = agreed(write(tmp_path / "a.csv", rows))
    assert found["readers"] == 4 and found["images"] == 60
    for place, name in enumerate(LABELS):
        value_of = {(image, reader): cells[place] for image, reader, cells in rows}
        kappas = []
        for a, b in itertools.combinations([f"R{i}" for i in range(4)], 2):
            both = [i for i in {r[0] for r in rows} if value_of.get((i, a), "") and value_of.get((i, b), "")]
            kappas.append(cohen_kappa_score([value_of[i, a] for i in both], [value_of[i, b] for i in both]))
        assert found["labels"][name]["cohen"] == pytest.approx(np.mean(kappas), abs=1e-12)
        assert found["labels"][name]["pairs"] == 6
    assert found["mean"]["cohen"] == pytest.approx(np.mean([found["labels"][n]["cohen"] for n in LABELS]))


@pytest.mark.parametrize(
    "count", [[[20, 5], [10, 15]], [[45, 15], [25, 15]], [[0, 7], [3, 0]], [[4, 0], [0, 9]]]
)
def test_cohens_kappa_of_a_table_is_scikit_learns(count):
    pairs = [(a, b) for a in (0, 1) for b in (0, 1) for _ in range(count[a][b])]
    wanted = cohen_kappa_score(*zip(*pairs, strict=True))
    assert cohen_kappa(np.asarray(count)) == pytest.approx(wanted, abs=1e-12)


def test_kappa_does_not_exist_where_all_reads_are_the_same():
    assert cohen_kappa(np.asarray([[9, 0], [0, 0]])) is None and cohen_kappa(np.zeros((2, 2), int)) is None
    assert fleiss_kappa(np.asarray([[3, 0], [3, 0]])) is None


def test_fleiss_kappa_of_the_textbook_example():
    """Fleiss (1971) as in https://en.wikipedia.org/wiki/Fleiss%27_kappa: 10 subjects, 14 raters, 0.210."""
    counts = np.asarray(
        [
            [0, 0, 0, 0, 14],
            [0, 2, 6, 4, 2],
            [0, 0, 3, 5, 6],
            [0, 3, 9, 2, 0],
            [2, 2, 8, 1, 1],
            [7, 7, 0, 0, 0],
            [3, 2, 6, 3, 0],
            [2, 5, 3, 2, 2],
            [6, 5, 2, 1, 0],
            [0, 2, 2, 3, 7],
        ]
    )
    assert fleiss_kappa(counts) == pytest.approx(0.20993, abs=1e-5)


def test_fleiss_kappa_takes_the_images_with_the_usual_number_of_reads(tmp_path):
    rows = random_rows(2, readers=5, images=80)
    found = agreed(write(tmp_path / "a.csv", rows))
    reads = {i: [r for r in rows if r[0] == i] for i in {r[0] for r in rows}}
    numbers = [len(r) for r in reads.values() if len(r) >= 3]
    usual = max(sorted(set(numbers)), key=numbers.count)
    for place, name in enumerate(LABELS):
        votes = [[int(cells[place]) for _, _, cells in r] for r in reads.values() if len(r) == usual]
        same = [sum(a == b for a, b in itertools.permutations(v, 2)) / (usual * (usual - 1)) for v in votes]
        share = np.mean(votes)
        chance = share**2 + (1 - share) ** 2
        assert found["labels"][name]["fleiss"] == pytest.approx((np.mean(same) - chance) / (1 - chance))
        assert found["labels"][name]["fleiss_images"] == len(votes)


def test_fleiss_needs_three_readers(tmp_path):
    found = agreed(write(tmp_path / "a.csv", random_rows(3, readers=2, images=20)))
    assert found["labels"]["Nodule"]["fleiss"] is None and found["labels"]["Nodule"]["cohen"] is not None


def test_without_readers_or_with_one_each_there_is_nothing_to_agree_on(tmp_path):
    path = write(tmp_path / "a.csv", [("a", "R1", ("1", "0", "1")), ("b", "R2", ("0", "1", "0"))])
    assert agreed(path) is None
    path.write_text("image_id,Opacity,Pneumonia\na,1,0\n")
    assert read_reads(read_label_table(path)) is None


def test_a_row_written_twice_counts_once(tmp_path):
    rows = random_rows(4, readers=3, images=30)
    once, twice = agreed(write(tmp_path / "a.csv", rows)), agreed(write(tmp_path / "b.csv", rows + rows[:20]))
    assert once == twice


def test_the_rows_of_an_average_are_not_reads(tmp_path):
    """A labeler's 2 of 3 on some images beside readers on others: as if only the readers were there."""
    rows = random_rows(5, readers=3, images=30)
    average = [
        (f"i{image}", f"labeler (average {number} of 3)", ("1" if number < 3 else "0", "1", ""))
        for image in (0, 40, 41)
        for number in (1, 2, 3)
    ]
    alone, beside = write(tmp_path / "a.csv", rows), write(tmp_path / "b.csv", average + rows)
    assert agreed(beside) == agreed(alone)
    table = read_label_table(beside, reader_merge="soft")
    reads = read_reads(table)
    assert reads is not None and reads.averages == 3
    readers = dict(zip(table.image_ids, table.num_readers_N.tolist(), strict=True))
    assert readers["i40"] == 1 and readers["i0"] == 1 + sum(row[0] == "i0" for row in rows)
    at = table.image_ids.index("i40")
    np.testing.assert_allclose(table.concept_NK[at], [2 / 3, 1])
    assert agreed(write(tmp_path / "c.csv", average)) is None
