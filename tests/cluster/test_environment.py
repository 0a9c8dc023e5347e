"""Variables reach a host's shell as they are: checked with a real shell and DeepSpeed's own rewriting."""

from __future__ import annotations

import re
import shlex
import subprocess

import pytest

from csr.cluster import rank_start
from csr.cluster.environment import check_plain, deepspeed_file, environment_for_hosts, read_environment_file
from csr.cluster.ssh import ssh_command
from csr.runtime.errors import InputError

HOSTILE = [
    "plain",
    "",
    "two words",
    "$(touch hacked)",
    "`id`",
    'a"b',
    "it's",
    "back\\slash",
    "a;id",
    "$HOME",
    "%h %n %%",
    "-x",
    "*",
    "a=b",
    "{}",
    "&& id",
    "\u00e4",
    "tab\tinside",
    "!x",
    "#no comment",
]


def as_deepspeed_exports(text: str) -> str:
    """Return `export ..;` for each line, as DeepSpeed's pdsh runner writes it and pdsh passes it on."""
    exports = ""
    for line in text.splitlines(keepends=True):
        key, value = line.split("=", maxsplit=1)
        value = value.strip()
        if re.search(r"[^\w@%+=:,./-]", value):
            value = f'"{value}"'
        exports += f"export {key.strip()}={value}; "
    return exports.replace("%%", "\0").replace("%h", "HOST").replace("%n", "0").replace("\0", "%")


@pytest.mark.parametrize("value", HOSTILE)
def test_a_value_arrives_as_it_was(value, tmp_path):
    command = as_deepspeed_exports(deepspeed_file({"CSR_TRY": value})) + 'printf %s "$CSR_TRY"'
    done = subprocess.run(["sh", "-c", command], capture_output=True, cwd=tmp_path, check=True)
    assert done.stdout.decode() == value
    assert list(tmp_path.iterdir()) == []


def test_a_line_break_cannot_be_passed_on():
    with pytest.raises(InputError, match="CSR_TRY has a line break"):
        deepspeed_file({"CSR_TRY": "a\nexport b=c"})


def test_files_of_deepspeed_are_read_with_comments_and_empty_lines(tmp_path, monkeypatch):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / ".deepspeed_env").write_text("# own\n\nOMP_NUM_THREADS=3\nNCCL_DEBUG=INFO\n")
    (tmp_path / ".deepspeed_env").write_text("NCCL_DEBUG = WARN\n")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    shell = {"OMP_NUM_THREADS": "1", "PATH": "/bin", "SECRET": "x", "HF_HOME": "/hf", "CSR_RUN_ID": "0"}
    assert environment_for_hosts(shell) == {
        "OMP_NUM_THREADS": "3",
        "PATH": "/bin",
        "HF_HOME": "/hf",
        "NCCL_DEBUG": "WARN",
    }
    (tmp_path / "other").write_text("A=1\nexport B=2\n")
    with pytest.raises(InputError, match="other: line 2: write NAME=VALUE"):
        environment_for_hosts({"DS_ENV_FILE": "other"})
    with pytest.raises(InputError, match="cannot be read"):
        read_environment_file(tmp_path)


@pytest.mark.parametrize("path", ["/a b", "/a;id", "/$(id)", "/a'b", ""])
def test_a_folder_that_the_launcher_would_not_quote_is_refused(path):
    with pytest.raises(InputError, match="letters, digits"):
        check_plain("the present folder", path)
    check_plain("the present folder", "/data/x-1_2.3")


def test_flags_survive_the_way_to_a_rank_in_one_plain_word():
    flags = ["--exp_name", "a b", "", "x;id", '{"a": 1}', "$(id)", "\u00e4", "-1", "\udcff"]
    word = rank_start.encode(flags)
    assert re.fullmatch(r"[\w=-]+", word, re.ASCII) and shlex.quote(word) in (word, f"'{word}'")
    assert rank_start.decode(word) == flags


def test_words_reach_a_program_on_a_host_as_they_are(fake_ssh, tmp_path):
    folder = tmp_path / "a folder; id"
    folder.mkdir()
    command = ssh_command("node1", ["printf", "%s|", *HOSTILE], port=2222, folder=str(folder))
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "Welcome to node1\n" + "".join(f"{word}|" for word in HOSTILE)
    assert command[command.index("-p") + 1] == "2222"


def test_the_card_towards_an_address_is_the_one_that_has_it():
    assert rank_start.card_towards("127.0.0.1") == "lo"
    assert rank_start.card_towards("no address") is None
