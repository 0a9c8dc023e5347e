"""`csr atlas RUN --out DIR`: every prototype with the training regions behind it, as pages to leaf
through.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from csr.data.batch import Batch
from csr.data.dataset import LabelledImages
from csr.evaluation.inference import stored_batches
from csr.explain.atlas.keep import write_keep
from csr.explain.atlas.layout import CROPS, IMAGES, INDEX, KEEP, NEAREST, NUMBERS, OLD_KEEP, page_name
from csr.explain.atlas.pages import write_concept, write_index
from csr.explain.atlas.pictures import write_pictures
from csr.explain.atlas.record import Recorder, nearest_json
from csr.explain.atlas.regions import chunks_of, collect_regions, places_of
from csr.explain.atlas.scan import scan_images
from csr.explain.source import Source, open_images, split
from csr.model.sharing.config_file import MAX_CONFIG_BYTES, read_config
from csr.runtime.errors import InputError
from csr.runtime.files import write_atomic
from csr.runtime.monitor import Monitor


@dataclass(frozen=True)
class AtlasOptions:
    """Options of `csr atlas`; what is None is that of the run.

    Attributes:
        source: the model's folder as the user named it.
        out: folder of the atlas.
        csv, dir: training labels and images.
        boxes_csv: boxes on them.
        top: nearest training vectors shown of each prototype.
        similar: images with the highest scores that are summed up.
        batch_size: images that the network sees at once.
        workers: threads that decode images.
    """

    source: str
    out: Path
    csv: str | None = None
    dir: str | None = None
    boxes_csv: str | None = None
    top: int = 5
    similar: int = 20
    batch_size: int = 32
    workers: int = 4


def training_images(
    source: Source, options: AtlasOptions, *, cache: Path, monitor: Monitor
) -> LabelledImages:
    """Return the images that the model was trained on: of a run without its validation images."""
    data = source.config.data
    given = (options.csv, options.dir)
    if not source.is_run and None in given:
        raise InputError(f"{options.source}: is no run: give its training images with --csv and --dir")
    images = open_images(
        source,
        options.csv or data.train_csv,
        options.dir or data.train_dir,
        part="train",
        boxes_csv=options.boxes_csv or (data.boxes_csv if source.is_run and options.csv is None else None),
        cache=cache,
        workers=options.workers,
        say=monitor.say,
        hint="give the training images with --csv and --dir",
    )
    if not source.is_run:
        monitor.say(f"All {len(images)} images of {options.csv} are taken for training images.")
        return images
    train, val = split(images, source.config)
    monitor.say(f"{len(train)} training images ({len(val)} validation images are left out)")
    return train


def build(
    source: Source, images: LabelledImages, options: AtlasOptions, *, monitor: Monitor
) -> dict[str, Any]:
    """Scan the images, collect the regions of those that count, and write the folder.

    Returns:
        The record of the whole atlas, as in atlas.json.

    Raises:
        InputError: the model gives no finite numbers, or the folder cannot be written.
    """
    model = source.model

    def batches(positions: Any, title: str) -> Iterator[Batch]:
        transform, device = source.card.preprocessing.transform(), next(model.parameters()).device
        chunks = list(chunks_of(positions, options.batch_size))
        for batch in monitor.bar(
            stored_batches(images, chunks, device=device), total=len(chunks), title=title
        ):
            yield {**batch, "image": transform(batch["image"])}

    scan = scan_images(
        model, batches(range(len(images)), "Training images"), top=options.top, similar=options.similar
    )
    if not bool(scan.mean_KM.isfinite().all()):
        raise InputError(f"{options.source}: the model gives no finite numbers on these images")
    wanted = places_of(scan)
    sights, cells = collect_regions(model, batches(wanted, "Regions"), wanted)
    recorder = Recorder(model, images, scan, sights=sights, cells=cells)
    concepts = [recorder.concept(k) for k in range(model.num_concepts)]
    atlas = recorder.summary(concepts, source=source.folder, csv=images.table.path)
    position_of = {int(row): position for position, row in enumerate(images.indices)}
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        aside = set_aside(options.out)
        if aside is not None:
            monitor.say(f"{aside}: the decisions that were in {KEEP} of the earlier atlas")
        _clear(options.out)
        sizes = write_pictures(
            options.out,
            concepts,
            images.store.paths,
            workers=options.workers,
            progress=lambda done, of: monitor.log(f"Pictures: {done}/{of}"),
        )
        for k in range(len(concepts)):
            page = write_concept(atlas, k, sights=sights, position_of=position_of, sizes=sizes)
            _write(options.out / page_name(k), page)
        _write(options.out / KEEP, write_keep(atlas))
        _write(options.out / NUMBERS, json.dumps(atlas, allow_nan=False))
        _write(options.out / NEAREST, _nearest_text(atlas))
        _write(options.out / INDEX, write_index(atlas))
    except OSError as error:
        raise InputError(f"{options.out}: cannot be written ({error.strerror or error})") from None
    return atlas


def _nearest_text(atlas: dict[str, Any]) -> str:
    """Return the text of nearest.json, with fewer neighbours where it would be larger than what is read
    back.
    """
    value = nearest_json(atlas)
    longest = max((len(entry["nearest"]) for entry in value["prototypes"]), default=0)
    for length in range(longest, -1, -1):
        for entry in value["prototypes"]:
            del entry["nearest"][length:]
        text = json.dumps(value, allow_nan=False)
        if len(text) < MAX_CONFIG_BYTES:
            return text
    raise InputError(f"{len(value['prototypes'])} prototypes are too many for an atlas")


def set_aside(folder: Path) -> Path | None:
    """Give keep.csv of an earlier atlas another name where somebody has changed it, else leave it.

    Args:
        folder: of the atlas.

    Returns:
        Its new place, which no file had; None: it is as the atlas wrote it, or there is none.
    """
    keep = folder / KEEP
    if not keep.is_file() or _is_as_written(keep, folder / NUMBERS):
        return None
    number = next(n for n in itertools.count(1) if not os.path.lexists(folder / OLD_KEEP.format(n)))
    os.rename(keep, folder / OLD_KEEP.format(number))
    return folder / OLD_KEEP.format(number)


def _is_as_written(keep: Path, numbers: Path) -> bool:
    """Return whether a keep.csv is that of an atlas's numbers, byte for byte; False where nobody can tell."""
    try:
        return keep.read_bytes() == _encoded(write_keep(read_config(numbers)))
    except (InputError, LookupError, TypeError, ValueError):  # of another version, damaged, or gone
        return False


def _clear(folder: Path) -> None:
    """Remove the files of an earlier atlas; files of other names stay."""
    for name in (CROPS, IMAGES):
        if (folder / name).is_dir() and not (folder / name).is_symlink():
            shutil.rmtree(folder / name)
        (folder / name).mkdir()
    for old in [*(folder / name for name in (INDEX, NEAREST, NUMBERS)), *folder.glob("concept_*.html")]:
        old.unlink(missing_ok=True)


def _write(path: Path, text: str) -> None:
    data = _encoded(text)
    write_atomic(path, lambda file: file.write(data))


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")
