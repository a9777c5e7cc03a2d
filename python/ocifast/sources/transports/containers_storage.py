"""`containers-storage:NAME[:TAG]`: an image in the store of podman, buildah and CRI-O.

Its locks and formats are theirs: one of their own programs writes a Docker archive, which is read from there.
"""

from __future__ import annotations

from ocifast.errors import HelperError, ImageNotFoundError, PackerError
from ocifast.reference import Location
from ocifast.sources import Source
from ocifast.sources.transports.named import daemon_timeout, parse_name, spool, tagged
from ocifast.sources.transports.transport import Access, Transport

__all__ = ["TRANSPORT"]

_TOOLS = {
    "podman": ("save", "--quiet", "--format", "docker-archive", "--output", "{file}", "{name}"),
    "buildah": ("push", "--quiet", "{name}", "docker-archive:{file}"),
    "skopeo": ("copy", "--quiet", "containers-storage:{name}", "docker-archive:{file}"),
}
"""Tools that write an image of the store, best first: the first two enter the user's own store by themselves."""
_LISTS = {
    "podman": ("images", "--format", "{{.Repository}}:{{.Tag}}"),
    "buildah": ("images", "--format", "{{.Name}}:{{.Tag}}"),
}
_LIST_TIMEOUT = 60.0


def _source(location: Location, access: Access) -> Source:
    # Not imported before it is needed, as in every transport: all of them are imported for each image.
    from ocifast.process import find_tool, run_tool
    from ocifast.sources.docker_archive import open_docker_archive

    tool = next((name for name in _TOOLS if find_tool(name) is not None), None)
    if tool is None:
        raise ImageNotFoundError(
            f"{location}: none of {', '.join(_TOOLS)} is installed, and the store is read by one of them",
            reference=location.text,
        )
    name = tagged(location)
    with spool(location) as (archive, held):
        words = [word.format(file=archive, name=name) for word in _TOOLS[tool]]
        try:
            run_tool([tool, *words], stall=daemon_timeout(access))
        except PackerError as error:
            # One that hung would hang again.
            has = _names(tool) if "status" in error.context else None
            if has is None or name in has or f"localhost/{name}" in has:
                raise HelperError(f"{location}: {error.message}", command=tool) from error
            from ocifast.platforms import listing

            raise ImageNotFoundError(
                f"{location}: the store has no image {name}; it has {listing(has) or 'none'}", reference=location.text
            ) from error
        return open_docker_archive(archive, name=location.text, held=held)


def _names(tool: str) -> list[str] | None:
    """The images of the store; None when they cannot be listed."""
    if tool not in _LISTS:
        return None
    from ocifast.process import run_helper

    try:
        found = run_helper([tool, *_LISTS[tool]], b"", _LIST_TIMEOUT).decode(errors="replace").split()
    except HelperError:
        return None
    return sorted({name for name in found if "<none>" not in name})


TRANSPORT = Transport(
    "containers-storage",
    "containers-storage:NAME[:TAG]",
    "an image in the store of podman and buildah",
    parse_name,
    _source,
    is_served=True,
)
