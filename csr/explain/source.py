"""The images that a trained model is looked at with: those of its run, or of tables that the user names.

Both `csr atlas` and `csr refine` take a run, whose config.json names its data, or a model folder with
the data given by flags; flags win over the run's options.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from csr.config.from_json import config_of
from csr.config.options import TrainConfig
from csr.data.dataset import LabelledImages
from csr.data.labels.csv_file import read_rows
from csr.data.labels.csv_header import read_header
from csr.data.labels.names import show
from csr.data.training_split import split_training
from csr.evaluation import images
from csr.explain.run_data import with_found_data
from csr.model import CSR
from csr.model.sharing.card import Card
from csr.model.sharing.config_file import CONFIG, read_config
from csr.model.sharing.loading import OF_THE_SPLIT, is_run, load_model
from csr.runtime import distributed
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
        seed_known: whether it is written down what seed the training images were split with.
        left_out: train and test -> ids of images that the run put into quarantine.
    """

    folder: Path
    model: CSR
    config: TrainConfig
    is_run: bool
    effective_batch: int
    left_out: Mapping[str, Sequence[str]]
    seed_known: bool = True

    @property
    def card(self) -> Card:
        assert self.model.card is not None
        return self.model.card

    @property
    def cache(self) -> Path:
        """The folder in which the run keeps what it computes once."""
        return self.folder.parent / ".cache"

    @property
    def image_cache(self) -> Path | None:
        """The run's folder of decoded images; None where there is none."""
        given = self.config.data.image_cache
        if not self.is_run or given == "off":
            return None
        return self.cache / "images" if given == "auto" else Path(given)


def with_links(source: Source, links_into: Sequence[str] | None) -> Source:
    """Return a source whose image folders may have links into these folders; None keeps the run's own."""
    if links_into is None:
        return source
    data = replace(source.config.data, links_into=tuple(links_into))
    return replace(source, config=replace(source.config, data=data))


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
        config = _config_of_card(model.card, where=f"{given}: config.json")
        known = "seed" in model.card.data
        return Source(folder, model, config, False, config.optim.batch_size, _NOTHING, seed_known=known)
    content = read_config(folder / CONFIG)
    config = with_found_data(config_of(content["options"], where=str(folder / CONFIG)), folder)
    batch = content.get("effective_batch")
    if not isinstance(batch, int) or isinstance(batch, bool) or not 1 <= batch <= 2**24:
        batch = max(1, config.optim.batch_size) * config.optim.accumulation
    return Source(folder, model, config, True, batch, quarantined(folder))


def _config_of_card(card: Card, *, where: str) -> TrainConfig:
    """Return csr train's defaults with what a card says of the training."""
    options = TrainConfig().to_dict()
    options["method"] |= {"task_loss": card.task_loss}
    options["method"] |= {key: card.method[key] for key in ("max_pos_weight",) if key in card.method}
    options["data"] |= {key: card.data[key] for key in OF_THE_SPLIT if key in card.data}
    options["engine"] |= {key: card.data[key] for key in ("seed",) if key in card.data}
    return config_of(options, where=where)


_NOTHING: Mapping[str, Sequence[str]] = {"train": (), "test": ()}


def quarantined(folder: Path) -> Mapping[str, Sequence[str]]:
    """Return images that a run left out because they could not be read.

    Nothing is known of them now either.
    """
    if not (folder / QUARANTINE).is_file():
        return _NOTHING
    rows = read_rows(folder / QUARANTINE)
    header = read_header(rows, folder / QUARANTINE, required=("split", "image_id"))
    split_at, id_at = header.index("split"), header.index("image_id")
    found: dict[str, list[str]] = {"train": [], "test": []}
    for _, cells in rows:
        found.setdefault(cells[split_at], []).append(cells[id_at])
    return found


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
        say: called with each line for the user.
        hint: what to do where the table is not there.

    Raises:
        InputError: anything wrong with the table, the images or the boxes.
    """
    card = source.card
    if not Path(csv).exists():
        raise InputError(f"{csv}: no such file: {hint}")
    table, boxes = images.read_tables(
        csv,
        card,
        reader_merge=source.config.data.reader_merge,
        boxes_csv=boxes_csv,
        group_col=source.config.data.group_col,
        left_out=source.left_out[part],
    )
    for line in images.ignored_lines(boxes):
        say(line)
    opened = images.open_images(
        table,
        boxes,
        folder,
        cache=cache,
        preprocessing=card.preprocessing,
        workers=workers,
        links_into=source.config.data.links_into or (),
    )
    for line in [] if opened.boxes is None else opened.boxes.square_lines():
        say(line)
    return opened


def run_images(
    run: Path,
    card: Card,
    *,
    csv: str | None,
    folder: str | None,
    cache: Path,
    workers: int,
    links_into: Sequence[str] = (),
) -> tuple[LabelledImages, LabelledImages]:
    """Return the training and validation images of a run, of csr or of a baseline. Collective.

    Args:
        run: its folder.
        card: of its model.
        csv, folder: where labels and images are now; None: where they were.
        cache: folder of decoded images.
        workers: threads that decode.
        links_into: folders that links in the image folder may lead into, beside those of the run.

    Raises:
        InputError: anything wrong with the table or the images.
    """
    with distributed.errors_agreed():
        config = config_of(read_config(run / CONFIG)["options"], where=str(run / CONFIG))
        data = config.data
        path = csv or data.train_csv
        if not Path(path).exists():
            raise InputError(f"{path}: no such file: give the run's training labels with --train_csv")
        table, _ = images.read_tables(
            path,
            card,
            reader_merge=data.reader_merge,
            boxes_csv=None,
            group_col=data.group_col,
            left_out=quarantined(run)["train"],
        )
    opened = images.open_images(
        table,
        None,
        folder or data.train_dir,
        cache=cache,
        preprocessing=card.preprocessing,
        workers=workers,
        links_into=(*links_into, *(data.links_into or ())),
    )
    return split(opened, config)


def split(dataset: LabelledImages, config: TrainConfig) -> tuple[LabelledImages, LabelledImages]:
    """Return training and validation images, as `csr train` splits them.

    Raises:
        InputError: the table lacks the column of patients that the images were split by.
    """
    data = config.data
    if data.group_col is not None and dataset.table.patient_ids is None:
        raise InputError(
            f"{dataset.table.path}: no column {show(data.group_col)}, by which the training images were "
            "split (--group_col): without it validation images may be such that the model was trained on"
        )
    train, val = split_training(
        dataset.table,
        fraction=data.val_fraction,
        seed=config.engine.seed,
        folds=data.folds,
        fold=data.fold,
        num_images=data.num_images,
    )
    return _some(dataset, train), _some(dataset, val)


def _some(dataset: LabelledImages, indices: np.ndarray) -> LabelledImages:
    return LabelledImages(dataset.store, dataset.table, boxes=dataset.boxes, indices=indices)
