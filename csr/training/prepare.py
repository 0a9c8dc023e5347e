"""A run prepared: every check in order, each step one frozen value; nothing is written before all have passed.

Errors of the command line come before ranks wait for each other; from then on all ranks raise the same error.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from csr.config.options import TrainConfig
from csr.data.image_cache.store import ImageStore
from csr.engine import config_check, process_group
from csr.engine.device import computes_bf16, device_kind, local_device
from csr.engine.ds_config import DsFile, load_ds_config, merge_ds_config
from csr.engine.precision import Precision, check_request, choose_precision
from csr.model import CSR
from csr.runtime import distributed, fingerprint
from csr.runtime.monitor import Monitor
from csr.runtime.progress import PROGRESS
from csr.runtime.signals import StopRequest
from csr.training import batch_size_finder, build, cache_usage, inputs
from csr.training.checkpoints.resume_plan import Identity, Plan, Planner, earlier_precision, identity_of
from csr.training.checkpoints.run_folder import RunFolder
from csr.training.checkpoints.state import Saved, load_saved
from csr.training.data import Splits
from csr.training.logs.summary import describe
from csr.training.quarantine import Quarantine, find_bad_images


@dataclass(frozen=True)
class Request:
    """What the command line asks for, checked as far as one rank alone can.

    Attributes:
        config: options; with `--batch_size auto` the whole effective batch in one micro step.
        auto_batch: whether the micro batch is to be measured.
        ds_file: the user's DeepSpeed JSON; None takes the shipped one for the precision.
    """

    config: TrainConfig
    auto_batch: bool
    ds_file: DsFile | None


@dataclass(frozen=True)
class Arithmetic:
    """What the run computes in, the same on all ranks."""

    precision: Precision
    ds_file: DsFile

    def ds_config(self, config: TrainConfig) -> dict[str, Any]:
        """Return the DeepSpeed JSON merged with the options that decide batch and clipping."""
        return merged(self.ds_file, config)


@dataclass(frozen=True)
class Checked:
    """Tables, images and model of the run.

    Attributes:
        tables: labels, files and split, without the images of the quarantine.
        quarantine: images that are left out.
        model: with its first weights.
        splits: training and validation images.
        test_store: decoded test images.
        identity: of the run, with its data.
    """

    tables: inputs.Tables
    quarantine: Quarantine
    model: CSR
    splits: Splits
    test_store: ImageStore
    identity: Identity


@dataclass(frozen=True)
class FittedOptions:
    """Options with the micro batch that the run takes, and why if it was measured."""

    config: TrainConfig
    reason: str | None


@dataclass(frozen=True)
class Prepared:
    """All that a run is made of.

    Attributes:
        config: options as the run takes them.
        precision: of the arithmetic.
        ds_config: merged DeepSpeed JSON.
        checked: tables, images, model.
        identity: for its checkpoints.
        plan: whether it begins or resumes.
        saved: the checkpoint that it resumes from.
        folder: of the results; untouched so far.
    """

    config: TrainConfig
    precision: Precision
    ds_config: dict[str, Any]
    checked: Checked
    identity: Identity
    plan: Plan
    saved: Saved | None
    folder: RunFolder


def prepare(given: TrainConfig, stop: StopRequest) -> Prepared:
    """Check everything and build the parts of a run; write nothing. Collective.

    Args:
        given: options as given by the user.
        stop: asked between steps whether to leave.

    Raises:
        InputError: the first thing wrong with flags, files, hosts or data; the same on all ranks.
    """
    monitor = Monitor(None)
    request = check_command_line(given)
    join_ranks(request.config)
    arithmetic = settle_arithmetic(request)
    folder = RunFolder(request.config.folder)
    own, plan = plan_run(request.config, arithmetic, folder, monitor)
    resumed = resumed_options(request, plan)
    checked = check_data(resumed.config, plan, own, stop, monitor)
    fitted = fit_batch(request, resumed, checked, arithmetic.precision, monitor)
    config, ds_config = fitted.config, arithmetic.ds_config(fitted.config)
    identity = checked.identity.with_batch(config, fitted.reason) if request.auto_batch else checked.identity
    if request.ds_file is not None:
        config_check.check_config(ds_config, request.ds_file.name)
    describe(config, checked.tables, checked.model, arithmetic.precision, monitor, ds_config=ds_config)
    saved = read_checkpoint(plan, config, stop)
    return Prepared(config, arithmetic.precision, ds_config, checked, identity, plan, saved, folder)


def check_command_line(given: TrainConfig) -> Request:
    """Check what needs no other rank: contradictions are reported before any rank waits for another."""
    engine = given.engine
    ds_file = None if engine.ds_config is None else load_ds_config(engine.ds_config, engine.precision)
    check_request(engine.precision, ds_file=ds_file, device=device_kind())
    auto_batch = batch_size_finder.is_asked(given)
    config = given
    if auto_batch:
        config = batch_size_finder.provisional(given, world=distributed.world_size())
    if ds_file is not None:
        merged(ds_file, config)
    return Request(config, auto_batch, ds_file)


def merged(ds_file: DsFile, config: TrainConfig) -> dict[str, Any]:
    """Return a DeepSpeed JSON with batch, accumulation and clipping of the options.

    Raises:
        InputError: the JSON contradicts them.
    """
    optim = config.optim
    return merge_ds_config(
        ds_file.parsed,
        name=ds_file.name,
        batch_size=optim.batch_size,
        accumulation=optim.accumulation,
        clip=optim.clip,
        world_size=distributed.world_size(),
    )


def join_ranks(config: TrainConfig) -> None:
    """Open the process group and check that all ranks run the same code with the same options. Collective."""
    if distributed.world_size() == 1:
        return
    process_group.start(config.engine.timeout)
    options = {k: v for group in config.to_dict().values() for k, v in group.items()}
    fingerprint.agree("their options", options)
    fingerprint.agree("the version of csr: install the same one everywhere", fingerprint.of_code())


def settle_arithmetic(request: Request) -> Arithmetic:
    """Choose the precision that suits all ranks, and its DeepSpeed JSON. Collective."""
    config = request.config
    (lacks_bf16,) = distributed.host_max([int(not computes_bf16())])
    precision = choose_precision(
        config.engine.precision,
        ds_file=request.ds_file,
        device=device_kind(),
        has_bf16=not lacks_bf16,
        earlier=distributed.on_main(lambda: earlier_precision(config)),
    )
    fingerprint.agree("what suits their hardware: give --precision", {"precision": precision.name})
    return Arithmetic(precision, request.ds_file or load_ds_config(None, precision.name))


def plan_run(
    config: TrainConfig, arithmetic: Arithmetic, folder: RunFolder, monitor: Monitor
) -> tuple[Identity, Plan]:
    """Begin, resume or refuse; rank 0 decides. Collective."""
    own = identity_of(
        config,
        ds_config=arithmetic.ds_config(config),
        precision=arithmetic.precision.name,
        world=distributed.world_size(),
    )
    return own, distributed.on_main(Planner(config, own, folder, monitor.say).plan)


def resumed_options(request: Request, plan: Plan) -> FittedOptions:
    """Return the options with the batch of the run that is resumed; as they are for a run that begins."""
    world = distributed.world_size()
    kept = batch_size_finder.kept(plan.manifest, world=world) if request.auto_batch else None
    if kept is None:
        return FittedOptions(plan.adapted(request.config), None)
    assert plan.manifest is not None
    return FittedOptions(
        batch_size_finder.with_batch(request.config, *kept), plan.manifest.get("batch_size_auto")
    )


def check_data(
    config: TrainConfig, plan: Plan, own: Identity, stop: StopRequest, monitor: Monitor
) -> Checked:
    """Read tables, build the model, decode every image: cheap checks first. Collective."""

    def progress(done: int, of: int) -> None:
        PROGRESS.now(f"image {done} of {of}")
        stop.check(f"at image {done} of {of}, before training")

    quarantine = find_bad_images(config, monitor.say, progress, recorded=plan.quarantine)
    with distributed.errors_agreed():
        tables = inputs.build_tables(config, monitor.say, progress, left_out=quarantine.left_out)
        build.task_loss_of(config, tables.train)
        identity = replace(own, quarantine=quarantine.record(), data=tables.fingerprint())
    fingerprint.agree("their data: the same tables and images must be on each host", identity.data)
    plan.check_data(str(identity.data))
    with distributed.errors_agreed():
        stop.check("before training")
        model = build.build_model(config, tables.train, monitor.say)
    stores = inputs.build_stores(config, tables, progress, opened_before=quarantine.stores)
    report_large_caches(config, monitor)
    with distributed.errors_agreed():
        splits = build.build_data(config, tables, stores[0], model)
    return Checked(tables, quarantine, model, splits, stores[1], identity)


def report_large_caches(config: TrainConfig, monitor: Monitor) -> None:
    """Print a notice where caches beside the decoded images have become large. Collective."""
    folder = inputs.image_cache(config)
    if folder is not None and (notice := distributed.on_main(lambda: cache_usage.notice(folder))):
        monitor.say(notice)


def fit_batch(
    request: Request, resumed: FittedOptions, checked: Checked, precision: Precision, monitor: Monitor
) -> FittedOptions:
    """Measure the micro batch that fits all ranks where `--batch_size auto` asks for it. Collective."""
    if not process_group.started():
        process_group.start(resumed.config.engine.timeout)
    if not request.auto_batch or resumed.config.optim != request.config.optim:
        return resumed
    config, tables, device = resumed.config, checked.tables, local_device()
    train = tables.train.select(tables.train_indices)
    stage = build.build_stage("concept", config=config, model=checked.model, train=train, say=lambda _: None)
    choice = batch_size_finder.find(
        stage.to(device),
        checked.splits,
        share=config.optim.batch_size,
        precision=precision.name,
        device=device,
    )
    monitor.say(
        f"--batch_size auto: {choice.batch_size} images per rank and {choice.accumulation} accumulation "
        f"({choice.reason})"
    )
    return FittedOptions(
        batch_size_finder.with_batch(config, choice.batch_size, choice.accumulation), choice.reason
    )


def read_checkpoint(plan: Plan, config: TrainConfig, stop: StopRequest) -> Saved | None:
    """Read the checkpoint that the run resumes from, if any. Collective."""
    with distributed.errors_agreed():
        stop.check("before training")
        if plan.checkpoint is None:
            return None
        return load_saved(plan.checkpoint, accumulation=config.optim.accumulation)
