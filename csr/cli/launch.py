"""`csr launch HOSTFILE -- FLAGS`: check the hosts, train on them with `deepspeed`, leave nothing behind."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path

from csr.cli.exit_codes import exit_process, run_command
from csr.cli.shared_flags import add_network_arguments, parser_before_train
from csr.cluster.environment import check_plain, environment_for_hosts
from csr.cluster.hostfile import read_hostfile
from csr.cluster.launch import launch
from csr.cluster.preflight import check_hosts, paths_of
from csr.config.flags import parse_train_flags
from csr.runtime.errors import InputError

EPILOG = """examples:
  csr launch hostfiles/two_nodes_of_4 -- --train_csv labels_train.csv --train_dir train/ --batch_size 32
  csr launch my_hosts --ssh_port 2222 -- --output_dir /shared/results
Ctrl-C, SIGTERM and SIGUSR1 reach the ranks, which save and stop; a second Ctrl-C stops at once.
exit codes: 0 done, 1 failed, 2 bad input, 75 stopped by a signal: run the same command again"""


def main(argv: list[str] | None = None) -> int:
    """Check everything, launch, wait; return the exit code.

    Raises:
        InputError: flags, hostfile or hosts are not as they must be; nothing was started.
        StoppedError: the run failed; which host ended how.
    """
    given, flags = parse(sys.argv[1:] if argv is None else argv)
    from csr.cluster.machine_facts import FOLDERS, TABLES

    config = parse_train_flags(flags)
    hosts = read_hostfile(given.hostfile)
    for what, path in (("the present folder", os.getcwd()), ("the virtual environment", sys.executable)):
        check_plain(what, path)
    for program in ("deepspeed", "pdsh"):
        if shutil.which(program) is None:
            raise InputError(f"{program} is not installed on this machine: {INSTALL[program]}")
    shell = environment_for_hosts(os.environ)
    outcome = check_hosts(
        hosts,
        paths=paths_of({name: getattr(config.data, name) for name in (*TABLES, *FOLDERS)}),
        output_dir=config.run.output_dir,
        ssh_port=given.ssh_port,
        master_addr=given.master_addr,
        master_port=given.master_port,
    )
    print("\n".join(outcome.lines), flush=True)
    outcome.require_ready()
    if not outcome.on_gpus:
        shell.setdefault("DS_ACCELERATOR", "cpu")
    with tempfile.TemporaryDirectory(prefix="csr-launch-") as folder:
        return launch(
            flags,
            ssh_port=given.ssh_port,
            config=config,
            hosts=hosts,
            outcome=outcome,
            shell=shell,
            folder=Path(folder),
        )


INSTALL = {"deepspeed": "pip install deepspeed, or activate its environment", "pdsh": "apt install pdsh"}


def parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Return this command's own flags, and those after `--`."""
    middle = argv.index("--") if "--" in argv else len(argv)
    parser = parser_before_train(
        "csr launch",
        epilog=EPILOG,
        usage="csr launch HOSTFILE [options] -- TRAIN FLAGS",
        description="Train on several hosts over ssh, checked beforehand and cleaned up afterwards.",
    )
    parser.add_argument("hostfile", type=Path, help="`host slots=N` lines; the first host is the master")
    add_network_arguments(parser)
    return parser.parse_args(argv[:middle]), argv[middle + 1 :]


if __name__ == "__main__":
    exit_process(run_command(main))
