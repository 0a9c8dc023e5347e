"""Two hosts made by hosts.sh, as a test uses them: commands, processes, the cable between them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

SCRIPT = Path(__file__).with_name("hosts.sh")
ROOT = SCRIPT.parents[2]
CANNOT = 77
# part of the command line of all that a run consists of, on whichever host
OF_A_RUN = ("csr.train", "csr.cluster", "-m csr launch", "deepspeed", "pdsh", "ssh -o")


class CannotMake(Exception):
    """There can be no two hosts on this machine."""


class Hosts:
    """node1 and node2."""

    names = ("node1", "node2")

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        bin_folder = str(Path(sys.executable).parent)
        launched = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
        self.env = {k: v for k, v in os.environ.items() if k not in launched} | {
            "PATH": f"{bin_folder}:{os.environ['PATH']}",
            "CSR_HOSTS": str(folder),
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "DS_ACCELERATOR": "cpu",
        }

    @property
    def hostfile(self) -> Path:
        return self.folder / "hostfile"

    def script(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(SCRIPT), *words],
            env=self.env,
            cwd=ROOT,
            text=True,
            capture_output=True,
            timeout=600,
            check=False,
        )

    def up(self) -> None:
        done = self.script("up")
        if done.returncode == CANNOT:
            raise CannotMake(done.stderr.strip().splitlines()[-1])
        assert done.returncode == 0, done.stderr

    def down(self) -> None:
        done = self.script("down")
        assert done.returncode == 0, done.stderr

    def run(self, host: str, *command: str | Path, timeout: float = 240) -> subprocess.CompletedProcess[str]:
        """Run a command on a host, to its end."""
        words = [str(SCRIPT), "exec", host, *map(str, command)]
        return subprocess.run(
            words, env=self.env, cwd=ROOT, text=True, capture_output=True, timeout=timeout, check=False
        )

    def link(self, host: str, state: str) -> None:
        assert self.script("link", host, state).returncode == 0

    @contextmanager
    def mounted(self, source: Path, over: Path, *, host: str) -> Iterator[None]:
        """Show that host alone another file or folder in this place."""
        assert self.run(host, "mount", "--bind", source, over).returncode == 0
        try:
            yield
        finally:
            assert self.run(host, "umount", over).returncode == 0

    def processes(self, host: str, *, of: tuple[str, ...] = OF_A_RUN) -> dict[int, str]:
        """Return processes of a host with one of these words in their command line, by this machine's ids."""
        first = self.script("pid", host).stdout.strip()
        space = os.readlink(f"/proc/{first}/ns/uts")
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if os.readlink(folder / "ns" / "uts") != space:
                    continue
                words = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if any(word in words for word in of):
                found[int(folder.name)] = words
        return found

    def left(self, *, within_s: float = 30) -> dict[int, str]:
        """Return what a run has left behind on both hosts, at the latest after so long."""
        deadline = time.monotonic() + within_s
        while True:
            found = {p: words for host in self.names for p, words in self.processes(host).items()}
            if not found or time.monotonic() > deadline:
                return found
            time.sleep(0.2)

    def signal(self, processes: dict[int, str], number: int) -> None:
        assert processes, "nothing to signal"
        for process in processes:
            os.kill(process, number)


class Launched:
    """scripts/launch.sh on node1, in the background."""

    def __init__(self, hosts: Hosts, flags: list[str], log: Path) -> None:
        self.log = log
        self._output = open(log, "w")
        words = [str(SCRIPT), "exec", "node1", str(ROOT / "scripts" / "launch.sh"), str(hosts.hostfile), "--"]
        self._process = subprocess.Popen(
            [*words, *flags],
            env=hosts.env,
            cwd=ROOT,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.started = time.monotonic()

    @property
    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_until(self, condition: Callable[[], bool], *, seconds: float = 240) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert self._process.poll() is None, (
                f"ended with {self._process.returncode}:\n{self.text[-3000:]}"
            )
            assert time.monotonic() < deadline, f"nothing after {seconds} s:\n{self.text[-3000:]}"
            time.sleep(0.02)

    def wait(self, *, seconds: float = 240) -> int:
        """Return the exit code; everything is ended if there is none in time."""
        try:
            return self._process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            raise AssertionError(f"still running after {seconds} s:\n{self.text[-3000:]}") from None
        finally:
            self._output.close()
