"""The README says what the code does: its table of flags, its commands, its files."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest

from csr.config.flags import parse_train_flags

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def commands() -> list[list[str]]:
    """Every `csr.train` and `csr train` command of the code blocks, as its flags."""
    blocks = "\n".join(re.findall(r"```bash\n(.*?)```", README, flags=re.S)).replace("\\\n", " ")
    lines = [line.split("#")[0].strip() for line in blocks.splitlines()]
    parts = [
        re.split(r"csr\.train|csr train", line, maxsplit=1)
        for line in lines
        if re.search(r"csr[. ]train", line)
    ]
    return [shlex.split(p[1].replace("...", "")) for p in parts if len(p) == 2]


def test_the_table_of_flags_is_that_of_the_code():
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        from flags_table import flags_table
    finally:
        sys.path.remove(str(ROOT / "scripts"))
    assert flags_table() in README


def test_there_are_commands_to_check():
    assert len(commands()) >= 8


@pytest.mark.parametrize("flags", commands(), ids=lambda f: " ".join(f)[:60] or "no flags")
def test_every_training_command_parses(flags):
    parse_train_flags(flags)


def test_the_training_guides_examples_stand_there():
    joined = [" ".join(f) for f in commands()]
    assert "--batch_size 32 --lr 2e-4" in joined
    assert "--backbone_type resnet50 --model_name resnet50 --num_prototypes 10" in joined
    assert "--epochs_stage1 5 --epochs_stage2 5 --epochs_stage3 20 --lr 5e-5" in joined
    assert any("--train_csv my_train.csv" in j and "--test_dir my_test_images/" in j for j in joined)


def test_every_file_it_names_exists():
    named = re.findall(r"(?<![\w/])((?:scripts|ds_configs|hostfiles|\.ci)/[\w./-]+\w)", README)
    assert named
    missing = [n for n in set(named) if not (ROOT / n).exists()]
    assert missing == []


def test_nothing_is_left_to_fill_in():
    assert "@@" not in README
