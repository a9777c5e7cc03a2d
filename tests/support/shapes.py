"""Layers in which one thing takes every shape that it can have."""

from __future__ import annotations

import hashlib

from tests.support.layers import TarBuilder

__all__ = ["attributes", "contents", "holes", "names", "owners", "sizes", "targets", "times"]


def times() -> TarBuilder:
    tar = TarBuilder()
    for seconds, nanoseconds in [(-1, 1), (-(1 << 33), 5), (0, 0), (1_700_000_000, 0), (1 << 34, 999_999_999)]:
        tar.file(f"at{seconds}", b"x" * 5000, mtime=(seconds, nanoseconds))
        tar.directory(f"folder{seconds}", mtime=(seconds, nanoseconds))
    return tar


def owners() -> TarBuilder:
    tar = TarBuilder()
    for number in (0, 65_535, 65_536, (1 << 32) - 2):
        tar.file(f"{number}", uid=number, gid=number, mode=0o7777).symlink(f"link{number}", "x", uid=number)
        tar.device(f"device{number}", "char", 4095, (1 << 20) - 1, gid=number)
    return tar


def sizes() -> TarBuilder:
    """Around what fits behind an inode, of every form."""
    tar = TarBuilder()
    for size in [0, 1, *range(4020, 4102), 8191, 8192, 8193, 65_537, 1 << 20, (1 << 20) + 4000]:
        data = b"%08d" % size * (size // 8 + 1)
        tar.file(f"{size}", data[:size], mtime=1_700_000_000).file(f"long{size}", data[:size])
        tar.file(f"with{size}", data[:size], xattrs={"user.a": b"1" * 40})
    return tar


def targets() -> TarBuilder:
    tar = TarBuilder()
    for length in (1, 59, 60, 4030, 4031, 4032, 4033, 4094, 4095):
        tar.symlink(f"{length}", "t" * length).symlink(f"short{length}", "t" * length, mtime=1_700_000_000)
    return tar


def names() -> TarBuilder:
    tar = TarBuilder()
    for name in (b"!", b"+", b".\x01", b".-", b"..\x01", b"...", b"..a", b".a", b"\x7f", b"\xff\xfe\n\x80", b"n" * 255):
        tar.file(b"order/" + name, name)
    for number in range(700):
        tar.file(b"folder/%d-%s" % (number, b"\xe9" * (number % 250)))
    return tar.file("/".join(["d" * 200] * 15) + "/deep", b"deep")


def attributes() -> TarBuilder:
    """Attributes behind the inode, shared, too large for a block, and more than one inode can refer to."""
    tar = TarBuilder()
    for number in range(300):
        tar.file(
            f"shared/{number}", xattrs={"security.selinux": b"system_u:object_r:usr_t:s0\0", "user.same": b"s" * 200}
        )
    tar.file("four", b"x" * 3000, xattrs={f"user.{number}": b"v" * 900 for number in range(4)})
    tar.file("huge", b"x" * 3000, xattrs={"user.huge": b"h" * 65_535, "user.small": b"1", "trusted.x": b"2" * 5000})
    tar.file("many", b"x" * 3000, xattrs={f"user.{number}": b"%d" % number for number in range(700)})
    tar.directory(".", xattrs={"user.root": b"r" * 20_000})
    tar.symlink("sym", "to", xattrs={"trusted.of-a-link": b"l" * 500})
    return tar.fifo("pipe", xattrs={"trusted.of-a-pipe": b"p"})


def holes() -> TarBuilder:
    tar = TarBuilder()
    block = 4096
    maps = {
        "even": [(0, 8 * block), (64 * block, 8 * block)],
        "odd": [(block, block), (5 * block, 3 * block)],
        "inside": [(100, 100), (20 * block + 5, 3000), (20 * block + 3500, 10_000)],
        "none": [],
    }
    for name, extents in maps.items():
        data = [(offset, bytes([65 + index]) * length) for index, (offset, length) in enumerate(extents)]
        tar.sparse(name, data, 80 * block + 7)
    return tar


def contents() -> TarBuilder:
    """Files that compress well, badly and in part, of sizes around those of blocks and clusters."""
    tar = TarBuilder()
    text = b" ".join(b"%d squared is %d" % (number, number * number) for number in range(60_000))
    noise = b"".join(hashlib.sha256(b"%d" % number).digest() for number in range(60_000))
    for size in [1, 3000, 4095, 4096, 4097, 8192, 16_385, 65_536, 131_071, 131_073, 1 << 20, (1 << 20) + 5000]:
        tar.file(f"text{size}", text[:size]).file(f"noise{size}", noise[:size]).file(f"zero{size}", bytes(size))
        tar.file(f"mixed{size}", text[: size // 2] + noise[: size - size // 2], xattrs={"user.a": b"1" * 30})
    return tar.file("large", text + bytes(5_000_000) + noise + text, mtime=1_700_000_000)
