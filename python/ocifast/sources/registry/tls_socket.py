"""TLS over a connected socket, many records at a time.

A record of TLS holds 16 KiB at most (RFC 8446, section 5.1). For each of them Python's own TLS socket reads twice from
the system and lets go of the interpreter, and downloads that run side by side wait for each other at every record. Here
one read takes what has come, and one thread at a time decrypts all of it.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable
from typing import TypeVar

__all__ = ["READ_SIZE", "TlsSocket"]

READ_SIZE = 256 << 10
"""Bytes asked for in one read of a socket."""
_turn = threading.Lock()
"""Held by the one thread that encrypts or decrypts: a second one would only make it wait for the interpreter."""

T = TypeVar("T")


class TlsSocket:
    """What is used of a socket, over TLS. One thread at a time may use it, and another one may call `shutdown`.

    Raises everywhere what `ssl.SSLSocket` would: OSError, of which `ssl.SSLError` is one.
    """

    def __init__(self, sock: socket.socket | TlsSocket, context: ssl.SSLContext, server_hostname: str | None) -> None:
        """Shakes hands with the server, within the timeout that the socket has.

        Args:
            sock: connected; it is closed with this one, and not when this fails.
            context: how.
            server_hostname: that the server's certificate must be for, where the context checks it.
        """
        self._socket = sock
        self._come, self._going = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._come, self._going, server_hostname=server_hostname)
        self._buffer = bytearray(READ_SIZE)
        self._timeout = sock.gettimeout()
        self._fault: ssl.SSLError | None = None
        try:
            self._complete(self.tls.do_handshake)
        except ssl.SSLError:
            # The server is told why.
            self._send()
            raise

    def recv(self, size: int) -> bytes:
        """At most `size` bytes, and at most `READ_SIZE`; none at the end."""
        deadline = self._deadline()
        while True:
            with _turn:
                data = self._decrypt(min(size, READ_SIZE))
            if data == b"":
                # Nobody is there any more who could be told anything.
                return data
            self._send()
            if data is not None:
                return data
            self._receive(deadline)

    def sendall(self, data: bytes) -> None:
        """Sends all of it."""
        view = memoryview(data)
        while view:
            part = view[:READ_SIZE]
            count = self._complete(lambda part=part: self.tls.write(part))  # type: ignore[misc]
            view = view[count:]

    def settimeout(self, seconds: float | None) -> None:
        """Of each call as a whole, in however many pieces the server sends what is waited for."""
        self._timeout = seconds
        self._socket.settimeout(seconds)

    def gettimeout(self) -> float | None:
        """What was set."""
        return self._timeout

    def shutdown(self, how: int) -> None:
        """Ends the connection below; whoever waits for it wakes."""
        self._socket.shutdown(how)

    def close(self) -> None:
        """Closes the socket below."""
        self._socket.close()

    def fileno(self) -> int:
        """Of the socket below."""
        return self._socket.fileno()

    def _decrypt(self, size: int) -> bytes | None:
        """What is there of the records that have come; None when more must come first."""
        if self._fault is not None:
            raise self._fault
        view, filled = memoryview(self._buffer), 0
        try:
            while filled < size:
                # A buffer is filled record by record.
                count = self.tls.read(size - filled, view[filled:size])
                if not count:
                    break
                filled += int(count)
        except ssl.SSLWantReadError:
            if not filled:
                return None
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            # As of a socket: lengths tell whether all has come.
            pass
        except ssl.SSLError as error:
            # What is right before the fault counts. OpenSSL tells a fault once, and after that of an end.
            self._fault = error
            if not filled:
                raise
        return bytes(view[:filled])

    def _complete(self, step: Callable[[], T]) -> T:
        deadline = self._deadline()
        while True:
            try:
                with _turn:
                    done = step()
            except ssl.SSLWantReadError:
                self._send()
                self._receive(deadline)
            else:
                self._send()
                return done

    def _send(self) -> None:
        while self._going.pending:
            self._socket.sendall(self._going.read())

    def _deadline(self) -> float | None:
        return None if self._timeout is None else time.monotonic() + self._timeout

    def _receive(self, deadline: float | None) -> None:
        if deadline is not None:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError("timed out")
            self._socket.settimeout(left)
        try:
            data = self._socket.recv(READ_SIZE)
        finally:
            if deadline is not None:
                self._socket.settimeout(self._timeout)
        if data:
            self._come.write(data)
        else:
            self._come.write_eof()
