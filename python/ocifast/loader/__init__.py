"""What the dynamic loader would load for an executable, found out without running anything.

The rules are those of glibc's ld.so (ld.so(8), "DESCRIPTION") and of musl's; the environment (`LD_LIBRARY_PATH`,
`LD_PRELOAD`) and the processor of this machine have no say, so that the same files give the same result everywhere.
"""

from ocifast.loader.closure import Library, resolve

__all__ = ["Library", "resolve"]
