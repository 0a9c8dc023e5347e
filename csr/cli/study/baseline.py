"""`csr baseline KIND FLAGS`: what CSR is compared with, trained by the flags of csr train."""

from __future__ import annotations

from csr.config.parser import did_you_mean
from csr.runtime import ranks
from csr.runtime.errors import InputError

KINDS = {
    "blackbox": "pooled features of the backbone, one linear layer to the diagnoses; no concept is seen",
    "cbm": "concept bottleneck: stage 1 of csr train, then a linear layer on its frozen concept logits",
    "cbm-joint": "concept bottleneck: concepts and diagnoses learn together",
}
USAGE = """usage: csr baseline KIND [--from RUN] [flags of csr train]

Train what CSR is compared with: the same data, split, augmentation, engine, launchers, checkpoints and files
as csr train, whose flags follow (`csr baseline KIND --help` lists them; --baseline KIND is the same there).
csr evaluate and csr compare read the run.

kinds:
{kinds}

options:
  --from RUN   with cbm: take stage 1 over from a finished run of the same flags, as --stage1_from does

examples:
  csr baseline blackbox --exp_name blackbox --train_csv train.csv --test_csv test.csv
  csr baseline cbm --from checkpoints/csr_exp --exp_name cbm --train_csv train.csv --test_csv test.csv
  deepspeed --num_gpus 4 --module csr.train --baseline cbm-joint --exp_name joint"""


def words_of_train(argv: list[str]) -> list[str] | None:
    """Return the command line of csr train that trains a baseline; None if help was asked for.

    Raises:
        InputError: no such kind.
    """
    if not argv or argv[0] in ("-h", "--help"):
        if ranks.is_main():
            print(USAGE.format(kinds="\n".join(f"  {kind:<10} {meaning}" for kind, meaning in KINDS.items())))
        return None
    kind, *flags = argv
    if kind not in KINDS:
        meant = did_you_mean(kind, KINDS) or f": there are {', '.join(KINDS)}"
        raise InputError(f"no baseline {kind!r}{meant}")
    return ["--baseline", kind, *(_renamed(word) for word in flags)]


def _renamed(word: str) -> str:
    flag, is_given, value = word.partition("=")
    return f"--stage1_from{is_given}{value}" if flag == "--from" else word
