"""What the library warns of through `logging` is told as everything else is: `ocifast: warning: ...`, in one line."""

from __future__ import annotations

from ocifast.logs import WARNING, when_used

__all__ = ["install"]


def install() -> None:
    """Takes the warnings of the package over, for one command, when there is the first one."""
    when_used("ocifast", WARNING, _install)


def _install() -> None:
    from ocifast.cli.handlers import take_warnings

    take_warnings()
