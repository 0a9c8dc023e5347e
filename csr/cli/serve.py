"""`csr serve MODEL`: a page where one opens an image, sees what its diagnosis rests on, and corrects it."""

from __future__ import annotations

import argparse
import errno
import importlib.util
import ipaddress
import os
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from csr.config.parser import Number, Parser, Whole
from csr.data.images.decode import MAX_FILE_BYTES, MAX_PIXELS
from csr.runtime.errors import EXIT_FAILED, InputError
from csr.serve.limits import Limits

if TYPE_CHECKING:
    from csr.explain.neighbours import Neighbours
    from csr.model import CSR
    from csr.serve.edit_warnings import EditWarnings

TOKEN_VARIABLE = "CSR_SERVE_TOKEN"
SHORT_TOKEN = 16
_NEEDED = ("fastapi", "uvicorn")
_MAX_CONNECTIONS = 128
_MIB = 2**20


def main(argv: list[str] | None = None) -> int:
    """Parse the command line, load the model, serve until Ctrl+C; return the exit code.

    Raises:
        InputError: the extra is missing, the model or atlas cannot be used, the address is taken.
    """
    options = _build_parser().parse_args(argv)
    check_extra()
    token = read_token(options.token)
    listener = listen(options.host, options.port)
    try:
        return _serve(options, listener, token)
    finally:
        listener.close()


def _serve(options: argparse.Namespace, listener: socket.socket, token: str | None) -> int:
    import uvicorn

    from csr.engine.device import pick_device
    from csr.model.sharing.loading import load_model
    from csr.serve.access import Access
    from csr.serve.app import create_app
    from csr.serve.service import Service

    limits = Limits(
        max_bytes=int(options.max_mb * _MIB),
        max_pixels=options.max_pixels,
        max_sessions=options.max_sessions,
        timeout_s=60 * options.timeout_min,
    )
    model = load_model(options.model, checkpoint=options.checkpoint).to(pick_device(options.device))
    neighbours = None if options.atlas is None else _read_atlas(options.atlas, model)
    name = Path(options.model).resolve().name if Path(options.model).exists() else str(options.model)
    service = Service(
        model,
        name=name,
        limits=limits,
        neighbours=neighbours,
        show_ids=options.show_ids,
        warnings=_edit_warnings(options.evaluation, model),
    )
    service.warm_up()
    local = is_loopback(listener)
    access = Access(
        names=host_names(options, local=local), any_address=not local, token=token, max_bytes=limits.max_bytes
    )
    server = uvicorn.Server(
        uvicorn.Config(
            create_app(service, access),
            log_level="warning",
            access_log=False,
            server_header=False,
            ws="none",
            proxy_headers=False,
            limit_concurrency=_MAX_CONNECTIONS,
            timeout_graceful_shutdown=5,
            lifespan="on",
        )
    )
    _print_address(options, listener, token=token, sha256=service.sha256)
    # uvicorn raises the signal again when it has stopped: then all is done, and nothing is left to kill
    signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        server.run(sockets=[listener])
    except KeyboardInterrupt:
        pass
    if service.failed:
        return EXIT_FAILED  # a supervisor starts it again; the reason was told
    print("Stopped.", flush=True)
    return 0


def check_extra() -> None:
    """Raise InputError unless the packages of the extra are installed, on a system that has what it takes."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(
            f'csr serve needs {" and ".join(missing)}: pip install -e ".[serve]" in the clone of csr'
        )
    if not hasattr(os, "memfd_create"):
        raise InputError("csr serve keeps uploads in anonymous memory, which only Linux has: run it there")


def read_token(flag: str | None) -> str | None:
    """Return the token of the flag or, without one, of the environment; None: none is required.

    Raises:
        InputError: characters that no header can carry.
    """
    token = flag if flag is not None else os.environ.get(TOKEN_VARIABLE)
    if flag == "" or (token and not (token.isascii() and token.isprintable() and " " not in token)):
        where = TOKEN_VARIABLE if flag is None else "--token"
        raise InputError(f"{where}: give printable ASCII characters without spaces")
    return token or None


def listen(host: str, port: int) -> socket.socket:
    """Return a bound socket.

    Raises:
        InputError: no such address, or the port is taken or not allowed.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError):
        raise InputError(f"--host {host}: no such address of this machine; give 127.0.0.1") from None
    # without its protocol asyncio leaves Nagle's algorithm on, and an answer waits 40 ms for an ACK
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
        listener.listen(_MAX_CONNECTIONS)  # bound only, a second server could bind too
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise InputError(
                f"--port {port}: in use on {host}; give another, or 0 for any free one"
            ) from None
        reason = error.strerror or str(error)
        raise InputError(f"--host {host} --port {port}: cannot be listened on ({reason})") from None
    return listener


def is_loopback(listener: socket.socket) -> bool:
    """Return whether only this machine can reach it."""
    return ipaddress.ip_address(listener.getsockname()[0]).is_loopback


def host_names(options: argparse.Namespace, *, local: bool) -> frozenset[str]:
    """Return names, besides addresses and localhost, under which browsers may ask."""
    own = () if local else (socket.gethostname(), socket.getfqdn(), options.host)
    return frozenset(name.lower().rstrip(".") for name in (*own, *options.allow_host))


def _read_atlas(folder: Path, model: CSR) -> Neighbours:
    from csr.explain.neighbours import read_neighbours

    return read_neighbours(folder, model)


def _edit_warnings(folder: Path | None, model: CSR) -> EditWarnings:
    from csr.model.sharing.origin import model_sha256
    from csr.serve.edit_warnings import NOT_MEASURED, read_edit_warnings

    return NOT_MEASURED if folder is None else read_edit_warnings(folder, model_sha256=model_sha256(model))


def _print_address(
    options: argparse.Namespace, listener: socket.socket, *, token: str | None, sha256: str
) -> None:
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    print(f"Model {options.model}, sha256 {sha256[:16]}", flush=True)
    if token is None and not is_loopback(listener):
        _warn(
            f"{shown} can be reached from other machines and asks for no token: anyone there can use it; "
            f"set {TOKEN_VARIABLE}, or use --host 127.0.0.1"
        )
    if token is not None and len(token) < SHORT_TOKEN:
        _warn(f"the token has {len(token)} characters and can be guessed: give {SHORT_TOKEN} or more")
    path = "" if token is None else "#token=YOUR_TOKEN"
    print(f"Open http://{shown}:{port}/{path} in a browser. Ctrl+C stops.", flush=True)


def _warn(text: str) -> None:
    sys.stderr.write(f"csr: warning: {text}\n")
    sys.stderr.flush()


def _build_parser() -> argparse.ArgumentParser:
    default = Limits()
    parser = Parser(
        prog="csr serve",
        description="Serve a page that explains diagnoses and lets a doctor correct them.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("model", metavar="MODEL", help="folder of `csr export`, folder of a run, or hub id")
    add("--atlas", metavar="DIR", type=Path, help="atlas of this model: training regions")
    add(
        "--evaluation", metavar="DIR", type=Path, help="of `csr evaluate --simulate`: what edits do, measured"
    )
    add("--show_ids", action="store_true", help="show names of training files, often ids of patients")
    add("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0: all of this machine")
    add("--port", type=Whole(0, 65535), default=8000, help="0: any free one")
    add("--token", help=f"asked of everyone; others see it in ps, so rather set {TOKEN_VARIABLE}")
    add("--allow_host", metavar="NAME", action="append", default=[], help="further Host name, of a proxy")
    add(
        "--max_mb",
        type=Number(0, MAX_FILE_BYTES / _MIB, above=True),
        default=default.max_bytes / _MIB,
        help="largest image file, MiB",
    )
    add("--max_pixels", type=Whole(1, MAX_PIXELS), default=default.max_pixels, help="largest image")
    add("--max_sessions", type=Whole(1, 10_000), default=default.max_sessions, help="images in memory")
    add(
        "--timeout_min",
        type=Whole(1, 10_000),
        default=int(default.timeout_s / 60),
        help="minutes after which an unused image is forgotten",
    )
    add("--checkpoint", help="name of a .pth, where MODEL is a run; None: best of stage 3")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:1")
    return parser
