"""The control channel of a simulated arm: a Unix socket, one JSON object a line each way.

A request names a `command` and its arguments; the answer carries `"ok": true` and results, or `"error"`.
"""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

MAX_LINE = 65_536
MAX_PATH = 100  # bytes; the system's limit for a Unix socket's name is 108 on Linux, 104 on macOS
Handler = Callable[[dict[str, Any]], dict[str, Any]]


class ChannelInUse(OSError):
    """Another simulated arm answers under this name."""


class _Peer:
    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.received = bytearray()
        self.to_send = bytearray()


class ControlChannel:
    """Serves requests without ever waiting for a client."""

    def __init__(self, path: Path, handler: Handler) -> None:
        self.path = path
        self._handler = handler
        self._peers: dict[int, _Peer] = {}
        if len(str(path).encode()) > MAX_PATH:
            raise ValueError(f"{path}: too long for a socket's name ({MAX_PATH} bytes); use a shorter --link")
        self._remove_stale()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.setblocking(False)
        self._listener.bind(str(path))
        self._listener.listen(8)

    def _remove_stale(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(str(self.path))
            except (FileNotFoundError, ConnectionRefusedError):
                with contextlib.suppress(FileNotFoundError):
                    self.path.unlink()
                return
        raise ChannelInUse(f"{self.path}: another simulated arm runs here; stop it, or use another --link")

    def readable(self) -> list[int]:
        """File descriptors to wait on for reading."""
        return [self._listener.fileno(), *self._peers]

    def writable(self) -> list[int]:
        """File descriptors of clients that have not taken their whole answer yet."""
        return [fd for fd, peer in self._peers.items() if peer.to_send]

    def serve(self, fd: int) -> None:
        """Handles a descriptor that is ready."""
        if fd == self._listener.fileno():
            connection, _ = self._listener.accept()
            connection.setblocking(False)
            self._peers[connection.fileno()] = _Peer(connection)
            return
        peer = self._peers.get(fd)
        if peer is None:
            return
        try:
            if peer.to_send:
                del peer.to_send[: peer.connection.send(peer.to_send)]
            else:
                self._receive(fd, peer)
        except BlockingIOError:
            return
        except OSError:  # the client went away
            self._drop(fd)

    def _receive(self, fd: int, peer: _Peer) -> None:
        data = peer.connection.recv(MAX_LINE)
        if not data:
            self._drop(fd)
            return
        peer.received += data
        while (end := peer.received.find(b"\n")) >= 0:
            line = bytes(peer.received[:end])
            del peer.received[: end + 1]
            peer.to_send += json.dumps(self._answer(line)).encode() + b"\n"
        if len(peer.received) > MAX_LINE:
            self._drop(fd)

    def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            request = json.loads(line)
            if not isinstance(request, dict):
                raise ValueError('a request is a JSON object such as {"command": "joints"}')
            return {"ok": True, **self._handler(request)}
        except (ValueError, KeyError, TypeError) as error:  # what a request can get wrong
            return {"ok": False, "error": str(error.args[0]) if error.args else type(error).__name__}

    def _drop(self, fd: int) -> None:
        self._peers.pop(fd).connection.close()

    def close(self) -> None:
        """Ends every connection and removes the name."""
        for peer in self._peers.values():
            peer.connection.close()
        self._peers.clear()
        self._listener.close()
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()
