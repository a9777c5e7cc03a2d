"""Public keys that verify, and private keys that sign: ECDSA on NIST's curves and Ed25519, by `cryptography`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from ocifast.errors import FileError, PolicyError, UsageError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

__all__ = ["PrivateKey", "PublicKey", "load_key", "read_key", "read_private_key"]

_KEY_LIMIT = 64 << 10
"""Bytes of a key file that are read; a key has some hundreds."""
_CURVES = {"secp256r1": "SHA256", "secp384r1": "SHA384", "secp521r1": "SHA512"}
"""The curves that are taken, and the hash that belongs to each (FIPS 186-5; sigstore's list of algorithms)."""
_MISSING = "signatures need the package cryptography: pip install 'ocifast[verify]'"


class PublicKey:
    """A key that verifies.

    Args:
        key: as `cryptography` has it.
    """

    def __init__(self, key: EllipticCurvePublicKey | Ed25519PublicKey) -> None:
        self._key = key

    @property
    def der(self) -> bytes:
        """Its bytes (SubjectPublicKeyInfo, RFC 5280)."""
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        return self._key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    def verifies(self, message: bytes, signature: bytes) -> bool:
        """Whether the signature (ECDSA: DER; Ed25519: 64 bytes) is of this message and by this key."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec

        if not isinstance(self._key, ec.EllipticCurvePublicKey):
            try:
                self._key.verify(signature, message)
            except InvalidSignature:
                return False
            return True
        # cosign signs simple signing with SHA-256 whatever the curve is, and bundles with the hash of the curve.
        for name in dict.fromkeys(("SHA256", _CURVES[self._key.curve.name])):
            try:
                self._key.verify(signature, message, ec.ECDSA(getattr(hashes, name)()))
            except InvalidSignature:
                continue
            return True
        return False


class PrivateKey:
    """A key that signs.

    Args:
        key: as `cryptography` has it.
    """

    def __init__(self, key: EllipticCurvePrivateKey | Ed25519PrivateKey) -> None:
        self._key = key

    def sign(self, message: bytes) -> bytes:
        """The signature: ECDSA in DER with the hash of the curve, or Ed25519."""
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec

        if isinstance(self._key, ec.EllipticCurvePrivateKey):
            return self._key.sign(message, ec.ECDSA(getattr(hashes, _CURVES[self._key.curve.name])()))
        return self._key.sign(message)

    @property
    def public(self) -> PublicKey:
        """What verifies its signatures."""
        return PublicKey(self._key.public_key())


def read_key(name: str) -> PublicKey:
    """The key of a file; raises FileError, and what `load_key` does."""
    return load_key(_read(name, "key"), where=name)


def load_key(pem: bytes, *, where: str) -> PublicKey:
    """A key of PEM text (RFC 7468, `PUBLIC KEY`).

    Args:
        pem: the text.
        where: how messages call it.

    Raises:
        PolicyError: it is no public key, or one of a kind that is not taken.
        UsageError: the package that verifies is missing.
    """
    try:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        from cryptography.hazmat.primitives.serialization import load_pem_public_key
    except ImportError:
        raise UsageError(_MISSING) from None
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise PolicyError(f"{where} is no public key in PEM: {_line(error)}") from None
    if isinstance(key, Ed25519PublicKey):
        return PublicKey(key)
    if isinstance(key, EllipticCurvePublicKey) and key.curve.name in _CURVES:
        return PublicKey(key)
    raise PolicyError(f"{where} is a key of a kind that is not taken ({_kind(key)}); ECDSA and Ed25519 are")


def read_private_key(name: str) -> PrivateKey:
    """A private key of a file (RFC 7468, `PRIVATE KEY` or `EC PRIVATE KEY`), without a password.

    Raises:
        FileError: it cannot be read.
        UsageError: it is no such key, has a password, or the package that signs is missing.
    """
    try:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key
    except ImportError:
        raise UsageError(_MISSING) from None
    pem = _read(name, "key")
    if b"ENCRYPTED" in pem:
        raise UsageError(f"{name} is encrypted; write the key without a password into a file that only you can read")
    try:
        key = load_pem_private_key(pem, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # What the parser says of a private key is not repeated.
        raise UsageError(f"{name} is no private key in PEM") from None
    if isinstance(key, Ed25519PrivateKey) or (isinstance(key, EllipticCurvePrivateKey) and key.curve.name in _CURVES):
        return PrivateKey(key)
    raise UsageError(f"{name} is a key of a kind that is not taken ({_kind(key)}); ECDSA and Ed25519 are")


def _read(name: str, what: str) -> bytes:
    try:
        with Path(name).open("rb") as file:
            data = file.read(_KEY_LIMIT + 1)
    except OSError as error:
        raise FileError(f"cannot read the {what} {name}: {error.strerror}", errno=error.errno) from error
    if len(data) > _KEY_LIMIT:
        raise FileError(f"the {what} {os.fspath(name)} is longer than {_KEY_LIMIT >> 10} KiB")
    return data


def _kind(key: object) -> str:
    curve = getattr(getattr(key, "curve", None), "name", None)
    name = type(key).__name__.removesuffix("PublicKey").removesuffix("PrivateKey").lstrip("_")
    return f"{name} {curve}" if curve else name


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
