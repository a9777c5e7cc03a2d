"""A token server as the Docker token spec describes, with JSON Web Tokens that docker-registry takes.

Sources: distribution, "Token Authentication Specification", "Token Authentication Implementation", "OAuth2 Token
Authentication"; RFC 7515 (JSON Web Signature, `x5c`).
"""

from __future__ import annotations

import base64
import datetime
import json
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.x509.oid import NameOID

from tests.support.faulty import Answer, Request, serve_faulty

SERVICE = "registry.tests"
ISSUER = "tokens.tests"


@dataclass
class TokenServer:
    """A token server that runs.

    Attributes:
        users: passwords by name.
        identity_tokens: users by identity token (refresh token); each is replaced when it is used.
        anonymous: what may be pulled by everybody: repositories.
        lifetime: of tokens, in seconds.
        answer_with: the field of the answer that holds the token.
        requests: what it was asked.
        host: `127.0.0.1:PORT`.
        override: answers in its place when it says something.
        issued: tokens that were given, in order.
    """

    certificates: Path
    users: dict[str, str] = field(default_factory=dict)
    identity_tokens: dict[str, str] = field(default_factory=dict)
    anonymous: set[str] = field(default_factory=set)
    lifetime: int = 300
    answer_with: str = "token"
    requests: list[Request] = field(default_factory=list)
    issued: list[str] = field(default_factory=list)
    host: str = ""
    scheme: str = "http"
    override: Callable[[Request], Answer | None] = lambda request: None

    def __post_init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, ISSUER)])
        now = datetime.datetime.now(datetime.timezone.utc)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self._certificate = certificate.public_bytes(serialization.Encoding.DER)
        self.certificates.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    @property
    def realm(self) -> str:
        """URL that challenges name."""
        return f"{self.scheme}://{self.host}/token"

    def challenge(self, scope: str = "") -> str:
        """A `WWW-Authenticate` that names this server."""
        stated = f',scope="{scope}"' if scope else ""
        return f'Bearer realm="{self.realm}",service="{SERVICE}"{stated}'

    def guard(self, request: Request) -> Answer | None:
        """The script of a registry that takes only tokens of this server that have not ended."""
        if request.headers.get("authorization", "").removeprefix("Bearer ") in self.issued:
            return None
        body = b'{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}'
        return Answer(401, {"WWW-Authenticate": self.challenge(), "Content-Type": "application/json"}, body)

    def answer(self, request: Request) -> Answer:
        """Gives a token, or does not."""
        self.requests.append(request)
        overridden = self.override(request)
        if overridden is not None:
            return overridden
        if request.method == "POST":
            form = {key: values[0] for key, values in parse_qs(request.body.decode()).items()}
            user = self.identity_tokens.pop(form.get("refresh_token", ""), None)
            if user is None:
                return _json(401, {"errors": [{"code": "UNAUTHORIZED", "message": "unknown refresh token"}]})
            renewed = f"{form['refresh_token']}+"
            self.identity_tokens[renewed] = user
            granted = self._grant(user, form.get("scope", "").split())
            return _json(200, {"access_token": granted, "expires_in": self.lifetime, "refresh_token": renewed})
        user = ""
        authorization = request.headers.get("authorization", "")
        if authorization:
            user, _, password = base64.b64decode(authorization.removeprefix("Basic ")).decode().partition(":")
            if self.users.get(user) != password:
                return _json(401, {"errors": [{"code": "UNAUTHORIZED", "message": "incorrect username or password"}]})
        scopes = [scope for text in request.values("scope") for scope in text.split()]
        return _json(200, {self.answer_with: self._grant(user, scopes), "expires_in": self.lifetime})

    def _grant(self, user: str, scopes: list[str]) -> str:
        access = []
        for scope in scopes:
            kind, name, actions = scope.split(":", 2)
            allowed = actions.split(",") if user else ["pull"] if name in self.anonymous else []
            access.append(
                {"type": kind, "name": name, "actions": [each for each in actions.split(",") if each in allowed]}
            )
        self.issued.append(self.token(access, user))
        return self.issued[-1]

    def token(self, access: list[dict[str, Any]], user: str = "") -> str:
        """A signed token."""
        now = int(time.time())
        header = {"typ": "JWT", "alg": "ES256", "x5c": [base64.b64encode(self._certificate).decode()]}
        claims = {
            "iss": ISSUER,
            "sub": user,
            "aud": SERVICE,
            "exp": now + self.lifetime,
            "nbf": now - 10,
            "iat": now,
            "jti": str(len(self.requests)),
            "access": access,
        }
        signed = f"{_encode(json.dumps(header).encode())}.{_encode(json.dumps(claims).encode())}"
        first, second = decode_dss_signature(self._key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
        return f"{signed}.{_encode(first.to_bytes(32, 'big') + second.to_bytes(32, 'big'))}"


@contextmanager
def serve_tokens(
    certificates: Path, *, address: str = "127.0.0.1", tls: ssl.SSLContext | None = None, **settings: Any
) -> Iterator[TokenServer]:
    """Runs a token server until the block ends.

    Args:
        certificates: where to put the certificate of its key, as PEM.
        address: of loopback.
        tls: speaks HTTPS.
        settings: attributes of `TokenServer`.
    """
    tokens = TokenServer(certificates, **settings)
    with serve_faulty(tokens.answer, address=address, tls=tls) as server:
        tokens.host, tokens.scheme = server.host, server.scheme
        yield tokens


def _json(status: int, document: Mapping[str, Any]) -> Answer:
    return Answer(status, {"Content-Type": "application/json"}, json.dumps(document).encode())


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
