"""One connection, as httpcore wants it and a little more.

Between a socket and its reader httpcore and h11 copy every byte three times, under the GIL; for a big blob that is more
than half of what its download costs. A large body of known length is therefore read straight from the socket. For that
the library must not have taken bytes of it already: whatever follows the head of an answer is held back here until
somebody asks for it.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from typing import Any
from weakref import WeakSet

import httpcore

from ocifast.sources.registry.pace import Pace
from ocifast.sources.registry.tls_socket import READ_SIZE, TlsSocket

__all__ = ["Connection", "OpenConnections"]

CHUNK = 64 << 10
"""Least bytes of a chunk, but for the last one: a slow network gives less at a time, and what a chunk costs further on
does not depend on its size."""
_END_OF_HEAD = b"\r\n\r\n"


class OpenConnections:
    """The connections of one transport, so that it can break them off."""

    def __init__(self) -> None:
        self._connections: WeakSet[Connection] = WeakSet()
        self._closed = False
        self._lock = threading.Lock()

    def add(self, connection: Connection) -> bool:
        """Notes a connection; False when it comes too late."""
        with self._lock:
            if not self._closed:
                self._connections.add(connection)
            return not self._closed

    def discard(self, connection: Connection) -> None:
        """Forgets a connection that is closed."""
        with self._lock:
            self._connections.discard(connection)

    def close(self) -> None:
        """Wakes all threads that wait for one of the connections, and lets no other one be made."""
        with self._lock:
            self._closed = True
            connections = list(self._connections)
        for connection in connections:
            connection.interrupt()


class Connection(httpcore.NetworkStream):
    """A connection that another thread can break off, and whose bodies can be read without the HTTP library.

    A socket must not be closed while another thread waits for it: its number would be given to the next connection, and
    that thread would go on to read from it. So closing wakes the thread and waits until it has let go.
    """

    def __init__(self, sock: socket.socket | TlsSocket, open_connections: OpenConnections) -> None:
        """Makes one of a connected socket, which is closed when `open_connections` takes no more.

        Raises:
            httpcore.ConnectError: it takes no more.
        """
        self._socket = sock
        self._in_use = threading.Lock()
        self._open_connections = open_connections
        self._awaits_head = False
        self._stands_at_body = False
        self._tail = b""
        self._held = b""
        self._pace: Pace | None = None
        if not open_connections.add(self):
            sock.close()
            raise httpcore.ConnectError("the transport was closed")

    @property
    def stands_at_body(self) -> bool:
        """Whether exactly the head of the last answer was read: the next byte is the first one of its body."""
        return self._stands_at_body

    @property
    def held(self) -> int:
        """How many bytes have come that nobody has asked for yet."""
        return len(self._held)

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Bytes of the connection, more than `max_bytes` if there are; at most to the end of an answer's head."""
        data, self._held = self._held or self._receive(timeout), b""
        self._stands_at_body = False
        if not self._awaits_head:
            return data
        seen = self._tail + data
        end = seen.find(_END_OF_HEAD)
        if end < 0:
            self._tail = seen[1 - len(_END_OF_HEAD) :]
            return data
        body = end + len(_END_OF_HEAD) - len(self._tail)
        self._awaits_head, self._stands_at_body = False, True
        self._held = data[body:]
        return data[:body]

    def begin_body(self, pace: Pace) -> None:
        """The head of an answer is there, and no other one follows; `pace` is for its body."""
        self._pace = pace

    def take_body(self, length: int, timeout: float | None) -> Iterator[bytes]:
        """The `length` bytes of a body; the connection is of no use to anybody else after.

        Raises:
            httpcore.ReadError, httpcore.ReadTimeout, httpcore.RemoteProtocolError: as reading it with httpcore would.
        """
        self._stands_at_body = False
        pieces: list[bytes] = []
        size = 0
        while length > 0:
            failure: Exception = httpcore.RemoteProtocolError("peer closed connection without complete message body")
            try:
                data, self._held = self._held or self._receive(timeout), b""
            except (httpcore.ReadError, httpcore.ReadTimeout) as error:
                data, failure = b"", error
            if not data:
                # What has come counts: a download goes on after it.
                if pieces:
                    yield b"".join(pieces)
                raise failure
            data = data[:length]
            length -= len(data)
            size += len(data)
            pieces.append(data)
            if size >= CHUNK or not length:
                yield data if len(pieces) == 1 else b"".join(pieces)
                pieces, size = [], 0

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Sends all of `buffer`."""
        if not buffer:
            return
        self._awaits_head, self._stands_at_body, self._tail = True, False, b""
        # A head is timed as a whole, with all interim answers before it, from the last byte of the request on.
        self._pace = None
        try:
            with self._in_use:
                self._socket.settimeout(timeout)
                self._socket.sendall(buffer)
        except TimeoutError as error:
            raise httpcore.WriteTimeout(error) from error
        except OSError as error:
            raise httpcore.WriteError(error) from error

    def close(self) -> None:
        """Closes the connection."""
        self._open_connections.discard(self)
        if not self._in_use.acquire(blocking=False):
            self.interrupt()
            self._in_use.acquire()
        try:
            self._socket.close()
        finally:
            self._in_use.release()

    def interrupt(self) -> None:
        """Wakes a thread that waits for this connection."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        """The same connection under TLS; this object is of no use after."""
        try:
            self._socket.settimeout(timeout)
            secured = TlsSocket(self._socket, ssl_context, server_hostname)
        except TimeoutError as error:
            self.close()
            raise httpcore.ConnectTimeout(error) from error
        except OSError as error:
            self.close()
            raise httpcore.ConnectError(error) from error
        self._open_connections.discard(self)
        return Connection(secured, self._open_connections)

    def get_extra_info(self, info: str) -> Any:
        """What httpcore asks for: `ssl_object`, `socket`, `is_readable`."""
        if info == "ssl_object":
            return self._socket.tls if isinstance(self._socket, TlsSocket) else None
        if info == "socket":
            return self._socket
        if info == "is_readable":
            return self._is_readable()
        return None

    def _receive(self, timeout: float | None) -> bytes:
        if self._pace is None and timeout is not None:
            self._pace = Pace.of_head(timeout)
        pace, silence = self._pace, 0.0
        while True:
            wait = timeout
            if pace is not None and timeout is not None:
                # A socket takes 0 for "do not wait".
                wait = max(0.001, min(timeout - silence, pace.left))
            started = time.monotonic()
            try:
                with self._in_use:
                    self._socket.settimeout(wait)
                    data = self._socket.recv(READ_SIZE)
            except TimeoutError as error:
                waited = max(time.monotonic() - started, wait or 0.0)
                if pace is not None:
                    pace.count(waited, 0)
                silence += waited
                if timeout is None or silence >= timeout:
                    raise httpcore.ReadTimeout(error) from error
            except OSError as error:
                raise httpcore.ReadError(error) from error
            else:
                if pace is not None:
                    pace.count(time.monotonic() - started, len(data))
                return data

    def _is_readable(self) -> bool:
        """Whether the server closed the connection, or sent what nobody asked for; asked of one that is idle."""
        if self._held or self._socket.fileno() < 0:
            return True
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(0))
