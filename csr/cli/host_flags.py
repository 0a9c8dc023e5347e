"""The flags that say how hosts are reached, which `csr doctor` and `csr launch` share."""

from __future__ import annotations

import argparse

from csr.cluster.hostfile import NAME


def add_network_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the port of ssh, and where the ranks meet."""
    parser.add_argument("--ssh_port", type=port_number, help="port of ssh on the hosts (default: ssh's own)")
    parser.add_argument(
        "--master_addr", type=address,
        help="address of the first host for the others (default: the first one that all reach)",
    )  # fmt: skip
    parser.add_argument("--master_port", type=port_number, help="port there (default: a free one)")


def port_number(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise argparse.ArgumentTypeError(f"{text!r} is no port: give a number from 1 to 65535")
    return int(text)


def address(text: str) -> str:
    if not NAME.match(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no host name and no IPv4 address")
    return text
