"""The images that a trained model is looked at with: those of its run, or of tables that the user names.

Both `csr atlas` and `csr refine` take a run, whose config.json says where its data is, or a model folder with
the data given by flags; flags win over the run's options.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from csr.cli.exit_codes import Whole
from csr.config.options import TrainConfig, check_ranges, groups
from csr.data.dataset import LabelledImages
from csr.data.image_cache.store import open_store
from csr.data.images.find import find_images
from csr.data.labels.boxes import read_boxes
from csr.data.labels.csv_file import read_header, read_rows
from csr.data.labels.table import read_label_table, without
from csr.data.labels.validation_split import split_validation
from csr.data.labels.vocabulary import Vocabulary
from csr.model import CSR
from csr.model.sharing.card import Card
from csr.model.sharing.loading import is_run, load_model
from csr.model.sharing.pretrained import CONFIG, read_config
from csr.runtime.errors import InputError
from csr.training.quarantine import FILE as QUARANTINE

Say = Callable[[str], None]


@dataclass(frozen=True)
class Source:
    """A trained model and what is known of its training.

    Attributes:
        folder: of the run or model.
        model: in eval mode, on the CPU, with a card.
        config: the run's options; csr train's defaults for a model that is no run.
        is_run: whether `config` is the run's own.
        effective_batch: images per optimizer step.
        left_out: train and test -> ids of images that the run put into quarantine.
    """

    folder: Path
    model: CSR
    config: TrainConfig
    is_run: bool
    effective_batch: int
    left_out: Mapping[str, Sequence[str]]

    @property
    def card(self) -> Card:
        assert self.model.card is not None
        return self.model.card

    @property
    def cache(self) -> Path:
        """Where the run keeps what it computes once."""
        return self.folder.parent / ".cache"

    @property
    def image_cache(self) -> Path | None:
        """The run's folder of decoded images; None where there is none."""
        given = self.config.data.image_cache
        if not self.is_run or given == "off":
            return None
        return self.cache / "images" if given == "auto" else Path(given)


def open_source(given: str, *, checkpoint: str | None = None) -> Source:
    """Load a run or a model.

    Args:
        given: folder of a run, of a model, or a hub id.
        checkpoint: name of a .pth of a run.

    Raises:
        InputError: not found, damaged.
    """
    folder = Path(given)
    model = load_model(given, checkpoint=checkpoint)
    assert model.card is not None
    if not is_run(folder):
        config = TrainConfig()
        maximum = model.card.method.get("max_pos_weight", config.method.max_pos_weight)
        fraction = model.card.data.get("val_fraction", config.data.val_fraction)
        merge = model.card.data.get("reader_merge", config.data.reader_merge)
        options = config.to_dict()
        options["method"] |= {"max_pos_weight": maximum, "task_loss": model.card.task_loss}
        options["data"] |= {"val_fraction": fraction, "reader_merge": merge}
        config = config_of(options, where=f"{given}: config.json")
        return Source(folder, model, config, False, config.optim.batch_size, _NOTHING)
    told = read_config(folder / CONFIG)
    config = config_of(told["options"], where=str(folder / CONFIG))
    batch = told.get("effective_batch")
    if not isinstance(batch, int) or isinstance(batch, bool) or not 1 <= batch <= 2**24:
        batch = max(1, config.optim.batch_size) * config.optim.accumulation
    return Source(folder, model, config, True, batch, _quarantined(folder))


_NOTHING: Mapping[str, Sequence[str]] = {"train": (), "test": ()}


def _quarantined(folder: Path) -> Mapping[str, Sequence[str]]:
    """Images that a run left out because they could not be read: nothing is known of them now either."""
    if not (folder / QUARANTINE).is_file():
        return _NOTHING
    rows = read_rows(folder / QUARANTINE)
    header = read_header(rows, folder / QUARANTINE, required=("split", "image_id"))
    split_at, id_at = header.index("split"), header.index("image_id")
    found: dict[str, list[str]] = {"train": [], "test": []}
    for _, cells in rows:
        found.setdefault(cells[split_at], []).append(cells[id_at])
    return found


def config_of(options: Any, *, where: str) -> TrainConfig:
    """The options of a run from its config.json, which is not trusted. What it does not say has its default.

    Raises:
        InputError: an unknown option, or a value of another type or out of range.
    """
    known = groups()
    if not isinstance(options, dict) or not set(options) <= set(known):
        raise InputError(f"{where}: 'options' are not those of `csr train`")
    built: dict[str, Any] = {}
    for name, values in options.items():
        fields = {f.name: f for f in dataclasses.fields(known[name])}
        unknown = sorted(set(values) - set(fields)) if isinstance(values, dict) else ["not an object"]
        if unknown:
            raise InputError(f"{where}: options of {name!r} are unknown: {', '.join(unknown)[:120]}")
        wrong = [key for key, value in values.items() if not _fits(value, fields[key])]
        if wrong:
            raise InputError(f"{where}: option {wrong[0]!r} is {str(values[wrong[0]])[:40]!r}")
        built[name] = known[name](**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
    config = TrainConfig(**built)
    check_ranges(config)
    return config


_KINDS = {"int": int, "str": str, "bool": bool, "float": (int, float), "tuple[str, ...]": (list, tuple)}


def _fits(value: Any, field: dataclasses.Field) -> bool:
    kinds = str(field.type).split(" | ")
    if value is None:
        return "None" in kinds
    if isinstance(value, bool) and "bool" not in kinds:
        return False
    allowed = field.metadata["choices"]
    fits = any(isinstance(value, _KINDS[kind]) for kind in kinds if kind != "None")  # type: ignore[arg-type]
    if isinstance(value, list | tuple):
        fits = fits and all(isinstance(item, str) for item in value)
    return fits and (allowed is None or value in allowed)


@contextlib.contextmanager
def image_folder(given: Path | None) -> Iterator[Path]:
    """Where decoded images are kept: the given folder, or a private temporary one (they are patients')."""
    if given is not None:
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="csr-images-") as folder:
        yield Path(folder)


def open_images(
    source: Source,
    csv: str,
    folder: str,
    *,
    part: str,
    boxes_csv: str | None,
    cache: Path | None,
    workers: int,
    say: Say,
    hint: str,
) -> LabelledImages:
    """Read a label table with the model's columns, and decode its images once.

    Args:
        source: whose names and sizes hold.
        csv, folder: labels and images.
        part: train or test: which images of the run's quarantine are left out.
        boxes_csv: boxes on these images, or None.
        cache: folder of decoded images; None decodes them whenever they are needed.
        workers: threads that decode.
        say: tells the user.
        hint: what to do where the table is not there.

    Raises:
        InputError: anything wrong with the table, the images or the boxes.
    """
    card = source.card
    if not Path(csv).exists():
        raise InputError(f"{csv}: no such file: {hint}")
    table = read_label_table(
        csv, reader_merge=source.config.data.reader_merge,
        vocabulary=Vocabulary(card.concept_names, card.target_names),
    )  # fmt: skip
    left_out = source.left_out[part]
    table = without(table, left_out)
    boxes = None if boxes_csv is None else read_boxes(boxes_csv, table=table, left_out=left_out)
    for name, number in ({} if boxes is None else boxes.ignored).items():
        say(f"Boxes of {name!r}, which is no concept, are not used: {number}")
    store = open_store(
        find_images(folder, table), size=card.preprocessing.stored_size, cache_dir=cache, workers=workers,
        where=table.where,
    )  # fmt: skip
    checked = None if boxes is None else boxes.check_inside(store.original_sizes_N2)
    return LabelledImages(store, table, boxes=checked)


def split(images: LabelledImages, config: TrainConfig) -> tuple[LabelledImages, LabelledImages]:
    """Training and validation images, as `csr train` splits them."""
    train, val = split_validation(images.table, fraction=config.data.val_fraction, seed=config.engine.seed)
    return _some(images, train), _some(images, val)


def _some(images: LabelledImages, indices: np.ndarray) -> LabelledImages:
    return LabelledImages(images.store, images.table, boxes=images.boxes, indices=indices)


def add_source_flags(parser: argparse.ArgumentParser) -> None:
    """Flags that both commands have, under the same names."""
    add = parser.add_argument
    add("source", metavar="RUN", help="output_dir/exp_name of `csr train`, or folder of a model")
    add("--checkpoint", help="name of a .pth, where RUN is a run (default: best of stage 3)")
    add("--image_cache", metavar="DIR", type=Path,
        help="decoded images (default: the run's, or a temporary one)")  # fmt: skip
    add("--workers", type=Whole(1, 1024), default=4, help="threads that decode images (default: 4)")
    add("--batch_size", type=Whole(1, 65_536), default=32, help="images that the network sees at once (default: 32)")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:1 (default: auto)")
