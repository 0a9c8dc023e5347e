"""Hyperparameters of a run: its options by flag, and the columns of TensorBoard's HPARAMS tab."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from csr.config.options import TrainConfig

Scalar = int | float | str | bool
# where files lie and how a run is watched: they tell nothing of the model
UNTOLD = frozenset(
    {
        *("train_csv", "test_csv", "train_dir", "test_dir", "boxes_csv", "output_dir", "exp_name"),
        *("overwrite", "resume", "save_every", "keep_checkpoints", "log_every", "picture_every"),
        *("profile", "dry_run", "image_cache", "cache_dir", "workers", "timeout", "links_into"),
    }
)
JOINED = {"backbone_type", "model_name", "epochs_stage1", "epochs_stage2", "epochs_stage3"}


def flat_options(config: TrainConfig) -> dict[str, Scalar]:
    """Return every option by its name, as a scalar."""
    return {name: _scalar(value) for group in config.to_dict().values() for name, value in group.items()}


def changed_options(config: TrainConfig) -> list[str]:
    """Return names of options that differ from their defaults, in the order of the options."""
    now, default = flat_options(config), flat_options(TrainConfig())
    return [name for name, value in now.items() if value != default[name]]


def columns(config: TrainConfig) -> dict[str, Scalar]:
    """Return the columns of the HPARAMS tab in their order.

    What every reader asks for (learning rate, batch, backbone, image size, epochs), what else differs from
    the defaults, the rest. Paths and how a run is watched are left out.
    """
    options, changed = flat_options(config), changed_options(config)
    first: dict[str, Scalar] = {
        "lr": options["lr"],
        "batch_size": options["batch_size"],
        "backbone": f"{options['backbone_type']} {options['model_name']}",
        "image_size": options["image_size"],
        "epochs": "/".join(str(epochs) for epochs in config.epochs.values()),
    }
    rest = [name for name in options if name not in UNTOLD | JOINED | first.keys()]
    return first | {name: options[name] for name in sorted(rest, key=lambda name: name not in changed)}


def hparams_summaries(config: TrainConfig, metrics: Mapping[str, float]) -> list[Any]:
    """Return the summaries (protocol buffers) of a finished run's row in the HPARAMS tab.

    TensorBoard shows five columns at first and sorts them: those that differ between runs come before the
    others, each by name. So the first five have numbers before their names, which it does not show, and
    they and the changed options are said to differ. An older one shows the columns as they come.

    Args:
        config: options.
        metrics: tags of results, in the order of their columns; their points are written by others.
    """
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2

    told, changed = columns(config), set(changed_options(config))
    keys = {name: f"{place} {name}" if place < 5 else name for place, name in enumerate(told)}
    infos = []
    session = plugin_data_pb2.SessionStartInfo(start_time_secs=time.time())
    for place, (name, value) in enumerate(told.items()):
        info = api_pb2.HParamInfo(name=keys[name], display_name=name, type=_type_of(value))
        if "differs" in info.DESCRIPTOR.fields_by_name:
            info.differs = place < 5 or name in changed
        infos.append(info)
        _set(session.hparams[keys[name]], value)
    experiment = api_pb2.Experiment(
        hparam_infos=infos,
        metric_infos=[api_pb2.MetricInfo(name=api_pb2.MetricName(tag=tag)) for tag in metrics],
    )
    end = plugin_data_pb2.SessionEndInfo(status=api_pb2.Status.STATUS_SUCCESS, end_time_secs=time.time())
    contents = {
        metadata.EXPERIMENT_TAG: plugin_data_pb2.HParamsPluginData(experiment=experiment),
        metadata.SESSION_START_INFO_TAG: plugin_data_pb2.HParamsPluginData(session_start_info=session),
        metadata.SESSION_END_INFO_TAG: plugin_data_pb2.HParamsPluginData(session_end_info=end),
    }
    return [
        Summary(value=[Summary.Value(tag=tag, metadata=metadata.create_summary_metadata(content))])
        for tag, content in contents.items()
    ]


def _type_of(value: Scalar) -> Any:
    from tensorboard.plugins.hparams import api_pb2

    if isinstance(value, bool):
        return api_pb2.DATA_TYPE_BOOL
    return api_pb2.DATA_TYPE_STRING if isinstance(value, str) else api_pb2.DATA_TYPE_FLOAT64


def _set(field: Any, value: Scalar) -> None:
    if isinstance(value, bool):
        field.bool_value = value
    elif isinstance(value, str):
        field.string_value = value
    else:
        field.number_value = value


def _scalar(value: Any) -> Scalar:
    if isinstance(value, list | tuple):
        return " ".join(map(str, value))
    return value if isinstance(value, int | float | str | bool) else str(value)
