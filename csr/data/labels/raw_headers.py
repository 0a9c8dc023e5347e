"""Headers of published data sets that `csr data NAME` turns into label tables."""

from __future__ import annotations

from collections.abc import Sequence

from csr.data.labels.names import name_key

# columns that together no other table has, by importer and name of the data set
_COLUMNS = {
    ("chexpert", "CheXpert"): ({"path", "frontal/lateral", "ap/pa"},),
    ("mimic", "MIMIC-CXR-JPG"): (
        {"subject_id", "study_id", "pleural other", "support devices"},
        {"dicom_id", "study_id", "subject_id", "split"},
        {"dicom_id", "study_id", "subject_id", "viewposition"},
    ),
    ("nih", "NIH ChestX-ray14"): ({"image index", "finding labels"}, {"image index", "finding label"}),
    ("padchest", "PadChest"): ({"imageid", "imagedir", "methodlabel", "labels"},),
}


def raw_header_hint(cells: Sequence[str]) -> str | None:
    """Return what to do with a table that is one of a data set as published; None for any other header.

    Args:
        cells: the header, as read.
    """
    keys = {name_key(cell) for cell in cells}
    for (command, dataset), tables in _COLUMNS.items():
        if any(columns <= keys for columns in tables):
            return (
                f"this is a table of {dataset} as published; csr data {command} RAW OUT turns the folder RAW "
                "of the data set into tables that csr reads"
            )
    return None
