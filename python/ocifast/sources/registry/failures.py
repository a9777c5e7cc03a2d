"""What registries answer when they do not do what they are asked, as errors of ours.

Every message names the image, says what the registry said (distribution-spec, "Error Codes"; cut, one line, without
secrets) and what to do next.
"""

from __future__ import annotations

import socket
import ssl

import httpx
import msgspec

from ocifast.errors import (
    AuthenticationError,
    NetworkError,
    OcifastError,
    RateLimitError,
    RegistryError,
)
from ocifast.sources.registry.pace import Pace, SlowAnswerError
from ocifast.sources.registry.redaction import redact

__all__ = ["ERROR_LIMIT", "is_final", "network_failure", "read_capped", "said_by", "speaks_no_tls", "status_failure"]

ERROR_LIMIT = 64 << 10
"""Most bytes of an error's or a token's body that are read."""
_SHOWN = 300


def read_capped(response: httpx.Response, limit: int) -> bytes:
    """At most `limit` bytes of a body, and closes it; what comes after them is not read."""
    pace = response.extensions.get("pace")
    if isinstance(pace, Pace):
        pace.tighten(response.request.extensions.get("timeout", {}).get("read"))
    pieces: list[bytes] = []
    size = 0
    try:
        for chunk in response.iter_raw():
            pieces.append(chunk)
            size += len(chunk)
            if size >= limit:
                break
    finally:
        response.close()
    return b"".join(pieces)[:limit]


def said_by(body: bytes) -> str:
    """The messages of a registry's error document, or nothing when it is none."""
    try:
        errors = msgspec.json.decode(body)["errors"]
        said = [f"{error.get('code', '')}: {error.get('message', '')}".strip(": ") for error in errors[:3]]
    except (msgspec.DecodeError, KeyError, TypeError, AttributeError, RecursionError):
        return ""
    return _one_line("; ".join(filter(None, said)))


def status_failure(name: str, what: str, response: httpx.Response, body: bytes) -> OcifastError:
    """The error for an answer that no request expects.

    Args:
        name: the image, as messages call it.
        what: what was being done: "read the manifest".
        response: the answer; its status decides.
        body: the beginning of its body.
    """
    status = response.status_code
    host = response.request.url.host
    said = said_by(body)
    quoted = f": {said}" if said else ""
    context = {"reference": name, "status": status, "host": host}
    if status == 401:
        return AuthenticationError(f"{name}: {host} refuses to {what}{quoted}; log in with `ocifast login`", **context)
    if status == 403:
        return AuthenticationError(
            f"{name}: no permission to {what} at {host}{quoted};"
            " log in as a user who may, or ask the repository's owner",
            **context,
        )
    if status == 413:
        return RegistryError(
            f"{name}: {host} refuses so large a body{quoted}; raise the limit of the registry or its proxy",
            **context,
        )
    if status == 429:
        return RateLimitError(f"{name}: {host} limits the rate of requests{quoted}; try later or log in", **context)
    if not said and _is_page(response):
        return RegistryError(
            f"{name}: {host} is no registry: it answers with a page (status {status}); check the host's name and port",
            **context,
        )
    return RegistryError(f"{name}: cannot {what}: {host} answered {status}{quoted}", **context)


def network_failure(name: str, host: str, error: Exception) -> NetworkError:
    """The error for a request that got no whole answer, with what can be done about it."""
    cause = _root_cause(error)
    if isinstance(cause, ssl.SSLCertVerificationError):
        reason = (
            f"its certificate is not trusted ({cause.verify_message}); put the authority's certificate into"
            f" /etc/docker/certs.d/{host}/ca.crt or name it in SSL_CERT_FILE;"
            " --insecure does not look at it"
        )
    elif speaks_no_tls(error):
        reason = "it does not speak HTTPS; for plain HTTP use --insecure"
    elif isinstance(cause, ssl.SSLError):
        reason = f"no secure connection: {cause.reason or cause}"
    elif isinstance(error, httpx.ConnectTimeout):
        reason = "no connection in time; is it up, and is a proxy needed?"
    elif isinstance(error, SlowAnswerError):
        reason = "its answer comes too slowly; if the network is that slow, raise --read-timeout or lower --min-rate"
    elif isinstance(error, httpx.TimeoutException):
        reason = "it stopped answering"
    elif isinstance(cause, socket.gaierror):
        reason = "the name is unknown; check its spelling and the network"
    elif isinstance(cause, ConnectionRefusedError):
        reason = "the connection was refused; is the registry running there?"
    elif isinstance(error, httpx.ConnectError):
        reason = f"no connection: {_one_line(getattr(cause, 'strerror', None) or str(error))}"
    elif isinstance(error, httpx.ProxyError):
        reason = f"the proxy refused: {_one_line(str(error))}"
    elif isinstance(error, httpx.RemoteProtocolError) and not _is_break(error):
        reason = f"it is no registry, or broken: {_one_line(str(error))}; check its name and port"
    else:
        reason = "the connection broke"
    return NetworkError(f"{name}: cannot reach {host}: {reason}", reference=name, host=host)


def speaks_no_tls(error: BaseException | None) -> bool:
    """Whether what answered a handshake was no TLS."""
    cause = None if error is None else _root_cause(error)
    return isinstance(cause, ssl.SSLError) and any(
        word in str(cause) for word in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG")
    )


def is_final(error: Exception) -> bool:
    """Whether another attempt would fail in the same way: an untrusted certificate, an unknown name, a trickle."""
    if isinstance(error, SlowAnswerError):
        return True
    cause = _root_cause(error)
    if isinstance(cause, socket.gaierror):
        return cause.errno != socket.EAI_AGAIN
    return isinstance(cause, ssl.SSLError) and not isinstance(cause, (ssl.SSLEOFError, ssl.SSLZeroReturnError))


def _is_break(error: httpx.RemoteProtocolError) -> bool:
    """Whether the server went away, rather than spoke something else than HTTP."""
    return any(words in str(error) for words in ("closed connection", "disconnected"))


def _is_page(response: httpx.Response) -> bool:
    media_type: str = response.headers.get("Content-Type", "")
    return media_type.startswith("text/html")


def _root_cause(error: BaseException) -> BaseException:
    """What the system or the TLS library said, or the error itself."""
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, OSError):
        seen = seen.__cause__ or seen.__context__
    return seen or error


def _one_line(text: str) -> str:
    shown = "".join(character if character.isprintable() else " " for character in redact(text))
    return shown if len(shown) <= _SHOWN else shown[:_SHOWN] + "…"
