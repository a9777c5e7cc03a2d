"""The command, as `ocifast` and as `python -m ocifast`."""

from __future__ import annotations

import atexit
import gc
import os
import signal
import sys
import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

__all__ = ["run"]


def run() -> NoReturn:
    """Runs the command line of this process and exits with its status; see `ocifast.cli.main`."""
    # Until the command line takes care of signals, an interrupt ends the process without a word: there is nothing to
    # clean up while modules are imported, and a traceback would tell of their insides.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, lambda *_: os._exit(128 + signal.SIGINT))
    # What a command imports lives as long as the command. Looking through all of it for garbage, while it is imported
    # and once more at the exit, was a seventh of the run on a tiny image.
    gc.set_threshold(100_000, 50, 100)
    from ocifast.cli import STOPS, Stopped, main

    try:
        status = main()
        # All is done and told: a signal while the interpreter takes itself down changes nothing.
        for number in STOPS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, lambda *_: os._exit(status))
    except Stopped as stopped:
        status = stopped.status
    gc.freeze()
    _leave(status)
    sys.exit(status)


def _leave(status: int) -> None:
    """Exits at once where only the interpreter is left to be taken down, which is a twentieth of a short run.

    What is registered for the exit has its turn. Other threads, a debugger and a profiler have theirs in the ordinary
    way, and so has a standard stream that fails.
    """
    if threading.active_count() > 1 or sys.gettrace() or sys.getprofile() or os.environ.get("OCIFAST_DEBUG"):
        return
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        return
    os._exit(status)


if __name__ == "__main__":
    run()
