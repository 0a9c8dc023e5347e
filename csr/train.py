"""`csr train`: flags -> checks -> three stages -> test table. What every launcher starts (`-m csr.train`)."""

from __future__ import annotations

from csr.cli.exit_codes import exit_process, run_command
from csr.config.flags import parse_train_flags
from csr.runtime import distributed
from csr.runtime.progress import PROGRESS
from csr.runtime.signals import StopRequest
from csr.training.prepare import train


def main(argv: list[str] | None = None) -> int:
    distributed.adopt_launcher_environment()
    given = parse_train_flags(argv)
    PROGRESS.restart()
    with StopRequest().listening() as stop:
        return train(given, stop)


if __name__ == "__main__":
    exit_process(run_command(main))
