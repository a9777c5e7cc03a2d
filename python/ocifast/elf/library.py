"""The parts of pyelftools that are used. pyelftools imports a debugger for its own developers, which is left out."""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

__all__ = ["ELFStructs", "struct_parse"]


class _Later(ModuleType):
    """A module that gives way to the real one as soon as somebody, whoever it is, asks for anything in it.

    The standard library's `LazyLoader` would load it with the next `import` statement.
    """

    def __getattr__(self, name: str) -> Any:
        if sys.modules.get(self.__name__) is self:
            sys.modules.pop(self.__name__, None)
        return getattr(import_module(self.__name__), name)


sys.modules.setdefault("pdb", _Later("pdb"))

from elftools.common.utils import struct_parse  # noqa: E402
from elftools.elf.structs import ELFStructs  # noqa: E402
