"""ELF files: what a program is for, what it needs, and whether an image can be made of it.

Only headers are read, however long the file is, and nothing is ever run. A file is taken when the kernel would load it;
all else is an `ElfError` that says why.
"""

from ocifast.elf.facts import Elf, inspect, require_runnable

__all__ = ["Elf", "inspect", "require_runnable"]
