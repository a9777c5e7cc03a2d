"""`docker-daemon:NAME[:TAG]`: an image in a Docker daemon, or in podman's service, which speaks the same protocol.

The image is asked for as `docker save` does (Docker Engine API, "Export an image"), waits in a temporary file, and is
read as a Docker archive.
"""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ocifast.errors import HelperError, ImageNotFoundError, UsageError
from ocifast.reference import Location
from ocifast.sources import Source
from ocifast.sources.transports.named import parse_name, spool, tagged
from ocifast.sources.transports.transport import Access, Transport

if TYPE_CHECKING:
    import httpx

__all__ = ["TRANSPORT"]

_SILENCE = 300.0
"""Seconds until a daemon that says nothing counts as hung; one that packs a large image needs its time."""


def _source(location: Location, access: Access) -> Source:
    import httpx

    from ocifast.sources.docker_archive import open_docker_archive

    socket = _socket(location)
    with spool(location) as (archive, held):
        wire = httpx.HTTPTransport(uds=str(socket))
        try:
            with httpx.Client(transport=wire, base_url="http://docker", timeout=_SILENCE, trust_env=False) as client:
                _save(client, location, archive)
        except httpx.HTTPError as error:
            raise HelperError(f"{location}: the daemon at {socket} does not answer as one: {error}") from error
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


def _save(client: httpx.Client, location: Location, archive: Path) -> None:
    name = tagged(location)
    with client.stream("GET", f"/images/{name}/get") as answer:
        if answer.status_code == 200:
            with archive.open("xb") as file:
                for chunk in answer.iter_raw():
                    file.write(chunk)
            return
        status = answer.status_code
    has = _names(client) if status in (404, 500) else None
    if has is not None and name not in has:
        from ocifast.platforms import listing

        raise ImageNotFoundError(
            f"{location}: the daemon has no image {name}; it has {listing(has) or 'none'}", reference=location.text
        )
    raise HelperError(f"{location}: the daemon answered with status {status}")


def _names(client: httpx.Client) -> list[str]:
    answer = client.get("/images/json")
    try:
        found: Any = json.loads(answer.content)
        return sorted({name for image in found for name in image.get("RepoTags") or () if isinstance(name, str)})
    except (ValueError, AttributeError, TypeError, RecursionError):
        return []


TRANSPORT = Transport(
    "docker-daemon",
    "docker-daemon:NAME[:TAG]",
    "an image in a Docker daemon or podman's service",
    parse_name,
    _source,
)
