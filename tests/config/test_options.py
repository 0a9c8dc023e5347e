"""Flags, defaults and ranges."""

from __future__ import annotations

import argparse
import dataclasses
import re
from pathlib import Path

import pytest

from csr.config import options
from csr.config.flags import add_arguments, parse_train_flags
from csr.config.option_field import AUTO
from csr.runtime.errors import InputError

CONTRACT = {
    "train_csv": "labels_train.csv",
    "test_csv": "labels_test.csv",
    "train_dir": "train/",
    "test_dir": "test/",
    "batch_size": 16,
    "lr": 1e-4,
    "epochs_stage1": 10,
    "epochs_stage2": 10,
    "epochs_stage3": 10,
    "backbone_type": "medmae",
    "model_name": "facebook/vit-mae-base",
    "num_prototypes": 5,
    "output_dir": "checkpoints",
    "exp_name": "csr_exp",
    "gamma": 1000,
    "lam": 20,
    "delta": 0.1,
    "margin_mode": "softtriple",
    "concept_pool": "avg",
    "reader_merge": "any",
    "val_fraction": 0.1,
    "max_pos_weight": 20,
    "precision": "auto",
}


def parse(*flags: str) -> options.TrainConfig:
    return parse_train_flags(list(flags))


def flat(config: options.TrainConfig) -> dict:
    return {k: v for group in config.to_dict().values() for k, v in group.items()}


@pytest.mark.parametrize("name", CONTRACT)
def test_defaults_are_those_of_the_training_guide(name):
    assert flat(parse())[name] == CONTRACT[name]


def test_every_option_has_a_meaning_and_a_name_of_its_own():
    fields = [f for group in options.groups().values() for f in dataclasses.fields(group)]
    assert all(f.metadata["help"] for f in fields)
    assert len({f.name for f in fields}) == len(fields)


def test_every_option_is_read_somewhere():
    package = Path(options.__file__).parents[1]
    text = "".join(p.read_text() for p in package.rglob("*.py") if p.parent.name != "config")
    own = Path(options.__file__).read_text()
    derived = own[own.index("class TrainConfig") : own.index("def to_dict")]
    names = [f.name for group in options.groups().values() for f in dataclasses.fields(group)]
    unread = [n for n in names if not re.search(rf"\.{n}\b", text + derived)]
    assert unread == []


def test_help_gives_meaning_and_default_of_every_flag():
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    text = re.sub(r"\s+", " ", parser.format_help())
    for name, default in CONTRACT.items():
        assert f"--{name}" in text
        assert f"(default: {default})" in text or f"(default: {float(default)})" in text


def test_lists_of_columns_keep_names_with_commas_and_spaces():
    config = parse("--target_cols", "Lung tumor", "Nodule, large", "--lr", "3e-4")
    assert config.data.target_cols == ("Lung tumor", "Nodule, large")
    assert config.optim.lr == 3e-4


def test_the_launchers_local_rank_is_accepted():
    assert parse("--local_rank=1") == parse()


def test_the_backbone_learns_slower_only_when_it_is_pretrained():
    assert parse().backbone_lr_scale == 0.1
    assert parse("--no_pretrained").backbone_lr_scale == 1.0
    assert parse("--no_pretrained", "--backbone_lr_scale", "0.5").backbone_lr_scale == 0.5


@pytest.mark.parametrize(
    "flags",
    [
        ("--lr", "0"),
        ("--lr", "nan"),
        ("--batch_size", "0"),
        ("--val_fraction", "1"),
        ("--epochs_stage2", "-1"),
        ("--exp_name", "../x"),
        ("--exp_name", ""),
        ("--image_size", "100000"),
        ("--delta", "-1"),
        ("--clip", "inf"),
        ("--folds", "1", "--fold", "0"),
        ("--fold", "-1", "--folds", "5"),
        ("--fold", "5", "--folds", "5"),
        ("--fold", "0"),
        ("--folds", "5"),
    ],
)
def test_values_that_no_run_could_use_are_refused_by_name(flags):
    with pytest.raises(InputError, match=flags[0]):
        parse(*flags)


def test_the_configuration_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        parse().optim.lr = 1.0


@pytest.mark.parametrize(
    "flags",
    [
        ("--box_weight", "0.2"),
        ("--delta", "0.2", "--margin_mode", "none"),
        ("--cache_dtype", "fp16", "--cache", "off"),
        ("--cache_dir", "x", "--cache", "memory"),
        ("--effective_batch", "8"),
        ("--val_fraction", "0.2", "--folds", "5", "--fold", "0"),
        ("--accumulation", "2", "--batch_size", "auto"),
    ],
)
def test_a_flag_that_would_do_nothing_is_refused_by_name(flags):
    with pytest.raises(InputError, match=flags[0]):
        parse(*flags)


def test_a_flag_that_has_what_it_needs_is_taken():
    assert parse("--box_weight", "0.2", "--boxes_csv", "b.csv").method.box_weight == 0.2
    assert parse("--folds", "5", "--fold", "4").data.fold == 4
    assert parse("--delta", "0.2", "--margin_mode", "paper").method.delta == 0.2
    assert parse("--cache_dir", "x", "--cache", "disk", "--cache_dtype", "fp16").engine.cache_dir == "x"
    assert parse("--batch_size", "auto", "--effective_batch", "8").optim.effective_batch == 8


def test_a_profile_without_a_number_has_five_steps():
    assert [parse(*f).run.profile for f in ((), ("--profile",), ("--profile", "3"))] == [0, 5, 3]


def test_the_word_auto_is_the_only_one_for_a_number():
    assert parse("--batch_size", "auto").optim.batch_size == AUTO
    for wrong in ("Auto", "-1", "0"):
        with pytest.raises((InputError, SystemExit)):
            parse("--batch_size", wrong)
