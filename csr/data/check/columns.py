"""What the columns of a label table were taken for, its empty cells, and its groups (patients).

Letters: N images, L labels.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from csr.data.labels.csv_file import read_rows
from csr.data.labels.csv_header import read_header
from csr.data.labels.names import name_key, show, show_some
from csr.data.labels.table import LabelTable

ROLES = ("image", "reader", "group", "concept", "target", "ignored")
LARGE_GROUP = 0.1  # of the images: the validation split takes whole groups


def column_roles(table: LabelTable, *, group_col: str | None) -> dict[str, list[str]]:
    """Return the columns of the file by what they were taken for (`ROLES`), in the order of the file.

    Args:
        table: as read.
        group_col: as given by the user; None: `patient_id`.

    Raises:
        InputError: the file has changed and cannot be read.
    """
    header = read_header(read_rows(table.path), table.path, required=("image_id",))
    special = {"image_id": "image", "rad_id": "reader"}
    if table.patient_ids is not None:
        special[name_key(group_col or "patient_id")] = "group"
    labels = {name_key(name): "concept" for name in table.concept_names}
    labels |= {name_key(name): "target" for name in table.target_names}
    roles: dict[str, list[str]] = {role: [] for role in ROLES}
    for name in header:
        key = name_key(name)
        roles[special.get(key) or labels.get(key) or "ignored"].append(name)
    return roles


def empty_cells(table: LabelTable) -> dict[str, Any]:
    """Return how many labels of images are not annotated after readers are merged, and in which columns."""
    names = [*table.concept_names, *table.target_names]
    empty_L = np.concatenate([np.isnan(part).sum(axis=0) for part in (table.concept_NK, table.target_NT)])
    by_label = {name: int(count) for name, count in zip(names, empty_L.tolist(), strict=True) if count}
    return {"empty": int(empty_L.sum()), "of": len(names) * len(table), "by_label": by_label}


def group_facts(table: LabelTable) -> dict[str, Any] | None:
    """Return the number of groups, the images of the largest one, and images of none; None without groups."""
    if table.patient_ids is None:
        return None
    sizes = Counter(table.patient_ids)
    unknown = sizes.pop("", 0)
    largest = max(sizes, key=lambda name: sizes[name], default="")
    return {
        "groups": len(sizes),
        "several": sum(count > 1 for count in sizes.values()),
        "largest": largest,
        "largest_images": sizes.get(largest, 0),
        "unknown": unknown,
    }


def group_warnings(name: str, groups: dict[str, Any] | None, num_images: int) -> list[str]:
    """Return lines on groups that keep little apart.

    Args:
        name: of the split.
        groups: of `group_facts`.
        num_images: N.
    """
    if groups is None:
        return []
    lines = []
    if groups["unknown"]:
        lines.append(
            f"{groups['unknown']} of {num_images} {name} images have no patient: each counts as a patient of "
            "its own, and two of one person may be on both sides of the validation split"
        )
    if groups["groups"] > 1 and not groups["several"] and not groups["unknown"]:
        lines.append(
            f"every {name} image has a patient of its own: the column keeps no images together; if it "
            "numbers images, name the patients' column with --group_col"
        )
    if num_images > 10 and groups["largest_images"] > LARGE_GROUP * num_images:
        lines.append(
            f"{groups['largest_images']} of {num_images} {name} images are of patient "
            f"{show(groups['largest'])}: is that a placeholder for unknown patients? leave such cells empty"
        )
    return lines


def no_group_warnings(splits: dict[str, dict[str, Any]]) -> list[str]:
    """Return a line where patients could not be checked, because a table has no column of them.

    Args:
        splits: facts by name.
    """
    without = [split["csv"] for split in splits.values() if split["groups"] is None]
    if not without:
        return []
    have = "has" if len(without) == 1 else "have"
    both = "or in both tables " if len(splits) > 1 else ""
    return [
        f"patients could not be checked: {' and '.join(without)} {have} no column of them; images of one "
        f"person may be on both sides of the validation split {both}and make scores too good (name the "
        "column with --group_col)"
    ]


def column_lines(roles: dict[str, list[str]]) -> list[str]:
    """Return what the columns were taken for, a line for each use."""
    nouns = {"concept": "concepts", "target": "diagnoses"}
    return [
        f"  {nouns.get(role, role)}{f' ({len(names)})' if len(names) > 1 else ''}: "
        f"{show_some([show(name) for name in names], limit=12)}"
        for role, names in roles.items()
        if names
    ]
