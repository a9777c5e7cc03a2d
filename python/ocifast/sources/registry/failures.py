"""Answers that are failures, as the package's errors.

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

__all__ = [
    "ERROR_LIMIT",
    "called",
    "is_final",
    "network_failure",
    "read_capped",
    "said_by",
    "speaks_no_tls",
    "status_failure",
]

ERROR_LIMIT = 64 << 10
"""Most bytes of an error's or a token's body that are read."""
_SHOWN = 300
_WORDS = ("error_description", "message", "details", "detail", "error")
"""Fields of error documents that are not the specification's; the first is OAuth 2.0's (RFC 6749, section 5.2)."""


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
    """What the body of an error says to people, or nothing when that is not to be had.

    A registry's error document (distribution-spec, "Error Codes"), the fields that token servers have in its place, or
    plain text.
    """
    try:
        document = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return _plain_text(body)
    if not isinstance(document, dict):
        return ""
    errors = document.get("errors")
    if isinstance(errors, list):
        found = [error for error in errors[:3] if isinstance(error, dict)]
        said = [f"{error.get('code') or ''}: {error.get('message') or ''}".strip(": ") for error in found]
        return _one_line("; ".join(filter(None, said)))
    return _one_line(next((text for key in _WORDS if isinstance(text := document.get(key), str) and text), ""))


def _plain_text(body: bytes) -> str:
    """The first line of a text; nothing of a page or of bytes that are no text."""
    try:
        text = body[: 4 * _SHOWN].decode("utf-8", "strict" if len(body) <= 4 * _SHOWN else "ignore").strip()
    except UnicodeDecodeError:
        return ""
    return "" if text.startswith(("<", "{", "[")) else _one_line(text.partition("\n")[0].strip())


def status_failure(
    name: str, what: str, response: httpx.Response, body: bytes, *, refused: str | None = None
) -> OcifastError:
    """The error for an answer that no request expects.

    Args:
        name: the image, as messages call it.
        what: what was being done: "read the manifest".
        response: the answer; its status decides.
        body: the beginning of its body.
        refused: what to do when the credential that was sent is not enough; None when none was sent.
    """
    status = response.status_code
    host = response.request.url.netloc.decode("ascii")
    said = said_by(body)
    context = {"reference": name, "status": status, "host": response.request.url.host}
    message = f"{name}: cannot {what}: {called(name, host)} answered {status}{f': {said}' if said else ''}"
    if status == 401:
        advice = refused or f"log in with `ocifast login {host}`"
        return AuthenticationError(f"{message}; {advice}", **context)
    if status == 403:
        advice = "ask the repository's owner for permission"
        if refused is None:
            advice = f"log in as a user who may (`ocifast login {host}`), or {advice}"
        return AuthenticationError(f"{message}; {advice}", **context)
    if status == 413:
        return RegistryError(f"{message}; raise the limit for bodies of the registry or its proxy", **context)
    if status == 429:
        advice = "try later" if refused is not None else "try later or log in"
        return RateLimitError(f"{message}: it limits the rate of requests; {advice}", **context)
    if not said and _is_page(response):
        return RegistryError(
            f"{name}: {host} is no registry: it answers with a page (status {status}); check the host's name and port",
            **context,
        )
    return RegistryError(message, **context)


def called(name: str, host: str) -> str:
    """A server in a message that begins with the image's name: by its host, unless that stands in the name."""
    return "the registry" if name == host or name.startswith(f"{host}/") else host


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
    return NetworkError(f"{name}: cannot reach {called(name, host)}: {reason}", reference=name, host=host)


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
