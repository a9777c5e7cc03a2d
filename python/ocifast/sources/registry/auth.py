"""Authorization for one registry: Basic, and Bearer as the Docker token spec and its OAuth2 part describe.

One `Authenticator` serves all parallel requests of a client, so that they share a token, and a refused password is
tried once and not by each of them.
"""

from __future__ import annotations

import base64
import math
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlencode

import httpx
import msgspec

from ocifast.errors import AuthenticationError, RegistryError
from ocifast.models import readable
from ocifast.records import dataclass
from ocifast.sources.registry.credentials import CredentialKeeper
from ocifast.sources.registry.failures import said_by
from ocifast.sources.registry.options import Credential, is_loopback

if TYPE_CHECKING:
    from ocifast.sources.registry.challenge import Challenge

__all__ = ["Authenticator", "TokenSender", "merge_scopes", "realm_is_known"]

_CLIENT_ID = "ocifast"
_DEFAULT_LIFETIME = 60.0
"""Seconds, when the token server states none (Docker token spec, `expires_in`)."""

_REALMS: Mapping[str, frozenset[str]] = {
    "registry-1.docker.io": frozenset({"auth.docker.io"}),
    "registry.gitlab.com": frozenset({"gitlab.com"}),
    "registry.digitalocean.com": frozenset({"api.digitalocean.com"}),
}
"""Registries whose token server is known to stand on another host."""


class TokenSender(Protocol):
    """Sends one request to a token server, retries included; returns status and capped body."""

    def __call__(self, method: str, url: httpx.URL, headers: dict[str, str], body: bytes | None) -> tuple[int, bytes]:
        """Raises NetworkError, RegistryError."""


@readable
class _TokenAnswer(msgspec.Struct):
    token: str | None = None
    access_token: str | None = None
    expires_in: object = None
    refresh_token: str | None = None


@dataclass(frozen=True)
class _Token:
    header: str
    good_until: float


def realm_is_known(registry: str, realm: str, trusted: Iterable[str]) -> bool:
    """Whether the token server on host `realm` may get passwords of `registry` (names without ports).

    Only the registry's own host, a known pair or what the user allowed: a registry that could name any realm would get
    passwords sent wherever it likes.
    """
    return realm == registry or realm in _REALMS.get(registry, ()) or realm in trusted


def merge_scopes(*scopes: str) -> list[str]:
    """Joins the actions of equal resources: `repository:a:pull` and `repository:a:push` become one scope."""
    actions: dict[str, list[str]] = {}
    for scope in (one for text in scopes for one in text.split()):
        resource, _, stated = scope.rpartition(":")
        known = actions.setdefault(resource, [])
        known.extend(action for action in stated.split(",") if action not in known)
    return [f"{resource}:{','.join(stated)}" for resource, stated in actions.items()]


class Authenticator:
    """What one origin gets in `Authorization`. Safe to use from several threads.

    Without a keeper it has no credential and gets anonymous tokens only: the kind for hosts that we were redirected to.
    """

    def __init__(
        self,
        name: str,
        origin: httpx.URL,
        *,
        keeper: CredentialKeeper | None,
        trusted_realms: Iterable[str],
        may_be_plain: bool,
        send: TokenSender,
    ) -> None:
        """Makes one.

        Args:
            name: the registry's host as messages call it.
            origin: scheme, host and port that get what this makes.
            keeper: of the registry's credential.
            trusted_realms: hosts that the user allows to get it.
            may_be_plain: whether a realm on the registry's own host may be plain HTTP, as the registry itself is.
            send: reaches token servers.
        """
        self._name = name
        self._origin = origin
        self._keeper = keeper
        self._trusted = frozenset(trusted_realms)
        self._may_be_plain = may_be_plain
        self._send = send
        self._lock = threading.RLock()
        self._tried = threading.Condition(self._lock)
        self._basic: str | None = None
        self._proven: str | None = None
        self._trial: int | None = None
        self._challenge: Challenge | None = None
        self._tokens: dict[tuple[str, ...], _Token] = {}
        self._refusal: AuthenticationError | None = None

    @contextmanager
    def attempt(self, scopes: Sequence[str]) -> Iterator[str | None]:
        """The value of `Authorization` for one request, which is sent and answered within the block.

        While nobody knows whether a password is right, one request tries it and all others wait for what comes of it:
        registries lock users out who are refused several times.

        Raises:
            AuthenticationError, NetworkError, RegistryError: as `answer`.
        """
        me = threading.get_ident()
        with self._tried:
            while self._trial is not None and self._refusal is None:
                self._tried.wait()
            header = self._header(scopes)
            if header is not None and header == self._basic != self._proven:
                self._trial = me
        try:
            yield header
        finally:
            with self._tried:
                if self._trial == me:
                    self._trial = None
                    self._tried.notify_all()

    def accept(self, used: str | None) -> None:
        """Notes that the server took the `Authorization`: nobody waits for it any more."""
        with self._tried:
            self._proven = used
            self._trial = None
            self._tried.notify_all()

    def _header(self, scopes: Sequence[str]) -> str | None:
        """The header; None before the first challenge. A token near its end is renewed here, before it is refused."""
        with self._lock:
            if self._refusal is not None:
                raise self._refusal
            if self._challenge is None:
                return self._basic
            token = self._tokens.get(tuple(scopes))
            if token is None or time.monotonic() >= token.good_until:
                token = self._fetch(self._challenge, scopes)
            return token.header

    def answer(self, challenges: Sequence[Challenge], scopes: Sequence[str], used: str | None, *, again: bool) -> bool:
        """Gets ready for another attempt after a 401.

        Args:
            challenges: what the server asks for.
            scopes: what the request needs.
            used: the `Authorization` that was refused.
            again: whether this exchange has been answered before: what we have is refused, only a credential that
                changed can help.

        Returns:
            Whether another attempt makes sense.

        Raises:
            AuthenticationError: no credential where one is needed, a refused one, or one that must not be sent.
            NetworkError, RegistryError: the token server failed.
        """
        with self._lock:
            if self._refusal is not None:
                raise self._refusal
            token = self._tokens.get(tuple(scopes))
            current = token.header if token is not None else self._basic
            if current is not None and current != used and not again:
                return True
            bearer = next((each for each in challenges if each.scheme == "bearer" and "realm" in each.parameters), None)
            basic = any(each.scheme == "basic" for each in challenges)
            if bearer is not None:
                if again and (self._keeper is None or self._keeper.again() is None):
                    return False
                self._challenge = bearer
                self._tokens[tuple(scopes)] = self._fetch(bearer, scopes)
                return True
            if basic:
                self._answer_basic(used)
                return True
            asked = ", ".join(each.scheme for each in challenges) or "nothing that is known"
            raise AuthenticationError(f"{self._name} asks for {asked}; only Basic and Bearer are spoken here")

    def _answer_basic(self, used: str | None) -> None:
        credential = self._credential()
        if used is not None and self._keeper is not None:
            credential = self._keeper.again()
            if credential is None:
                raise self._refuse(f"{self._name}: the user name and password are refused: it answered 401")
        if credential is None:
            raise AuthenticationError(f"{self._name} asks for a password; {self._advice()}")
        if not credential.password:
            raise AuthenticationError(f"{self._name} asks for a password, but only an identity token is known")
        pair = f"{credential.username}:{credential.password}".encode()
        self._basic = f"Basic {base64.b64encode(pair).decode('ascii')}"

    def _advice(self) -> str:
        return self._keeper.advice if self._keeper is not None else f"use `ocifast login {self._name}`"

    def _credential(self) -> Credential | None:
        return self._keeper.get() if self._keeper is not None else None

    def _refuse(self, message: str) -> AuthenticationError:
        """Remembers a refusal: the same password is not sent again by anybody."""
        advice = self._keeper.advice_when_refused if self._keeper is not None else None
        self._refusal = AuthenticationError(f"{message}; {advice or self._advice()}", host=self._name)
        return self._refusal

    def _fetch(self, challenge: Challenge, scopes: Sequence[str]) -> _Token:
        if self._refusal is not None:
            raise self._refusal
        credential = self._credential()
        realm = self._realm(challenge, with_secret=credential is not None)
        wanted = merge_scopes(*scopes, challenge.parameters.get("scope", ""))
        service = challenge.parameters.get("service", "")
        started = time.monotonic()
        status, body = self._request(realm, service, wanted, credential)
        if status in (400, 401, 403) and credential is not None and self._keeper is not None:
            fresh = self._keeper.again()
            if fresh is not None:
                credential = fresh
                status, body = self._request(realm, service, wanted, credential)
        if status != 200:
            raise self._token_failure(realm, status, body, credential)
        token = self._decode(realm, body, started)
        self._tokens[tuple(scopes)] = token
        return token

    def _realm(self, challenge: Challenge, *, with_secret: bool) -> httpx.URL:
        stated = challenge.parameters["realm"]
        try:
            realm = httpx.URL(stated)
        except httpx.InvalidURL:
            realm = httpx.URL("")
        if realm.scheme not in ("http", "https") or not realm.host or realm.userinfo:
            raise RegistryError(f"{self._name} names a token server that is no URL of one")
        own = self._may_be_plain and realm.host == self._origin.host
        if realm.scheme == "http" and not (own or is_loopback(realm.netloc.decode("ascii"))):
            raise AuthenticationError(
                f"{self._name} sends us to {realm.host} for a token over plain HTTP, which could be read on the way;"
                f" the token server must speak HTTPS",
                host=self._name,
            )
        if with_secret and not realm_is_known(self._origin.host, realm.host, self._trusted):
            raise AuthenticationError(
                f"{self._name} wants its password sent to {realm.host}; if that is its token server, allow it with"
                f" --trust-realm {realm.host}",
                host=self._name,
                realm=realm.host,
            )
        return realm

    def _request(
        self, realm: httpx.URL, service: str, scopes: list[str], credential: Credential | None
    ) -> tuple[int, bytes]:
        headers = {"Accept": "application/json"}
        pairs = [("service", service)] if service else []
        if credential is not None and credential.identity_token:
            pairs = [*pairs, ("grant_type", "refresh_token"), ("client_id", _CLIENT_ID)]
            if scopes:
                pairs.append(("scope", " ".join(scopes)))
            pairs.append(("refresh_token", credential.identity_token))
            headers["Content-Type"] = "application/x-www-form-urlencoded"
            return self._send("POST", realm, headers, urlencode(pairs).encode("ascii"))
        if credential is not None:
            pair = f"{credential.username}:{credential.password}".encode()
            headers["Authorization"] = f"Basic {base64.b64encode(pair).decode('ascii')}"
            if credential.username:
                pairs.append(("account", credential.username))
        pairs.extend(("scope", scope) for scope in scopes)
        url = realm
        for key, value in pairs:
            url = url.copy_add_param(key, value)
        return self._send("GET", url, headers, None)

    def _token_failure(
        self, realm: httpx.URL, status: int, body: bytes, credential: Credential | None
    ) -> AuthenticationError | RegistryError:
        said = said_by(body)
        host = realm.netloc.decode("ascii")
        server = "its token server" if realm.host == self._origin.host else f"its token server {host}"
        answered = f"{server} answered {status}{f': {said}' if said else ''}"
        context = {"host": self._name, "status": status}
        if status not in (400, 401, 403):
            return RegistryError(f"{self._name}: {answered}", **context)
        if credential is None:
            return AuthenticationError(
                f"{self._name} gives no anonymous access: {answered}; {self._advice()}", **context
            )
        if status == 403:
            message = f"{self._name}: {answered}; log in as a user who may do this"
            return AuthenticationError(message, **context)
        what = "identity token is" if credential.identity_token else "user name and password are"
        return self._refuse(f"{self._name}: the {what} refused: {answered}")

    def _decode(self, realm: httpx.URL, body: bytes, started: float) -> _Token:
        try:
            answer = msgspec.json.decode(body, type=_TokenAnswer)
        except (msgspec.MsgspecError, RecursionError):
            answer = _TokenAnswer()
        value = answer.token or answer.access_token
        if not value or not value.isascii() or not value.isprintable() or " " in value:
            raise RegistryError(f"{self._name}: the answer of its token server {realm.host} holds no token")
        if answer.refresh_token and self._keeper is not None:
            self._keeper.rotate(answer.refresh_token)
        lifetime = _lifetime(answer.expires_in)
        # What is on its way when the token ends would be refused; what is short-lived is used for half of its life.
        return _Token(f"Bearer {value}", started + max(lifetime - 10, lifetime / 2))


def _lifetime(stated: object) -> float:
    """Seconds of `expires_in`: a number, or one in a text; the default for all else."""
    try:
        seconds = float(stated) if isinstance(stated, (int, float, str)) and not isinstance(stated, bool) else 0.0
    except (ValueError, OverflowError):
        seconds = 0.0
    return seconds if 0 < seconds < math.inf else _DEFAULT_LIFETIME
