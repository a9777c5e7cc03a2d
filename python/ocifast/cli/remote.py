"""Options of commands that share what they make through a remote cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ocifast.cli.options import together

__all__ = ["remote_choices", "remote_options"]

remote_options = together(
    click.option(
        "--remote-cache",
        metavar="PLACE",
        help="Look for outputs and decoded layers in HOST/REPOSITORY or oci:DIR, and push there what was made.",
    ),
    click.option("--remote-read-only", is_flag=True, help="Push nothing to the remote cache."),
    click.option(
        "--sign-key",
        metavar="KEY",
        type=click.Path(dir_okay=False, path_type=Path),
        help="Sign what is pushed to the remote cache with this private key (PEM).",
    ),
)
"""They are passed on as `remote_choices` takes them."""


def remote_choices(others: dict[str, Any]) -> dict[str, Any]:
    """The fields of `CompileOptions` that the options say, taken out of what a command got."""
    key = others.pop("sign_key")
    return {
        "remote_cache": others.pop("remote_cache"),
        "remote_read_only": others.pop("remote_read_only"),
        "sign_key": None if key is None else str(key),
    }
