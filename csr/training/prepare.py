"""Everything checked and built before anything is written."""

from __future__ import annotations

import dataclasses
import errno
from typing import Any

from csr.config.options import TrainConfig
from csr.engine import config_check, cpu, process_group
from csr.engine.device import device_kind, local_device
from csr.engine.ds_config import load_ds_config, merge_ds_config
from csr.engine.precision import Precision, choose_precision
from csr.model import CSR
from csr.runtime import distributed, fingerprint
from csr.runtime.errors import InputError, StoppedError
from csr.runtime.monitor import Monitor
from csr.runtime.progress import PROGRESS
from csr.runtime.signals import StopRequest
from csr.training import batch_size_finder, build, cache_usage, inputs
from csr.training.checkpoints.resume_plan import Plan, earlier_precision, identity
from csr.training.checkpoints.run_folder import RunFolder
from csr.training.checkpoints.state import load_saved
from csr.training.logs.summary import describe
from csr.training.quarantine import look_for_bad_images
from csr.training.run import Parts, Run, dry_folder
from csr.training.trainer import Splits

CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO)


def train(given: TrainConfig, stop: StopRequest) -> int:
    """Check everything, then run; the result folder is not touched before all checks are passed."""
    monitor = Monitor(None)

    def progress(done: int, of: int) -> None:
        PROGRESS.now(f"image {done} of {of}")
        stop.check(f"at image {done} of {of}, before training")

    precision = precision_for(given, cpu_has_bf16=cpu.computes_bf16())
    parsed, name = load_ds_config(given.engine.ds_config, precision.name)
    auto_batch = batch_size_finder.is_asked(given)
    if auto_batch:
        given = batch_size_finder.provisional(given, world=distributed.world_size())
    merged_with(parsed, name, given)  # a contradiction is told before any rank waits for another
    if distributed.world_size() > 1:
        process_group.start(given.engine.timeout)
        flags = {k: v for group in given.to_dict().values() for k, v in group.items()}
        fingerprint.agree("their options", flags)
        fingerprint.agree("the version of csr: install the same one everywhere", fingerprint.of_code())
    (lacks_bf16,) = distributed.host_max([int(not cpu.computes_bf16())])  # all ranks compute in the same
    precision = precision_for(
        given, cpu_has_bf16=not lacks_bf16, earlier=distributed.on_main(lambda: earlier_precision(given))
    )
    fingerprint.agree("what suits their hardware: give --precision", {"precision": precision.name})
    parsed, name = load_ds_config(given.engine.ds_config, precision.name)
    ds_config = merged_with(parsed, name, given)
    mine = identity(given, ds_config=ds_config, precision=precision.name, world=distributed.world_size())
    folder = RunFolder(given, mine=mine, say=monitor.say)
    plan = distributed.on_main(folder.plan)
    config = plan.adapted(given)
    kept_batch = batch_size_finder.kept(plan.manifest, world=distributed.world_size()) if auto_batch else None
    if kept_batch is not None:
        config = batch_size_finder.with_batch(config, *kept_batch)
    ds_config = merged_with(parsed, name, config)
    recorded = None if plan.manifest is None else plan.manifest.get("quarantine")
    quarantine = look_for_bad_images(config, monitor.say, progress, recorded=recorded)
    mine["quarantine"] = quarantine.record()
    with distributed.errors_agreed():
        found = inputs.build_tables(config, monitor.say, progress, left_out=quarantine.left_out)
        build.task_loss_of(config, found.train)
        mine["data"] = found.fingerprint()
    check_data(mine["data"], plan)
    with distributed.errors_agreed():
        stop.check("before training")
        model = build.build_model(config, found.train, monitor.say)
    stores = inputs.build_stores(config, found, progress, opened_before=quarantine.stores)
    folder_of_images = inputs.image_cache(config)
    if folder_of_images is not None and (
        told := distributed.on_main(lambda: cache_usage.notice(folder_of_images))
    ):
        monitor.say(told)
    with distributed.errors_agreed():
        data = build.build_data(config, found, stores[0], model)
    if not process_group.started():
        process_group.start(config.engine.timeout)
    auto_reason = plan.manifest.get("batch_size_auto") if plan.manifest and kept_batch is not None else None
    if auto_batch and kept_batch is None:
        config, auto_reason = with_found_batch(config, found, data, model, precision.name, monitor)
        ds_config = merged_with(parsed, name, config)
    if auto_batch:
        mine["options"]["optim"] = config.to_dict()["optim"]
        mine["batch_size_auto"] = auto_reason
    if config.engine.ds_config is not None:
        config_check.check_config(ds_config, name)
    describe(config, found, model, precision, monitor, ds_config=ds_config)
    with distributed.errors_agreed():
        stop.check("before training")
        saved = None
        if plan.checkpoint is not None:
            saved = load_saved(plan.checkpoint, accumulation=config.optim.accumulation)
    parts = Parts(config, found, data, stores[1], model, precision, ds_config, mine, quarantine)
    if config.run.dry_run:
        with dry_folder() as path:
            few = dataclasses.replace(parts, data=build.one_step_of(data, config))
            Run(few, path, stop=stop).train()
        monitor.say("Dry run done: data, model, one step of every stage, saving and loading work.")
        return 0
    distributed.on_main(lambda: folder.open(plan, saved))
    try:
        Run(parts, config.folder, stop=stop, saved=saved).train()
    except OSError as error:
        if error.errno not in CANNOT_WRITE:
            raise
        raise StoppedError(
            f"{config.folder}: cannot be written ({error.strerror}): what was saved before is whole; "
            "make room there, then the same command goes on"
        ) from None
    finally:
        folder.close()
    return 0


def precision_for(given: TrainConfig, *, cpu_has_bf16: bool, earlier: str | None = None) -> Precision:
    return choose_precision(
        given.engine.precision,
        ds_config=given.engine.ds_config,
        device=device_kind(),
        cpu_has_bf16=cpu_has_bf16,
        earlier=earlier,
    )


def merged_with(parsed: dict[str, Any], name: str, config: TrainConfig) -> dict[str, Any]:
    return merge_ds_config(
        parsed,
        name=name,
        batch_size=config.optim.batch_size,
        accumulation=config.optim.accumulation,
        clip=config.optim.clip,
        world_size=distributed.world_size(),
    )


def with_found_batch(
    config: TrainConfig, found: inputs.Tables, data: Splits, model: CSR, precision: str, monitor: Monitor
) -> tuple[TrainConfig, str]:
    """The options with the micro batch that fits all ranks, and why it is that one. Collective."""
    train = found.train.select(found.train_indices)
    stage = build.build_stage("concept", config=config, model=model, train=train, say=lambda line: None)
    device = local_device()
    choice = batch_size_finder.find(
        stage.to(device), data, share=config.optim.batch_size, precision=precision, device=device
    )
    monitor.say(
        f"--batch_size auto: {choice.batch_size} images per rank and {choice.accumulation} accumulation "
        f"({choice.reason})"
    )
    return batch_size_finder.with_batch(config, choice.batch_size, choice.accumulation), choice.reason


def check_data(data: str, plan: Plan) -> None:
    """Raise InputError if ranks have different data, or a run would go on with other data."""
    fingerprint.agree("their data: the same tables and images must be on each host", data)
    if plan.manifest is not None and plan.manifest["data"] != data:
        raise InputError(
            f"{plan.checkpoint}: was trained on other data (tables or images have changed since): bring them "
            "back, give another --exp_name, or --overwrite to begin anew"
        )
