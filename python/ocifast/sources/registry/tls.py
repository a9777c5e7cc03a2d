"""Certificates: the system's, `SSL_CERT_FILE`, and folders in the style of `certs.d`."""

from __future__ import annotations

import contextlib
import os
import ssl
import threading
from collections.abc import Iterable
from pathlib import Path

from ocifast.errors import FileError
from ocifast.home import config_folder
from ocifast.sources.registry import addresses
from ocifast.sources.registry.options import RegistryOptions, is_unchecked

__all__ = ["Certificates", "certificate_folder", "speaks_tls"]

_HOST_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789.-_:[]")


def _system_folders() -> list[Path]:
    configuration = config_folder()
    return [
        *([] if configuration is None else [configuration / "containers/certs.d"]),
        Path("/etc/containers/certs.d"),
        Path("/etc/docker/certs.d"),
    ]


def certificate_folder(host: str, folders: Iterable[Path] = ()) -> Path | None:
    """The first folder for `HOST[:PORT]`: in `folders`, then where containers and Docker keep theirs.

    A folder holds `*.crt` (authorities to trust besides the system's) and pairs `*.cert`, `*.key` (a client
    certificate and its key), as containers-certs.d(5) says.
    """
    name = host.lower()
    if not name or not set(name) <= _HOST_CHARACTERS or name.startswith("."):
        return None
    for folder in [*folders, *_system_folders()]:
        candidate = folder / name
        if candidate.is_dir():
            return candidate
    return None


def speaks_tls(host: str, port: int, timeout: float) -> bool:
    """Whether a server answers a handshake, whoever it is."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _check_nothing(context)
    with contextlib.suppress(OSError, ValueError):
        for _, address in addresses.resolve(host, port):
            with (
                contextlib.suppress(OSError),
                addresses.connect(address, port, timeout) as plain,
                context.wrap_socket(plain, server_hostname=host),
            ):
                return True
    return False


class Certificates:
    """TLS contexts by host, as the options of a client have them; each is made once."""

    def __init__(self, options: RegistryOptions) -> None:
        self._options = options
        self._contexts: dict[str, ssl.SSLContext] = {}
        self._lock = threading.Lock()

    def context(self, host: str) -> ssl.SSLContext:
        """The context for `HOST[:PORT]`.

        Raises:
            FileError: a certificate or key cannot be read, or `SSL_CERT_FILE` names no file.
        """
        with self._lock:
            context = self._contexts.get(host)
            if context is None:
                context = self._contexts[host] = self._new_context(host)
            return context

    def _new_context(self, host: str) -> ssl.SSLContext:
        context, options = _system_context(), self._options
        folder = certificate_folder(host, options.certificates)
        if folder is not None:
            _add_folder(context, folder)
        _add_authorities(context, options.authorities.get(host, ()))
        _add_pairs(context, options.client_certificates.get(host, ()))
        if is_unchecked(host, options):
            _check_nothing(context)
        return context


def _check_nothing(context: ssl.SSLContext) -> None:
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE


def _system_context() -> ssl.SSLContext:
    stated = os.environ.get("SSL_CERT_FILE")
    if stated and not Path(stated).is_file():
        # OpenSSL would trust nobody in silence, and every registry would look like a forgery.
        raise FileError(f"SSL_CERT_FILE names {stated}, which is not there")
    context = ssl.create_default_context()
    has_folder = bool(os.environ.get("SSL_CERT_DIR")) or _default_folder_is_filled()
    if not context.cert_store_stats()["x509_ca"] and not has_folder:
        # A Python that brings its own OpenSSL may not know where the system keeps its certificates.
        import certifi

        context.load_verify_locations(certifi.where())
    return context


def _default_folder_is_filled() -> bool:
    folder = ssl.get_default_verify_paths().capath
    return folder is not None and any(Path(folder).glob("*.0"))


def _add_folder(context: ssl.SSLContext, folder: Path) -> None:
    _add_authorities(context, sorted(folder.glob("*.crt")))
    _add_pairs(context, [(each, each.with_suffix(".key")) for each in sorted(folder.glob("*.cert"))])


def _add_authorities(context: ssl.SSLContext, files: Iterable[Path]) -> None:
    for authority in files:
        try:
            context.load_verify_locations(authority)
        except (OSError, ssl.SSLError) as error:
            raise FileError(f"cannot read the certificates in {authority}: {_reason(error)}") from error


def _add_pairs(context: ssl.SSLContext, pairs: Iterable[tuple[Path, Path]]) -> None:
    for certificate, key in pairs:
        try:
            context.load_cert_chain(certificate, key, password=_refuse_password)
        except (OSError, ssl.SSLError, ValueError) as error:
            raise FileError(f"cannot use the client certificate {certificate} with {key}: {_reason(error)}") from error


def _refuse_password() -> str:
    """Keeps OpenSSL from asking on the terminal."""
    raise ValueError("the key is protected by a password")


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or getattr(error, "reason", None) or str(error)
