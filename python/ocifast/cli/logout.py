"""`ocifast logout`: a credential is forgotten."""

from __future__ import annotations

from pathlib import Path

import click

from ocifast.cli.display import report
from ocifast.cli.help import Command
from ocifast.cli.options import as_json

__all__ = ["command"]


@click.command(cls=Command)
@click.argument("host", metavar="HOST")
@click.option(
    "--auth-file",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="A file in the format of Docker's config.json.  [default: those of docker, podman and skopeo]",
)
@as_json
def command(host: str, *, auth_file: Path | None, as_json: bool) -> None:
    """Forget the credential of the registry HOST, in files and helpers."""
    from ocifast.cli.registry import registry_host
    from ocifast.errors import AuthenticationError
    from ocifast.sources.registry.credentials import forget
    from ocifast.sources.registry.options import RegistryOptions

    checked = registry_host(host)
    places = forget(checked, RegistryOptions(auth_file=auth_file))
    if not places:
        raise AuthenticationError(f"not logged in to {checked}")
    report({"host": checked, "removed": places}, as_json=as_json, text=f"logged out of {checked}: {', '.join(places)}")
