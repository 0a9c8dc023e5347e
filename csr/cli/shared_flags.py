"""Flags that several commands share."""

from __future__ import annotations

import argparse
from pathlib import Path

from csr.cluster.hostfile import NAME
from csr.config import flags
from csr.config.parser import Parser, Whole


def parser_before_train(prog: str, *, usage: str, description: str, epilog: str) -> Parser:
    """Return the parser of a command whose words after `--` are flags of csr train."""
    parser = Parser(
        prog=prog,
        epilog=epilog,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage=usage,
        description=description,
    )
    parser.after_dashes, parser.after_whom = flags.flags(), "csr train"
    return parser


def add_source_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that `csr atlas` and `csr refine` share."""
    add = parser.add_argument
    add("source", metavar="RUN", help="output_dir/exp_name of `csr train`, or folder of a model")
    add_links_flag(parser, of_run=True)
    add("--checkpoint", help="name of a .pth, where RUN is a run (default: best of stage 3)")
    add(
        "--image_cache",
        metavar="DIR",
        type=Path,
        help="decoded images (default: the run's, or a temporary one)",
    )
    add("--workers", type=Whole(1, 1024), default=4, help="threads that decode images (default: 4)")
    add(
        "--batch_size",
        type=Whole(1, 65_536),
        default=32,
        help="images that the network sees at once (default: 32)",
    )
    add("--device", default="auto", help="auto, cpu, cuda or cuda:1 (default: auto)")


def add_links_flag(parser: argparse.ArgumentParser, *, of_run: bool = False) -> None:
    """Add the folders that links in an image folder may lead into.

    Args:
        parser: to add to.
        of_run: without the flag the value is None, for the run's own.
    """
    parser.add_argument(
        "--links_into",
        metavar="DIR",
        nargs="+",
        default=None if of_run else [],
        help="folders outside of the image folder that links in it may lead into "
        + ("(default: the run's)" if of_run else "(default: none)"),
    )


def add_network_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the port of ssh, and where the ranks meet."""
    parser.add_argument(
        "--ssh_port", type=Whole(1, 65_535), help="port of ssh on the hosts (default: ssh's own)"
    )
    parser.add_argument(
        "--master_addr",
        type=address,
        help="address of the first host for the others (default: the first one that all reach)",
    )
    parser.add_argument("--master_port", type=Whole(1, 65_535), help="port there (default: a free one)")


def address(text: str) -> str:
    if not NAME.match(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no host name and no IPv4 address")
    return text
