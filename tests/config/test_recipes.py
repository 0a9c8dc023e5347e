"""Recipes: what they set, what wins over them, and how a run reports it."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import pytest

from csr.config import flags, options, recipes
from csr.config.flags import parse_train_flags as parse
from csr.runtime.errors import InputError
from csr.training.checkpoints.resume_plan import Planner, identity_of
from csr.training.checkpoints.run_folder import RunFolder
from csr.training.logs.summary import recipe_line

PAPER = {
    "backbone_type": "timm",
    "model_name": "convnext_tiny",
    "num_prototypes": 100,
    "gamma": 1000.0,
    "lam": 20.0,
    "delta": 0.1,
    "concept_pool": "avg",
    "projector_blocks": 3,
    "task_loss": "auto",
    "margin_mode": "paper",
}


def flat(config: options.TrainConfig) -> dict[str, object]:
    return {k: v for group in config.to_dict().values() for k, v in group.items()}


def test_the_papers_recipe_is_what_the_paper_states():
    got = flat(parse(["--recipe", "paper"]))
    assert {name: got[name] for name in PAPER} == PAPER
    others = {k: v for k, v in flat(parse([])).items() if k not in PAPER and k != "recipe"}
    assert {k: got[k] for k in others} == others, "the rest keeps csr's defaults"


def test_the_fast_recipe_changes_the_guides_resolution_alone():
    fast, guide = flat(parse(["--recipe", "fast"])), flat(parse([]))
    changed = {name: fast[name] for name in guide if fast[name] != guide[name]}
    assert changed == {"recipe": "fast", "progressive": "0.5:0.7"} and fast["precision"] == "auto"
    assert parse(["--recipe", "fast", "--progressive", "none"]).optim.progressive == "none"


def test_the_guides_recipe_is_the_training_guides_defaults():
    assert {**flat(parse(["--recipe", "guide"])), "recipe": None} == flat(parse([]))


@pytest.mark.parametrize(
    "words",
    [
        ["--recipe", "paper", "--num_prototypes", "7"],
        ["--num_prototypes", "7", "--recipe", "paper"],
        ["--num_prototypes=7", "--recipe=paper"],
    ],
)
def test_a_flag_that_is_given_wins_wherever_it_stands(words):
    config = parse(words)
    assert config.model.num_prototypes == 7 and config.method.gamma == 1000
    assert config.model.model_name == "convnext_tiny"


def test_a_flag_that_repeats_csrs_default_wins_too():
    assert parse(["--recipe", "paper", "--num_prototypes", "5"]).model.num_prototypes == 5


def test_another_family_of_backbones_leaves_the_recipes_network_name():
    config = parse(["--recipe", "paper", "--backbone_type", "resnet50"])
    assert (config.model.backbone_type, config.model.model_name) == (
        "resnet50",
        options.ModelOptions().model_name,
    )
    assert parse(["--recipe", "paper", "--backbone_type", "timm"]).model.model_name == "convnext_tiny"
    assert (
        parse(["--recipe", "paper", "--backbone_type", "timm", "--model_name", "x"]).model.model_name == "x"
    )


def test_an_unknown_recipe_is_argparses_error_and_names_those_that_exist():
    with pytest.raises(InputError, match="--recipe: invalid choice: 'papre'.*paper.*guide"):
        parse(["--recipe", "papre"])
    with pytest.raises(InputError, match="--recipe"):
        parse(["--recipe"])


def test_every_value_of_a_recipe_is_one_that_its_flag_takes():
    for name, values in recipes.RECIPES.items():
        words = [word for option, value in values.items() for word in (f"--{option}", str(value))]
        assert {**flat(parse(words)), "recipe": name} == flat(parse(["--recipe", name]))


def help_of(*words: str) -> str:
    parser = argparse.ArgumentParser()
    flags.add_arguments(parser, recipe=flags.named_recipe(list(words)))
    return " ".join(parser.format_help().split())


def test_help_shows_the_defaults_of_the_recipe_that_is_named():
    assert "M, prototypes per concept (default: 100)" in help_of("--recipe", "paper")
    assert "M, prototypes per concept (default: 5)" in help_of()
    assert "(default: 5)" in help_of("--recipe", "papre"), "the error comes from the real parser"


def test_help_lists_every_recipe_with_its_values(capsys):
    with pytest.raises(SystemExit):
        parse(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    for values in recipes.RECIPES.values():
        assert all(f"--{option} {value}" in text for option, value in values.items())


def test_the_summary_names_the_recipe_and_what_flags_changed_of_it():
    line = recipe_line(parse(["--recipe", "paper", "--num_prototypes", "7", "--lr", "1e-3"]))
    assert line.startswith("Recipe: paper, ") and line.endswith("(changed: --num_prototypes 7)")
    assert "changed" not in recipe_line(parse(["--recipe", "guide"]))


def plan_of(config: options.TrainConfig, earlier: options.TrainConfig) -> None:
    own, other = (identity_of(c, ds_config={}, precision="fp32", world=1) for c in (config, earlier))
    Planner(config, own, RunFolder(config.folder), report=lambda _: None).compare(other.record())


def test_a_run_goes_on_with_the_same_values_however_they_were_given():
    spelled = [word for option, value in PAPER.items() for word in (f"--{option}", str(value))]
    plan_of(parse(spelled), parse(["--recipe", "paper"]))
    plan_of(parse(["--recipe", "paper"]), parse(spelled))
    plan_of(parse([]), parse(["--recipe", "guide"]))
    with pytest.raises(InputError, match="--num_prototypes was 100, now 7"):
        plan_of(parse(["--recipe", "paper", "--num_prototypes", "7"]), parse(["--recipe", "paper"]))


def test_the_configuration_holds_recipe_and_values():
    record = dataclasses.asdict(parse(["--recipe", "paper", "--output_dir", "x"]))
    assert record["run"]["recipe"] == "paper" and record["model"]["num_prototypes"] == 100
    assert Path(record["run"]["output_dir"]) == Path("x")
