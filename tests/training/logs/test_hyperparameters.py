"""The HPARAMS tab as TensorBoard's own code reads it."""

from __future__ import annotations

from typing import Any

import pytest
from train_options import train_options

from csr.training.logs.hyperparameters import changed_options, columns, hparams_summaries

OPTIONS = {"backbone_type": "timm", "model_name": "resnet10t", "lr": 0.001, "seed": 3, "exp_name": "mine"}


def shown(**options: Any) -> tuple[Any, Any]:
    """What TensorBoard makes of a run's summaries: its sorted experiment and the run's session."""
    from tensorboard.plugins.hparams import backend_context, metadata

    config = train_options(**options)
    values = {s.value[0].tag: s.value[0] for s in hparams_summaries(config, {"test/target_auc": 0.5})}
    assert set(values) == {
        metadata.EXPERIMENT_TAG,
        metadata.SESSION_START_INFO_TAG,
        metadata.SESSION_END_INFO_TAG,
    }
    contents = {tag: value.metadata.plugin_data.content for tag, value in values.items()}
    experiment = metadata.parse_experiment_plugin_data(contents[metadata.EXPERIMENT_TAG])
    backend_context._sort_and_reduce_to_hparams_limit(experiment, None)
    return experiment, metadata.parse_session_start_info_plugin_data(
        contents[metadata.SESSION_START_INFO_TAG]
    )


def test_the_first_five_columns_are_those_that_every_reader_asks_for():
    experiment, session = shown(**OPTIONS)
    names = [info.display_name for info in experiment.hparam_infos]
    assert names[:5] == ["lr", "batch_size", "backbone", "image_size", "epochs"]
    assert names[5:7] == ["seed", "accumulation"], "then what differs from the defaults, then the rest"
    assert "exp_name" not in names and len(set(names)) == len(names)
    value = {info.display_name: session.hparams[info.name] for info in experiment.hparam_infos}
    assert value["lr"].number_value == 0.001 and value["backbone"].string_value == "timm resnet10t"
    assert value["epochs"].string_value == "10/10/10" and value["no_pretrained"].bool_value is False
    assert [m.name.tag for m in experiment.metric_infos] == ["test/target_auc"]


def test_keys_do_not_depend_on_what_a_run_changed():
    (one, _), (other, _) = shown(**OPTIONS), shown(lam=3.0)
    assert {i.name for i in one.hparam_infos} == {i.name for i in other.hparam_infos}


def test_changed_options_and_columns_follow_the_options():
    config = train_options(**OPTIONS)
    assert changed_options(config) == ["backbone_type", "model_name", "lr", "seed", "exp_name"]
    assert list(columns(config))[5] == "seed"


@pytest.mark.parametrize("baseline, epochs", [("blackbox", "10"), ("cbm", "10/10")])
def test_epochs_are_those_of_the_stages_that_run(baseline, epochs):
    assert columns(train_options(baseline=baseline))["epochs"] == epochs
