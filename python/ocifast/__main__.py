"""The command, as `ocifast` and as `python -m ocifast`."""

from __future__ import annotations

import gc
import sys
from typing import NoReturn

__all__ = ["run"]


def run() -> NoReturn:
    """Runs the command line of this process and exits with its status; see `ocifast.cli.main`."""
    # What a command imports lives as long as the command. Looking through all of it for garbage, while it is imported
    # and once more at the exit, was a seventh of the run on a tiny image.
    gc.set_threshold(100_000, 50, 100)
    from ocifast.cli import main

    status = main()
    gc.freeze()
    sys.exit(status)


if __name__ == "__main__":
    run()
