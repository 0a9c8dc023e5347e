"""What the hosts of a run said, compared with the first one: every difference with its fix, one line a host."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from csr.cluster.hostfile import Host

CLOCKS_APART_S = 5.0
LOW_DISK_MIB = 1024
# what must be the same, how it is called, and what to do where it is not
SAME = {
    "csr": ("csr", "install the same version on both"),
    "code": ("the code of csr", "bring both to the same revision"),
    "torch": ("torch", "install the same version on both"),
    "deepspeed": ("deepspeed", "install the same version on both"),
    "python": ("python", "make the virtual environments with the same version"),
}


@dataclass
class Checked:
    """What is known of one host.

    Attributes:
        host: its line of the hostfile.
        opening: its first answer, None where there was none.
        facts: its second one.
        clock_s: how far its clock is ahead of this machine's, in seconds.
        problems: what must be put right, each with the fix; empty if all is well.
    """

    host: Host
    opening: dict[str, Any] | None = None
    facts: dict[str, Any] | None = None
    clock_s: float = 0.0
    problems: list[str] = field(default_factory=list)

    def line(self) -> str:
        """All about this host, in one line."""
        if self.problems:
            return f"{self.host.name}: FAILED: {'; '.join(self.problems)}"
        assert self.facts is not None
        facts = self.facts
        counts = [f"{name} {told['count']}" for name, told in facts["data"].items() if name.endswith("_dir")]
        told = [
            f"csr {facts['csr']} ({facts['code'][:8]})",
            f"torch {facts['torch']}",
            f"deepspeed {facts['deepspeed']}",
            f"{devices_of(facts)} for {self.host.slots} rank(s)",
            f"clock {self.clock_s:+.1f} s",
            f"{(facts['disk_mib'] or 0) / 1024:.1f} GiB free",
            *(["same data"] if facts["data"] else []),
            *counts,
        ]
        return f"{self.host.name}: ok: {', '.join(told)}"


def devices_of(facts: dict[str, Any]) -> str:
    """`8 x NVIDIA H200`, or `64 cores`."""
    names = {gpu["name"] for gpu in facts["gpus"]}
    return f"{len(facts['gpus'])} x {' / '.join(sorted(names))}" if names else f"{facts['cores']} cores"


def compare(checked: list[Checked]) -> None:
    """Add to each host's problems what differs from the first host that answered, or is too little."""
    answered = [c for c in checked if c.facts is not None]
    for one in answered:
        assert one.facts is not None and one.opening is not None
        _compare_facts(one, answered[0])
        one.problems += _shortages(one)
        apart = one.clock_s - answered[0].clock_s
        if abs(apart) > CLOCKS_APART_S:
            name = answered[0].host.name
            one.problems.append(f"its clock is {apart:+.0f} s from that of {name}: set it (chrony or ntp)")
        if checked[0].opening is not None and not one.facts["shares_output"]:
            folder, master = checked[0].opening["output"], checked[0].host.name
            problem = checked[0].opening.get("output_problem")
            if one is checked[0] or not problem:
                one.problems.append(
                    f"{problem}: give another --output_dir"
                    if problem
                    else f"{folder} is another folder than on {master}: checkpoints are written by one host and read "
                    "by all: give an --output_dir on a disk that all hosts share"
                )


def _compare_facts(one: Checked, first: Checked) -> None:
    mine, theirs = one.facts, first.facts
    assert mine is not None and theirs is not None
    for key, (name, fix) in SAME.items():
        if mine[key] == theirs[key] or (key == "code" and mine["csr"] != theirs["csr"]):
            continue
        shown = [str(side[key])[:8] if key == "code" else str(side[key]) for side in (mine, theirs)]
        one.problems.append(f"{name} is {shown[0]}, on {first.host.name} {shown[1]}: {fix}")
    if bool(mine["gpus"]) != bool(theirs["gpus"]):
        one.problems.append(
            f"has {devices_of(mine)}, {first.host.name} {devices_of(theirs)}: take one kind alone"
        )
    for flag, told in mine["data"].items():
        other = theirs["data"].get(flag, {})
        if "problem" in told:
            one.problems.append(
                f"--{flag}: {told['problem']}: the data must be under the same path on each host"
            )
        elif "problem" not in other and told["hash"] != other["hash"]:
            unit = "images" if flag.endswith("_dir") else "bytes"
            one.problems.append(
                f"--{flag} differs from that of {first.host.name} ({told['count']} {unit}, there "
                f"{other['count']}): copy it again"
            )


def _shortages(one: Checked) -> list[str]:
    facts, slots = one.facts, one.host.slots
    assert facts is not None
    problems = []
    if facts["deepspeed"] is None:
        problems.append("deepspeed is not installed there: pip install deepspeed")
    available = len(facts["gpus"]) or facts["cores"]
    if slots > available:
        problems.append(
            f"slots={slots} in line {one.host.line}, but there are {devices_of(facts)}: lower slots"
        )
    if facts["disk_mib"] is not None and facts["disk_mib"] < LOW_DISK_MIB:
        problems.append(f"{facts['disk_mib']} MiB free for --output_dir: make room for checkpoints")
    return problems


def meeting_place(checked: list[Checked], candidates: list[str]) -> str | None:
    """The first address of the master that all hosts reach; a problem for each host that reaches none."""
    master = checked[0]
    if master.opening is None or master.facts is None:
        return None
    if master.opening["port"] is None:
        master.problems.append(
            f"its port for the ranks to meet cannot be opened ({master.opening['port_problem']}): "
            "give another --master_port"
        )
        return None
    if not candidates:
        master.problems.append("has no network address but loopback: give it one")
        return None
    answered = [c for c in checked if c.facts is not None]
    for address in candidates:
        if all(address in c.facts["reached"] for c in answered if c.facts is not None):
            return address
    best = max(
        candidates, key=lambda a: sum(a in c.facts["reached"] for c in answered if c.facts is not None)
    )
    for one in answered:
        if one.facts is not None and best not in one.facts["reached"]:
            one.problems.append(
                f"cannot reach {master.host.name} at {best} port {master.opening['port']}: a firewall, or "
                "another network: name the address with --master_addr"
            )
    return None
