"""One run from prepared parts to written results, and its rehearsal."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from csr.config.trackers import TENSORBOARD, tracked
from csr.data.dataset import LabelledImages
from csr.evaluation.comparison.predictions import write_predictions
from csr.model import CSR
from csr.runtime import distributed
from csr.runtime.errors import EXIT_DONE, EXIT_FAILED, EXIT_PREEMPTED, PreemptedError, StoppedError
from csr.runtime.files import write_json
from csr.runtime.monitor import Monitor
from csr.runtime.signals import StopRequest
from csr.runtime.tensor_files import load_tensors
from csr.stages.base import Stage
from csr.stages.runner import STAGE_NUMBER, VALIDATED_BY, StageRunner, Weights
from csr.training import build
from csr.training.checkpoints.checkpoint_folder import CheckpointFolder
from csr.training.checkpoints.file_names import CONFIG, RESULTS
from csr.training.data import one_step_of
from csr.training.final_test import FinalTest, Tested, card_of
from csr.training.logs.board_layout import board_layout
from csr.training.logs.board_text import board_texts
from csr.training.logs.epoch_report import by_label, test_values
from csr.training.logs.hyperparameters import flat_options, hparams_summaries
from csr.training.logs.pictures import Pictures
from csr.training.logs.run_config import run_config
from csr.training.prepared import Prepared
from csr.training.trackers.trackers import Trackers
from csr.training.trainer import Trainer
from csr.training.trainer_options import trainer_options

CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO)
REHEARSED_TEST_IMAGES = 8


@contextlib.contextmanager
def opened_folder(prepared: Prepared) -> Iterator[Path]:
    """Open the result folder for one run: emptied, or as it was at the checkpoint. Collective.

    Raises:
        StoppedError: the disk refused a write of the run.
    """
    folder, plan = prepared.folder, prepared.plan
    distributed.on_main(lambda: folder.open(plan.checkpoint, prepared.saved))
    try:
        yield folder.path
    except OSError as error:
        if error.errno not in CANNOT_WRITE:
            raise
        raise StoppedError(
            f"{folder.path}: cannot be written ({error.strerror}): what was saved before is whole; "
            "make room there, then the same command resumes"
        ) from None
    finally:
        folder.close()


def rehearse(prepared: Prepared, stop: StopRequest) -> int:
    """Run one step of every stage, the test, saving and loading in a temporary folder. Collective."""
    few = dataclasses.replace(prepared, splits=one_step_of(prepared.splits, prepared.config))
    with _temporary_folder() as folder:
        with Run(few, folder, stop=stop) as run:
            run.train_stages()
            run.finish(run.test())
    run.monitor.say("Dry run done: data, model, one step of every stage, saving and loading work.")
    return 0


@contextlib.contextmanager
def _temporary_folder() -> Iterator[Path]:
    """Make a folder that all ranks of a host see, gone afterwards. Collective."""
    path = Path(distributed.on_main(lambda: tempfile.mkdtemp(prefix="csr-dry-run-")))
    path.mkdir(exist_ok=True, parents=True)
    try:
        yield path
    finally:
        distributed.barrier()
        if distributed.local_rank() == 0:
            shutil.rmtree(path)


class Run:
    """One run.

    Args:
        prepared: checked options, data and model.
        folder: of the results.
        stop: asked between steps whether to save and leave.
    """

    def __init__(self, prepared: Prepared, folder: Path, *, stop: StopRequest) -> None:
        self.config, self.folder, self._prepared = prepared.config, folder, prepared
        self._saved = saved = prepared.saved
        self.model, self.splits = prepared.model, prepared.splits
        self._train_table = prepared.tables.train.select(prepared.tables.train_indices)
        self._record = run_config(prepared) if distributed.is_main() else {}
        distributed.on_main(self._write_setup)
        self._tracked = tracked(self.config.run.track)
        self.monitor = Monitor(
            folder,
            first_step=saved.state.global_step + 1 if saved else None,
            board=TENSORBOARD in self._tracked,
        )
        self._trackers = self._open_trackers()
        if saved is None:  # a resumed run's board has them already
            self._describe()
        self._task_loss = build.task_loss_of(self.config, prepared.tables.train)
        self._pictures = Pictures(
            self.monitor,
            self.splits,
            lambda reference: card_of(self.splits, self._task_loss, reference),
            every=self.config.run.picture_every,
        )
        self.trainer = Trainer(
            trainer_options(self.config, prepared.precision.name),
            data=self.splits,
            ds_config=prepared.ds_config,
            monitor=self.monitor,
            pictures=self._pictures,
            folder=folder,
            stop=stop,
            saved=saved,
            checkpoints=CheckpointFolder(
                folder, keep=self.config.run.keep_checkpoints, identity=prepared.identity.record()
            ),
        )

    def _write_setup(self) -> None:
        write_json(self.folder / CONFIG, self._record)  # first: it marks a run
        write_json(self.folder / "deepspeed_config.json", self._prepared.ds_config)
        self._prepared.quarantine.write(self.folder)

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """End what writes the run down, however the run ends."""
        if error is None:
            self.monitor.close()
        if self._trackers is not None:
            failed = EXIT_PREEMPTED if isinstance(error, PreemptedError) else EXIT_FAILED
            self._trackers.close(EXIT_DONE if error is None else failed)

    def _open_trackers(self) -> Trackers | None:
        """Return the trackers beside TensorBoard: on rank 0, and of no dry run."""
        if not distributed.is_main() or self.config.run.dry_run or self._tracked == (TENSORBOARD,):
            return None
        record = self._record
        names = ("git_revision", "code_revision", "world_size", "effective_batch")
        self.monitor.trackers = trackers = Trackers(
            self._tracked,
            self.folder,
            options=flat_options(self.config),
            facts={f"csr.{name}": record[name] for name in names if record[name] is not None},
            warn=self.monitor.say,
        )
        return trackers

    def _describe(self) -> None:
        if not distributed.is_main():
            return
        sizes = {kind: len(names) for kind, names in self.splits.names.items()}
        kinds = {name: VALIDATED_BY[name] for name in self.config.epochs}
        labels = {name: 0 if kind is None else sizes[kind] for name, kind in kinds.items()}
        self.monitor.layout(board_layout(labels, world_size=distributed.world_size()))
        self.monitor.texts(board_texts(self._record, self.config), step=0)

    def train_stages(self) -> None:
        """Train the stages, or what is left of them; write the final model. Collective."""
        order = tuple(self.config.epochs)
        runner = StageRunner(self.model, self._build_stage, order=order)
        first = order[0] if self.config.model.stage1_from is None else order[1]
        runner.run(self._train_stage, first=self._saved.state.stage if self._saved else first)
        self.trainer.saver.weights(self.model.state_dict(), "final_model.pth")
        self._check_reload()

    def _build_stage(self, name: str) -> Stage:
        num_epochs = self.trainer.options.epochs[name]
        self.monitor.say("")
        self.monitor.say(f"=== Stage {STAGE_NUMBER[name]}/3: {name} learning ({num_epochs} epochs) ===")
        stage = build.build_stage(
            name,
            config=self.config,
            model=self.model,
            train=self._train_table,
            report=self.monitor.say,
            task_loss=self._task_loss,
        )
        resumed = self._saved is not None and self._saved.state.stage == name
        if not resumed:
            self._log_label_weights(stage)
        return stage

    def _log_label_weights(self, stage: Stage) -> None:
        weights = stage.label_weights()
        if weights is None or stage.label is None:
            return
        named = dict(zip(self.splits.names[stage.label], weights.tolist(), strict=True))
        values = by_label(f"{stage.name}_pos_weight", named)
        self.monitor.gathered(values, step=self.trainer.state.global_step)

    def _train_stage(self, stage: Stage) -> Weights:
        weights = self.trainer.train_stage(stage)
        if stage.label == "concept" and distributed.is_main():
            self.model.load_state_dict(weights)
            self._pictures.after_stage(stage.name, self.model, step=self.trainer.state.global_step)
        return weights

    def _check_reload(self) -> None:
        """Load the written file: it holds the trained weights, as a dry run promises."""
        if distributed.is_main():
            self.model.load_state_dict(load_tensors(self.folder / "final_model.pth"))

    def test(self) -> Tested:
        """Write reference.json; measure the test images, write their predictions and print their table.

        Collective.

        Returns:
            What the test images measured.
        """
        final = FinalTest(
            self.model,
            self.splits,
            self._task_loss,
            self.config.method.max_pos_weight,
            self._prepared.precision.name,
            self.trainer.validator,
        )
        self.model.card = final.card(final.reference())
        distributed.on_main(self._write_reference)
        if isinstance(self.model, CSR) and distributed.is_main():
            # now: contributions count from the medians just measured
            self._pictures.after_stage("task", self.model, step=self.trainer.state.global_step)
        images = self._test_images()
        tested = final.test(images)
        distributed.on_main(lambda: write_predictions(self.folder, tested.predictions))
        note = " (dry run: numbers mean nothing)" if self.config.run.dry_run else ""
        title = f"=== Test set: {len(images)} images, best model of stage 3{note} ==="
        for line in ("", title, *tested.lines):
            self.monitor.say(line)
        return tested

    def _write_reference(self) -> None:
        card = self.model.card
        assert card is not None
        write_json(self.folder / "reference.json", card.to_dict()["reference"])

    def _test_images(self) -> LabelledImages:
        store, table = self._prepared.test_store, self._prepared.tables.test
        images = LabelledImages(store, table)
        if not self.config.run.dry_run:
            return images
        return LabelledImages(store, table, indices=images.indices[:REHEARSED_TEST_IMAGES])

    def finish(self, tested: Tested) -> None:
        """Write results.json, which marks a finished run, and the HParams board. Collective."""
        distributed.on_main(lambda: write_json(self.folder / RESULTS, tested.record))
        measured = test_values(tested.record, tested.calibration)
        self.monitor.gathered(measured, step=self.trainer.state.global_step)
        if distributed.is_main():
            self.monitor.summaries(hparams_summaries(self.config, measured))
        if self._trackers is not None:
            self._trackers.model(is_csr=isinstance(self.model, CSR))
        if not self.config.run.dry_run:
            self.monitor.say(f"Results: {self.folder}")
            if TENSORBOARD in self._tracked:
                self.monitor.say(f"TensorBoard: tensorboard --logdir {self.folder / 'tensorboard'}")
