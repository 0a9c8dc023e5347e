"""The reports of a run's hosts compared with the first one's.

Every difference with its fix, one line a host.
"""

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
    """The result of one host.

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
        """Return one line about this host."""
        if self.problems:
            return f"{self.host.name}: FAILED: {'; '.join(self.problems)}"
        assert self.facts is not None
        facts = self.facts
        counts = [
            f"{name} {entry['count']}" for name, entry in facts["data"].items() if name.endswith("_dir")
        ]
        parts = [
            f"csr {facts['csr']} ({facts['code'][:8]})",
            f"torch {facts['torch']}",
            f"deepspeed {facts['deepspeed']}",
            f"{devices_of(facts)} for {self.host.slots} rank(s)",
            f"clock {self.clock_s:+.1f} s",
            f"{(facts['disk_mib'] or 0) / 1024:.1f} GiB free",
            *(["same data"] if facts["data"] else []),
            *counts,
        ]
        return f"{self.host.name}: ok: {', '.join(parts)}"


def devices_of(facts: dict[str, Any]) -> str:
    """Return a text such as `8 x NVIDIA H200`, or `64 cores`."""
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
                elsewhere = (
                    f"{folder} is another folder than on {master}: checkpoints are written by one host and "
                    "read by all: give an --output_dir on a disk that all hosts share"
                )
                one.problems.append(f"{problem}: give another --output_dir" if problem else elsewhere)


def _compare_facts(one: Checked, first: Checked) -> None:
    own, other_host = one.facts, first.facts
    assert own is not None and other_host is not None
    for key, (name, fix) in SAME.items():
        if own[key] == other_host[key] or (key == "code" and own["csr"] != other_host["csr"]):
            continue
        shown = [str(side[key])[:8] if key == "code" else str(side[key]) for side in (own, other_host)]
        one.problems.append(f"{name} is {shown[0]}, on {first.host.name} {shown[1]}: {fix}")
    if bool(own["gpus"]) != bool(other_host["gpus"]):
        one.problems.append(
            f"has {devices_of(own)}, {first.host.name} {devices_of(other_host)}: take one kind alone"
        )
    for flag, entry in own["data"].items():
        other = other_host["data"].get(flag, {})
        if "problem" in entry:
            one.problems.append(
                f"--{flag}: {entry['problem']}: the data must be under the same path on each host"
            )
        elif "problem" not in other and entry["hash"] != other["hash"]:
            unit = "images" if flag.endswith("_dir") else "bytes"
            one.problems.append(
                f"--{flag} differs from that of {first.host.name} ({entry['count']} {unit}, there "
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
    """Return the first address of the master that all hosts reach.

    A problem for each host that reaches none.
    """
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
