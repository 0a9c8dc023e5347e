"""One run over several hosts: the launcher with its files, and its end."""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
from pathlib import Path

from csr.cluster import rank_start
from csr.cluster.environment import deepspeed_file
from csr.cluster.host_processes import RUN
from csr.cluster.hostfile import Host
from csr.cluster.hosts_run import HostsRun, keep_alive
from csr.cluster.preflight import Preflight
from csr.config.options import TrainConfig
from csr.runtime.errors import EXIT_FAILED, StoppedError


def launch(
    flags: list[str],
    *,
    ssh_port: int | None,
    config: TrainConfig,
    hosts: list[Host],
    outcome: Preflight,
    shell: dict[str, str],
    folder: Path,
) -> int:
    """Run the launcher with files of its own in `folder`."""
    run_id = secrets.token_hex(8)
    hostfile, variables = folder / "hostfile", folder / "environment"
    hostfile.write_text("".join(f"{host.name} slots={host.slots}\n" for host in hosts), encoding="ascii")
    variables.write_text(deepspeed_file({**shell, RUN: run_id}), encoding="utf-8")
    environment = {**os.environ, **shell, "DS_ENV_FILE": str(variables)}
    alive = keep_alive(60 * config.engine.timeout)
    environment["PDSH_SSH_ARGS_APPEND"] = f"{os.environ.get('PDSH_SSH_ARGS_APPEND', '')} {alive}".strip()
    run = HostsRun(
        deepspeed_command(outcome, hostfile, flags, ssh_port=ssh_port),
        environment=environment,
        hosts=hosts,
        run_id=run_id,
        ssh_port=ssh_port,
        report=report,
    )
    code = run.run()
    if code == EXIT_FAILED:
        raise StoppedError(f"the run failed: {run.why()}: {config.folder}/logs/ has one log per rank")
    return code


def report(line: str) -> None:
    """Print a line to the user, whose terminal may be gone."""
    with contextlib.suppress(OSError):
        print(f"csr: {line}", file=sys.stderr, flush=True)


def deepspeed_command(
    outcome: Preflight, hostfile: Path, flags: list[str], *, ssh_port: int | None = None
) -> list[str]:
    """Return the launcher's words; a hostfile with one host is a host too, and ssh has been checked."""
    port = ["--ssh_port", str(ssh_port)] if ssh_port else []
    return [
        "deepspeed",
        "--hostfile",
        str(hostfile),
        "--force_multi",
        "--no_ssh_check",
        *port,
        "--master_addr",
        str(outcome.master_addr),
        "--master_port",
        str(outcome.master_port),
        "--no_local_rank",
        "--module",
        "csr.cluster.rank_start",
        rank_start.encode(flags),
    ]
