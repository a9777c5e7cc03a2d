"""A folder beside a disk, with what a machine monitor starts it by: kernel, initrd, UKI, command line."""

from __future__ import annotations

import contextlib
import os
from contextlib import ExitStack
from pathlib import Path

from ocifast.atomic import NewFile, reported, sweep_folder
from ocifast.errors import FileError, UsageError
from ocifast.file_data import clone_file
from ocifast.refusals import flush_folder

__all__ = ["KernelFolder"]

_NAMES = ("vmlinuz", "initrd", "uki.efi", "cmdline")
"""All that is ever written there."""


class KernelFolder:
    """A folder that may exist; what else is in it is left alone.

    Raises:
        UsageError: there is something else.
        FileError: there is no folder that it could be in.
    """

    def __init__(self, shown: str) -> None:
        self._path = Path(os.path.realpath(shown))
        if not self._path.is_dir():
            if os.path.lexists(self._path):
                raise UsageError(f"{shown} is there and is no directory")
            if not self._path.parent.is_dir():
                raise FileError(f"{shown}: there is no folder {self._path.parent}", path=shown)

    def publish(self, staged: Path, *, sync: bool = True) -> None:
        """Moves the files of another folder to their names here, once all of them are there.

        Files of an earlier run are replaced, or removed when this run has no file of that name. With `sync` all are on
        the disk.

        Raises:
            FileError: one cannot be written; as a rule all are then as they were.
        """
        with reported(self._path), ExitStack() as stack:
            is_new = not self._path.exists()
            self._path.mkdir(exist_ok=True)
            if is_new:
                # Stays where there is something in it.
                stack.callback(self._remove_empty)
            sweep_folder(self._path)
            made = {}
            for name in sorted(path.name for path in staged.iterdir()):
                made[name] = stack.enter_context(NewFile(self._path, sync=sync))
                with (staged / name).open("rb", buffering=0) as source:
                    clone_file(source.fileno(), made[name].fd)
            for name, file in made.items():
                file.publish(self._path / name)
            for name in set(_NAMES) - set(made):
                (self._path / name).unlink(missing_ok=True)
            if sync:
                flush_folder(self._path)

    def _remove_empty(self) -> None:
        with contextlib.suppress(OSError):
            self._path.rmdir()
