"""Heartbeats over TCP: rank 0 keeps a hub, every other rank a connection to it; one JSON line each way.

Nothing here waits longer than a fraction of a second for a peer, whatever has become of it.
"""

from __future__ import annotations

import contextlib
import json
import selectors
import socket
import time
from collections.abc import Callable
from typing import Any

LONGEST_LINE = 65_536
Message = dict[str, Any]


def encoded(message: Message) -> bytes:
    return json.dumps(message).encode() + b"\n"


class Lines:
    """Whole lines out of a stream that comes in pieces."""

    def __init__(self) -> None:
        self._kept = b""

    def add(self, data: bytes) -> list[Message]:
        """Return the messages that are complete now.

        Raises:
            ValueError: what came is no message.
        """
        *whole, self._kept = (self._kept + data).split(b"\n")
        if len(self._kept) > LONGEST_LINE:
            raise ValueError("a line without an end")
        messages = [json.loads(line) for line in whole]
        if not all(isinstance(message, dict) for message in messages):
            raise ValueError("no message")
        return messages


class Hub:
    """Rank 0's end: hears every rank and answers each message.

    Args:
        address: to listen on; empty for all addresses of this host.
        token: that every message must carry: whoever does not know it is no rank of this run.
        heard: called with (rank, message) and gives the answer.
        lost: called with the rank of a connection that broke.
    """

    def __init__(
        self,
        address: str,
        *,
        token: str,
        heard: Callable[[int, Message], Message],
        lost: Callable[[int], None],
    ) -> None:
        self._token, self._heard, self._lost = token, heard, lost
        self._selector = selectors.DefaultSelector()
        self._listener = _listen(address)
        self.port = int(self._listener.getsockname()[1])
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._streams: dict[socket.socket, Lines] = {}
        self._ranks: dict[socket.socket, int] = {}

    @property
    def num_connected(self) -> int:
        return len(self._ranks)

    def serve(self, seconds: float) -> None:
        """Receive and answer messages for about so long."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            for key, _ in self._selector.select(left):
                if key.fileobj is self._listener:
                    self._accept()
                else:
                    self._read(key.fileobj)  # type: ignore[arg-type]

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            connection, _ = self._listener.accept()
            connection.setblocking(False)
            self._streams[connection] = Lines()
            self._selector.register(connection, selectors.EVENT_READ)

    def _read(self, connection: socket.socket) -> None:
        try:
            data = connection.recv(LONGEST_LINE)
            if not data:
                raise ConnectionResetError
            for message in self._streams[connection].add(data):
                if message.get("token") != self._token:
                    raise ValueError("no rank of this run")
                rank = int(message["rank"])
                answer = self._heard(rank, message)
                self._ranks[connection] = rank
                connection.sendall(encoded(answer))
        except BlockingIOError:
            # a peer that takes nothing is stopped: it gets the next answer, or is silent
            return
        except (OSError, ValueError, LookupError, TypeError):
            self._drop(connection)

    def push(self, message: Message) -> None:
        """Send a message to every rank without being asked."""
        for connection in list(self._ranks):
            with contextlib.suppress(OSError):
                connection.sendall(encoded(message))

    def _drop(self, connection: socket.socket) -> None:
        self._selector.unregister(connection)
        connection.close()
        del self._streams[connection]
        rank = self._ranks.pop(connection, None)
        if rank is not None and rank not in self._ranks.values():  # it may have come again meanwhile
            self._lost(rank)

    def close(self) -> None:
        for connection in self._streams:
            connection.close()
        self._listener.close()
        self._selector.close()


def _listen(address: str) -> socket.socket:
    if not address and socket.has_dualstack_ipv6():
        with contextlib.suppress(OSError):
            return socket.create_server(("", 0), family=socket.AF_INET6, backlog=1024, dualstack_ipv6=True)
    return socket.create_server((address, 0), backlog=1024)


class Line:
    """Another rank's end. At most one message is under way, so that nothing piles up before a stopped hub.

    Args:
        address, port: of the hub.
    """

    def __init__(self, address: str, port: int) -> None:
        self._address = (address, port)
        self._socket: socket.socket | None = None
        self._lines, self._unanswered = Lines(), False

    def exchange(self, message: Message, *, within_s: float) -> Message | None:
        """Send a message and return the newest answer there is, None if none came in time.

        Raises:
            OSError: there is no connection: refused, or it broke; the next call makes a new one.
        """
        try:
            if self._socket is None:
                self._socket = socket.create_connection(self._address, timeout=within_s)
                self._lines, self._unanswered = Lines(), False
            self._socket.settimeout(within_s)
            if not self._unanswered:
                self._socket.sendall(encoded(message))
                self._unanswered = True
            answer = self._newest(self._socket)
        except TimeoutError:
            return None
        except (OSError, ValueError) as error:
            self.close()
            raise OSError(f"the connection to rank 0 broke: {error}") from error
        self._unanswered = False
        return answer

    def _newest(self, connection: socket.socket) -> Message:
        answers: list[Message] = []
        while not answers:
            data = connection.recv(LONGEST_LINE)
            if not data:
                raise ConnectionResetError("closed")
            answers = self._lines.add(data)
        return answers[-1]

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
