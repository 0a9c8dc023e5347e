"""Boxes of TBX11K, read from either of the two published forms (COCO and VOC)."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from csr.data.importers.boxes import Box, checked_box
from csr.data.importers.raw import read_json
from csr.data.labels.names import show
from csr.runtime.errors import InputError

LESIONS = ("ActiveTuberculosis", "ObsoletePulmonaryTuberculosis", "PulmonaryTuberculosis")
MAX_XML_BYTES = 2**20
Lesions = list[tuple[str, Box]]


def read_coco(path: Path, *, files: dict[str, str], images: Path) -> dict[str, Lesions]:
    """Return the boxes by image id of a COCO file, where bbox is x, y, width, height in pixels.

    Args:
        path: the JSON file.
        files: name below `images` of each image id (`tb/tb0001`). The file may name images with or without
            their folder.
        images: folder of the images, whose sizes must be those in the file.

    Raises:
        InputError: an entry is not as in the published file.
    """
    content = read_json(path)
    keys = ("images", "annotations", "categories")
    parts = [content.get(key) if isinstance(content, dict) else None for key in keys]
    if not all(isinstance(part, list) and all(isinstance(e, dict) for e in part) for part in parts):
        raise InputError(
            f"{path}: lacks lists of images, annotations and categories; give the published file"
        )
    names = {key: entry.get("name") for key, (_, entry) in _by_id(path, "categories", parts[2]).items()}
    entries = _by_id(path, "images", parts[0])
    stems_of: dict[str, list[str]] = {}
    for stem in files:
        stems_of.setdefault(stem.rsplit("/", 1)[-1], []).append(stem)
    lesions: dict[str, Lesions] = {}
    for number, entry in enumerate(parts[1] or []):
        location = f"{path} annotations[{number}]"
        image_id, category = (
            _entry(path, "annotations", number, entry, key) for key in ("image_id", "category_id")
        )
        if image_id not in entries or names.get(category) not in LESIONS:
            raise InputError(
                f"{location}: image {image_id!r} or category {category!r} is not in the file; "
                "download it again"
            )
        place, image = entries[image_id]
        stem, size = _coco_image(f"{path} images[{place}]", image, stems_of, files, images)
        sides = entry.get("bbox")
        if not isinstance(sides, list) or len(sides) != 4 or not all(_is_number(s) for s in sides):
            raise InputError(f"{location}: bbox {show(sides)} is not [x, y, width, height]; correct it")
        x, y, width, height = sides
        box = checked_box((x, y, x + width, y + height), location=location, size=size)
        lesions.setdefault(stem, []).append((str(names[category]), box))
    return lesions


def _by_id(path: Path, part: str, entries: Any) -> dict[int, tuple[int, dict[str, Any]]]:
    """Return place and entry of each id.

    Raises:
        InputError: an id of two entries: boxes could be of either.
    """
    found: dict[int, tuple[int, dict[str, Any]]] = {}
    for place, entry in enumerate(entries):
        key = _entry(path, part, place, entry, "id")
        first, _ = found.setdefault(key, (place, entry))
        if first != place:
            raise InputError(
                f"{path} {part}[{place}]: id {key} is that of {part}[{first}] too; download it again"
            )
    return found


def _entry(path: Path, part: str, number: int, entry: dict[str, Any], key: str) -> int:
    value = entry.get(key)
    if not isinstance(value, int) or isinstance(value, bool):
        raise InputError(f"{path} {part}[{number}]: {key} is {show(value)}; give a whole number")
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _coco_image(
    location: str,
    entry: dict[str, Any],
    stems_of: dict[str, list[str]],
    files: dict[str, str],
    images: Path,
) -> tuple[str, tuple[int, int]]:
    *folders, name = str(entry.get("file_name")).split("/")
    name = name.rsplit(".", 1)[0]
    stems = [stem for stem in stems_of.get(name, []) if not folders or stem == f"{folders[-1]}/{name}"]
    if len(stems) != 1:
        raise InputError(
            f"{location}: {show(entry.get('file_name'))} is not in the list of this split; "
            "give both as published"
        )
    (stem,) = stems
    size = image_size(images / files[stem])
    if (entry.get("width"), entry.get("height")) != size:
        raise InputError(
            f"{location}: boxes are in pixels of {show(entry.get('width'))} x {show(entry.get('height'))}, "
            f"but {images / files[stem]} has {size[0]} x {size[1]}; give the published images"
        )
    return stem, size


def image_size(path: Path) -> tuple[int, int]:
    """Return width and height in pixels from the header of an image.

    Raises:
        InputError: the file is no PNG or JPEG.
    """
    try:
        with Image.open(path, formats=("PNG", "JPEG")) as image:
            return image.size
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, SyntaxError, ValueError):
        raise InputError(f"{path}: is no PNG or JPEG that can be read; download it again") from None


def read_voc(
    folder: Path, stems: Iterable[str], *, files: dict[str, str], images: Path
) -> tuple[dict[str, Lesions], int]:
    """Return the boxes by image id of VOC files, scaled from original radiographs to published images.

    Pixels of VOC count from 1, and the last one belongs to the box.

    Args:
        folder: of the XML files; an image without one has no boxes.
        stems: image ids.
        files, images: see `read_coco`.

    Returns:
        The boxes, and the number of boxes omitted because they are marked difficult.

    Raises:
        InputError: a file is not as published.
    """
    lesions: dict[str, Lesions] = {}
    difficult = 0
    for stem in stems:
        path = folder / f"{stem.rsplit('/', 1)[-1]}.xml"
        if not path.is_file():
            continue
        root = _parse(path)
        to_width, to_height = image_size(images / files[stem])
        across = to_width / _number(path, root, "size/width")
        down = to_height / _number(path, root, "size/height")
        for number, element in enumerate(root.findall("object"), 1):
            location = f"{path} object {number}"
            name = (element.findtext("name") or "").strip()
            if name not in LESIONS:
                raise InputError(f"{location}: {show(name)} is none of {', '.join(LESIONS)}")
            if (element.findtext("difficult") or "0").strip() not in ("", "0"):
                difficult += 1
                continue
            x_min, y_min, x_max, y_max = (
                _number(path, element, f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax")
            )
            edges = ((x_min - 1) * across, (y_min - 1) * down, x_max * across, y_max * down)
            box = checked_box(edges, location=location, size=(to_width, to_height))
            lesions.setdefault(stem, []).append((name, box))
    return lesions, difficult


def _parse(path: Path) -> ElementTree.Element:
    try:
        with open(path, "rb") as file:
            text = file.read(MAX_XML_BYTES + 1)
        if len(text) <= MAX_XML_BYTES and b"<!" not in text:  # entities can grow without limit
            return ElementTree.fromstring(text)
    except (ElementTree.ParseError, OSError, ValueError) as error:
        raise InputError(
            f"{path}: is no XML that can be read ({str(error)[:80]}); download it again"
        ) from None
    raise InputError(f"{path}: is not as published (a document type or more than 1 MiB); download it again")


def _number(path: Path, root: ElementTree.Element, name: str) -> float:
    text = (root.findtext(name) or "").strip()
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < 1e6:
        raise InputError(f"{path}: {name} is {show(text)}; give pixels above 0")
    return value
