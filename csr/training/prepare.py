"""Preparation of a run: every check in order, each step one frozen value; nothing is written here.

Errors of the command line come before ranks wait for each other; from then on all ranks raise the same error.
"""

from __future__ import annotations

from dataclasses import replace

from csr.config.options import TrainConfig
from csr.config.trackers import tracked
from csr.engine import config_check, matmul_peak, process_group
from csr.engine.deterministic import refusals_told, use_deterministic_kernels
from csr.engine.device import computes_bf16, device_kind, local_device, use_growing_segments
from csr.engine.ds_config import load_ds_config
from csr.engine.precision import Precision, check_request, choose_precision
from csr.model.backbones.normalisation import Normalisation
from csr.model.baselines import Network
from csr.runtime import distributed, fingerprint
from csr.runtime.monitor import Monitor
from csr.runtime.progress import PROGRESS
from csr.runtime.signals import StopRequest
from csr.training import batch_size_finder, build, cache_usage, inputs
from csr.training.checkpoints.first_stage import check_training_data
from csr.training.checkpoints.resume_plan import Plan, Planner, earlier_precision, identity_of
from csr.training.checkpoints.run_folder import RunFolder
from csr.training.checkpoints.state import Saved, load_saved
from csr.training.logs.summary import describe
from csr.training.prepared import Arithmetic, Fitted, Images, Labels, Prepared, Request, Start, merged
from csr.training.quarantine import find_bad_images
from csr.training.trackers.tracker import check_installed, set_environment


def prepare(given: TrainConfig, stop: StopRequest) -> Prepared:
    """Check everything and build the parts of a run; write nothing. Collective.

    Args:
        given: options of the command line.
        stop: asked between steps whether to leave.

    Raises:
        InputError: the first thing wrong with flags, files, hosts or data; the same on all ranks.
    """
    monitor = Monitor(None)
    request = check_command_line(given)
    trackers = tracked(request.config.run.track)
    set_environment(trackers)
    join_ranks(request.config)
    distributed.on_main(lambda: check_installed(trackers))
    arithmetic = settle_arithmetic(request)
    folder = RunFolder(request.config.folder)
    start = resume_plan(request, arithmetic, folder, monitor.say)
    progress = decoding(stop)
    labels = read_tables(start, monitor.say, progress)
    with inputs.decoding_ahead(start.config, labels.tables) as ahead:  # while packages are imported
        with distributed.errors_agreed():
            stop.check("before training")
            model = build.build_model(
                start.config, labels.tables.train, monitor.say, precision=arithmetic.precision.name
            )
            check_training_data(start.config, labels.tables, monitor.say)
            normalisation = build.normalisation_of(start.config, model, start.plan, monitor.say)
        labels = replace(labels, identity=labels.identity.normalised(normalisation))
        process_group.load()
        images = open_stores(start.config, labels, ahead, model, normalisation, monitor.say, progress)
    fitted = fit_batch(start, labels, images, model, arithmetic.precision, monitor.say)
    ds_config = arithmetic.ds_config(fitted.config)
    if request.ds_file is not None:
        config_check.check_config(ds_config, request.ds_file.name)
    describe(fitted.config, labels.tables, model, arithmetic.precision, monitor, ds_config=ds_config)
    return Prepared(
        config=fitted.config,
        precision=arithmetic.precision,
        ds_config=ds_config,
        tables=labels.tables,
        quarantine=labels.quarantine,
        model=model,
        splits=images.splits,
        test_store=images.test_store,
        identity=fitted.identity,
        plan=start.plan,
        saved=read_checkpoint(start.plan, fitted.config, stop),
        folder=folder,
    )


def check_command_line(given: TrainConfig) -> Request:
    """Check what needs no other rank: contradictions are reported before any rank waits for another."""
    given = build.with_native_size(given)
    engine = given.engine
    use_growing_segments()
    if engine.deterministic:
        use_deterministic_kernels()
    ds_file = None if engine.ds_config is None else load_ds_config(engine.ds_config, engine.precision)
    check_request(engine.precision, ds_file=ds_file, device=device_kind())
    auto_batch = batch_size_finder.is_asked(given)
    config = given
    if auto_batch:
        config = batch_size_finder.provisional(given, world=distributed.world_size())
    if ds_file is not None:
        merged(ds_file, config)
    return Request(config, auto_batch, ds_file)


def join_ranks(config: TrainConfig) -> None:
    """Open the process group; check that all ranks run the same code with the same options. Collective."""
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


def resume_plan(request: Request, arithmetic: Arithmetic, folder: RunFolder, report: inputs.Report) -> Start:
    """Begin, resume or refuse; rank 0 decides. Collective."""
    config, world = request.config, distributed.world_size()
    identity = identity_of(
        config,
        ds_config=arithmetic.ds_config(config),
        precision=arithmetic.precision.name,
        world=world,
    )
    plan = distributed.on_main(Planner(config, identity, folder, report).plan)
    kept = batch_size_finder.kept(plan.manifest, world=world) if request.auto_batch else None
    if kept is None:
        return Start(plan, identity, plan.adapted(config), request.auto_batch)
    assert plan.manifest is not None
    return Start(
        plan,
        identity,
        batch_size_finder.with_batch(config, *kept),
        auto_batch=True,
        keeps_batch=True,
        batch_reason=plan.manifest.get("batch_size_auto"),
    )


def decoding(stop: StopRequest) -> inputs.Progress:
    """Return what is called after each decoded image: it notes the progress, and leaves if asked to stop."""

    def progress(done: int, of: int) -> None:
        PROGRESS.now(f"image {done} of {of}")
        stop.check(f"at image {done} of {of}, before training")

    return progress


def read_tables(start: Start, report: inputs.Report, progress: inputs.Progress) -> Labels:
    """Read the tables, find every image, omit those of the quarantine; cheap checks first. Collective."""
    config, plan = start.config, start.plan
    quarantine = find_bad_images(config, report, progress, recorded=plan.quarantine)
    with distributed.errors_agreed():
        tables = inputs.build_tables(config, report, progress, left_out=quarantine.left_out)
        build.task_loss_of(config, tables.train)
        data = tables.fingerprint()
    fingerprint.agree("their data: the same tables and images must be on each host", data)
    plan.check_data(data)
    return Labels(tables, quarantine, replace(start.identity, quarantine=quarantine.record(), data=data))


def open_stores(
    config: TrainConfig,
    labels: Labels,
    ahead: inputs.DecodingAhead,
    model: Network,
    normalisation: Normalisation,
    report: inputs.Report,
    progress: inputs.Progress,
) -> Images:
    """Decode every image once; report caches that have become large. Collective."""
    train_store, test_store = inputs.build_stores(
        config, labels.tables, progress, ahead=ahead, opened_before=labels.quarantine.stores
    )
    workers = config.data.workers
    for line in distributed.on_main(lambda: inputs.notices_on(train_store, test_store, workers=workers)):
        report(f"Notice: {line}")
    folder = inputs.image_cache(config)
    if folder is not None and (notice := distributed.on_main(lambda: cache_usage.notice(folder))):
        report(notice)
    if (notice := matmul_peak.notice()) is not None:
        report(notice)
    with distributed.errors_agreed():
        splits = build.build_data(config, labels.tables, train_store, model, normalisation)
    for line in [] if splits.train.boxes is None else splits.train.boxes.square_lines():
        report(f"Notice: {line}")
    return Images(splits, test_store)


def fit_batch(
    start: Start, labels: Labels, images: Images, model: Network, precision: Precision, report: inputs.Report
) -> Fitted:
    """Measure the micro batch that fits all ranks where `--batch_size auto` leaves it open. Collective."""
    if not process_group.started():  # of a single rank: the trial steps need one too
        process_group.start(start.config.engine.timeout)
    config, reason = start.config, start.batch_reason
    if start.auto_batch and not start.keeps_batch:
        with refusals_told():
            choice = _measured_batch(config, labels, images, model, precision)
        report(
            f"--batch_size auto: {choice.batch_size} images per rank and {choice.accumulation} accumulation "
            f"({choice.reason})"
        )
        config = batch_size_finder.with_batch(config, choice.batch_size, choice.accumulation)
        reason = choice.reason
    identity = labels.identity.with_batch(config, reason) if start.auto_batch else labels.identity
    return Fitted(config, identity)


def _measured_batch(
    config: TrainConfig, labels: Labels, images: Images, model: Network, precision: Precision
) -> batch_size_finder.Choice:
    train, device, optim = labels.tables.train, local_device(), config.optim
    own = train.select(labels.tables.train_indices)
    first = next(iter(config.epochs))
    stage = build.build_stage(first, config=config, model=model, train=own, report=lambda _: None)
    return batch_size_finder.find(
        stage.to(device),
        images.splits,
        share=optim.batch_size * optim.accumulation,
        precision=precision.name,
        device=device,
    )


def read_checkpoint(plan: Plan, config: TrainConfig, stop: StopRequest) -> Saved | None:
    """Read the checkpoint that the run resumes from, if any. Collective."""
    with distributed.errors_agreed():
        stop.check("before training")
        if plan.checkpoint is None:
            return None
        return load_saved(plan.checkpoint, accumulation=config.optim.accumulation)
