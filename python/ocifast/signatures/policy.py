"""Policies: what images of a place must have, in the format of containers-policy.json(5).

The whole file must be understood: an unknown type or field refuses every image, since what it was to ask for is not
known. Types of the format that are not implemented refuse the images that they are for.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

from ocifast.errors import FileError, ImageReferenceError, PolicyError
from ocifast.patterns import pattern
from ocifast.records import dataclass
from ocifast.reference import Location, Reference
from ocifast.signatures.identity import IdentityRule, Kind
from ocifast.signatures.keys import PublicKey, load_key, read_key
from ocifast.signatures.strict import UnclearError, fields_of, loads

__all__ = ["Accepting", "Policy", "Refusing", "Requirement", "Signed", "read_policy"]

_LIMIT = 4 << 20
"""Most bytes of a policy."""
_KEYS = ("keyPath", "keyPaths", "keyData", "keyDatas")
_NOT_DONE = (
    "fulcio",
    "pki",
    "rekorPublicKeyPath",
    "rekorPublicKeyPaths",
    "rekorPublicKeyData",
    "rekorPublicKeyDatas",
)
_PREFIX = pattern(r"[A-Za-z0-9.\-\[\]:]+(?:/[a-z0-9._-]+)*")


@dataclass(frozen=True)
class Accepting:
    """`insecureAcceptAnything`."""


@dataclass(frozen=True)
class Refusing:
    """`reject`, or what cannot be checked here; `why` follows the policy's name in a message."""

    why: str


@dataclass(frozen=True)
class Signed:
    """`sigstoreSigned`.

    Attributes:
        keys: of which one must have signed.
        identity: what the signature must say of the image's name.
        unnamed: whether one that names no repository is accepted as well.
    """

    keys: tuple[PublicKey, ...]
    identity: IdentityRule
    unnamed: bool = False


Requirement = Accepting | Refusing | Signed


@dataclass(frozen=True)
class Policy:
    """A policy that was read.

    Attributes:
        default: what images of no other scope must have.
        transports: by transport and scope. Keys are loaded when they are needed.
    """

    default: tuple[Callable[[], Requirement], ...]
    transports: Mapping[str, Mapping[str, tuple[Callable[[], Requirement], ...]]]

    def requirements(self, location: Location) -> tuple[Requirement, ...]:
        """What the image at a place must have, all of it: the requirements of the most specific scope.

        Raises:
            PolicyError: a key is none, or of a kind that is not taken.
            FileError: a key cannot be read.
            UsageError: the package that verifies is missing.
        """
        scopes = self.transports.get(location.transport, {})
        if location.transport == "containers-storage" and set(scopes) - {""}:
            return (Refusing("has scopes of containers-storage, whose stores are not known here"),)
        chosen = next((scopes[scope] for scope in (*_scopes(location), "") if scope in scopes), self.default)
        return tuple(each() for each in chosen)


def read_policy(name: str) -> Policy:
    """The policy of a file.

    Raises:
        FileError: it cannot be read.
        PolicyError: it is none, or something in it is not known.
    """
    try:
        with Path(name).open("rb") as file:
            raw = file.read(_LIMIT + 1)
    except OSError as error:
        raise FileError(f"cannot read the policy {name}: {error.strerror}", errno=error.errno) from error
    try:
        if len(raw) > _LIMIT:
            raise UnclearError(f"it is longer than {_LIMIT >> 20} MiB")
        whole = fields_of(loads(raw), "the policy", needed=("default",), allowed=("transports",))
        default = _requirements(whole["default"], "default")
        transports: dict[str, dict[str, tuple[Callable[[], Requirement], ...]]] = {}
        for transport, scopes in _object(whole.get("transports", {}), "transports").items():
            transports[transport] = {
                scope: _requirements(value, f"{transport} {scope!r}")
                for scope, value in _object(scopes, transport).items()
            }
    except UnclearError as error:
        raise PolicyError(f"the policy {name} is not understood, so that no image may be used: {error}") from None
    return Policy(default, transports)


def _requirements(value: Any, where: str) -> tuple[Callable[[], Requirement], ...]:
    if not isinstance(value, list) or not value:
        raise UnclearError(f"{where} is no list of requirements")
    return tuple(_requirement(each, where) for each in value)


def _requirement(value: Any, where: str) -> Callable[[], Requirement]:
    if not isinstance(value, dict):
        raise UnclearError(f"a requirement of {where} is no object")
    kind = value.get("type")
    what = f"{kind} of {where}"
    match kind:
        case "insecureAcceptAnything":
            fields_of(value, what, needed=("type",))
            return Accepting
        case "reject":
            fields_of(value, what, needed=("type",))
            return lambda: Refusing("rejects it")
        case "signedBy":
            fields_of(value, what, needed=("type", "keyType"), allowed=(*_KEYS, "signedIdentity"))
            return lambda: Refusing("asks for signedBy, which is not checked here; sigstoreSigned is")
        case "sigstoreSigned":
            return _sigstore_signed(value, what)
    raise UnclearError(f"{where} asks for the unknown type {str(kind)[:100]!r}")


def _sigstore_signed(value: dict[str, Any], what: str) -> Callable[[], Requirement]:
    fields_of(value, what, needed=("type",), allowed=(*_KEYS, *_NOT_DONE, "signedIdentity"))
    identity = _identity(value["signedIdentity"], what) if "signedIdentity" in value else IdentityRule()
    for name in _NOT_DONE:
        if name in value:
            return lambda: Refusing(f"asks for {name}, which is not checked here; keys are")
    stated = [name for name in _KEYS if name in value]
    if len(stated) != 1:
        raise UnclearError(f"{what} must have one of {', '.join(_KEYS)}")
    sources = value[stated[0]]
    many = stated[0].endswith("s")
    if not (isinstance(sources, list) if many else isinstance(sources, str)) or not sources:
        raise UnclearError(f"{stated[0]} of {what} is not {'a list of texts' if many else 'a text'}")
    names = sources if many else [sources]
    if not all(isinstance(name, str) for name in names):
        raise UnclearError(f"{stated[0]} of {what} is not a list of texts")
    if stated[0].startswith("keyPath"):
        return lambda: Signed(tuple(read_key(name) for name in names), identity)
    try:
        data = [base64.b64decode(text, validate=True) for text in names]
    except (binascii.Error, ValueError):
        raise UnclearError(f"{stated[0]} of {what} is no base64") from None
    return lambda: Signed(tuple(load_key(pem, where=f"{stated[0]} of {what}") for pem in data), identity)


def _identity(value: Any, what: str) -> IdentityRule:
    stated = value.get("type") if isinstance(value, dict) else None
    kind: Kind | None = next((kind for kind in get_args(Kind) if kind == stated), None)
    if kind is None:
        raise UnclearError(f"signedIdentity of {what} has the unknown type {str(stated)[:100]!r}")
    where = f"{kind} of {what}"
    match kind:
        case "exactReference":
            text = _text(fields_of(value, where, needed=("type", "dockerReference"))["dockerReference"], where)
            named = _reference(text, where)
            if named.tag is None and named.digest is None:
                raise UnclearError(f"dockerReference of {where} has neither tag nor digest")
            return IdentityRule(kind, named)
        case "exactRepository":
            text = _text(fields_of(value, where, needed=("type", "dockerRepository"))["dockerRepository"], where)
            named = _reference(text, where)
            if named.tag is not None or named.digest is not None:
                raise UnclearError(f"dockerRepository of {where} has a tag or a digest")
            return IdentityRule(kind, named)
        case "remapIdentity":
            fields_of(value, where, needed=("type", "prefix", "signedPrefix"))
            prefixes = [_text(value[name], where) for name in ("prefix", "signedPrefix")]
            for prefix in prefixes:
                if not _PREFIX.fullmatch(prefix):
                    raise UnclearError(f"{prefix[:100]!r} of {where} is no prefix of repositories")
            return IdentityRule(kind, prefix=prefixes[0], signed_prefix=prefixes[1])
    fields_of(value, where, needed=("type",))
    return IdentityRule(kind)


def _scopes(location: Location) -> Iterator[str]:
    """The scopes that an image is in, the most specific first (containers-policy.json(5), "Supported transports")."""
    match location.transport:
        case "docker" | "docker-daemon":
            if location.reference is not None:
                yield from _reference_scopes(location.reference)
        case "oci" | "oci-archive" | "dir":
            if location.path is not None:
                place = Path(os.path.realpath(location.path))
                yield from (str(folder) for folder in (place, *place.parents) if folder != folder.parent)


def _reference_scopes(reference: Reference) -> Iterator[str]:
    if reference.digest is not None:
        yield f"{reference.name}@{reference.digest}"
    if reference.tag is not None or reference.digest is None:
        yield f"{reference.name}:{reference.tag or 'latest'}"
    name = reference.name
    while True:
        yield name
        if "/" not in name:
            break
        name = name.rpartition("/")[0]
    domain = name.partition(":")[0]
    while "." in domain:
        domain = domain.partition(".")[2]
        yield f"*.{domain}"


def _object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UnclearError(f"{what} is no object")
    return value


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise UnclearError(f"a field of {what} is no text")
    return value


def _reference(text: str, what: str) -> Reference:
    try:
        return Reference.parse(text)
    except ImageReferenceError as error:
        raise UnclearError(f"{what}: {error.message}") from None
