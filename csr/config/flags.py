"""Flags of `csr train` from the options, and frozen options from parsed flags."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

from csr.config import recipes
from csr.config.checks import check_ignored, check_ranges
from csr.config.option_field import AUTO
from csr.config.options import TrainConfig, groups
from csr.config.parser import Parser


def flags() -> frozenset[str]:
    """Return all flags of `csr train`, with their two dashes."""
    return frozenset(f"--{f.name}" for group in groups().values() for f in dataclasses.fields(group))


def add_arguments(parser: argparse.ArgumentParser, *, recipe: str | None = None) -> None:
    """Add one flag per option, grouped; unset flags keep the dataclass's default.

    Args:
        parser: to add to.
        recipe: the help text shows its values as defaults (`from_namespace` applies it).
    """
    defaults = recipes.values_of(recipe)
    for group_class in groups().values():
        section = parser.add_argument_group(str(group_class.__doc__))
        for f in dataclasses.fields(group_class):
            _add_argument(section, f, default=defaults.get(f.name, f.default))
    # the deepspeed launcher passes it to every worker; ranks are read from the environment
    parser.add_argument("--local_rank", "--local-rank", type=int, help=argparse.SUPPRESS)


def named_recipe(argv: list[str] | None) -> str | None:
    """Return the recipe named on a command line before it is parsed: the help text depends on it."""
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--recipe", nargs="?")
    return early.parse_known_args(argv)[0].recipe


def _add_argument(section: argparse._ArgumentGroup, f: dataclasses.Field, *, default: Any) -> None:
    name, meaning = f"--{f.name}", str(f.metadata["help"]).replace("%", "%%")
    if f.type == "bool":
        meaning += " (default: off)"
        section.add_argument(name, action="store_true", default=argparse.SUPPRESS, help=meaning)
        return
    numbers: dict[str, Any] = {"int": int, "int | None": int, "float": float, "float | None": float}
    kind = numbers.get(str(f.type), str)
    shown = f" (default: {default})"
    if default is None:
        shown = "" if "(default: " in meaning else " (default: none)"
    extra: dict[str, Any] = {"choices": f.metadata["choices"]} if f.metadata["choices"] else {}
    if f.metadata["many"]:
        extra["nargs"] = "+"
    if "choices" not in extra:
        extra["metavar"] = kind.__name__.upper() if kind is not str else f.name.split("_")[-1].upper()
    if f.metadata["auto"]:
        kind, extra["metavar"] = int_or_auto, "INT|auto"
    if f.metadata["alone"] is not None:
        extra |= {"nargs": "?", "const": f.metadata["alone"]}
    section.add_argument(name, type=kind, default=argparse.SUPPRESS, help=meaning + shown, **extra)


def int_or_auto(text: str) -> int:
    """Return a whole number, or `AUTO` for the word."""
    try:
        return AUTO if text == "auto" else int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: give a whole number, or auto") from None


def from_namespace(namespace: argparse.Namespace) -> TrainConfig:
    """Build and check the configuration from parsed flags: what was given, else the recipe's, else defaults.

    Raises:
        InputError: a value out of range.
    """
    given = {k: tuple(v) if isinstance(v, list) else v for k, v in vars(namespace).items()}
    given = {**recipes.values_of(vars(namespace).get("recipe"), given=given), **given}
    built = {}
    for group_name, group_class in groups().items():
        names = {f.name for f in dataclasses.fields(group_class)}
        built[group_name] = group_class(**{k: v for k, v in given.items() if k in names})
    config = TrainConfig(**built)
    check_ranges(config)
    check_ignored(config, given=set(vars(namespace)))
    return config


EPILOG = """examples:
  csr train --train_csv labels_train.csv --train_dir train/ --test_csv labels_test.csv --test_dir test/
  deepspeed --num_gpus 4 --module csr.train --batch_size 32 --lr 2e-4
  torchrun --standalone --nproc_per_node=2 -m csr.train --backbone_type resnet50 --model_name resnet50
exit codes: 0 done, 1 failed, 2 bad input, 75 stopped by a signal: run the same command again"""


def parse_train_flags(argv: list[str] | None = None) -> TrainConfig:
    """Return the options of a `csr train` command line; every command that takes such flags reads them here.

    Args:
        argv: the flags; None reads those of this process.

    Raises:
        InputError: an unknown flag, or a value that no run could use.
    """
    parser = Parser(
        prog="csr train",
        epilog=f"{recipes.help_text()}\n{EPILOG}",
        description="Train CSR: concept, prototype and task stage, then test the best model.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_arguments(parser, recipe=named_recipe(argv))
    return from_namespace(parser.parse_args(argv))
