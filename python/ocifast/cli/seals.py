"""Options of `compile` about seals: one for each, and those of what is written beside a sealed output."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from ocifast.cli.options import together
from ocifast.seals import SEALS, load_seals

__all__ = ["chosen_seals", "seal_options"]

Command = TypeVar("Command", bound=Callable[..., Any])


def seal_options(command: Command) -> Command:
    """Adds the options, whose values `chosen_seals` takes."""
    options = [click.option(f"--{seal.name}", f"seal_{seal.name}", is_flag=True, help=seal.about) for seal in _all()]
    options += [
        click.option("--verity-file", is_flag=True, help="Write OUTPUT.verity too, which says as JSON how to open it."),
        click.option(
            "--sign-verity",
            metavar="KEY,CERT",
            help="Sign the root hash for the kernel, into OUTPUT.verity.p7s: a private key and its certificate.",
        ),
    ]
    decorated: Command = together(*options)(command)
    return decorated


def chosen_seals(values: dict[str, Any]) -> dict[str, Any]:
    """Takes the values of the options out of those of all, and returns them as `CompileOptions` has them."""
    names = [seal.name for seal in _all() if values.pop(f"seal_{seal.name}")]
    beside, sign = values.pop("verity_file"), values.pop("sign_verity")
    key, comma, certificate = (sign or ",").partition(",")
    if sign is not None and not (comma and key and certificate):
        raise click.UsageError(f"--sign-verity takes a key and a certificate, KEY,CERT, not {sign!r}")
    if (beside or sign) and "verity" not in names:
        names.append("verity")
    return {
        "seals": tuple(names),
        "verity_file": beside,
        "sign_verity": (key, certificate) if sign else None,
    }


def _all() -> tuple[Any, ...]:
    return load_seals(tuple(SEALS))
