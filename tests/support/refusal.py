"""Has system calls refused, as file systems, containers and kernels do: a library that is loaded into our command."""

from __future__ import annotations

import errno
import os
import tempfile
from functools import cache
from pathlib import Path

from tests.support.run import run

__all__ = ["FAMILIES", "IGNORED", "refusing"]

IGNORED = "ignored"
"""In place of an errno: the call says that it was done, and was not, as on vfat or CIFS."""

FAMILIES: dict[str, tuple[str, ...]] = {
    "chmod": ("fchmod", "fchmodat", "fchmodat2", "?chmod"),
    "chown": ("fchown", "fchownat", "?chown", "?lchown"),
    "link": ("linkat", "?link"),
    "mknod": ("mknodat", "?mknod"),
    "mkdir": ("mkdirat", "?mkdir"),
    "rename": ("renameat", "renameat2", "?rename"),
    "setxattr": ("fsetxattr", "lsetxattr", "setxattr"),
    "symlink": ("symlinkat", "?symlink"),
    "unlink": ("unlinkat", "?unlink", "?rmdir"),
    "utimens": ("utimensat",),
}
"""What people call one thing, and the system calls that do it; those with `?` are not in every architecture."""


def refusing(**answers: str) -> dict[str, str]:
    """The environment in which these calls, or families of calls, are answered with the errno of that name."""
    items = []
    for name, answer in answers.items():
        number = 0 if answer == IGNORED else int(getattr(errno, answer))
        for call in FAMILIES.get(name, (name,)):
            if call.startswith("?") and os.uname().machine != "x86_64" and call != "fchmodat2":
                continue
            items.append(f"{call.lstrip('?')}={number}")
    return {"LD_PRELOAD": str(_library()), "REFUSED": ",".join(items)}


@cache
def _library() -> Path:
    place = Path(tempfile.mkdtemp(prefix="ocifast-tests-")) / "refusal.so"
    run("cc", "-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-o", place, Path(__file__).with_name("refusal.c"))
    place.parent.chmod(0o755)
    return place
