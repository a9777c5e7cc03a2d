"""References: how an image is called, and where it is.

The grammar is that of the distribution project's `reference` package, which Docker, containerd and skopeo share:

    reference  := [host "/"] path [":" tag] ["@" digest]
    host       := domain-name or IPv4 or "[" IPv6 "]", then [":" port]
    path       := component *["/" component], at most 255 bytes
    component  := lower-case letters and digits, joined by ".", "_", "__" or any number of "-"
    tag        := a word character, then up to 127 word characters, "." and "-"

The first part is a host when it holds a `.` or a `:`, is `localhost`, or has a capital letter; otherwise the host is
`docker.io`, and a path of one component means `library/` there.
"""

from __future__ import annotations

import re
from pathlib import Path

from ocifast import _core
from ocifast.errors import DigestInvalidError, ImageReferenceError
from ocifast.records import dataclass

__all__ = ["Location", "Reference", "invalid", "shown"]

DEFAULT_HOST = "docker.io"
DEFAULT_TAG = "latest"

_DOMAIN_COMPONENT = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_HOST = rf"(?:{_DOMAIN_COMPONENT}(?:\.{_DOMAIN_COMPONENT})*|\[[a-fA-F0-9:]+\])(?::[0-9]{{1,5}})?"
_COMPONENT = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_PATH = rf"{_COMPONENT}(?:/{_COMPONENT})*"
_TAG = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
_HEX = r"[a-f0-9]{64}"
_PATH_LIMIT = 255


@dataclass(frozen=True)
class Reference:
    """A name of an image in a registry.

    Attributes:
        host: the registry as users write it, with its port when it has one; `docker.io` for Docker Hub.
        repository: the path within the registry, `library/` included.
        tag: None when none was written.
        digest: `algorithm:hex`, checked; None when none was written. It wins over the tag.
    """

    host: str
    repository: str
    tag: str | None = None
    digest: str | None = None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Reads a reference, short names included.

        Raises:
            ImageReferenceError: the message says which part breaks the grammar.
        """
        rest, at, digest = text.partition("@")
        if at:
            try:
                _core.check_digest(digest)
            except DigestInvalidError as error:
                raise invalid(text, error.message) from None
        if re.fullmatch(_HEX, rest):
            raise invalid(text, "64 hexadecimal digits are an image ID, not a name; write NAME@sha256:DIGITS")
        host, path = _split_host(rest)
        path, colon, tag = path.partition(":")
        if colon and not re.fullmatch(_TAG, tag):
            raise invalid(text, f"{shown(tag)} is not a tag: 1 to 128 letters, digits, '_', '.' and '-'")
        if host in ("docker.io", "index.docker.io"):
            host = DEFAULT_HOST
            if path and "/" not in path:
                path = f"library/{path}"
        if not re.fullmatch(_HOST, host):
            raise invalid(text, f"{shown(host)} is not a host name")
        port = host.rpartition(":")[2]
        if port.isdigit() and ":" in host and int(port) > 65535:
            raise invalid(text, f"there is no port {port}")
        if not path:
            raise invalid(text, "the repository's name is missing")
        if not re.fullmatch(_PATH, path):
            hint = "; names are written in lower case" if re.fullmatch(_PATH, path.lower()) else ""
            raise invalid(text, f"{shown(path)} is not a repository's name{hint}")
        if len(path) > _PATH_LIMIT:
            raise invalid(text, f"the repository's name is longer than {_PATH_LIMIT} bytes")
        return cls(host, path, tag or None, digest or None)

    @property
    def registry(self) -> str:
        """The host and port that requests go to: as `host`, but Docker Hub's API stands at another name."""
        return "registry-1.docker.io" if self.host == DEFAULT_HOST else self.host

    @property
    def name(self) -> str:
        """Host and repository, without tag and digest."""
        return f"{self.host}/{self.repository}"

    @property
    def identifier(self) -> str:
        """What a manifest is asked for by: the digest, else the tag, else `latest`."""
        return self.digest or self.tag or DEFAULT_TAG

    def __str__(self) -> str:
        """The full form: host, repository, tag and digest; `latest` where neither of both was written."""
        tag = self.tag or (None if self.digest else DEFAULT_TAG)
        return self.name + (f":{tag}" if tag else "") + (f"@{self.digest}" if self.digest else "")


@dataclass(frozen=True)
class Location:
    """A place that an image is read from or written to.

    Attributes:
        text: as the user wrote it; for messages.
        transport: its prefix (`ocifast.sources.transports`).
        reference: what to ask a registry, a daemon or a store for, or the NAME:TAG within a Docker archive, if given.
        path: of a folder or file; None for what is asked by a name.
        tag: the name within a layout, if given.
        digest: the manifest's digest within a layout, if given; it wins over `tag`.
        position: the number N of the image in a Docker archive when `@N` was written.
        is_remote: whether others can reach it under this name; any other means something on this machine alone.
    """

    text: str
    transport: str
    reference: Reference | None = None
    path: Path | None = None
    tag: str | None = None
    digest: str | None = None
    position: int | None = None
    is_remote: bool = False

    @property
    def remote(self) -> Reference | None:
        """What a registry is asked for; None for a place of this machine."""
        return self.reference if self.is_remote else None

    def __str__(self) -> str:
        return self.text


def _split_host(text: str) -> tuple[str, str]:
    first, slash, rest = text.partition("/")
    if slash and (any(mark in first for mark in ".:") or first == "localhost" or first.lower() != first):
        return first, rest
    return DEFAULT_HOST, text


def shown(text: str) -> str:
    """A text of the user's for messages, cut where it is long."""
    return repr(text if len(text) <= 150 else text[:150] + "…")


def invalid(text: str, reason: str) -> ImageReferenceError:
    """The error for a text that is no reference and no location."""
    return ImageReferenceError(f"{shown(text)} is not an image reference: {reason}", reference=text)
