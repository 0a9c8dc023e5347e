"""Kinds, choices and ranges of options: one rule for flags and for options read back from JSON."""

from __future__ import annotations

import math

import pytest

from csr.config.flags import parse_train_flags
from csr.config.from_json import config_of
from csr.config.option_field import fields_of
from csr.config.options import groups
from csr.runtime.errors import InputError

RANGED = [
    (group, name)
    for group, options in groups().items()
    for name, option in fields_of(options).items()
    if option.metadata["range"] is not None
]


def bounds_of(group: str, name: str) -> tuple[list[float], list[float]]:
    """Return (values at or beside the bounds that are in the range, values that are not)."""
    option = fields_of(groups()[group])[name]
    allowed, is_whole = option.metadata["range"], "int" in str(option.type).split(" | ")
    inside: list[float] = []
    outside: list[float] = []

    def beside(bound: float, direction: int) -> float:
        return bound + direction if is_whole else math.nextafter(bound, direction * math.inf)

    if allowed.above is not None:
        inside.append(beside(allowed.above, 1))
        outside.append(allowed.above)
    if allowed.at_least is not None:
        inside.append(allowed.at_least)
        outside.append(beside(allowed.at_least, -1))
    if allowed.below is not None:
        inside.append(beside(allowed.below, -1))
        outside.append(allowed.below)
    if allowed.at_most is not None:
        inside.append(allowed.at_most)
        outside.append(beside(allowed.at_most, 1))
    if is_whole:
        return inside, outside
    return [float(value) for value in inside], [*map(float, outside), math.inf, math.nan]


def words_of(name: str, value: float) -> list[str]:
    extra = {"effective_batch": ["--batch_size", "auto"], "box_weight": ["--boxes_csv", "b.csv"]}
    extra |= {"folds": ["--fold", "0"], "fold": ["--folds", "1000"]}
    return [f"--{name}={value!r}", *extra.get(name, [])]


def json_of(group: str, name: str, value: object) -> dict[str, dict[str, object]]:
    if name == "effective_batch":
        return {"optim": {"batch_size": -(2**63), name: value}}
    with_it: dict[str, dict[str, object]] = {"folds": {"fold": 0}, "fold": {"folds": 1000}}
    return {group: {name: value, **with_it.get(name, {})}}


def test_numbers_have_ranges():
    numbers = {
        name
        for options in groups().values()
        for name, option in fields_of(options).items()
        if {"int", "float"} & set(str(option.type).split(" | "))
    }
    assert numbers == {name for _, name in RANGED}


@pytest.mark.parametrize("group, name", RANGED, ids=lambda word: word)
def test_a_bound_is_kept_by_flags_and_by_json(group, name):
    inside, outside = bounds_of(group, name)
    for value in inside:
        if name == "cache_views" and value:
            continue  # takes another option with it
        assert getattr(getattr(parse_train_flags(words_of(name, value)), group), name) == value
        assert getattr(getattr(config_of(json_of(group, name, value), where="x"), group), name) == value
    assert outside
    for value in outside:
        with pytest.raises(InputError, match=f"--{name} .*: (give|the largest is) ") as of_flag:
            parse_train_flags(words_of(name, value))
        with pytest.raises(InputError) as of_json:
            config_of(json_of(group, name, value), where="x")
        assert str(of_json.value) == str(of_flag.value)


@pytest.mark.parametrize(
    "group, name, value",
    [
        ("optim", "lr", "fast"),
        ("optim", "lr", True),
        ("optim", "lr", None),
        ("optim", "batch_size", 1.5),
        ("optim", "batch_size", [1]),
        ("data", "train_csv", 3),
        ("data", "concept_cols", "Nodule"),
        ("data", "concept_cols", ["Nodule", 3]),
        ("data", "augment", "heavy"),
        ("model", "no_pretrained", 1),
        ("run", "recipe", "papre"),
    ],
)
def test_json_of_another_kind_or_choice_names_file_and_option(group, name, value):
    with pytest.raises(InputError, match=f"^run/config.json: option '{name}' is "):
        config_of({group: {name: value}}, where="run/config.json")


@pytest.mark.parametrize(
    "group, name, value, expected",
    [
        ("optim", "lr", 1, 1),
        ("data", "boxes_csv", None, None),
        ("data", "concept_cols", ["a", "b, c"], ("a", "b, c")),
        ("run", "recipe", None, None),
        ("model", "no_pretrained", True, True),
    ],
)
def test_json_that_fits_becomes_the_option(group, name, value, expected):
    assert getattr(getattr(config_of({group: {name: value}}, where="x"), group), name) == expected


@pytest.mark.parametrize(
    "options, message",
    [
        ([], "x: 'options' are not those of `csr train`"),
        ({"other": {}}, "x: 'options' are not those of `csr train`"),
        ({"optim": 3}, "x: options of 'optim' are unknown: not an object"),
        ({"optim": {"rate": 3}}, "x: options of 'optim' are unknown: rate"),
    ],
)
def test_json_with_unknown_options_is_refused(options, message):
    with pytest.raises(InputError, match=f"^{message}$"):
        config_of(options, where="x")
