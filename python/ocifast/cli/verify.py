"""Options that say how an image must be signed, and what becomes of them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from ocifast.cli.options import together

__all__ = ["verify_options"]

Function = TypeVar("Function", bound=Callable[..., Any])

_options = together(
    click.option(
        "--verify-key",
        "verify_keys",
        multiple=True,
        metavar="KEY.pub",
        type=click.Path(path_type=Path),
        help="Use the image only when it is signed by this key, as by cosign. Given several times: by one of them.",
    ),
    click.option(
        "--policy",
        metavar="FILE",
        type=click.Path(path_type=Path),
        help="Use the image only when this policy allows it, in the format of containers-policy.json(5).",
    ),
)


def verify_options(function: Function) -> Any:
    """Adds the options; the command gets `verify`, an `ocifast.Verification` or None."""

    @functools.wraps(function)
    def command(*arguments: Any, verify_keys: tuple[Path, ...], policy: Path | None, **options: Any) -> Any:
        verify = None
        if verify_keys or policy is not None:
            from ocifast.signatures import Verification

            verify = Verification(verify_keys, policy)
        return function(*arguments, verify=verify, **options)

    return _options(command)
