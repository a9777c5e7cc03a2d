"""What a file system, a container or a kernel may refuse: the table of docs/refusals.md, each row in every command."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.documents import listing
from tests.support.images import build_image, write_layout
from tests.support.layers import TarBuilder
from tests.support.oracle import Node, format_dump, read_directory
from tests.support.refusal import refusing
from tests.support.registry import Registry
from tests.support.run import run, tool
from tests.test_docs import table_rows, text

LOWER = (
    TarBuilder()
    .directory("./", mode=0o755, uid=1, gid=2)
    .file("bin/ping", b"ping" * 30_000, mode=0o4755, uid=5, gid=6, xattrs={"user.a": b"1"})
    .hard_link("bin/alias", "bin/ping")
    .symlink("bin/soft", "ping", uid=5)
    .sparse("hole", [(0, b"a" * 512), (1 << 20, b"b" * 512)], 2 << 20)
    .device("dev/null", "char", 1, 3, mode=0o666)
    .fifo("run/fifo", mode=0o622)
    .file("gone", b"x" * 9000)
)
UPPER = TarBuilder().directory("bin", mode=0o555).whiteout("gone").file("etc/passwd", b"root:x:0:0::/:/bin/sh\n")

FILES = ("tar", "cpio", "erofs", "erofs-zstd", "squashfs", "ext4")


@dataclass(frozen=True)
class Row:
    """One line of the documented table."""

    call: str
    answers: tuple[str, ...]
    outputs: tuple[str, ...]
    losses: frozenset[str]
    refused: bool

    @staticmethod
    def parse(cells: list[str]) -> Row:
        call, answers, outputs, done = cells
        head = re.split(r"[;:]", done)[0]
        kinds = frozenset(re.findall(r"`(\w+)`", head))
        assert bool(kinds) == head.startswith("loss"), done
        assert head.split()[0].rstrip(",") in ("loss", "refused", "without"), done
        named = () if outputs == "none" else tuple(outputs.split(", "))
        return Row(call.strip("`"), tuple(answers.split(", ")), named, kinds, head == "refused")


ROWS = [Row.parse(cells) for cells in table_rows(text("docs/refusals.md"), "call")]
CASES = [(row, answer) for row in ROWS for answer in row.answers]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, registry: Registry) -> tuple[str, str]:
    """The image in a layout, and in a registry."""
    image = build_image([LOWER, UPPER])
    layout = write_layout(tmp_path_factory.mktemp("refusals") / "layout", image)
    return f"oci:{layout}:app", registry.put(image, "refusals/image:1")


def commands(images: tuple[str, str], out: Path) -> dict[str, list[str]]:
    """All that writes, reads or cleans up, each with an output of its own in `out`."""
    layout, remote = images
    return {
        "dir": ["compile", layout, f"{out}/dir", "--no-cache", "--json"],
        **{
            name: ["compile", layout, f"{out}/{name}", "-f", *how, "--no-cache", "--json"]
            for name, how in {
                **{name: [name] for name in FILES if "-" not in name},
                "erofs-zstd": ["erofs", "--compression", "zstd"],
            }.items()
        },
        "fetched": ["compile", remote, f"{out}/fetched", "-f", "erofs", "--json"],
        "cached": ["compile", remote, f"{out}/cached", "-f", "erofs", "--json"],
        "layout": ["copy", layout, f"oci:{out}/layout:1"],
        "added": ["copy", remote, f"oci:{out}/layout:2"],
        "oci-archive": ["copy", layout, f"oci-archive:{out}/oci-archive:1"],
        "docker-archive": ["copy", layout, f"docker-archive:{out}/docker-archive:x:1"],
        "runnable": ["runnable", tool("busybox"), "-o", f"{out}/runnable"],
        "ls": ["ls", layout],
        "cat": ["cat", layout, "/etc/passwd"],
        "info": ["cache", "info"],
        "prune": ["cache", "prune", "--max-size", "0"],
        "clear": ["cache", "clear"],
    }


def outcome(folder: Path, images: tuple[str, str], env: Mapping[str, str]) -> tuple[dict[str, Any], Path]:
    """What came of all commands, and the folder of their outputs."""
    (folder / "out").mkdir()
    asked = json.dumps(commands(images, folder / "out")).encode()
    env = {**env, "TMPDIR": str(folder), "OCIFAST_CACHE_DIR": str(folder / "cache")}
    script = Path(__file__).parent / "support/refused_run.py"
    told = json.loads(run(sys.executable, script, stdin=asked, cwd=folder, env=env))
    return told, folder / "out"


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory, images: tuple[str, str]) -> tuple[dict[str, Any], Path]:
    """What comes of all commands where nothing is refused."""
    told, out = outcome(tmp_path_factory.mktemp("usual"), images, {})
    assert {name: result["status"] for name, result in told.items()} == dict.fromkeys(told, 0)
    return told, out


def masked(nodes: Collection[Node], losses: Collection[str]) -> str:
    """The dump of a tree without what was lost."""

    def mask(node: Node) -> Node:
        if "owner" in losses:
            node = replace(node, uid=0, gid=0, mode=node.mode & ~0o6000)
        if "mode" in losses:
            node = replace(node, mode=0)
        if "xattr" in losses:
            node = replace(node, xattrs=())
        return replace(node, mtime=0) if "mtime" in losses else node

    gone = {"char": "device", "block": "device", "fifo": "fifo"}
    return format_dump([mask(node) for node in nodes if gone.get(node.type) not in losses])


def names(folder: Path) -> set[str]:
    """What stands in a folder."""
    return {path.name for path in folder.iterdir()}


def lost(result: dict[str, Any]) -> set[str]:
    """Kinds of losses that a command has told of."""
    return {loss["kind"] for loss in json.loads(result["out"])["losses"]}


def content(path: Path, losses: Collection[str] = ()) -> str | bytes:
    """What stands at a path."""
    if path.name == "layout":
        return "".join(f"{name}\n" for name in listing(path))
    return masked(read_directory(path), losses) if path.is_dir() else path.read_bytes()


@pytest.mark.root
@pytest.mark.parametrize(("row", "answer"), CASES, ids=[f"{row.call}-{answer}" for row, answer in CASES])
def test_what_is_refused(
    row: Row, answer: str, tmp_path: Path, images: tuple[str, str], usual: tuple[dict[str, Any], Path]
) -> None:
    before, made = usual
    told, out = outcome(tmp_path, images, refusing(**{row.call: answer}))
    for name, result in told.items():
        concerned = name in row.outputs
        if concerned and row.refused:
            assert result["status"] == 1, (name, result)
            assert re.fullmatch(r"ocifast: error: (?!unexpected).*\n", result["err"]), (name, result)
            continue
        assert result["status"] == 0, (name, result)
        if result["out"].startswith("{"):
            usually = lost(before[name])
            assert lost(result) == (usually | row.losses if concerned else usually), (name, result)
        place = out / name
        if place.exists():
            losses = row.losses if concerned else frozenset()
            assert content(place, losses) == content(made / name, losses), name
        else:
            assert result["out"].count("\n") == before[name]["out"].count("\n"), name
    refused = set(row.outputs) if row.refused else set()
    assert names(out) == names(made) - refused
    assert names(tmp_path) == {"cache", "out"}


@pytest.mark.root
@pytest.mark.parametrize(
    ("call", "answer"),
    [
        *((call, answer) for call in ("mkdir", "rename") for answer in ("EROFS", "EDQUOT", "EIO")),
        *(("pwrite64", answer) for answer in ("ENOSPC", "EDQUOT", "EIO", "EFBIG")),
        ("fsync", "EIO"),
        ("ftruncate", "EPERM"),
        *(("clone3", answer) for answer in ("EAGAIN", "EPERM")),
        ("pipe2", "EMFILE"),
        ("socket", "EPERM"),
    ],
)
def test_what_nothing_goes_on_without(
    call: str, answer: str, tmp_path: Path, images: tuple[str, str], usual: tuple[dict[str, Any], Path]
) -> None:
    _, made = usual
    told, out = outcome(tmp_path, images, refusing(**{call: answer}))
    assert any(result["status"] == 1 for result in told.values())
    for name, result in told.items():
        assert result["status"] in (0, 1), (name, result)
        lines = [line for line in result["err"].splitlines() if line.startswith("ocifast: error:")]
        if result["status"] == 1:
            assert re.fullmatch(r"ocifast: error: (?!unexpected).{20,}", lines[-1]), (name, result)
            assert len(lines) == 1, (name, result)
            assert result["out"].startswith('{"error"') or not result["out"], (name, result)
        else:
            assert not lines, (name, result)
        place = out / name
        if place.exists() and result["status"] == 0 and name != "layout":
            assert content(place) == content(made / name), name
        # An output that could not be flushed has its name all the same; that is said.
        assert result["status"] == 0 or name == "layout" or not place.exists(), (name, result)
    assert not [path for path in out.rglob(".*") if path.name.startswith(".ocifast-")]
    assert names(tmp_path) <= {"cache", "out"}
