"""Requests to one registry: authorization, redirects, retries.

Redirects are followed here and not by httpx, because each hop has rules (`hops`).
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

import httpx

from ocifast.errors import CancelledError, OcifastError, RegistryError
from ocifast.logs import logger
from ocifast.sources.registry import addresses
from ocifast.sources.registry.auth import Authenticator
from ocifast.sources.registry.credentials import CredentialKeeper
from ocifast.sources.registry.failures import (
    ERROR_LIMIT,
    is_final,
    network_failure,
    read_capped,
    status_failure,
)
from ocifast.sources.registry.hops import begins_plain, next_hop, origin_of, speaks_plain
from ocifast.sources.registry.limiter import Limiter, limiter_for
from ocifast.sources.registry.network import Network, proxy_for
from ocifast.sources.registry.options import RegistryOptions
from ocifast.sources.registry.redaction import shown_url
from ocifast.sources.registry.retries import RETRIED, backoff, jitter, retry_after, status_words, tell_retry
from ocifast.sources.registry.settings import with_settings
from ocifast.sources.registry.tls import speaks_tls

__all__ = ["Body", "Client"]

_log = logger(__name__)
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_HOPS = 10
_ATTEMPTS_TO_CONNECT = 2
"""Attempts after the first one while a host has never answered: it is likelier a typing error than a fault."""

Body = bytes | Callable[[], Iterable[bytes]]
"""What is sent: bytes, or what makes their iterator anew for each attempt."""


class Client:
    """All requests to one registry for one repository. Safe to use from several threads."""

    def __init__(self, host: str, repository: str | None, options: RegistryOptions, *, registry: str = "") -> None:
        """Opens nothing yet.

        Args:
            host: as in references; credentials are looked up by it.
            repository: the one that path-scoped credentials are looked up for.
            options: how to speak.
            registry: host and port of the API where they are not `host` (Docker Hub).
        """
        self.host = host
        api = registry or host
        options = self.options = with_settings(host, options)
        self._headers = dict(options.headers.get(api, {}))
        self.origin = httpx.URL(f"{'http' if begins_plain(api, options) else 'https'}://{api}")
        self._may_be_plain = speaks_plain(api, options)
        self._transport = Network(options)
        self._http = httpx.Client(
            transport=self._transport,
            trust_env=False,
            headers={"User-Agent": "ocifast", "Accept-Encoding": "identity"},
        )
        self._keeper = CredentialKeeper(host, repository, options)
        self._own = self._authenticator(host, self.origin, self._keeper)
        self._others: dict[httpx.URL, Authenticator] = {}
        self._limiters: dict[str, Limiter] = {}
        self._lock = threading.Lock()
        self._public: bool | None = None
        self._answered = False
        # Which of the two ways it is turns out with the first answer.
        self._may_turn = self._may_be_plain
        self._turning = threading.Lock()
        self._closed = threading.Event()

    @property
    def limiter(self) -> Limiter:
        """Of the registry's host."""
        return self._limiter(self.origin)

    def close(self) -> None:
        """Closes all connections; requests under way in other threads end with CancelledError."""
        self._closed.set()
        self._http.close()

    def url(self, target: str) -> httpx.URL:
        """A path of the API, or a URL that the registry gave, relative or absolute."""
        return self.origin.join(target)

    def send(
        self,
        method: str,
        target: str | httpx.URL,
        *,
        name: str,
        what: str,
        scopes: Sequence[str] = (),
        headers: Mapping[str, str] | None = None,
        body: Body | None = None,
        expected: Iterable[int] = (200,),
        retries: int | None = None,
    ) -> httpx.Response:
        """Sends a request until it is answered; the answer's body is not read yet, the caller closes it.

        Args:
            method: of HTTP.
            target: a path of the API or a URL that the registry gave.
            name: the image, for messages.
            what: what is being done, for messages: "read the manifest".
            scopes: what a token for this must allow.
            headers: besides authorization.
            body: what is sent; its length goes into `Content-Length` by the caller.
            expected: statuses that are returned; all others are errors.
            retries: attempts after the first one; None takes the options'.

        Raises:
            NetworkError, RateLimitError, AuthenticationError, RegistryError.
        """
        url = self.url(target) if isinstance(target, str) else target
        wanted = frozenset(expected)
        most = self.options.retries if retries is None else retries
        sent_anew = False
        for attempt in itertools.count():
            try:
                response = self._exchange(method, url, name, what, scopes, headers or {}, body)
            except httpx.TransportError as error:
                self.raise_if_closed(name)
                if isinstance(target, str) and self._turns(url, error):
                    url = self.url(target)
                    continue
                failure = network_failure(name, url.netloc.decode("ascii"), error)
                limit = most if self._answered else min(most, _ATTEMPTS_TO_CONNECT)
                if attempt >= limit or is_final(error):
                    raise failure from error
                self.pause(attempt, failure.message)
                continue
            if response.status_code == 400 and isinstance(target, str) and self._turns(url):
                # What servers of Go and nginx say to plain HTTP where they speak TLS.
                response.close()
                url = self.url(target)
                continue
            self._answered = True
            if response.status_code in wanted:
                return response
            was_sent_on = method in ("GET", "HEAD") and response.request.url != url
            if response.status_code == 403 and was_sent_on and not sent_anew:
                # A signature in the URL that we were sent to ends after some minutes; a new one may be had.
                sent_anew = True
                response.close()
                continue
            if response.status_code not in RETRIED or attempt >= most:
                raise self.failure(name, what, response)
            self._wait_as_told(name, what, response, attempt)
        raise AssertionError  # pragma: no cover - itertools.count() does not end

    def get(
        self,
        target: str | httpx.URL,
        *,
        limit: int,
        name: str,
        what: str,
        scopes: Sequence[str] = (),
        headers: Mapping[str, str] | None = None,
        expected: Iterable[int] = (200,),
    ) -> tuple[httpx.Response, bytes]:
        """Fetches something small: the answer and at most `limit` bytes of its body; again when the body breaks off.

        Raises:
            NetworkError, RateLimitError, AuthenticationError, RegistryError: as `send`.
        """
        wanted = tuple(expected)
        for attempt in itertools.count():
            response = self.send("GET", target, name=name, what=what, scopes=scopes, headers=headers, expected=wanted)
            try:
                return response, read_capped(response, limit)
            except httpx.TransportError as error:
                self.raise_if_closed(name)
                failure = network_failure(name, response.request.url.netloc.decode("ascii"), error)
                if attempt >= self.options.retries or is_final(error):
                    raise failure from error
                self.pause(attempt, failure.message)
        raise AssertionError  # pragma: no cover - itertools.count() does not end

    def _turns(self, url: httpx.URL, error: httpx.TransportError | None = None) -> bool:
        """Whether a registry that may be spoken to either way goes on the other way: the first one led nowhere."""
        # Plain HTTP was answered somehow; a handshake was not.
        if (url.scheme == "https") != isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout)):
            return False
        with self._turning:
            if url.scheme != self.origin.scheme:
                return True
            if self._answered or not self._may_turn:
                return False
            self._may_turn = False
            if url.scheme == "https":
                self.origin = self.origin.copy_with(scheme="http")
            elif proxy_for(url) or speaks_tls(url.host, url.port or 80, self.options.connect_timeout):
                self.origin = self.origin.copy_with(scheme="https", port=self.origin.port or 80)
            else:
                return False
            self._own = self._authenticator(self.host, self.origin, self._keeper)
            return True

    def failure(self, name: str, what: str, response: httpx.Response) -> OcifastError:
        """The error for an answer that was not expected; reads the answer's body and closes it."""
        try:
            body = read_capped(response, ERROR_LIMIT)
        except httpx.TransportError:
            body = b""
        own = origin_of(response.request.url) == origin_of(self.origin)
        refused = self._keeper.advice_when_refused if own and response.status_code in (401, 403, 429) else None
        return status_failure(name, what, response, body, refused=refused)

    def pause(self, attempt: int, failed: str) -> None:
        """Waits before attempt number `attempt + 1`, longer each time, never as long as others do.

        Args:
            attempt: counts from 0.
            failed: what went wrong, for those who watch.
        """
        seconds = backoff(self.options.backoff, attempt)
        tell_retry(failed, seconds)
        self._closed.wait(seconds)

    def raise_if_closed(self, name: str) -> None:
        """Raises CancelledError when the client was closed: its connections broke because of that."""
        if self._closed.is_set():
            raise CancelledError(f"{name}: the connection was closed", reference=name)

    def heed(self, name: str, what: str, response: httpx.Response, attempt: int) -> bool:
        """Lets all requests to a host wait for as long as its answer says with Retry-After, or by its status.

        Returns:
            Whether there is such a wait.

        Raises:
            OcifastError: the answer's own error, when it asks for more than `RegistryOptions.max_wait`.
        """
        told = retry_after(response.headers.get("Retry-After"))
        if told is not None and told > self.options.max_wait:
            failure = self.failure(name, what, response)
            message = f"{failure.message} (it asks to wait {told:.0f} s)"
            raise type(failure)(message, **failure.context, retry_after=told)
        if told is None and response.status_code != 429:
            return False
        first = self.options.backoff
        seconds = backoff(first, attempt) if told is None else told + jitter(first)
        tell_retry(status_words(name, what, response), seconds)
        self._limiter(response.request.url).pause(seconds)
        return True

    def _wait_as_told(self, name: str, what: str, response: httpx.Response, attempt: int) -> None:
        """Waits before another attempt; drops the answer."""
        waits = self.heed(name, what, response, attempt)
        # The status counts; the body is read for the connection's sake alone.
        with contextlib.suppress(httpx.TransportError):
            read_capped(response, ERROR_LIMIT)
        if not waits:
            self.pause(attempt, status_words(name, what, response))

    def _exchange(
        self,
        method: str,
        url: httpx.URL,
        name: str,
        what: str,
        scopes: Sequence[str],
        headers: Mapping[str, str],
        body: Body | None,
    ) -> httpx.Response:
        """One request with its redirects and challenges."""
        answers = 0
        hops = 0
        while True:
            self.raise_if_closed(name)
            own = origin_of(url) == origin_of(self.origin)
            authenticator = self._own if own else self._other(url)
            needed = scopes if own else ()
            with authenticator.attempt(needed) as authorization:
                response = self._send_once(method, url, headers, body, authorization)
                if response.status_code == 401:
                    from ocifast.sources.registry.challenge import parse_challenges

                    challenges = parse_challenges(response.headers.get_list("WWW-Authenticate"))
                    failure = self.failure(name, what, response)
                    # A server that asks twice in one exchange refuses what it was given; a helper's new word may help
                    # once.
                    if not challenges or answers > 1:
                        raise failure
                    if not authenticator.answer(challenges, needed, authorization, again=answers > 0):
                        raise failure
                    answers += 1
                    continue
                if authorization is not None and response.status_code not in RETRIED:
                    authenticator.accept(authorization)
            location = response.headers.get("Location")
            if response.status_code not in _REDIRECTS or not location:
                return response
            if method not in ("GET", "HEAD") and response.status_code not in (307, 308):
                return response
            response.close()
            hops += 1
            if hops > _HOPS:
                raise RegistryError(f"{name}: {self.host} redirects more than {_HOPS} times", reference=name)
            url, answers = next_hop(name, url, location, self.options), 0

    def _send_once(
        self, method: str, url: httpx.URL, headers: Mapping[str, str], body: Body | None, authorization: str | None
    ) -> httpx.Response:
        limiter = self._limiter(url)
        # A body that is made while it is sent may take requests to the same host; its blob has a slot for uploads.
        with contextlib.nullcontext() if callable(body) else limiter.requests.slot():
            limiter.wait(self._closed)
            self.raise_if_closed(self.host)
            content = body() if callable(body) else body
            if origin_of(url) == origin_of(self.origin):
                headers = {**self._headers, **headers}
            sent = {**headers, "Authorization": authorization} if authorization else dict(headers)
            # A registry may look at all of an upload before it answers.
            wait = self.options.upload_timeout if method == "PUT" else self.options.read_timeout
            timeout = httpx.Timeout(
                self.options.read_timeout, connect=self.options.connect_timeout, read=wait, pool=None
            )
            request = self._http.build_request(method, url, headers=sent, content=content, timeout=timeout)
            if origin_of(url) != origin_of(self.origin):
                request.extensions["public_only"] = self._is_public()
            begun = time.monotonic()
            try:
                response = self._http.send(request, stream=True, follow_redirects=False)
            except httpx.TransportError as error:
                _log.debug("%s %s failed (%s) in %.0f ms", method, shown_url(url), type(error).__name__, _since(begun))
                raise
            _log.debug("%s %s answered %d in %.0f ms", method, shown_url(url), response.status_code, _since(begun))
            return response

    def _send_token_request(
        self, method: str, url: httpx.URL, headers: dict[str, str], body: bytes | None
    ) -> tuple[int, bytes]:
        """For the authenticators: no redirects, no challenges."""
        name, what = self.host, "get a token"
        for attempt in itertools.count():
            bare = {key: value for key, value in headers.items() if key != "Authorization"}
            try:
                response = self._send_once(method, url, bare, body, headers.get("Authorization"))
                if response.status_code not in RETRIED or attempt >= self.options.retries:
                    if response.status_code == 429:
                        raise self.failure(name, what, response)
                    return response.status_code, read_capped(response, ERROR_LIMIT)
            except httpx.TransportError as error:
                if attempt >= self.options.retries or is_final(error):
                    raise network_failure(name, url.netloc.decode("ascii"), error) from error
                self.pause(attempt, network_failure(name, url.netloc.decode("ascii"), error).message)
                continue
            self._wait_as_told(name, what, response, attempt)
        raise AssertionError  # pragma: no cover - itertools.count() does not end

    def _authenticator(self, name: str, origin: httpx.URL, keeper: CredentialKeeper | None) -> Authenticator:
        return Authenticator(
            name,
            origin,
            keeper=keeper,
            trusted_realms=self.options.trusted_realms,
            may_be_plain=origin.scheme == "http" or (keeper is not None and self._may_be_plain),
            send=self._send_token_request,
        )

    def _other(self, url: httpx.URL) -> Authenticator:
        origin = httpx.URL(scheme=url.scheme, host=url.host, port=url.port)
        with self._lock:
            found = self._others.get(origin)
            if found is None:
                found = self._others[origin] = self._authenticator(url.host, origin, None)
            return found

    def _limiter(self, url: httpx.URL) -> Limiter:
        host = url.netloc.decode("ascii")
        with self._lock:
            limiter = self._limiters.get(host)
            if limiter is None:
                limiter = self._limiters[host] = limiter_for(
                    host, self.options.parallel, shared=self.options.shares_limits
                )
            return limiter

    def _is_public(self) -> bool:
        """Whether the registry stands on the public Internet, so that it may not send us elsewhere."""
        if self._public is None:
            try:
                found = addresses.resolve(self.origin.host, self.origin.port or 443)
            except (OSError, socket.herror):
                # Behind a proxy names may be unknown here; the stricter rule then.
                found = []
            self._public = all(addresses.is_public(address) for _, address in found)
        return self._public


def _since(begun: float) -> float:
    return (time.monotonic() - begun) * 1000
