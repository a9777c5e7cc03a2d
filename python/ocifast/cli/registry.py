"""Options of the commands that speak to registries, and what becomes of them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ocifast.cli.options import together
from ocifast.errors import UsageError

if TYPE_CHECKING:
    from ocifast.sources.registry.options import RegistryOptions

__all__ = ["OPTION_NAMES", "make_options", "read_password", "registry_host", "registry_options", "seconds"]

Function = TypeVar("Function", bound=Callable[..., Any])
_LONGEST_PASSWORD = 1 << 16
OPTION_NAMES = (
    "username",
    "password_stdin",
    "auth_file",
    "registries_conf",
    "cert_dirs",
    "trusted_realms",
    "insecure",
    "connect_timeout",
    "read_timeout",
    "upload_timeout",
    "min_rate",
    "rate_window",
    "helper_timeout",
    "daemon_timeout",
)
"""As `registry_options` passes them on."""


def _show_requests(ctx: click.Context, _parameter: click.Parameter, value: bool) -> None:
    root = ctx.find_root()
    if value and isinstance(root.obj, dict) and not root.obj.get("verbose"):
        from ocifast.cli.verbose import show_requests

        root.obj["verbose"] = True
        root.call_on_close(show_requests())


def seconds(name: str, default: int, text: str) -> Callable[[Function], Function]:
    """An option that is a time, with its variable of the environment."""
    return click.option(
        name,
        envvar=f"OCIFAST_{name.lstrip('-').replace('-', '_').upper()}",
        metavar="SECONDS",
        type=click.FloatRange(min=0.1, max=1e6),
        default=default,
        show_default=True,
        help=f"{text}.",
    )


registry_options = together(
    click.option(
        "-v",
        "--verbose",
        is_flag=True,
        expose_value=False,
        callback=_show_requests,
        help="Show requests, mirrors and what is tried again, without secrets.",
    ),
    click.option(
        "-u",
        "--username",
        metavar="USER",
        help="User name; the password is asked for on a terminal, else read from standard input.",
    ),
    click.option(
        "--password-stdin",
        is_flag=True,
        help="Read the password from standard input, even a terminal; needs --username.",
    ),
    click.option(
        "--auth-file",
        metavar="FILE",
        type=click.Path(path_type=Path),
        help="Credentials in the format of Docker's config.json.  [default: those of docker, podman and skopeo]",
    ),
    click.option(
        "--registries-conf",
        metavar="FILE",
        type=click.Path(path_type=Path),
        help="Mirrors and plain-HTTP hosts, in the format of containers-registries.conf(5).",
    ),
    click.option(
        "--cert-dir",
        "cert_dirs",
        multiple=True,
        metavar="DIR",
        type=click.Path(exists=True, file_okay=False, path_type=Path),
        help="A folder of certificates by host, like /etc/docker/certs.d.",
    ),
    click.option(
        "--trust-realm",
        "trusted_realms",
        multiple=True,
        metavar="HOST",
        help="A token server on another host that may get the registry's password.",
    ),
    seconds("--connect-timeout", 15, "Wait so long for a connection"),
    seconds("--read-timeout", 60, "Wait so long for the next byte of an answer, and for all of its head"),
    seconds("--upload-timeout", 900, "Wait so long for the answer to the request that ends an upload"),
    click.option(
        "--min-rate",
        envvar="OCIFAST_MIN_RATE",
        metavar="BYTES",
        type=click.FloatRange(min=0),
        default=1024,
        show_default=True,
        help="Bytes a second that a body must bring at least, over --rate-window.",
    ),
    seconds("--rate-window", 300, "Look so long before --min-rate counts"),
    seconds("--helper-timeout", 60, "Wait so long for a credential helper"),
    seconds("--daemon-timeout", 900, "Wait so long for the first byte of a daemon's image, or of podman save"),
    click.option(
        "--insecure",
        is_flag=True,
        help="Do not check the certificate of the registry that is named, and speak plain HTTP where it has none.",
    ),
)
"""They are passed on as `make_options` takes them."""


def make_options(
    *hosts: str,
    username: str | None = None,
    password_stdin: bool = False,
    auth_file: Path | None = None,
    registries_conf: Path | None = None,
    cert_dirs: tuple[Path, ...] = (),
    trusted_realms: tuple[str, ...] = (),
    insecure: bool = False,
    **limits: Any,
) -> RegistryOptions:
    """What a command line says about registries.

    Args:
        hosts: the registries that the command names, as in references; `insecure` and the credential are theirs alone.
        username: with a password from standard input.
        password_stdin: says that it comes from there.
        auth_file: instead of the usual files.
        registries_conf: instead of the usual files.
        cert_dirs: besides the usual folders.
        trusted_realms: hosts.
        insecure: plain HTTP.
        limits: times and rates, by their names in `RegistryOptions`.

    Raises:
        UsageError: a user name for two registries, or without a password.
    """
    from ocifast.sources.registry.options import Credential, RegistryOptions

    credentials = {}
    if username is None and password_stdin:
        raise UsageError("--password-stdin needs --username")
    if username is not None:
        if len(set(hosts)) > 1:
            raise UsageError(
                f"--username is for one registry, not for {' and '.join(sorted(set(hosts)))}; log in instead"
            )
        credentials = {host: Credential(username, read_password(password_stdin)) for host in hosts}
    options = RegistryOptions(
        insecure=frozenset(host.lower() for host in hosts) if insecure else frozenset(),
        credentials=credentials,
        trusted_realms=frozenset(trusted_realms),
        auth_file=auth_file,
        registries_file=registries_conf,
        certificates=cert_dirs,
        **limits,
    )
    context = click.get_current_context(silent=True)
    if context is not None and isinstance(context.find_root().obj, dict):
        # Looked at by `main`, which asks what tags there are when one is missing.
        context.find_root().obj["registry"] = options
    return options


def options_for(image: str, registry: Mapping[str, Any]) -> RegistryOptions | None:
    """How the registry or store that an image is in is spoken to; None, and nothing loaded, for what is on disk.

    `registry` is what `registry_options` passed on.
    """
    from ocifast.sources.open import parse_location
    from ocifast.sources.transports import TRANSPORTS

    location = parse_location(image)
    if not TRANSPORTS[location.transport].is_served:
        return None
    return make_options(*([location.remote.host] if location.remote else []), **registry)


def read_password(from_stdin: bool) -> str:
    """The password: asked for on a terminal unless `from_stdin`, else all of standard input.

    Raises:
        UsageError: standard input is empty, or holds something else than a password.
    """
    if not from_stdin and sys.stdin.isatty():
        return str(click.prompt("Password", hide_input=True, err=True))
    # Keys of service accounts are some kilobytes of JSON; an archive would not end.
    try:
        text = sys.stdin.read(_LONGEST_PASSWORD + 1)
    except UnicodeDecodeError:
        text = "\0"
    # A line end belongs to the tool that wrote it, not to the password.
    password = text.rstrip("\r\n")
    if not password:
        raise UsageError("standard input holds no password; write it there, or log in first (`ocifast login`)")
    if len(text) > _LONGEST_PASSWORD or "\0" in text:
        raise UsageError("standard input holds no password but something else; log in first (`ocifast login`)")
    return password


def registry_host(text: str) -> str:
    """A registry's host as in references, from what people write for it: `docker.io`, `https://host:5000/v2/`.

    Raises:
        ImageReferenceError: it is no host.
    """
    from ocifast.errors import ImageReferenceError
    from ocifast.reference import Reference

    host = text.removeprefix("https://").removeprefix("http://").removesuffix("/")
    host = host.removesuffix("/v1").removesuffix("/v2").lower()
    if "/" in host:
        raise ImageReferenceError(f"{text!r} is not a registry's host: write HOST or HOST:PORT")
    try:
        found = Reference.parse(f"{host}/x").host
    except ImageReferenceError:
        found = ""
    if not host or found.partition("/")[0] != ("docker.io" if host == "index.docker.io" else host):
        raise ImageReferenceError(f"{text!r} is not a registry's host: write HOST or HOST:PORT")
    return found
