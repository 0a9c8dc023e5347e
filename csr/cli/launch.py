"""`csr launch HOSTFILE -- FLAGS`: check the hosts, train on them with `deepspeed`, leave nothing behind."""

from __future__ import annotations

import argparse
import contextlib
import os
import secrets
import shutil
import sys
import tempfile
from pathlib import Path

from csr.cli.exit_codes import Parser, exit_process, run_command
from csr.cluster import rank_start
from csr.cli.host_flags import add_network_arguments
from csr.cluster.environment import check_plain, deepspeed_file, environment_for_hosts
from csr.cluster.host_processes import RUN
from csr.cluster.hostfile import Host, read_hostfile
from csr.cluster.hosts_run import HostsRun, keep_alive
from csr.cluster.machine_facts import FOLDERS, TABLES
from csr.cluster.preflight import Preflight, check_hosts, paths_of
from csr.config import options
from csr.config.options import TrainConfig
from csr.runtime.errors import EXIT_FAILED, InputError, StoppedError

EPILOG = """examples:
  csr launch hostfiles/two_nodes_of_4 -- --train_csv labels_train.csv --train_dir train/ --batch_size 32
  csr launch my_hosts --ssh_port 2222 -- --output_dir /shared/results
Ctrl-C, SIGTERM and SIGUSR1 reach the ranks, which save and stop; a second Ctrl-C stops at once.
exit codes: 0 done, 1 failed, 2 bad input, 75 stopped by a signal: run the same command again"""


def main(argv: list[str] | None = None) -> int:
    """Check everything, launch, wait; returns the exit code.

    Raises:
        InputError: flags, hostfile or hosts are not as they must be; nothing was started.
        StoppedError: the run failed; which host ended how.
    """
    given, flags = parse(sys.argv[1:] if argv is None else argv)
    config = train_config(flags)
    hosts = read_hostfile(given.hostfile)
    for what, path in (("the present folder", os.getcwd()), ("the virtual environment", sys.executable)):
        check_plain(what, path)
    for program in ("deepspeed", "pdsh"):
        if shutil.which(program) is None:
            raise InputError(f"{program} is not installed on this machine: {INSTALL[program]}")
    shell = environment_for_hosts(os.environ)
    outcome = check_hosts(
        hosts, paths=paths_of({name: getattr(config.data, name) for name in (*TABLES, *FOLDERS)}),
        output_dir=config.run.output_dir, ssh_port=given.ssh_port, master_addr=given.master_addr,
        master_port=given.master_port,
    )  # fmt: skip
    print("\n".join(outcome.lines), flush=True)
    outcome.require_ready()
    if not outcome.on_gpus:
        shell.setdefault("DS_ACCELERATOR", "cpu")
    with tempfile.TemporaryDirectory(prefix="csr-launch-") as folder:
        return launch(given, flags, config=config, hosts=hosts, outcome=outcome, shell=shell, folder=Path(folder))


INSTALL = {"deepspeed": "pip install deepspeed, or activate its environment", "pdsh": "apt install pdsh"}


def parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """This command's own flags, and those after `--`."""
    middle = argv.index("--") if "--" in argv else len(argv)
    parser = Parser(
        prog="csr launch", epilog=EPILOG, allow_abbrev=False, usage="csr launch HOSTFILE [options] -- TRAIN FLAGS",
        description="Train on several hosts over ssh, checked beforehand and cleaned up afterwards.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.after_dashes, parser.after_whom = options.flags(), "csr train"
    parser.add_argument("hostfile", type=Path, help="`host slots=N` lines; the first host is the master")
    add_network_arguments(parser)
    return parser.parse_args(argv[:middle]), argv[middle + 1 :]


def train_config(flags: list[str]) -> TrainConfig:
    """The flags as csr train will read them on every rank.

    Raises:
        InputError: it would refuse them there.
    """
    parser = Parser(prog="csr train", allow_abbrev=False)
    options.add_arguments(parser)
    return options.from_namespace(parser.parse_args(flags))


def launch(
    given: argparse.Namespace, flags: list[str], *, config: TrainConfig, hosts: list[Host], outcome: Preflight,
    shell: dict[str, str], folder: Path,
) -> int:  # fmt: skip
    """Run the launcher with files of its own in `folder`."""
    run_id = secrets.token_hex(8)
    hostfile, variables = folder / "hostfile", folder / "environment"
    hostfile.write_text("".join(f"{host.name} slots={host.slots}\n" for host in hosts), encoding="ascii")
    variables.write_text(deepspeed_file({**shell, RUN: run_id}), encoding="utf-8")
    environment = {**os.environ, **shell, "DS_ENV_FILE": str(variables)}
    alive = keep_alive(60 * config.engine.timeout)
    environment["PDSH_SSH_ARGS_APPEND"] = f"{os.environ.get('PDSH_SSH_ARGS_APPEND', '')} {alive}".strip()
    run = HostsRun(
        deepspeed_command(given, outcome, hostfile, flags), environment=environment, hosts=hosts, run_id=run_id,
        ssh_port=given.ssh_port, say=say,
    )  # fmt: skip
    code = run.run()
    if code == EXIT_FAILED:
        raise StoppedError(f"the run failed: {run.why()}: {config.folder}/logs/ has one log per rank")
    return code


def say(line: str) -> None:
    """Tell the user, whose terminal may be gone."""
    with contextlib.suppress(OSError):
        print(f"csr: {line}", file=sys.stderr, flush=True)


def deepspeed_command(
    given: argparse.Namespace, outcome: Preflight, hostfile: Path, flags: list[str]
) -> list[str]:
    """The launcher; a hostfile with one host is a host too, and ssh has been checked."""
    port = ["--ssh_port", str(given.ssh_port)] if given.ssh_port else []
    return [
        "deepspeed", "--hostfile", str(hostfile), "--force_multi", "--no_ssh_check", *port,
        "--master_addr", str(outcome.master_addr), "--master_port", str(outcome.master_port),
        "--no_local_rank", "--module", "csr.cluster.rank_start", rank_start.encode(flags),
    ]  # fmt: skip


if __name__ == "__main__":
    exit_process(run_command(main))
