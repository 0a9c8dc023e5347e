"""Small sets of chest radiographs in the published formats of CheXpert, MIMIC-CXR-JPG, NIH and PadChest."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from raw_sets import noise, write_csv, write_text

CHEXPERT_COLUMNS = (
    "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity,"
    "Lung Lesion,Edema,Consolidation,Pneumonia,Atelectasis,Pneumothorax,Pleural Effusion,Pleural Other,"
    "Fracture,Support Devices"
).split(",")
MIMIC_COLUMNS = (
    "subject_id,study_id,Atelectasis,Cardiomegaly,Consolidation,Edema,Enlarged Cardiomediastinum,Fracture,"
    "Lung Lesion,Lung Opacity,No Finding,Pleural Effusion,Pleural Other,Pneumonia,Pneumothorax,"
    "Support Devices"
).split(",")
NIH_HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],\n"
)
NIH_BOX_HEADER = "Image Index,Finding Label,Bbox [x,y,w,h],,,\n"
PADCHEST_COLUMNS = (
    ",ImageID,ImageDir,StudyDate_DICOM,StudyID,PatientID,Projection,MethodProjection,Report,MethodLabel,"
    "Labels,Localizations"
).split(",")
PADCHEST_TABLE = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv"


def write_image(path: Path, seed: int, *, size: tuple[int, int] = (40, 48)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(seed, *size)).save(path)


def chexpert_row(path: str, view: str, **cells: str) -> list[str]:
    """Return a row with blanks but for the named cells; `No_Finding` names 'No Finding'."""
    named = {name.replace("_", " "): text for name, text in cells.items()}
    given = {"Path": path, "Sex": "Male", "Age": "68", "Frontal/Lateral": view, **named}
    if view == "Frontal":
        given["AP/PA"] = "AP"
    return [given.get(name, "") for name in CHEXPERT_COLUMNS]


def chexpert(folder: Path, *, prefix: str = "CheXpert-v1.0-small") -> Path:
    """Write five training rows of three patients and three validation rows; return the folder of tables."""
    ones, minus = "1.0", "-1.0"
    train = [
        chexpert_row(f"{prefix}/train/patient00001/study1/view1_frontal.jpg", "Frontal", No_Finding=ones),
        chexpert_row(
            f"{prefix}/train/patient00002/study2/view1_frontal.jpg",
            "Frontal",
            Edema=minus,
            Pneumonia=minus,
            Cardiomegaly=ones,
        ),
        chexpert_row(f"{prefix}/train/patient00002/study2/view2_lateral.jpg", "Lateral", Edema=ones),
        chexpert_row(
            f"{prefix}/train/patient00002/study1/view1_frontal.jpg", "Frontal", Edema="0.0", Fracture=ones
        ),
        chexpert_row(f"{prefix}/train/patient00003/study1/view1_frontal.jpg", "Frontal", Pneumonia=ones),
    ]
    valid = [
        chexpert_row(f"{prefix}/valid/patient64541/study1/view1_frontal.jpg", "Frontal", No_Finding=ones),
        chexpert_row(f"{prefix}/valid/patient64542/study1/view1_frontal.jpg", "Frontal", Edema=ones),
        chexpert_row(f"{prefix}/valid/patient64542/study1/view2_lateral.jpg", "Lateral", Edema=ones),
    ]
    for name, rows in (("train.csv", train), ("valid.csv", valid)):
        write_csv(folder / name, CHEXPERT_COLUMNS, rows)
        for number, row in enumerate(rows):
            write_image(folder / row[0].removeprefix(f"{prefix}/"), number + 50 * (name == "valid.csv"))
    return folder


MIMIC_IMAGES = (
    # dicom_id, subject_id, study_id, view, part
    ("02aa804e-bde0afdd", "10000032", "50414267", "PA", "train"),
    ("174413ec-4ec4c1f7", "10000032", "50414267", "LATERAL", "train"),
    ("2a2277a9-b0ded155", "10000764", "57375967", "AP", "train"),
    ("68b5c4b1-227d0485", "11000898", "50771383", "PA", "validate"),
    ("ea030e7a-2e3b1346", "12000935", "51178377", "AP", "test"),
    ("096052b7-d256dc40", "12000935", "51178377", "", "test"),
    ("8959e402-2175d68d", "12000980", "58206436", "PA", "test"),
)
MIMIC_LABELS = {
    ("10000032", "50414267"): {"No Finding": "1.0"},
    ("10000764", "57375967"): {"Consolidation": "1.0", "Pneumonia": "-1.0", "Edema": "0.0"},
    ("11000898", "50771383"): {"Atelectasis": "1.0"},
    ("12000935", "51178377"): {"Consolidation": "-1.0", "Pneumonia": "1.0"},
}  # the last study has no row, as eight of the published ones


def mimic(folder: Path, *, packed: bool = True) -> Path:
    metadata = [
        (dicom, patient, study, "CHEST (PA AND LAT)", view) for dicom, patient, study, view, _ in MIMIC_IMAGES
    ]
    tables = {
        "chexpert": (
            MIMIC_COLUMNS,
            [[*key, *(cells.get(n, "") for n in MIMIC_COLUMNS[2:])] for key, cells in MIMIC_LABELS.items()],
        ),
        "split": (
            ("dicom_id", "study_id", "subject_id", "split"),
            [(dicom, study, patient, part) for dicom, patient, study, _, part in MIMIC_IMAGES],
        ),
        "metadata": (
            ("dicom_id", "subject_id", "study_id", "PerformedProcedureStepDescription", "ViewPosition"),
            metadata,
        ),
    }
    for name, (columns, rows) in tables.items():
        write_table(folder / f"mimic-cxr-2.0.0-{name}.csv", columns, rows, packed=packed)
    for number, (dicom, patient, study, *_) in enumerate(MIMIC_IMAGES):
        write_image(
            folder / "files" / f"p{patient[:2]}" / f"p{patient}" / f"s{study}" / f"{dicom}.jpg", number
        )
    return folder


def write_table(path: Path, columns: Sequence[str], rows: Sequence[Sequence[str]], *, packed: bool) -> None:
    """Write a CSV, or one packed with gzip beside that name."""
    if not packed:
        write_csv(path, columns, rows)
        return
    text = io.StringIO()
    csv.writer(text).writerows([columns, *rows])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(text.getvalue().encode()))


NIH_ROWS = (
    # image, labels, patient, folder, split
    ("00000001_000", "Cardiomegaly|Emphysema", "1", "images_001", "train_val"),
    ("00000001_001", "No Finding", "1", "images_001", "train_val"),
    ("00000002_000", "Infiltration|Pneumonia", "2", "images_002", "train_val"),
    ("00000003_000", "Infiltration", "3", "images_002", "test"),
    ("00000004_000", "Cardiomegaly|Pneumonia", "4", "images_012", "test"),
)
NIH_BOXES = (
    ("00000003_000", "Infiltrate", "100.5", "200.25", "300", "400.5"),
    ("00000004_000", "Cardiomegaly", "0", "512", "1024", "256"),
    ("00000004_000", "Pneumonia", "1", "2", "3", "4"),
)


def nih(folder: Path, *, px: int = 64) -> Path:
    rows = "".join(
        f"{image}.png,{labels},0,{patient},058,M,PA,2682,2749,0.143,0.143,\n"
        for image, labels, patient, _, _ in NIH_ROWS
    )
    write_text(folder / "Data_Entry_2017.csv", NIH_HEADER + rows)
    boxes = "".join(f"{image}.png,{','.join(cells)},,,\n" for image, *cells in NIH_BOXES)
    write_text(folder / "BBox_List_2017.csv", NIH_BOX_HEADER + boxes)
    for split in ("train_val", "test"):
        names = [f"{image}.png\n" for image, *_, own in NIH_ROWS if own == split]
        write_text(folder / f"{split}_list.txt", "".join(names))
    for number, (image, _, _, place, _) in enumerate(NIH_ROWS):
        write_image(folder / place / "images" / f"{image}.png", number, size=(px, px))
    return folder


PADCHEST_ROWS = (
    # image, archive, patient, projection, method, labels
    ("a1", "0", "p1", "PA", "Physician", "['normal']"),
    ("a2", "0", "p1", "L", "Physician", "['normal']"),
    ("a3", "1", "p2", "AP_horizontal", "Physician", "['pneumonia', ' infiltrates', '']"),
    ("a4", "1", "p3", "PA", "Physician", "['COPD signs', \"pleural effusion\", 'suboptimal study']"),
    ("a5", "1", "p4", "PA", "Physician", "['exclude']"),
    ("a6", "1", "p4", "PA", "Physician", "nan"),
    ("a7", "0", "p5", "PA", "Physician", "['infiltrates', 'pleural effusion', 'pneumonia']"),
    ("a8", "0", "p6", "PA", "RNN_model", "['infiltrates']"),
    ("b1", "1", "p2", "PA", "RNN_model", "['normal']"),
    ("a9", "0", "p7", "COSTAL", "Physician", "['normal']"),
)


def padchest(folder: Path) -> Path:
    rows = []
    for number, (image, archive, patient, projection, method, labels) in enumerate(PADCHEST_ROWS):
        report = "sin hallazgos, sin cambios"
        rows.append(
            [
                str(number),
                f"{image}.png",
                archive,
                "20140915",
                f"study{number}",
                patient,
                projection,
                "Manual review of DICOM fields",
                report,
                method,
                labels,
                "[]",
            ]
        )
        write_image(folder / archive / f"{image}.png", number)
    write_csv(folder / PADCHEST_TABLE, PADCHEST_COLUMNS, rows)
    return folder
