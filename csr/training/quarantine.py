"""`--on_bad_image quarantine`: images that cannot be used are left out of the run, on every rank alike.

They are looked for before anything is computed from the data, so that statistics, split and caches see the
others alone. A checkpoint carries the list: the run that goes on leaves out the same images, whether they
can be read by then or not.
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
        file: the file, or where one was looked for.
        reason: what is wrong.
    """

    split: str
    image_id: str
    csv: str
    row: int
    file: str
    reason: str


@dataclass(frozen=True)
class Quarantine:
    """What a run leaves out.

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
        return {split: [image.image_id for image in self.images if image.split == split] for split in _NAMES}

    def record(self) -> list[dict[str, Any]]:
        """Plain values, for a checkpoint's manifest."""
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
    """Decode every image and decide which ones the run leaves out. Collective; the same on every rank.

    An image that one host cannot read is left out on all of them.

    Args:
        config: of the run; with `--on_bad_image error` nothing is looked at and nothing left out.
        report: tells the user.
        progress: see `inputs.build_tables`.
        recorded: of a checkpoint's manifest (`Quarantine.record`), None for a run that begins.

    Raises:
        InputError: anything wrong with the tables or the ids, more than `ALLOWED_PERCENT` of the training
            or of the test images, or in a run that goes on any image that is not recorded.
    """
    if config.data.on_bad_image != "quarantine":
        return Quarantine()
    with distributed.errors_agreed():
        known = _read_record(recorded)
        train, test = inputs.read_labels(config, lambda line: None)
        whole = {"train": train, "test": test}
        if config.data.boxes_csv is not None:
            read_boxes(
                config.data.boxes_csv, table=train
            )  # its mistakes too are told before hours of decoding
        left = Quarantine(known).left_out
        splits = {split: without(table, left[split]) for split, table in whole.items()}
    with distributed.errors_agreed():
        own, stores = distributed.in_step(lambda: _look(config, splits, progress))
    reasons = _united(distributed.all_gather_object(own))
    new = [
        BadImage(split, table.image_ids[index], table.path, table.row_numbers[index], *reasons[split][index])
        for split, table in splits.items()
        for index in sorted(reasons[split])
    ]
    if recorded is not None and new:
        raise InputError(
            f"{len(new)} image(s) that the unfinished run was trained on cannot be used now: {_listed(new)}; "
            "bring them back to go on, give another --exp_name, or --overwrite to begin anew"
        )
    _check_share(whole, new)
    chosen = Quarantine(known or tuple(new), active=True, stores=stores)
    _tell(chosen, whole, config, report)
    return chosen


def _look(
    config: TrainConfig, splits: dict[str, LabelTable], progress: inputs.Progress
) -> tuple[_Reasons, tuple[ImageStore, ...]]:
    """What this host cannot use of each split, and stores of what it can; its first rank looks for all."""
    reasons: _Reasons = {}
    stores: list[ImageStore] = []
    if distributed.local_rank() != 0:
        return reasons, ()
    folders = {"train": config.data.train_dir, "test": config.data.test_dir}
    for split, table in splits.items():
        found, unusable = find_present(folders[split], table)
        bad = {i: (str(Path(folders[split], table.image_ids[i])), reason) for i, reason in unusable.items()}
        most = len(table) * ALLOWED_PERCENT // 100 - len(bad)
        if most >= 0:  # otherwise the run ends here, before hours of decoding
            rows = list(found)
            store, problems = open_readable(
                list(found.values()),
                size=stored_size(config.data.image_size),
                cache_dir=inputs.image_cache(config),
                workers=config.data.workers,
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
    """What any host cannot use; the first one's reason counts."""
    united: _Reasons = {split: {} for split in _NAMES}
    for reasons in hosts:
        for split, bad in reasons.items():
            united[split] = {**bad, **united[split]}
    return united


def _check_share(whole: dict[str, LabelTable], bad: list[BadImage]) -> None:
    said = []
    for split, table in whole.items():
        mine = [image for image in bad if image.split == split]
        if 100 * len(mine) > ALLOWED_PERCENT * len(table):
            said.append(
                f"{table.path}: {len(mine)} of {len(table)} {_NAMES[split]} images cannot be used, more than the "
                f"{ALLOWED_PERCENT} % that --on_bad_image quarantine leaves out: {_listed(mine)}"
            )
    if said:
        raise InputError(f"{'; '.join(said)}; bring them back or correct the table")


def _listed(bad: list[BadImage]) -> str:
    return show_some([f"{image.csv} line {image.row}: {image.file}: {image.reason}" for image in bad])


def _tell(
    chosen: Quarantine, whole: dict[str, LabelTable], config: TrainConfig, report: inputs.Report
) -> None:
    if not chosen.images:
        return
    left = chosen.left_out
    counts = " and ".join(f"{len(left[s])} of {len(whole[s])} {_NAMES[s]}" for s in _NAMES)
    where = f"listed in {config.folder / FILE}"
    if config.run.dry_run:  # which leaves no file
        where = _listed(list(chosen.images))
    report(f"Quarantine: {counts} images cannot be used and are left out: {where}")


def _read_record(recorded: Any) -> tuple[BadImage, ...]:
    if recorded is None:
        return ()
    try:
        return tuple(BadImage(**row) for row in recorded)
    except TypeError:
        raise InputError(
            "the checkpoint's list of images left out cannot be read: it was written by another version of csr"
        ) from None
