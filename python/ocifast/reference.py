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
from dataclasses import dataclass
from pathlib import Path

from ocifast import _core
from ocifast.errors import DigestInvalidError, ImageReferenceError

__all__ = ["TRANSPORTS", "Location", "Reference", "parse_location"]

DEFAULT_HOST = "docker.io"
DEFAULT_TAG = "latest"

_DOMAIN_COMPONENT = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_HOST = re.compile(rf"(?:{_DOMAIN_COMPONENT}(?:\.{_DOMAIN_COMPONENT})*|\[[a-fA-F0-9:]+\])(?::[0-9]{{1,5}})?")
_COMPONENT = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_PATH = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_HEX = re.compile(r"[a-f0-9]{64}")
_PATH_LIMIT = 255

TRANSPORTS = ("docker", "oci", "oci-archive", "docker-archive")
"""Kinds of places, as they stand before the colon of a location."""

_FOREIGN_TRANSPORTS = ("containers-storage:", "docker-daemon:", "ostree:", "sif:", "tarball:", "http://", "https://")


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
                raise _invalid(text, error.message) from None
        if _HEX.fullmatch(rest):
            raise _invalid(text, "64 hexadecimal digits are an image ID, not a name; write NAME@sha256:DIGITS")
        host, path = _split_host(rest)
        path, colon, tag = path.partition(":")
        if colon and not _TAG.fullmatch(tag):
            raise _invalid(text, f"{_shown(tag)} is not a tag: 1 to 128 letters, digits, '_', '.' and '-'")
        if host in ("docker.io", "index.docker.io"):
            host = DEFAULT_HOST
            if path and "/" not in path:
                path = f"library/{path}"
        if not _HOST.fullmatch(host):
            raise _invalid(text, f"{_shown(host)} is not a host name")
        port = host.rpartition(":")[2]
        if port.isdigit() and ":" in host and int(port) > 65535:
            raise _invalid(text, f"there is no port {port}")
        if not path:
            raise _invalid(text, "the repository's name is missing")
        if not _PATH.fullmatch(path):
            hint = "; names are written in lower case" if _PATH.fullmatch(path.lower()) else ""
            raise _invalid(text, f"{_shown(path)} is not a repository's name{hint}")
        if len(path) > _PATH_LIMIT:
            raise _invalid(text, f"the repository's name is longer than {_PATH_LIMIT} bytes")
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
        transport: one of `TRANSPORTS`.
        reference: for `docker`, what to ask the registry for; for `docker-archive`, the NAME:TAG within, if given.
        path: the layout's folder or the archive's file; None exactly for `docker`.
        tag: for `oci` and `oci-archive`, the name within, if given.
        digest: for `oci` and `oci-archive`, the manifest's digest, if given; it wins over `tag`.
        position: for `docker-archive`, the number N of the image when `@N` was written.
    """

    text: str
    transport: str
    reference: Reference | None = None
    path: Path | None = None
    tag: str | None = None
    digest: str | None = None
    position: int | None = None

    @property
    def is_remote(self) -> bool:
        """Whether others can reach it under this name; any other is a path of this machine."""
        return self.transport == "docker"

    def __str__(self) -> str:
        return self.text


def parse_location(text: str) -> Location:
    """Reads where an image is.

    These are taken: `docker://REFERENCE`, `oci:DIR[:TAG][@DIGEST]`, `oci-archive:FILE[:TAG][@DIGEST]`,
    `docker-archive:FILE[:NAME[:TAG]]`, `docker-archive:FILE:@N`, or a bare reference. A path ends at its first colon,
    as it does for skopeo: a path that holds one cannot be written.

    Raises:
        ImageReferenceError: none of these; a path without a prefix is answered with the prefix that it needs.
    """
    if text.startswith("docker://"):
        return Location(text, "docker", reference=_parse_named(text, text[len("docker://") :]))
    transport, _, rest = text.partition(":")
    if transport in ("oci", "oci-archive"):
        return _parse_oci(text, transport, rest)
    if transport == "docker-archive":
        return _parse_docker_archive(text, rest)
    if text.startswith("docker:"):
        raise _invalid(text, "write docker://HOST/NAME[:TAG]")
    if text.startswith(_FOREIGN_TRANSPORTS):
        raise _invalid(text, f"{transport}: is not supported; use docker://, oci:, oci-archive: or docker-archive:")
    _refuse_bare_path(text)
    return Location(text, "docker", reference=_parse_named(text, text))


def _parse_named(text: str, named: str) -> Reference:
    if not named:
        raise _invalid(text, "the repository's name is missing")
    return Reference.parse(named)


def _parse_oci(text: str, transport: str, rest: str) -> Location:
    before, at, digest = rest.rpartition("@")
    if at and digest.startswith(("sha256:", "sha512:")):
        try:
            _core.check_digest(digest)
        except DigestInvalidError as error:
            raise _invalid(text, error.message) from None
        rest = before
    else:
        digest = ""
    path, _, tag = rest.partition(":")
    if not path:
        raise _invalid(text, f"the path is missing; write {transport}:PATH[:TAG]")
    return Location(text, transport, path=Path(path), tag=tag or None, digest=digest or None)


def _parse_docker_archive(text: str, rest: str) -> Location:
    path, _, named = rest.partition(":")
    if not path:
        raise _invalid(text, "the path is missing; write docker-archive:FILE[:NAME[:TAG]]")
    if named.startswith("@"):
        if not re.fullmatch(r"[0-9]{1,6}", named[1:], re.ASCII):
            raise _invalid(text, f"{_shown(named)} is not the number of an image; write @0 for the first one")
        return Location(text, "docker-archive", path=Path(path), position=int(named[1:]))
    reference = Reference.parse(named) if named else None
    if reference is not None and reference.digest:
        raise _invalid(text, "a Docker archive has no digests; write docker-archive:FILE:NAME:TAG")
    return Location(text, "docker-archive", path=Path(path), reference=reference)


def _refuse_bare_path(text: str) -> None:
    """Tells apart a file that a user forgot the prefix of from a repository of Docker Hub that is called so."""
    if not text:
        raise _invalid(text, "nothing is written there")
    looks_like_path = text.startswith(("/", "./", "../", "~")) or text in (".", "..")
    try:
        path = Path(text)
        is_archive = text.endswith((".tar", ".tar.gz", ".tgz", ".tar.zst")) and path.is_file()
        is_layout = (path / "oci-layout").is_file()
        is_folder = path.is_dir()
    except (OSError, ValueError):
        is_archive = is_layout = is_folder = False
    if is_layout:
        raise _invalid(text, f"this is an image layout on disk: write oci:{text}")
    if is_archive or (looks_like_path and not is_folder):
        raise _invalid(text, f"a file on disk is written oci-archive:{text} or docker-archive:{text}")
    if looks_like_path:
        raise _invalid(text, f"a folder with an image layout is written oci:{text}, and this one holds none")


def _split_host(text: str) -> tuple[str, str]:
    first, slash, rest = text.partition("/")
    if slash and (any(mark in first for mark in ".:") or first == "localhost" or first.lower() != first):
        return first, rest
    return DEFAULT_HOST, text


def _shown(text: str) -> str:
    return repr(text if len(text) <= 150 else text[:150] + "…")


def _invalid(text: str, reason: str) -> ImageReferenceError:
    return ImageReferenceError(f"{_shown(text)} is not an image reference: {reason}", reference=text)
