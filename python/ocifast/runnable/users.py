"""Users of an image without a system: what `/etc/passwd` and `/etc/group` need to say."""

from __future__ import annotations

from ocifast.runnable.checks import NUMBER

__all__ = ["user_files"]

NOBODY = 65532
"""The number of a user or group that only has a name; the one that distroless images call "nonroot"."""


def user_files(user: str) -> dict[str, bytes]:
    """`etc/passwd` and `etc/group` for a user, by path; none when the user and group are numbers.

    Args:
        user: checked by `checks.check_user`.
    """
    name, _, group = user.partition(":")
    if NUMBER.fullmatch(name) and (not group or NUMBER.fullmatch(group)):
        return {}
    gid = _number(group) if group else _number(name)
    passwd = ["root:x:0:0:root:/:/sbin/nologin"]
    if name != "root" and not NUMBER.fullmatch(name):
        passwd.append(f"{name}:x:{NOBODY}:{gid}::/:/sbin/nologin")
    groups = ["root:x:0:"]
    named = group or name
    if named != "root" and not NUMBER.fullmatch(named):
        groups.append(f"{named}:x:{gid}:")
    return {"etc/group": _lines(groups), "etc/passwd": _lines(passwd)}


def _number(text: str) -> int:
    if NUMBER.fullmatch(text):
        return int(text)
    return 0 if text == "root" else NOBODY


def _lines(lines: list[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()
