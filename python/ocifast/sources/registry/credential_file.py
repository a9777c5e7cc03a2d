"""One file of credentials: Docker's `config.json` or containers' `auth.json`; both have one format.

Keys of `auths` and `credHelpers` are hosts as in references, URLs (Docker Hub's is `https://index.docker.io/v1/`), or,
in containers' files, a host with the first parts of a repository's path (containers-auth.json(5)).
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import os
from pathlib import Path
from typing import Any

from ocifast.errors import FileError
from ocifast.records import dataclass
from ocifast.sources.registry.options import Credential

__all__ = ["HUB_KEY", "CredentialFile", "keys_for", "normalise_key"]

HUB_KEY = "https://index.docker.io/v1/"
"""What Docker calls Docker Hub in its files and towards helpers."""
_HUB_HOSTS = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io"})
_API_PATHS = frozenset({"", "v1", "v2"})
_LIMIT = 4 << 20


def normalise_key(key: str) -> str:
    """A key of a file as `HOST[:PORT][/PATH]`; all names of Docker Hub become `docker.io`."""
    bare = key.partition("://")[2] if "://" in key else key
    host, _, path = bare.rstrip("/").partition("/")
    host = host.lower()
    if host in _HUB_HOSTS:
        host = "docker.io"
    if "://" in key and path in _API_PATHS:
        path = ""
    if host == "docker.io" and path in _API_PATHS:
        path = ""
    return f"{host}/{path}" if path else host


def keys_for(host: str, repository: str | None) -> list[str]:
    """The normalised keys that may hold a repository's credential, the most specific first."""
    first = normalise_key(host)
    parts = repository.split("/") if repository else []
    return ["/".join([first, *parts[:count]]) for count in range(len(parts), -1, -1)]


@dataclass(frozen=True)
class CredentialFile:
    """The content of one file.

    Attributes:
        path: where it stands.
        content: the whole JSON object; what we do not know is kept when it is written again.
    """

    path: Path
    content: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> CredentialFile:
        """Reads a file; one that is not there is empty.

        Raises:
            FileError: it cannot be read or is not a JSON object.
        """
        try:
            with path.open("rb") as file:
                raw = file.read(_LIMIT)
        except FileNotFoundError:
            return cls(path, {})
        except OSError as error:
            raise FileError(f"cannot read the credentials in {path}: {error.strerror}", path=str(path)) from error
        try:
            content = json.loads(raw) if raw.strip() else {}
        except (ValueError, RecursionError):
            # The cause's text would quote the file.
            raise FileError(f"cannot read the credentials in {path}: it is not JSON", path=str(path)) from None
        if not isinstance(content, dict):
            raise FileError(f"cannot read the credentials in {path}: it is not a JSON object", path=str(path))
        return cls(path, content)

    def helper_for(self, key: str) -> str | None:
        """Suffix of the helper that `credHelpers` names for a normalised key."""
        helpers = self._section("credHelpers")
        found = next((value for name, value in helpers.items() if normalise_key(name) == key), None)
        return found if isinstance(found, str) and found else None

    @property
    def store(self) -> str | None:
        """Suffix of the helper for all hosts (`credsStore`)."""
        store = self.content.get("credsStore")
        return store if isinstance(store, str) and store else None

    def credential(self, key: str) -> Credential | None:
        """What `auths` holds for a normalised key.

        Raises:
            FileError: the entry is damaged; the message shows its key only.
        """
        for name, entry in self._section("auths").items():
            if normalise_key(name) == key and isinstance(entry, dict):
                found = self._decode(name, entry)
                if found is not None:
                    return found
        return None

    def with_credential(self, host: str, credential: Credential | None) -> CredentialFile:
        """A copy with the host's entry in `auths` replaced, or removed."""
        auths = {name: entry for name, entry in self._section("auths").items() if normalise_key(name) != host}
        if credential is not None:
            pair = f"{credential.username}:{credential.password}".encode()
            entry = {"auth": base64.b64encode(pair).decode("ascii")}
            if credential.identity_token:
                entry["identitytoken"] = credential.identity_token
            auths[HUB_KEY if host == "docker.io" else host] = entry
        return CredentialFile(self.path, {**self.content, "auths": auths})

    @classmethod
    def change(cls, path: Path, host: str, credential: Credential | None) -> None:
        """Reads a file, replaces or removes a host's entry, and writes it; others of us who do the same wait.

        Raises:
            FileError: it cannot be read, or its folder cannot be written to.
        """
        # What writes is not imported before it is needed: most commands only read.
        from ocifast.refusals import take_lock

        folder = Path(os.path.realpath(path)).parent
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise FileError(f"cannot write the credentials to {path}: {error.strerror}", path=str(path)) from error
        try:
            # Where a file system has no locks, the last one who writes wins.
            with contextlib.suppress(OSError):
                take_lock(held, wait=True)
            cls.read(path).with_credential(host, credential).write()
        finally:
            os.close(held)

    def write(self) -> None:
        """Replaces the file at once, readable by its owner only.

        Raises:
            FileError: the folder cannot be written to.
        """
        from ocifast.atomic import NewFile, sweep_folder
        from ocifast.file_data import write_all

        # A link (people link this file into their dotfiles) stays one: what it names is replaced.
        target = Path(os.path.realpath(self.path))
        try:
            sweep_folder(target.parent)
            with NewFile(target.parent, mode=0o600) as file:
                write_all(file.fd, json.dumps(self.content, indent="\t").encode())
                file.publish(target)
        except FileError as error:
            cause = error.__cause__
            why = cause.strerror if isinstance(cause, OSError) else error
            raise FileError(f"cannot write the credentials to {target}: {why}", path=str(target)) from cause

    def _section(self, name: str) -> dict[str, Any]:
        section = self.content.get(name)
        return section if isinstance(section, dict) else {}

    def _decode(self, name: str, entry: dict[str, Any]) -> Credential | None:
        username, password = entry.get("username") or "", entry.get("password") or ""
        if encoded := entry.get("auth"):
            try:
                decoded = _base64(encoded).decode("utf-8").rstrip("\0")
            except (binascii.Error, ValueError, AttributeError):
                raise FileError(f"the entry {name} of {self.path} cannot be decoded; log in again") from None
            username, colon, password = decoded.partition(":")
            if not colon:
                raise FileError(f"the entry {name} of {self.path} holds no password; log in again")
        token = entry.get("identitytoken") or None
        if not username and not password and token is None:
            return None
        return Credential(str(username), str(password), token)


def _base64(text: str) -> bytes:
    """Decodes either alphabet, in lines or not, padded or not. Raises ValueError."""
    bare = "".join(text.split()).rstrip("=").replace("-", "+").replace("_", "/")
    return base64.b64decode(bare + "=" * (-len(bare) % 4), validate=True)
