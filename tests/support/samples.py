"""A tree with one of everything, for comparing formats."""

from __future__ import annotations

from struct import pack

from tests.support.layers import TarBuilder

ACL = pack("<I", 2) + b"".join(
    pack("<HHI", tag, permissions, name)
    for tag, permissions, name in [
        (0x01, 6, 0xFFFFFFFF),
        (0x02, 4, 1234),
        (0x04, 4, 0xFFFFFFFF),
        (0x08, 5, 70_000),
        (0x10, 5, 0xFFFFFFFF),
        (0x20, 0, 0xFFFFFFFF),
    ]
)
"""An access list as Linux's calls have it (linux/posix_acl_xattr.h): user 1234 reads, group 70000 reads and runs."""

CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")
"""security.capability: cap_net_bind_service, version 2 (linux/capability.h)."""


def everything() -> TarBuilder:
    """Every type, modes, big owners, all kinds of attributes, hard links, holes, odd names; times in whole seconds."""
    tar = TarBuilder()
    tar.directory(".", mode=0o1755, uid=5, gid=6, mtime=1_600_000_000)
    tar.directory("etc", mode=0o2750, uid=70_000, gid=4_000_000_000, mtime=1)
    tar.file("etc/passwd", b"root:x:0:0::/:/bin/sh\n", mode=0o640, mtime=2)
    tar.file("etc/empty", mtime=3)
    tar.file("setuid", b"#!/bin/sh\n", mode=0o6755, mtime=4, xattrs={"security.capability": CAPABILITY})
    tar.file("big", bytes(range(256)) * 20_000, mtime=5)
    tar.hard_link("etc/passwd-", "etc/passwd").hard_link("link", "etc/passwd")
    tar.symlink("short", "etc/passwd", uid=1, mtime=6).symlink("long", "t/" * 1000, mtime=7)
    tar.device("null", "char", 1, 3, mode=0o666, mtime=8).device("disk", "block", 259, 70_000, mtime=9)
    tar.fifo("pipe", mtime=10).hard_link("pipe-too", "pipe")
    tar.sparse("holes", [(0, b"a" * 512), (1 << 20, b"b" * 512), ((64 << 20) - 512, b"c" * 512)], 64 << 20, mtime=11)
    tar.file(b"n" * 255, b"long name", mtime=12).file(b"\xff\xfe\x01 \\", b"odd name", mtime=13)
    tar.file("attributes", b"x", mtime=14, xattrs={"user.a": b"1", "trusted.b": b"\x00\xff", "security.c": b"3" * 300})
    tar.file("acl", b"x", mode=0o650, mtime=15, xattrs={"system.posix_acl_access": ACL})
    tar.directory("acl-folder", mtime=16, xattrs={"system.posix_acl_default": ACL, "user.empty": b""})
    return tar
