"""Untrusted JSON: refused where it is no regular file, too large, too deep, or no JSON."""

from __future__ import annotations

import os

import pytest

from csr.runtime.json_file import parse_json, read_json, read_text


def test_plain_json_is_returned(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"a": [1, null, "x"]}')
    assert read_json(path) == {"a": [1, None, "x"]}


@pytest.mark.parametrize("text", ["NaN", "[Infinity]", '{"a": -Infinity}'])
def test_constants_that_are_no_json_are_named(text):
    with pytest.raises(ValueError, match="is not JSON"):
        parse_json(text)


def test_nesting_beyond_pythons_stack_is_a_value_error():
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_json("[" * 200_000 + "]" * 200_000)


def test_pairs_reach_the_callable_with_their_repeats():
    assert parse_json('{"a": 1, "a": 2}', make_object=list) == [("a", 1), ("a", 2)]


def test_a_file_above_the_limit_is_not_read(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(b" " * (2**20 + 1))
    with pytest.raises(ValueError, match="larger than 1 MiB"):
        read_text(path, max_bytes=2**20)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="not a regular file"):
        read_json(tmp_path / "pipe")


def test_bytes_that_are_no_text_are_a_value_error(tmp_path):
    (tmp_path / "a.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(ValueError):
        read_json(tmp_path / "a.json")


def test_a_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "a.json")
