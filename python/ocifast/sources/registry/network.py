"""The network under the HTTP client: connections by address, TLS per host, proxies.

httpx has no place for these three rules, so the connection pools of httpcore, which httpx itself uses, are driven here
behind httpx' public transport interface:

- an address is judged where it is connected to (`addresses`);
- each host has its own certificates (`tls`);
- the system's proxy variables count, but never for loopback.
"""

from __future__ import annotations

import collections
import contextlib
import socket
import threading
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.request import getproxies, proxy_bypass

import httpcore
import httpx

from ocifast.errors import NetworkError
from ocifast.sources.registry import addresses
from ocifast.sources.registry.connection import Connection, OpenConnections
from ocifast.sources.registry.options import RegistryOptions, is_loopback
from ocifast.sources.registry.pace import Pace, SlowAnswerError, TooSlowError
from ocifast.sources.registry.tls import Certificates

__all__ = ["DIRECT", "Network", "proxy_for"]

DIRECT = 16 << 20
"""Least bytes of a body that is read past the HTTP library (see `connection`), which uses its connection up: the body
must be worth one."""

_EXCEPTIONS: dict[type[Exception], type[httpx.TransportError]] = {
    httpcore.ConnectTimeout: httpx.ConnectTimeout,
    TooSlowError: SlowAnswerError,
    httpcore.ReadTimeout: httpx.ReadTimeout,
    httpcore.WriteTimeout: httpx.WriteTimeout,
    httpcore.PoolTimeout: httpx.PoolTimeout,
    httpcore.ConnectError: httpx.ConnectError,
    httpcore.ReadError: httpx.ReadError,
    httpcore.WriteError: httpx.WriteError,
    httpcore.ProxyError: httpx.ProxyError,
    httpcore.UnsupportedProtocol: httpx.UnsupportedProtocol,
    httpcore.LocalProtocolError: httpx.LocalProtocolError,
    httpcore.RemoteProtocolError: httpx.RemoteProtocolError,
}


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """Raises what httpcore raises as the exception of httpx that has the same name.

    httpcore cuts the chain of causes, so that the exceptions below carry theirs as their argument.
    """
    try:
        yield
    except tuple(_EXCEPTIONS) as error:
        inner = error.args[0] if error.args and isinstance(error.args[0], OSError) else error
        raise _EXCEPTIONS[type(error)](str(error)) from inner


def proxy_for(url: httpx.URL) -> str | None:
    """The proxy that `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY` name for a URL."""
    host = url.host if url.port is None else f"{url.host}:{url.port}"
    if is_loopback(host) or proxy_bypass(host):
        return None
    proxies = getproxies()
    proxy = proxies.get(url.scheme) or proxies.get("all")
    if not proxy:
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


class _Backend(httpcore.NetworkBackend):
    """Connects to the first address that answers; refuses private ones where only public ones may be."""

    def __init__(self, public_only: bool, open_connections: OpenConnections) -> None:
        self._public_only = public_only
        self._open_connections = open_connections

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        try:
            found = addresses.resolve(host, port)
        except OSError as error:
            raise httpcore.ConnectError(error) from error
        if self._public_only:
            addresses.refuse_private(host, found)
        failure: OSError | None = None
        for _, address in found:
            try:
                sock = addresses.connect(address, port, timeout)
            except OSError as error:
                failure = error
                continue
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return Connection(sock, self._open_connections)
        if isinstance(failure, TimeoutError):
            raise httpcore.ConnectTimeout(failure) from failure
        raise httpcore.ConnectError(failure) from failure


class _Body(httpx.SyncByteStream):
    def __init__(self, request: httpx.Request, response: httpcore.Response) -> None:
        self._response = response
        self._direct = _direct(request, response)
        self._has_come = _has_come(request, response)
        self._timeout = request.extensions.get("timeout", {}).get("read")

    def __iter__(self) -> Iterator[bytes]:
        self._has_come = False
        with _translated():
            if self._direct is None:
                yield from self._response.iter_stream()
            else:
                connection, length = self._direct
                yield from connection.take_body(length, self._timeout)

    def close(self) -> None:
        # The HTTP library closes the connection of an answer that nobody read to its end.
        if self._has_come:
            with contextlib.suppress(*_EXCEPTIONS):
                collections.deque(self._response.iter_stream(), maxlen=0)
        self._response.close()


def _length(response: httpcore.Response) -> int | None:
    """Bytes of a body, where the answer says so and in no other way as well."""
    fields = [(name.lower(), value) for name, value in response.headers]
    lengths = [value for name, value in fields if name == b"content-length"]
    if len(lengths) != 1 or not lengths[0].isdigit() or any(name == b"transfer-encoding" for name, _ in fields):
        return None
    return int(lengths[0])


def _direct(request: httpx.Request, response: httpcore.Response) -> tuple[Connection, int] | None:
    """The connection and the length of a body that can be read from it without the HTTP library."""
    connection, length = response.extensions.get("network_stream"), _length(response)
    if (
        request.method != "GET"
        or response.status not in (200, 206)
        or not isinstance(connection, Connection)
        or not connection.stands_at_body
        or length is None
        or length < DIRECT
    ):
        return None
    return connection, length


def _has_come(request: httpx.Request, response: httpcore.Response) -> bool:
    """Whether nothing has to be waited for to read a body to its end."""
    if request.method == "HEAD" or response.status == 204:
        return True
    connection, length = response.extensions.get("network_stream"), _length(response)
    return isinstance(connection, Connection) and length is not None and length <= connection.held


class Network(httpx.BaseTransport):
    """Connections of one registry client. Safe to use from several threads.

    Requests with the extension `public_only` reach public addresses alone.
    """

    def __init__(self, options: RegistryOptions) -> None:
        self._options = options
        self._certificates = Certificates(options)
        self._pools: dict[tuple[str, bool, str | None], httpcore.ConnectionPool] = {}
        self._open_connections = OpenConnections()
        self._lock = threading.Lock()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Sends one request; see `httpx.BaseTransport`. Raises NetworkError for a private address, too."""
        public_only = bool(request.extensions.get("public_only"))
        sent = httpcore.Request(
            method=request.method,
            url=httpcore.URL(
                scheme=request.url.raw_scheme,
                host=request.url.raw_host,
                port=request.url.port,
                target=request.url.raw_path,
            ),
            headers=request.headers.raw,
            content=request.stream,
            extensions={"timeout": request.extensions.get("timeout", {})},
        )
        with _translated():
            response = self._pool(request.url, public_only).handle_request(sent)
        pace = Pace(self._options.min_rate, self._options.rate_window)
        connection = response.extensions.get("network_stream")
        if isinstance(connection, Connection):
            connection.begin_body(pace)
        return httpx.Response(
            status_code=response.status,
            headers=response.headers,
            stream=_Body(request, response),
            extensions={"http_version": b"HTTP/1.1", "pace": pace},
        )

    def close(self) -> None:
        """Closes all connections; threads that wait for one of them get an error at once."""
        self._open_connections.close()
        with self._lock:
            pools, self._pools = list(self._pools.values()), {}
        for pool in pools:
            pool.close()

    def _pool(self, url: httpx.URL, public_only: bool) -> httpcore.ConnectionPool:
        proxy = proxy_for(url)
        if proxy is not None and public_only:
            # The proxy makes the connection; what its name means here is the best that can be known.
            with contextlib.suppress(OSError):
                addresses.refuse_private(url.host, addresses.resolve(url.host, url.port or 443))
        host = url.netloc.decode("ascii")
        key = (host if url.scheme == "https" else "", public_only and proxy is None, proxy)
        with self._lock:
            pool = self._pools.get(key)
            if pool is None:
                pool = self._pools[key] = self._new_pool(url, key[1], proxy)
            return pool

    def _new_pool(self, url: httpx.URL, public_only: bool, proxy: str | None) -> httpcore.ConnectionPool:
        context = self._certificates.context(url.netloc.decode("ascii")) if url.scheme == "https" else None
        # The limiter bounds what is sent at a time; the pool must never make a request wait.
        settings: dict[str, Any] = {
            "ssl_context": context,
            "max_connections": None,
            "max_keepalive_connections": 2 * self._options.parallel,
            "keepalive_expiry": 30.0,
            "network_backend": _Backend(public_only, self._open_connections),
        }
        if proxy is None:
            return httpcore.ConnectionPool(**settings)
        return httpcore.ConnectionPool(proxy=_proxy(proxy), **settings)


def _proxy(text: str) -> httpcore.Proxy:
    url = httpx.URL(text)
    if url.scheme not in ("http", "https"):
        raise NetworkError(f"the proxy {url.scheme}://{url.host} is not supported; name an HTTP proxy")
    auth = (url.username, url.password) if url.username or url.password else None
    bare = httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target="/")
    return httpcore.Proxy(bare, auth=auth)
