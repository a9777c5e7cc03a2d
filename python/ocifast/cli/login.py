"""`ocifast login`: a credential is tried and kept."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from ocifast.cli.display import report
from ocifast.cli.help import Command
from ocifast.cli.options import as_json
from ocifast.cli.registry import make_options, registry_options

__all__ = ["command"]


@click.command(cls=Command)
@click.argument("host", metavar="HOST")
@registry_options
@as_json
def command(
    host: str,
    *,
    username: str | None,
    as_json: bool,
    auth_file: Path | None,
    **registry: Any,
) -> None:
    """Try a user name and password at the registry HOST and keep them for all commands.

    They go where `docker login` keeps them: into the credential helper that is configured for the host, else into
    config.json, readable by you alone.
    """
    from ocifast.cli.registry import registry_host
    from ocifast.errors import UsageError
    from ocifast.sources.registry import check_login
    from ocifast.sources.registry.credentials import remember

    checked = registry_host(host)
    if username is None:
        if not sys.stdin.isatty():
            raise UsageError("name the user with --username")
        username = str(click.prompt("Username", err=True))
    options = make_options(checked, username=username, auth_file=auth_file, **registry)
    taken = check_login(checked, options)
    place = remember(checked, options.credentials[checked], options)
    report(
        {"host": checked, "username": username, "stored": place, "checked": taken},
        as_json=as_json,
        text=f"logged in to {checked} as {username}; kept in {place}"
        if taken
        else f"kept in {place} for {checked}, but not checked: it let us in without a password",
    )
