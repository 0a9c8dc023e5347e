"""`--on_bad_image quarantine`: images that cannot be used are left out of the run, on every rank alike.

They are found before anything is computed from the data, so that statistics, split and caches see only the
others. A checkpoint carries the list: the run that resumes from it omits the same images, whether they can be
read by then or not.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from csr.config.options import TrainConfig
from csr.data.image_cache.store import ImageStore, open_readable
from csr.data.images.find import find_present
from csr.data.labels.boxes import read_boxes
from csr.data.labels.names import show_some
from csr.data.labels.table import LabelTable, without
from csr.data.transforms import stored_size
from csr.runtime import distributed
from csr.runtime.errors import InputError
from csr.runtime.files import write_atomic
from csr.training import inputs

FILE = "quarantine.csv"
ALLOWED_PERCENT = 1
_NAMES = {"train": "training", "test": "test"}
_Reasons = dict[str, dict[int, tuple[str, str]]]  # split -> row of its table -> file, reason


@dataclass(frozen=True)
class BadImage:
    """One image that is left out.

    Attributes:
        split: train or test.
        image_id, csv, row: where it is named; the header is row 1.
        file: its path, or the path without an extension where there is no file.
        reason: in words.
    """

    split: str
    image_id: str
    csv: str
    row: int
    file: str
    reason: str


@dataclass(frozen=True)
class Quarantine:
    """Images that a run omits.

    Attributes:
        images: all of them, training first, in the order of their tables.
        active: whether the run was asked to leave images out.
        stores: of the images that stay, where this rank has opened them on the way.
    """

    images: tuple[BadImage, ...] = ()
    active: bool = False
    stores: tuple[ImageStore, ...] = ()

    @property
    def left_out(self) -> inputs.LeftOut:
        """Ids of the images, by split."""
        return {split: [image.image_id for image in self.images if image.split == split] for split in _NAMES}

    def record(self) -> list[dict[str, Any]]:
        """Return plain values for a checkpoint's manifest."""
        return [asdict(image) for image in self.images]

    def write(self, folder: Path) -> None:
        """Write quarantine.csv into a run's folder; nothing if the run was not asked to leave images out."""
        if not self.active:
            return
        text = io.StringIO()
        table = csv.DictWriter(text, [f.name for f in fields(BadImage)], lineterminator="\n")
        table.writeheader()
        table.writerows(self.record())
        data = text.getvalue().encode(errors="backslashreplace")
        write_atomic(folder / FILE, lambda file: file.write(data))


def find_bad_images(
    config: TrainConfig, report: inputs.Report, progress: inputs.Progress, *, recorded: Any = None
) -> Quarantine:
    """Decode every image and decide which ones the run omits. Collective; the same on every rank.

    An image that one host cannot read is omitted on all of them.

    Args:
        config: of the run; with `--on_bad_image error` nothing is decoded here and nothing omitted.
        report: prints a line.
        progress: see `inputs.build_tables`.
        recorded: of a checkpoint's manifest (`Quarantine.record`), None for a run that begins.

    Raises:
        InputError: anything wrong with the tables or the ids, more than `ALLOWED_PERCENT` of the training
            or of the test images, or in a run that resumes any image that is not recorded.
    """
    if config.data.on_bad_image != "quarantine":
        return Quarantine()
    with distributed.errors_agreed():
        known = _read_record(recorded)
        train, test = inputs.read_labels(config, lambda line: None)
        whole = {"train": train, "test": test}
        if config.data.boxes_csv is not None:
            # its mistakes too are reported before hours of decoding
            read_boxes(config.data.boxes_csv, table=train)
        left = Quarantine(known).left_out
        splits = {split: without(table, left[split]) for split, table in whole.items()}
    with distributed.errors_agreed():
        own, stores = distributed.in_step(lambda: _decode_all(config, splits, progress))
    reasons = _united(distributed.all_gather_object(own))
    new = [
        BadImage(split, table.image_ids[index], table.path, table.row_numbers[index], *reasons[split][index])
        for split, table in splits.items()
        for index in sorted(reasons[split])
    ]
    if recorded is not None and new:
        raise InputError(
            f"{len(new)} image(s) that the unfinished run was trained on cannot be used now: {_listed(new)}; "
            "bring them back to resume, give another --exp_name, or --overwrite to begin anew"
        )
    _check_share(whole, new)
    chosen = Quarantine(known or tuple(new), active=True, stores=stores)
    _report(chosen, whole, config, report)
    return chosen


def _decode_all(
    config: TrainConfig, splits: dict[str, LabelTable], progress: inputs.Progress
) -> tuple[_Reasons, tuple[ImageStore, ...]]:
    """Return images of each split that this host cannot use, and stores of the others; on its first rank."""
    reasons: _Reasons = {}
    stores: list[ImageStore] = []
    if distributed.local_rank() != 0:
        return reasons, ()
    folders = {"train": config.data.train_dir, "test": config.data.test_dir}
    for split, table in splits.items():
        found, unusable = find_present(folders[split], table, links_into=config.data.links_into or ())
        bad = {i: (str(Path(folders[split], table.image_ids[i])), reason) for i, reason in unusable.items()}
        most = len(table) * ALLOWED_PERCENT // 100 - len(bad)
        if most >= 0:  # otherwise the run ends here, before hours of decoding
            rows = list(found)
            store, problems = open_readable(
                list(found.values()),
                size=stored_size(config.data.image_size),
                cache_dir=inputs.image_cache(config),
                workers=config.data.workers,
                resize=config.data.resize,
                progress=progress,
                most=most,
            )
            stores += [] if store is None else [store]
            for place, reason in problems.items():
                file = str(found[rows[place]])
                bad[rows[place]] = (file, reason.removeprefix(f"{file}: "))
        reasons[split] = bad
    return reasons, tuple(stores)


def _united(hosts: Sequence[_Reasons]) -> _Reasons:
    """Return the images that any host cannot use; the first host's reason counts."""
    united: _Reasons = {split: {} for split in _NAMES}
    for reasons in hosts:
        for split, bad in reasons.items():
            united[split] = {**bad, **united[split]}
    return united


def _check_share(whole: dict[str, LabelTable], bad: list[BadImage]) -> None:
    problems = []
    for split, table in whole.items():
        of_split = [image for image in bad if image.split == split]
        if 100 * len(of_split) > ALLOWED_PERCENT * len(table):
            problems.append(
                f"{table.path}: {len(of_split)} of {len(table)} {_NAMES[split]} images cannot be used, more "
                f"than the {ALLOWED_PERCENT} % that --on_bad_image quarantine leaves out: {_listed(of_split)}"
            )
    if problems:
        raise InputError(f"{'; '.join(problems)}; bring them back or correct the table")


def _listed(bad: list[BadImage]) -> str:
    return show_some([f"{image.csv} line {image.row}: {image.file}: {image.reason}" for image in bad])


def _report(
    chosen: Quarantine, whole: dict[str, LabelTable], config: TrainConfig, report: inputs.Report
) -> None:
    if not chosen.images:
        return
    left = chosen.left_out
    counts = " and ".join(f"{len(left[s])} of {len(whole[s])} {_NAMES[s]}" for s in _NAMES)
    images = f"listed in {config.folder / FILE}"
    if config.run.dry_run:  # which leaves no file
        images = _listed(list(chosen.images))
    report(f"Quarantine: {counts} images cannot be used and are left out: {images}")


def _read_record(recorded: Any) -> tuple[BadImage, ...]:
    if recorded is None:
        return ()
    try:
        return tuple(BadImage(**row) for row in recorded)
    except TypeError:
        raise InputError(
            "the checkpoint's list of images left out cannot be read: it was written by another version of "
            "csr"
        ) from None
