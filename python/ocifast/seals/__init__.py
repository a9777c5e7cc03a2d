"""Seals: what runs over a finished output before it is published, as dm-verity does.

One file per seal and one line in `SEALS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path

from ocifast.errors import UsageError
from ocifast.records import dataclass

__all__ = ["SEALS", "Seal", "SealRequest", "Sidecar", "apply_seals", "check_seal", "load_seals"]

SEALS: dict[str, str] = {
    "verity": "ocifast.seals.verity:SEAL",
}
"""Name of each seal, which is its option on the command line as well, and where its `Seal` is."""


@dataclass(frozen=True)
class SealRequest:
    """One run of a seal.

    Attributes:
        path: the finished file, which has no other name yet. The seal may write to it; the caller publishes it.
        format: of the file.
        digest: of the image; what salts and UUIDs are derived from, so that the same image gives the same bytes.
        threads: to use; changes nothing in the result.
        cancelled: whether to stop; asked now and then.
    """

    path: Path
    format: str
    digest: str
    threads: int = 1
    cancelled: Callable[[], bool] = lambda: False


@dataclass(frozen=True)
class Seal:
    """One kind of seal.

    Attributes:
        name: as in `SEALS`.
        version: counts the changes of what it writes; part of the key of a cached output.
        formats: that it can seal.
        apply: seals a file, and returns what must be known to open the seal, as "root_hash". Raises OutputError when it
            cannot; nothing is published then.
        about: help for its option.
    """

    name: str
    version: str
    formats: frozenset[str]
    apply: Callable[[SealRequest], Mapping[str, str]]
    about: str = ""


@dataclass(frozen=True)
class Sidecar:
    """A small file beside a sealed output, which says how to open it.

    Attributes:
        suffix: what follows the output's name.
        make: its bytes, of the output's properties.
    """

    suffix: str
    make: Callable[[Mapping[str, str]], bytes]


def load_seals(names: Sequence[str], form: str | None = None) -> tuple[Seal, ...]:
    """The seals of these names, in this order.

    Args:
        names: keys of `SEALS`.
        form: the format that they shall seal, if it is known.

    Raises:
        UsageError: there is no such seal, one is named twice, or one is not for this format.
    """
    found: list[Seal] = []
    for name in names:
        if name not in SEALS:
            raise UsageError(f"there is no seal {name!r}; there are {', '.join(SEALS) or 'none'}")
        if names.count(name) > 1:
            raise UsageError(f"the seal {name} is named twice")
        module, _, attribute = SEALS[name].partition(":")
        found.append(getattr(import_module(module), attribute))
        if form is not None:
            check_seal(found[-1], form)
    return tuple(found)


def check_seal(seal: Seal, form: str) -> None:
    """Raises UsageError when a seal is not for a format."""
    if form not in seal.formats:
        raise UsageError(f"the seal {seal.name} is not for {form}, but for {', '.join(sorted(seal.formats))}")


def apply_seals(seals: Sequence[Seal], request: SealRequest) -> dict[str, str]:
    """Seals a file, one seal over the other. Returns the properties of all."""
    properties: dict[str, str] = {}
    for seal in seals:
        properties |= seal.apply(request)
    return properties
