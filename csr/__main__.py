"""`csr COMMAND ..`: names the commands and dispatches, nothing else."""

from __future__ import annotations

import importlib
import sys

from csr import __version__
from csr.cli.exit_codes import exit_process, run_command
from csr.cli.text_encoding import ensure_utf8_names
from csr.config.parser import did_you_mean
from csr.runtime.errors import InputError

COMMANDS = {
    "train": ("csr.train", "train the three stages and test the result"),
    "data": ("csr.cli.data", "check data before training, or import a published data set"),
    "phantom": ("csr.cli.phantom", "draw a synthetic chest radiograph data set"),
    "export": ("csr.cli.export", "turn a run into a folder that anyone can load"),
    "evaluate": ("csr.cli.evaluate", "measure a trained model on labelled images"),
    "baseline": ("csr.cli.study.baseline", "train a black box or a concept bottleneck to compare with"),
    "sweep": ("csr.cli.study.sweep", "train every combination of listed options, then compare them"),
    "reproduce": ("csr.cli.study.reproduce", "a published data set to its table: CSR, baselines, seeds"),
    "compare": ("csr.cli.study.compare", "compare runs on one test set: intervals, paired tests, tables"),
    "predict": ("csr.cli.predict", "diagnose images with a trained model"),
    "explain": ("csr.cli.explain", "show what a diagnosis rests on"),
    "atlas": ("csr.cli.atlas", "show every prototype with the training regions behind it"),
    "refine": ("csr.cli.refine", "drop rejected prototypes and re-fit the diagnoses"),
    "serve": ("csr.cli.serve", "a page that explains diagnoses and lets a doctor correct them"),
    "launch": ("csr.cli.launch", "train on several hosts over ssh, checked beforehand"),
    "submit": ("csr.cli.submit", "write a SLURM job file for a training, and submit it"),
    "doctor": ("csr.cli.doctor", "check this machine, or all hosts of a run before it starts"),
    "cache": ("csr.cli.cache", "list cached images and features, remove those long unused"),
    "bench": ("csr.cli.bench", "measure how fast this machine computes"),
}


def usage() -> str:
    lines = [
        f"csr {__version__}: Concept-based Similarity Reasoning",
        "",
        "usage: csr COMMAND [--help] ...",
        "",
    ]
    return "\n".join([*lines, *(f"  {name:<10} {meaning}" for name, (_, meaning) in COMMANDS.items())])


def dispatch(argv: list[str] | None) -> int:
    arguments = sys.argv[1:] if argv is None else argv
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if arguments[0] == "--version":
        print(__version__)
        return 0
    if arguments[0] not in COMMANDS:
        meant = did_you_mean(arguments[0], COMMANDS)
        raise InputError(f"no command {arguments[0]!r}{meant or ':'} there are {', '.join(COMMANDS)}")
    module = importlib.import_module(COMMANDS[arguments[0]][0])
    if arguments[0] == "baseline":  # csr train under another name
        words = module.words_of_train(arguments[1:])
        return 0 if words is None else dispatch(["train", *words])
    return module.main(arguments[1:]) or 0


def main() -> None:
    ensure_utf8_names()
    exit_process(run_command(dispatch))


if __name__ == "__main__":
    main()
