"""Runnables: executables that become an image.

    Runnable("./hello", env={"TZ": "UTC"}).push("ghcr.io/org/hello:1")

The image holds the executable at `/NAME`, and what was asked for besides; nothing else of the machine it is built on.
The same files and options give the same bytes on every machine and every day.
"""

from ocifast.runnable.build import BuiltImage, BuiltRunnable
from ocifast.runnable.options import RunnableOptions
from ocifast.runnable.runnable import Runnable

__all__ = ["BuiltImage", "BuiltRunnable", "Runnable", "RunnableOptions"]
