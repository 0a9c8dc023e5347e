"""Hostfiles are read strictly: lines DeepSpeed, pdsh, ssh or a shell could read otherwise are refused."""

from __future__ import annotations

import pytest

from csr.cluster.hostfile import Host, read_hostfile
from csr.runtime.errors import InputError


def test_hosts_come_in_order_without_comments_and_empty_lines(tmp_path):
    path = tmp_path / "hosts"
    path.write_bytes(
        b"\xef\xbb\xbf# two\r\n\r\nnode1 slots=4\r\n  node-2.lab.example \t slots=8  # the new one\r\n"
    )
    assert read_hostfile(path) == [Host("node1", 4, 3), Host("node-2.lab.example", 8, 4)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("node1 slots=0", "line 1: .*number of ranks, from 1 to 1024"),
        ("node1 slots=-1", "line 1: .*number of ranks"),
        ("node1 slots=1e3", "line 1: .*number of ranks"),
        ("node1 slots=99999", "line 1: .*number of ranks"),
        ("node1", "line 1: .*such as: node1 slots=4"),
        ("node1 slots=1 slots=2", "line 1"),
        ("node1 slots=1 max_slots=2", "line 1"),
        ("a slots=1\n\nA slots=2", "line 3: A is in line 1 already"),
        ("a slots=1\nb;id slots=1", "line 2: 'b;id' is no host name"),
        ("$(id) slots=1", "line 1: .* is no host name"),
        ("-oProxyCommand=id slots=1", "line 1: .* is no host name"),
        ("node[1-3] slots=1", "line 1: .* is no host name"),
        ("a,b slots=1", "line 1: .* is no host name"),
        ("root@a slots=1", r"line 1: .*belongs in ~/.ssh/config"),
        ("n\u043ede slots=1", r"line 1: 'n\\u043ede' is no host name"),
        (f"{'a' * 254} slots=1", "line 1: 'a{60}..' is no host name"),
        ("", "names no host"),
        ("# node1 slots=1\n", "names no host"),
        ("\n".join(f"n{i} slots=1" for i in range(1025)), "at most 1024"),
    ],
)
def test_a_line_that_cannot_be_used_is_named(text, message, tmp_path):
    path = tmp_path / "hosts"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message) as raised:
        read_hostfile(path)
    assert str(raised.value).isascii() and "\n" not in str(raised.value)


def test_what_is_no_hostfile_is_said_to_be_none(tmp_path):
    with pytest.raises(InputError, match="no such hostfile"):
        read_hostfile(tmp_path / "absent")
    with pytest.raises(InputError, match="cannot be read as a hostfile"):
        read_hostfile(tmp_path)
    binary, large = tmp_path / "binary", tmp_path / "large"
    binary.write_bytes(b"\xff\xfe\x00")
    large.write_text("#" * 1_000_001)
    with pytest.raises(InputError, match="no UTF-8 text"):
        read_hostfile(binary)
    with pytest.raises(InputError, match="is it a hostfile"):
        read_hostfile(large)
