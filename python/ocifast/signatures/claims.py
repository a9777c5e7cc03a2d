"""What signatures say: payloads of simple signing, and the statements in DSSE envelopes.

Sources: containers-signature(5), "The cryptographic payload", and cosign's signature specification for simple signing;
the DSSE protocol ("PAE"), in-toto's Statement v1 and sigstore's bundle for the other.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from typing import Any

from ocifast import _core
from ocifast.errors import DigestInvalidError
from ocifast.records import dataclass
from ocifast.signatures.strict import UnclearError, fields_of, loads

__all__ = [
    "BUNDLE",
    "SIGNED_IMAGE",
    "Claim",
    "Envelope",
    "decoded",
    "envelope_of",
    "pre_authentication",
    "simple_claim",
    "statement_claim",
]

SIGNED_IMAGE = "https://sigstore.dev/cosign/sign/v1"
"""Predicate type of a signature of an image; others say something about it, and sign no consent to its use."""
BUNDLE = "application/vnd.dev.sigstore.bundle"
"""What the media types of all versions of a bundle begin with."""
_SIMPLE_TYPE = "cosign container image signature"
_STATEMENTS = ("https://in-toto.io/Statement/v1", "https://in-toto.io/Statement/v0.1")
_PAYLOAD_TYPE = "application/vnd.in-toto+json"
_SIGNATURES = 16
"""Signatures of one envelope that are looked at; cosign makes one."""


@dataclass(frozen=True)
class Claim:
    """What one signature says, once it is known who signed.

    Attributes:
        digests: of the manifests that it is of.
        identity: the name that it states for them; None for none.
    """

    digests: frozenset[str]
    identity: str | None


@dataclass(frozen=True)
class Envelope:
    """A DSSE envelope.

    Attributes:
        kind: type of the payload.
        payload: its bytes.
        signatures: each.
    """

    kind: str
    payload: bytes
    signatures: tuple[bytes, ...]


def decoded(text: Any) -> bytes:
    """Base64 text as bytes. Raises UnclearError."""
    if not isinstance(text, str):
        raise UnclearError("a signature is no text")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise UnclearError("a signature is no base64") from None


def pre_authentication(kind: str, payload: bytes) -> bytes:
    """The bytes that a DSSE signature is of (DSSE protocol, "PAE")."""
    name = kind.encode()
    return b"DSSEv1 %d %s %d %s" % (len(name), name, len(payload), payload)


def simple_claim(payload: bytes) -> Claim:
    """What a payload of simple signing says. Raises UnclearError: something in it is missing, or not known."""
    whole = fields_of(loads(payload), "the payload", needed=("critical", "optional"))
    critical = fields_of(whole["critical"], "critical", needed=("type", "image", "identity"))
    if critical["type"] != _SIMPLE_TYPE:
        raise UnclearError(f"its type is {str(critical['type'])[:100]!r}")
    image = fields_of(critical["image"], "image", needed=("docker-manifest-digest",))
    identity = fields_of(critical["identity"], "identity", needed=("docker-reference",))
    named = identity["docker-reference"]
    if not isinstance(named, str):
        raise UnclearError("docker-reference is no text")
    return Claim(frozenset((_digest(image["docker-manifest-digest"]),)), named)


def envelope_of(bundle: bytes) -> Envelope:
    """The envelope of a bundle. Raises UnclearError when it has none, or a malformed one."""
    whole = loads(bundle)
    if not isinstance(whole, dict) or not str(whole.get("mediaType", "")).startswith(BUNDLE):
        raise UnclearError("it is no bundle")
    envelope = whole.get("dsseEnvelope")
    if not isinstance(envelope, dict):
        raise UnclearError("the bundle has no DSSE envelope")
    kind, signatures = envelope.get("payloadType"), envelope.get("signatures")
    if not isinstance(kind, str) or not isinstance(signatures, list):
        raise UnclearError("the envelope has no type or no signatures")
    return Envelope(kind, decoded(envelope.get("payload")), tuple(_values(signatures)))


def statement_claim(envelope: Envelope) -> Claim:
    """What an envelope of in-toto says. Raises UnclearError: it is no signature of an image."""
    if envelope.kind != _PAYLOAD_TYPE:
        raise UnclearError(f"its payload is of type {envelope.kind[:100]!r}")
    statement = loads(envelope.payload)
    if not isinstance(statement, dict) or statement.get("_type") not in _STATEMENTS:
        raise UnclearError("it is no statement of in-toto")
    if statement.get("predicateType") != SIGNED_IMAGE:
        raise UnclearError(f"its predicate is {str(statement.get('predicateType'))[:100]!r}, no signature of an image")
    subjects = statement.get("subject")
    if not isinstance(subjects, list) or len(subjects) != 1 or not isinstance(subjects[0], dict):
        raise UnclearError("it is not of one subject")
    digests = subjects[0].get("digest")
    if not isinstance(digests, dict):
        raise UnclearError("its subject has no digest")
    name = subjects[0].get("name")
    if name is not None and not isinstance(name, str):
        raise UnclearError("its subject's name is no text")
    found = frozenset(_digest(f"{algorithm}:{encoded}") for algorithm, encoded in digests.items())
    return Claim(found, name or None)


def _digest(text: Any) -> str:
    if not isinstance(text, str):
        raise UnclearError("a digest is no text")
    try:
        _core.check_digest(text)
    except DigestInvalidError as error:
        raise UnclearError(error.message) from None
    return text


def _values(signatures: list[Any]) -> Iterator[bytes]:
    for each in signatures[:_SIGNATURES]:
        if not isinstance(each, dict):
            raise UnclearError("a signature of the envelope is no object")
        yield decoded(each.get("sig"))
