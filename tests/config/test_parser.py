"""Parser of all commands: types of number flags, and the nearest word to a mistyped one."""

from __future__ import annotations

import argparse
import time

import pytest

from csr.config.parser import Number, Parser, Whole, did_you_mean
from csr.runtime.errors import InputError


@pytest.mark.parametrize("text, value", [("2", 2), ("9", 9), ("007", 7)])
def test_a_whole_number_from_first_to_last_is_taken(text, value):
    assert Whole(2, 9)(text) == value


@pytest.mark.parametrize("text", ["1", "10", "-3", "3.0", "1e0", " 3", "+3", "3_0", "", "three", "\u0663"])
def test_all_else_is_no_whole_number(text):
    with pytest.raises(argparse.ArgumentTypeError, match="give a whole number from 2 to 9$"):
        Whole(2, 9)(text)


def test_a_million_digits_are_refused_at_once_and_shown_in_part():
    start = time.monotonic()
    with pytest.raises(argparse.ArgumentTypeError, match=r"^'9{20}\.\.': give"):
        Whole(0, 10)("9" * 1_000_000)
    assert time.monotonic() - start < 1


@pytest.mark.parametrize("text, value", [("0", 0.0), ("0.25", 0.25), ("1", 1.0), ("1e-3", 0.001)])
def test_a_number_in_its_range_is_taken(text, value):
    assert Number(0, 1)(text) == value


@pytest.mark.parametrize("text", ["-0.1", "1.1", "nan", "inf", "x", ""])
def test_a_number_out_of_its_range_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match="give a number from 0 to 1$"):
        Number(0, 1)(text)


def test_above_means_that_the_lowest_itself_is_too_small():
    assert Number(0, 1, above=True)("1") == 1
    with pytest.raises(argparse.ArgumentTypeError, match="give a number above 0 up to 1$"):
        Number(0, 1, above=True)("0")


def test_the_nearest_word_is_asked_for_and_none_if_none_is_near():
    assert did_you_mean("trian", ["train", "export"]) == ": did you mean train?"
    assert did_you_mean("zzz", ["train", "export"]) == ""


def test_a_complaint_is_an_input_error_with_the_command_that_lists_the_flags():
    parser = Parser(prog="csr x", allow_abbrev=False)
    parser.add_argument("--size", type=Whole(1, 3))
    with pytest.raises(
        InputError, match=r"^argument --size: '4': give .* \(`csr x --help` lists the flags\)$"
    ):
        parser.parse_args(["--size", "4"])
    with pytest.raises(InputError, match=r"--sizes 4: did you mean --size\?"):
        parser.parse_args(["--sizes", "4"])
