"""Signatures of root hashes, as the kernel takes them of who opens a dm-verity device (`root_hash_sig_key_desc`)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ocifast.errors import FileError, UsageError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
    from cryptography.x509 import Certificate

__all__ = ["root_hash_signer"]


def root_hash_signer(key: str, certificate: str) -> Callable[[str], bytes]:
    """Reads a key and its certificate, before any work is done.

    Args:
        key: path of a private key, RSA or elliptic curve, in PEM without a password.
        certificate: path of its X.509 certificate, in PEM.

    Returns:
        What makes the signature of a root hash in hexadecimal: PKCS#7 (RFC 2315) over these digits, detached, without
        certificates and attributes, in DER.

    Raises:
        UsageError: the package `cryptography` is missing, or the files hold no such key and certificate.
        FileError: a file cannot be read.
    """
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives.asymmetric import ec, rsa
        from cryptography.hazmat.primitives.serialization import load_pem_private_key
    except ImportError:
        raise UsageError("signing a root hash needs the package cryptography: pip install 'ocifast[verify]'") from None
    try:
        private = load_pem_private_key(_read(key), password=None)
    except (ValueError, TypeError) as error:
        raise UsageError(f"{key} holds no private key in PEM without a password ({error})") from None
    if not isinstance(private, (rsa.RSAPrivateKey, ec.EllipticCurvePrivateKey)):
        raise UsageError(f"{key} holds no key of RSA or an elliptic curve, which alone sign in PKCS#7")
    try:
        public = x509.load_pem_x509_certificate(_read(certificate))
    except ValueError as error:
        raise UsageError(f"{certificate} holds no certificate in PEM ({error})") from None
    if private.public_key() != public.public_key():
        raise UsageError(f"{certificate} is not the certificate of the key in {key}")
    return lambda root_hash: _sign(private, public, root_hash.encode())


def _sign(key: RSAPrivateKey | EllipticCurvePrivateKey, certificate: Certificate, data: bytes) -> bytes:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.serialization import Encoding
    from cryptography.hazmat.primitives.serialization.pkcs7 import PKCS7Options, PKCS7SignatureBuilder

    builder = PKCS7SignatureBuilder().set_data(data).add_signer(certificate, key, hashes.SHA256())
    # What the kernel's own scripts/sign-file makes: certificates are those of its keyring, attributes are not read.
    options = [PKCS7Options.Binary, PKCS7Options.DetachedSignature, PKCS7Options.NoAttributes, PKCS7Options.NoCerts]
    return builder.sign(Encoding.DER, options)


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise FileError(f"{path}: {error.strerror}", path=path) from error
