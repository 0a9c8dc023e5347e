"""Importer of TBX11K as its authors publish it (mmcheng.net/tb).

    RAW/lists/TBX11K_train.txt  TBX11K_val.txt     one image a line: health/h0001.png, sick/.., tb/..
    RAW/imgs/health  imgs/sick  imgs/tb            512 x 512 PNG
    RAW/annotations/json/TBX11K_train.json ..      COCO boxes in pixels of these images
    RAW/annotations/xml/tb0001.xml ..              the same as VOC, in pixels of the original radiographs

The folder of an image is its diagnosis; boxes distinguish active from latent tuberculosis. The labels of the
test list are not published: the validation list becomes the test set, as in the literature.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from csr.data.importers.output import BOX_COLUMNS, Output
from csr.data.importers.raw import ImageFiles, Raw, open_raw
from csr.data.importers.summary import SPLITS, Imported
from csr.data.importers.tbx11k_boxes import LESIONS, Lesions, read_coco, read_voc
from csr.data.labels.names import show
from csr.runtime.errors import InputError

NAME, DATASET = "tbx11k", "TBX11K"
HELP = "TBX11K: healthy, sick but not TB, active and latent TB; COCO or VOC boxes"
LISTS = {"train": "TBX11K_train", "test": "TBX11K_val"}
HEALTHY, SICK, ACTIVE, LATENT, ANY = "healthy", "sick but not TB", "active TB", "latent TB", "TB"
FOLDERS = ("health", "sick", "tb")
LEAK = (
    "TBX11K contains images of the Montgomery and Shenzhen sets: a test of this model on those two is no "
    "external test"
)
ORIGIN = {
    "dataset": DATASET,
    "source": "https://mmcheng.net/tb",
    "citation": "Liu et al., Rethinking Computer-aided Tuberculosis Diagnosis, CVPR 2020",
}


def run(folder: Path, output: Output, *, boxes: str, merge_tb: bool, links_into: Sequence[str]) -> Imported:
    """Read RAW, write the four tables and place the images.

    Args:
        folder: RAW.
        output: OUT, open.
        boxes: `json` or `xml`: which of the two published forms of the boxes is read.
        merge_tb: one target in place of active and latent TB.
        links_into: see `ImageFiles`.

    Raises:
        InputError: a file is missing or not as published.
    """
    raw, imported = open_raw(folder, DATASET), Imported(dict(ORIGIN))
    imported.target_cols = (HEALTHY, SICK, ANY) if merge_tb else (HEALTHY, SICK, ACTIVE, LATENT)
    source = raw.subfolder("imgs")
    images = ImageFiles(source, (".png", ".jpg"), links_into=links_into)
    names = {split: _listed(raw, split, images) for split in SPLITS}
    both = names["train"].keys() & names["test"].keys()
    if both:
        lists = " and in ".join(f"{name}.txt" for name in LISTS.values())
        raise InputError(f"{folder}: image {show(min(both))} is in {lists}; give the published lists")
    lesions = {split: _lesions(raw, split, names[split], source, boxes, imported) for split in SPLITS}
    drawn = Counter(kind for lesion in lesions["train"].values() for kind, _ in lesion)
    concepts = tuple(kind for kind in LESIONS if drawn[kind])
    if not concepts:
        raise InputError(f"{folder}: no training image has a box, so there is no concept; download it again")
    for split in SPLITS:
        _write(split, names[split], lesions[split], concepts, output, imported)
    used = [name for split in SPLITS for name in names[split].values()]
    target = output.place_images("images", source, used)
    imported.folders = dict.fromkeys(SPLITS, target)
    imported.notices.append(LEAK)
    return imported


def _listed(raw: Raw, split: str, images: ImageFiles) -> dict[str, str]:
    """Return the file name below imgs/ by image id (`tb/tb0001`), of one list."""
    path = raw.file(f"lists/{LISTS[split]}.txt")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError):
        raise InputError(f"{path}: cannot be read as text; download it again") from None
    names: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        location, stem = f"{path} line {number}", image_stem(line)
        if not stem:
            continue
        if stem.split("/")[0] not in FOLDERS or stem.count("/") != 1:
            raise InputError(
                f"{location}: {show(line.strip())} is not in {', '.join(FOLDERS)}; give the published list"
            )
        if stem in names:
            raise InputError(f"{location}: {show(stem)} is listed twice; download the list again")
        names[stem] = images.find(stem, location=location)
    if not names:
        raise InputError(f"{path}: names no image; download it again")
    return names


def image_stem(name: str) -> str:
    """Return the image id of a name: `tb/tb0001` of `imgs/tb/tb0001.png` and of `tb/tb0001.png`."""
    text = name.strip().removeprefix("./").removeprefix("imgs/")
    return text.rsplit(".", 1)[0] if "." in text.rsplit("/", 1)[-1] else text


def _lesions(
    raw: Raw, split: str, names: dict[str, str], source: Path, form: str, imported: Imported
) -> dict[str, Lesions]:
    """Return the boxes by image id, of images that have some."""
    if form == "xml":
        tb = [stem for stem in names if stem.startswith("tb/")]
        lesions, difficult = read_voc(raw.subfolder("annotations/xml"), tb, files=names, images=source)
        if difficult:
            imported.notices.append(
                f"{difficult} {split} boxes are marked difficult and omitted, as in the JSON files"
            )
    else:
        path = raw.file(f"annotations/json/{LISTS[split]}.json")
        lesions = read_coco(path, files=names, images=source)
    for stem in lesions:
        if not stem.startswith("tb/"):
            raise InputError(
                f"{raw.folder}: image {show(stem)} is not in imgs/tb but has boxes; download both again"
            )
    return lesions


def _write(
    split: str,
    names: dict[str, str],
    lesions: dict[str, Lesions],
    concepts: tuple[str, ...],
    output: Output,
    imported: Imported,
) -> None:
    assert imported.target_cols is not None
    untyped = 0
    with output.table(f"labels_{split}.csv", ("image_id", *concepts, *imported.target_cols)) as table:
        for stem in names:
            kinds = {kind for kind, _ in lesions.get(stem, [])}
            untyped += stem.startswith("tb/") and not kinds
            cells = _cells(stem.split("/")[0], kinds, concepts)
            table.writerow([stem, *(cells[name] for name in (*concepts, *imported.target_cols))])
    with output.table(f"boxes_{split}.csv", ("image_id", *BOX_COLUMNS)) as table:
        for stem, drawn in lesions.items():
            table.writerows([stem, kind, *box] for kind, box in drawn if kind in concepts)
    if untyped:
        imported.notices.append(
            f"{untyped} {split} images of imgs/tb have no box: which tuberculosis it is stays empty "
            "(not annotated)"
        )
    unknown = {kind for drawn in lesions.values() for kind, _ in drawn} - set(concepts)
    if unknown:
        imported.notices.append(
            f"{split} boxes of {', '.join(sorted(unknown))} are omitted: no training image has one"
        )


def _cells(folder: str, kinds: set[str], concepts: tuple[str, ...]) -> dict[str, str]:
    """Return the labels of one image by name, of all `LESIONS` too; '' if the published files lack them."""
    cells = {name: str(int(name in kinds)) for name in concepts}
    folders = {HEALTHY: "health", SICK: "sick", ANY: "tb"}
    cells |= {name: str(int(folder == own)) for name, own in folders.items()}
    active, latent, general = (kind in kinds for kind in LESIONS)
    cells |= {ACTIVE: str(int(active)), LATENT: str(int(latent))}
    if folder == "tb" and not kinds:
        cells |= dict.fromkeys((*concepts, ACTIVE, LATENT), "")
    elif general:  # a box of tuberculosis without its kind, which may be either
        unseen = [place for place, seen in enumerate((active, latent)) if not seen]
        cells |= {names[place]: "" for place in unseen for names in ((ACTIVE, LATENT), LESIONS)}
    return cells
