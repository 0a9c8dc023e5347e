"""The READMEs describe the code: their table of flags, their commands, their paths and flags."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import sys
from functools import lru_cache
from pathlib import Path

import pytest

from csr.__main__ import COMMANDS, dispatch
from csr.cli.data import IMPORTERS
from csr.config.flags import parse_train_flags

ROOT = Path(__file__).resolve().parents[1]
SKIPPED = {"build", "demo_results", "checkpoints"}
READMES = sorted(
    path
    for path in ROOT.rglob("README.md")
    if not any(part in SKIPPED or part.startswith(".") for part in path.relative_to(ROOT).parts[:-1])
)
LONGEST = 250
# flags of programs that the READMEs call beside csr, and of csr's scripts
OTHER_FLAGS = {
    *("--num_gpus", "--module"),  # deepspeed
    *("--standalone", "--nproc_per_node"),  # torchrun
    *("--gpus-per-node", "--ntasks-per-node", "--cpus-per-task", "--signal", "--exclusive", "--pty"),  # SLURM
    *("--logdir", "--shm-size", "--backend-store-uri"),
    *("--seed", "--short", "--ranks", "--write", "--data"),  # scripts/
}
# what runs write, and names that stand for a reader's own files
WRITTEN = re.compile(
    r"^(train|test|checkpoints|logs|tensorboard|profile|mlflow|wandb|atlas|evaluation|explanation)/|output_dir/|[*{]|\.\."
)


def short(path: Path) -> str:
    return str(path.relative_to(ROOT))


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def commands(text: str) -> list[list[str]]:
    """Return the flags of every `csr.train` and `csr train` command in the code blocks."""
    blocks = "\n".join(re.findall(r"```bash\n(.*?)```", text, flags=re.S)).replace("\\\n", " ")
    lines = [line.split("#")[0].strip() for line in blocks.splitlines()]
    parts = [
        re.split(r"csr\.train|csr train", line, maxsplit=1)
        for line in lines
        if re.search(r"csr[. ]train", line)
    ]
    return [shlex.split(p[1].replace("...", "")) for p in parts if len(p) == 2]


ALL_COMMANDS = [flags for path in READMES for flags in commands(text_of(path))]


def test_the_readme_is_short():
    assert len(text_of(ROOT / "README.md").splitlines()) <= LONGEST


def test_the_table_of_flags_is_that_of_the_code():
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        from flags_table import README, flags_table
    finally:
        sys.path.remove(str(ROOT / "scripts"))
    assert flags_table() in text_of(README)


def test_there_are_commands_to_check():
    assert len(ALL_COMMANDS) >= 10


@pytest.mark.parametrize("flags", ALL_COMMANDS, ids=lambda f: " ".join(f)[:60] or "no flags")
def test_every_training_command_parses(flags):
    parse_train_flags(flags)


def test_the_training_guides_examples_stand_in_the_readme():
    joined = [" ".join(f) for f in commands(text_of(ROOT / "README.md"))]
    assert "--batch_size 32 --lr 2e-4" in joined
    assert "--backbone_type resnet50 --model_name resnet50 --num_prototypes 10" in joined
    assert "--epochs_stage1 5 --epochs_stage2 5 --epochs_stage3 20 --lr 5e-5" in joined
    assert any("--train_csv my_train.csv" in j and "--test_dir my_test_images/" in j for j in joined)


@lru_cache(maxsize=1)
def known_flags() -> set[str]:
    """Return the flags that the help of every command lists, subcommands included."""
    shown = io.StringIO()
    subcommands = {"data": ("check", *IMPORTERS), "cache": ("list", "prune")}
    with contextlib.redirect_stdout(shown):
        for command in COMMANDS:
            for words in ([command], *([command, sub] for sub in subcommands.get(command, ()))):
                with contextlib.suppress(SystemExit):
                    dispatch([*words, "--help"])
    return set(re.findall(r"--[a-z][\w-]*", shown.getvalue()))


@pytest.mark.parametrize("path", READMES, ids=short)
def test_every_flag_it_names_exists(path):
    code = re.findall(r"```.*?```|`[^`\n]+`", text_of(path), flags=re.S)
    named = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", " ".join(code)))
    assert named - known_flags() - OTHER_FLAGS == set()


def paths_in(path: Path) -> set[str]:
    """Return what a README names as a path here: links, and words in backticks with a slash or suffix."""
    text = re.sub(r"```.*?```", "", text_of(path), flags=re.S)
    links = {link for link in re.findall(r"\]\(([^)#]+)\)", text) if not link.startswith("http")}
    words = {word for span in re.findall(r"`([^`\n]+)`", text) for word in span.split()}
    of_sources = re.compile(
        r"[\w./-]+(?:\.(?:py|sh|sbatch|ps1|html)|/)|(?:csr|scripts|tests|ds_configs|hostfiles)/[\w./-]+"
    )
    return links | {w for w in words if of_sources.fullmatch(w) and not WRITTEN.search(w)}


@pytest.mark.parametrize("path", READMES, ids=short)
def test_every_path_it_names_exists(path):
    bases = (path.parent, ROOT, ROOT / "csr")
    missing = [name for name in paths_in(path) if not any((base / name).exists() for base in bases)]
    # in a table a file may stand beside the name of its folder
    assert [name for name in missing if not list(path.parent.rglob(name.rstrip("/")))] == []


def test_paths_are_looked_for():
    assert len({name for path in READMES for name in paths_in(path)}) > 100
