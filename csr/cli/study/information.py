"""`csr evaluate --information`: what concepts and scores tell of the diagnoses, and leakage."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from csr.runtime.errors import InputError

if TYPE_CHECKING:
    from csr.data.batch import Batch
    from csr.data.dataset import LabelledImages
    from csr.model.baselines import Network
    from csr.runtime.monitor import Monitor


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add --information and where its training images lie."""
    add = parser.add_argument
    add(
        "--information",
        action="store_true",
        help="also fit the same linear probe of the diagnoses on true concepts, concept logits and prototype "
        "scores of the run's training images: what each tells, and how much leaks past the concepts",
    )
    add("--train_csv", help="training labels for --information; None: the run's")
    add("--train_dir", help="folder of the training images for --information; None: the run's")


def check(model: Network, options: argparse.Namespace) -> None:
    """Raise InputError where there is nothing to fit a probe on, or no concept."""
    from csr.model.baselines import BlackBox
    from csr.model.sharing.loading import is_run

    if not options.information:
        if options.train_csv or options.train_dir:
            raise InputError("--train_csv and --train_dir are for --information: omit them, or give it too")
        return
    if isinstance(model, BlackBox):
        raise InputError(f"{options.model}: is a black box, which has no concepts: omit --information")
    if not is_run(Path(options.model)):
        raise InputError(
            f"{options.model}: is no run: --information fits on the images that a run was trained on, which "
            "its config.json names: give output_dir/exp_name"
        )


def measure(
    model: Network, options: argparse.Namespace, test: LabelledImages, *, image_cache: Path, monitor: Monitor
) -> dict[str, Any]:
    """Return what concepts and scores tell of the diagnoses, by probes on training images. Collective."""
    from csr.evaluation.bootstrap import Bootstrap
    from csr.evaluation.information.leakage import measure_information
    from csr.evaluation.information.representations import represent
    from csr.explain.source import run_images

    assert model.card is not None
    train, val = run_images(
        Path(options.model),
        model.card,
        csv=options.train_csv,
        folder=options.train_dir,
        cache=image_cache,
        workers=options.workers,
        links_into=options.links_into,
    )
    titles = {"Training images": train, "Validation images": val, "Test images": test}
    represented = [
        represent(
            model,
            images,
            batch_size=options.batch_size,
            wrap=partial(_bar, monitor, title),
        )
        for title, images in titles.items()
    ]
    return measure_information(
        *represented,
        names=model.card.target_names,
        bootstrap=Bootstrap(options.bootstrap, options.seed),
    )


def _bar(monitor: Monitor, title: str, batches: Iterable[Batch], total: int) -> Iterator[Batch]:
    return monitor.bar(batches, total=total, title=title)


def notices(information: dict[str, Any]) -> list[str]:
    """Return what the reader of the results must know."""
    from csr.evaluation.information import shown

    return shown.notices(information)
