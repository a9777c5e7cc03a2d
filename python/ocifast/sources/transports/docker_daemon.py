"""`docker-daemon:NAME[:TAG]`: an image in a Docker daemon, or in podman's service, which speaks the same protocol.

The image is asked for as `docker save` does (Docker Engine API, "Export an image"), waits in a temporary file, and is
read as a Docker archive.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ocifast.errors import HelperError, ImageNotFoundError, UsageError
from ocifast.reference import Location
from ocifast.sources import Source
from ocifast.sources.transports.named import daemon_timeout, parse_name, spool, tagged
from ocifast.sources.transports.transport import Access, Transport

if TYPE_CHECKING:
    import http.client
    import socket

__all__ = ["TRANSPORT"]

_CHUNK = 1 << 20
_LISTING = 16 << 20
"""Bytes of a list of images that are read."""
_SILENCE = 60.0
"""Seconds without a byte, once the first one came."""


def _source(location: Location, access: Access) -> Source:
    # Not imported before it is needed: what speaks to a daemon is slow to import, and most images are elsewhere.
    import http.client

    from ocifast.sources.docker_archive import open_docker_archive

    place = _socket(location)
    first = daemon_timeout(access)
    silence = _SILENCE if access.options is None else access.options.read_timeout
    with spool(location) as (archive, held):
        try:
            _save(place, location, archive, first, silence)
        except TimeoutError as error:
            raise HelperError(
                f"{location}: the daemon at {place} hung: no byte for {error.args[0]:g} s (--daemon-timeout waits "
                "longer for the first one, --read-timeout for others)"
            ) from None
        except (http.client.HTTPException, ConnectionError, PermissionError) as error:
            raise HelperError(f"{location}: the daemon at {place} does not answer as one: {error}") from error
        return open_docker_archive(archive, name=location.text, held=held)


def _socket(location: Location) -> Path:
    """Where the daemon listens: what DOCKER_HOST says, else the usual places."""
    stated = os.environ.get("DOCKER_HOST", "")
    if stated:
        if not stated.startswith("unix://"):
            raise UsageError(f"{location}: DOCKER_HOST is {stated!r}; only unix://PATH is taken")
        places = [Path(stated.removeprefix("unix://"))]
    else:
        runtime = os.environ.get("XDG_RUNTIME_DIR", "")
        own = [Path(runtime, "docker.sock"), Path(runtime, "podman/podman.sock")] if runtime.startswith("/") else []
        places = [Path("/var/run/docker.sock"), *own, Path("/run/podman/podman.sock")]
    for place in places:
        try:
            if stat.S_ISSOCK(place.stat().st_mode):
                return place
        except OSError:
            continue
    from ocifast.platforms import listing

    raise ImageNotFoundError(
        f"{location}: no daemon listens at {listing([str(place) for place in places])}; start docker, or podman with "
        "`podman system service`, or set DOCKER_HOST",
        reference=location.text,
    )


def _save(place: Path, location: Location, archive: Path, first: float, silence: float) -> None:
    from urllib.parse import quote

    name = tagged(location)
    with _asked(place, f"/images/{quote(name, safe='/:')}/get", first) as (answer, wire):
        if answer.status == 200:
            with archive.open("xb") as file:
                # What comes first waits until the daemon has staged the whole image.
                while chunk := _read(answer, wire):
                    file.write(chunk)
                    wire.settimeout(silence)
            return
        status = answer.status
    has = _names(place, first) if status in (404, 500) else None
    if has is not None and name not in has:
        from ocifast.platforms import listing

        raise ImageNotFoundError(
            f"{location}: the daemon has no image {name}; it has {listing(has) or 'none'}", reference=location.text
        )
    raise HelperError(f"{location}: the daemon answered with status {status}")


def _names(place: Path, timeout: float) -> list[str]:
    import json

    with _asked(place, "/images/json", timeout) as (answer, wire):
        pieces: list[bytes] = []
        while (chunk := _read(answer, wire)) and sum(map(len, pieces)) < _LISTING:
            pieces.append(chunk)
    try:
        found: Any = json.loads(b"".join(pieces))
        return sorted({name for image in found for name in image.get("RepoTags") or () if isinstance(name, str)})
    except (ValueError, AttributeError, TypeError, RecursionError):
        return []


@contextmanager
def _asked(place: Path, path: str, timeout: float) -> Iterator[tuple[http.client.HTTPResponse, socket.socket]]:
    """The answer to a GET, and what it comes over. Raises TimeoutError with the seconds."""
    import http.client
    import socket

    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as wire:
        connection = http.client.HTTPConnection("docker")
        connection.sock = wire
        wire.settimeout(timeout)
        try:
            wire.connect(os.fspath(place))
            connection.request("GET", path, headers={"Connection": "close"})
            answer = connection.getresponse()
        except TimeoutError:
            raise TimeoutError(timeout) from None
        with closing(answer):
            yield answer, wire


def _read(answer: http.client.HTTPResponse, wire: socket.socket) -> bytes:
    try:
        return answer.read1(_CHUNK)
    except TimeoutError:
        raise TimeoutError(wire.gettimeout()) from None


TRANSPORT = Transport(
    "docker-daemon",
    "docker-daemon:NAME[:TAG]",
    "an image in a Docker daemon or podman's service",
    parse_name,
    _source,
    is_served=True,
)
