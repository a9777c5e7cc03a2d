"""Edits: files added, paths left out, owners changed, on the way from an image to a filesystem."""

from __future__ import annotations

import gzip
import hashlib
import os
import pickle
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ocifast import _core
from ocifast.cli.edits import make_edits
from ocifast.compiler import CompileOptions, CompilePlan, compile_image
from ocifast.edits import Addition, Edits, prepare
from ocifast.errors import SizeMismatchError
from ocifast.packers import PackOptions

from tests.support.images import build_image, write_layout
from tests.support.layers import TarBuilder
from tests.support.oracle import dump_cpio, dump_directory, dump_mounted, dump_tar
from tests.support.pack import PLAIN_FORMATS
from tests.support.registry import Registry
from tests.support.run import COMMAND, attempt, run

UNCACHED = CompileOptions(cache=False)
WITH_DIGEST = CompileOptions(cache=False, tree_digest=True)
SECRET = b"the password is swordfish; " * 400
NEVER = b"nobody may read this either. " * 3


@pytest.fixture
def image(tmp_path: Path) -> str:
    """An image of two layers, made at second 100."""
    lower = TarBuilder().directory("./", mode=0o755, mtime=1).directory("etc/", mode=0o755, mtime=2)
    lower.file("etc/passwd", b"root:x:0:0::/:/bin/sh\n", mode=0o644, mtime=3)
    lower.directory("usr/", mode=0o755, mtime=2).directory("usr/sbin/", mode=0o750, uid=1, mtime=2)
    lower.symlink("sbin", "usr/sbin", mtime=2).file("usr/sbin/old", b"old", mode=0o4755, uid=5, gid=6, mtime=4)
    lower.directory("tmp/", mode=0o1777, mtime=5)
    upper = TarBuilder().directory("doc/", mode=0o755, mtime=6).file("doc/secret", SECRET, mode=0o644, mtime=7)
    upper.file("doc/small", NEVER, mode=0o644, mtime=7).file("doc/keep", b"kept", mode=0o644, mtime=7)
    built = build_image(
        [lower, upper],
        config={"Entrypoint": ["/sbin/agent"], "User": "app"},
        edit_config=lambda config: config.update(created="1970-01-01T00:01:40Z"),
    )
    return f"oci:{write_layout(tmp_path / 'layout', built)}:app"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Files to add, younger than the image."""
    folder = tmp_path / "source"
    (folder / "tree/inner").mkdir(parents=True)
    (folder / "tree").chmod(0o755)
    (folder / "tree/inner").chmod(0o700)
    (folder / "agent").write_bytes(b"agent")
    (folder / "agent").chmod(0o6711)
    (folder / "tree/inner/key").write_bytes(b"key")
    (folder / "tree/inner/key").chmod(0o600)
    (folder / "tree/link").symlink_to("inner/key")
    (folder / "lower/sbin").mkdir(parents=True)
    (folder / "lower/tmp").mkdir(mode=0o700)
    (folder / "lower/new").mkdir(mode=0o700)
    (folder / "lower/sbin/below").write_bytes(b"below")
    (folder / "lower/sbin/below").chmod(0o644)
    return folder


def line(path: str, kind: str, mode: int, ids: str, time: int, *, link: str = "-", data: bytes | None = None) -> str:
    """A line of the dump."""
    sha256 = "-" if data is None else hashlib.sha256(data).hexdigest()
    return f"{path} {kind} {mode:04o} {ids.replace(':', ' ')} {time}.000000000 - {link} - {sha256}"


PASSWD = b"root:x:0:0::/:/bin/sh\n"
BASE = {
    "/": line("/", "directory", 0o755, "0:0", 1),
    "/etc": line("/etc", "directory", 0o755, "0:0", 2),
    "/etc/passwd": line("/etc/passwd", "file", 0o644, "0:0", 3, data=PASSWD),
    "/sbin": line("/sbin", "symlink", 0o777, "0:0", 2, link="usr/sbin"),
    "/tmp": line("/tmp", "directory", 0o1777, "0:0", 5),
    "/usr": line("/usr", "directory", 0o755, "0:0", 2),
    "/usr/sbin": line("/usr/sbin", "directory", 0o750, "1:0", 2),
    "/usr/sbin/old": line("/usr/sbin/old", "file", 0o4755, "5:6", 4, data=b"old"),
}
"""The image without `doc`."""


def expected(*changes: str, without: Sequence[str] = ()) -> str:
    """The dump of the image without `doc`, with lines added or replaced."""
    lines = {**BASE, **{change.split(" ")[0]: change for change in changes}}
    kept = (text for path, text in sorted(lines.items(), key=lambda item: item[0].split("/")) if path not in without)
    return "".join(text + "\n" for text in kept)


def edited(image: str, out: Path, edits: Edits) -> str:
    compile_image(image, out, options=UNCACHED, edits=edits)
    return dump_directory(out)


@pytest.mark.root
def test_added_files_take_part_in_the_tree(image: str, source: Path, tmp_path: Path) -> None:
    edits = Edits(
        add=[
            (source / "agent", "/sbin/"),
            Addition(f"{source}/tree/", "/opt/a/b", owner=(7, 8)),
            Addition(f"{source}/agent", "/agent", mode=0o4755, owner=(1, 2)),
            (source / "tree/link", "/etc/link"),
            (f"{source}/lower/", "/"),
        ],
        exclude=["doc"],
    )
    assert edited(image, tmp_path / "out", edits) == expected(
        line("/agent", "file", 0o4755, "1:2", 100, data=b"agent"),
        line("/etc/link", "symlink", 0o777, "0:0", 100, link="inner/key"),
        line("/new", "directory", 0o700, "0:0", 100),
        line("/opt", "directory", 0o755, "0:0", 0),
        line("/opt/a", "directory", 0o755, "0:0", 0),
        line("/opt/a/b", "directory", 0o755, "7:8", 100),
        line("/opt/a/b/inner", "directory", 0o700, "7:8", 100),
        line("/opt/a/b/inner/key", "file", 0o600, "7:8", 100, data=b"key"),
        line("/opt/a/b/link", "symlink", 0o777, "7:8", 100, link="inner/key"),
        # Set-id bits of this machine are nobody's there.
        line("/usr/sbin/agent", "file", 0o711, "0:0", 100, data=b"agent"),
        line("/usr/sbin/below", "file", 0o644, "0:0", 100, data=b"below"),
    )


@pytest.mark.root
def test_times_are_the_images_or_the_epochs_or_kept(
    image: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.utime(source / "agent", ns=(0, 1_234_567_890_000_000_005))
    add = [Addition(str(source / "agent"), "/a"), Addition(str(source / "agent"), "/b", keep_mtime=True)]

    def times(out: Path) -> list[str]:
        lines = edited(image, out, Edits(add=add)).splitlines()
        return [text.split(" ")[5] for text in lines if text.startswith(("/a ", "/b "))]

    assert times(tmp_path / "one") == ["100.000000000", "1234567890.000000005"]
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "5000")
    assert times(tmp_path / "two") == ["5000.000000000", "5000.000000000"]


@pytest.mark.root
def test_layers_come_on_top_with_their_whiteouts(image: str, source: Path, tmp_path: Path) -> None:
    layer = TarBuilder().file("agent", b"newer", mode=0o600, mtime=50).file("usr/.wh.sbin", b"").file(".wh.doc", b"")
    (tmp_path / "plain.tar").write_bytes(layer.build())
    (tmp_path / "gzip.tar.gz").write_bytes(gzip.compress(layer.build()))
    want = expected(line("/agent", "file", 0o600, "0:0", 50, data=b"newer"), without=["/usr/sbin", "/usr/sbin/old"])
    for name in ("plain.tar", "gzip.tar.gz"):
        edits = Edits(add=[(source / "agent", "/agent")], layers=[tmp_path / name])
        assert edited(image, tmp_path / f"out-{name.partition('.')[0]}", edits) == want
    run(COMMAND, "compile", "--no-cache", "--layer", "-", image, tmp_path / "piped", stdin=layer.build())
    assert dump_directory(tmp_path / "piped") == want


@pytest.mark.root
def test_owners_mount_points_and_a_subtree(image: str, tmp_path: Path) -> None:
    edits = Edits(exclude=["doc"], owner=(1, 2), id_offset=1000, mount_points=True)
    moved = [text.replace(" 0 0 ", " 1001 1002 ").replace(" 1 0 ", " 1001 1002 ") for text in BASE.values()]
    moved[-1] = line("/usr/sbin/old", "file", 0o755, "1001:1002", 4, data=b"old")
    made = [
        line(path, "directory", mode, "1001:1002", 100)
        for path, mode in [("/dev", 0o755), ("/proc", 0o555), ("/run", 0o755), ("/sys", 0o555)]
    ]
    assert edited(image, tmp_path / "out", edits) == expected(*moved, *made)
    below = [line("/", "directory", 0o750, "1:0", 2), line("/old", "file", 0o4755, "5:6", 4, data=b"old")]
    assert edited(image, tmp_path / "sub", Edits(subtree="/sbin")) == "".join(f"{text}\n" for text in below)


READERS: dict[str, Callable[[Path, Path], str]] = {
    "out": lambda out, _: dump_directory(out),
    "out.tar": dump_tar,
    "out.cpio": dump_cpio,
    "out.erofs": lambda out, folder: dump_mounted(out, "erofs", folder),
    "out.ext4": lambda out, folder: dump_mounted(out, "ext4", folder),
    "out.squashfs": lambda out, folder: dump_mounted(out, "squashfs", folder),
}
EVERYTHING = Edits(exclude=["doc/s*", "!doc/small"], owner=(3, 4), id_offset=10, mount_points=True)


def test_every_format_is_read() -> None:
    suffixes = {"out" if name == "dir" else f"out.{name}" for name in PLAIN_FORMATS}
    assert set(READERS) == suffixes


@pytest.mark.root
@pytest.mark.parametrize("name", READERS)
def test_every_edit_through_every_format(image: str, source: Path, tmp_path: Path, name: str) -> None:
    layer = tmp_path / "layer.tar"
    layer.write_bytes(TarBuilder().file("doc/.wh.small", b"").file("brought", b"brought", mtime=9).build())
    edits = replace(EVERYTHING, add=[(source / "agent", "/sbin/"), (f"{source}/tree", "/t")], layers=[layer])
    want = edited(image, tmp_path / "reference", edits)
    assert " /doc/s" not in want
    assert "/t/inner/key file 0600 13 14 100.000000000" in want
    done = compile_image(image, tmp_path / name, options=WITH_DIGEST, edits=edits)
    assert READERS[name](tmp_path / name, tmp_path / "read") == want
    assert done.losses == ()
    assert done.tree_digest == f"sha256:{hashlib.sha256(want.encode()).hexdigest()}"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "pack"),
    [
        *((name, PackOptions()) for name in READERS if name != "out"),
        ("out.erofs", PackOptions(compression="none")),
        ("out.ext4", PackOptions(journal=True)),
        ("out.cpio", PackOptions(compression="none")),
    ],
)
@pytest.mark.parametrize("way", ["excluded", "subtree", "whiteout"])
@pytest.mark.parametrize("kept", [False, True], ids=["cold", "from kept layers"])
def test_what_is_left_out_stands_nowhere_in_the_file(
    image: str, tmp_path: Path, name: str, pack: PackOptions, way: str, kept: bool
) -> None:
    layer = tmp_path / "layer.tar"
    layer.write_bytes(TarBuilder().file("doc/.wh..wh..opq", b"").build())
    edits = {
        "excluded": Edits(exclude=["secret", "doc/small"]),
        "subtree": Edits(subtree="/etc"),
        "whiteout": Edits(layers=[layer]),
    }[way]
    parts = [SECRET[:27], NEVER[:29], SECRET[-27:]]
    options = replace(UNCACHED, pack=pack, cache=kept, cache_folder=str(tmp_path / "cache"), keep_layers=kept)
    compile_image(image, tmp_path / f"whole-{name}", options=options)
    raw = (tmp_path / f"whole-{name}").read_bytes()
    if not name.endswith("squashfs"):
        # What is searched for can be found.
        assert all(part in raw for part in parts)
    assert kept == any((tmp_path / "cache").glob("layers/**/*.erofs"))
    compile_image(image, tmp_path / name, options=options, edits=edits)
    raw = (tmp_path / name).read_bytes()
    assert not any(part in raw for part in parts)


def test_a_user_that_is_added_counts(image: str, tmp_path: Path) -> None:
    passwd = tmp_path / "passwd"
    passwd.write_text("app:x:77:78::/srv:/bin/sh\n")
    done = compile_image(image, tmp_path / "out.tar", options=UNCACHED, edits=Edits(add=[(passwd, "/etc/passwd")]))
    assert (done.boot.user.uid, done.boot.user.gid, done.boot.user.missing) == (77, 78, None)


def test_losses_of_added_files_are_told(image: str, source: Path, tmp_path: Path) -> None:
    os.utime(source / "agent", ns=(0, 5))
    edits = Edits(add=[Addition(str(source / "agent"), "/agent", keep_mtime=True)])
    done = compile_image(image, tmp_path / "out.cpio", options=UNCACHED, edits=edits)
    assert [(loss.kind, loss.paths) for loss in done.losses] == [("mtime", (b"agent",))]


def test_the_same_edits_give_the_same_bytes_and_others_a_key_of_their_own(
    image: str, source: Path, tmp_path: Path, registry: Registry
) -> None:
    reference = registry.push(image, "edits:1")
    options = CompileOptions(cache_folder=str(tmp_path / "cache"))
    variants = [
        Edits(),
        Edits(add=[(source / "agent", "/a")]),
        Edits(add=[(source / "agent", "/b")]),
        Edits(add=[Addition(str(source / "agent"), "/b", mode=0o600)]),
        Edits(exclude=["etc"]),
        Edits(exclude=["etc", "!etc"]),
        Edits(subtree="/etc"),
        Edits(mount_points=True),
        Edits(owner=(0, 1)),
        Edits(id_offset=1),
    ]
    made = []
    for number, edits in enumerate(variants):
        first = compile_image(reference, tmp_path / f"{number}.erofs", options=options, edits=edits)
        os.utime(source / "agent")
        again = compile_image(reference, tmp_path / f"{number}-again.erofs", options=options, edits=edits)
        cold = compile_image(reference, tmp_path / f"{number}-cold.erofs", options=UNCACHED, edits=edits)
        assert (first.from_cache, again.from_cache, cold.from_cache) == (False, True, False)
        assert replace(again, path=None, from_cache=False) == replace(first, path=None)
        raw = [(tmp_path / f"{number}{suffix}.erofs").read_bytes() for suffix in ("", "-again", "-cold")]
        assert raw[0] == raw[1] == raw[2]
        made.append(raw[0])
    uuids = {raw[1024 + 48 : 1024 + 64] for raw in made}
    assert len(uuids) == len(variants)
    (source / "agent").write_bytes(b"other")
    assert not compile_image(reference, tmp_path / "x.erofs", options=options, edits=variants[1]).from_cache


def test_patterns_that_match_nothing_are_told_each_time(image: str, tmp_path: Path) -> None:
    done = compile_image(
        image, tmp_path / "out.tar", options=UNCACHED, edits=Edits(exclude=["nothing", "doc", "/passwd"])
    )
    assert done.unmatched_patterns == ("nothing", "/passwd")
    done_again = attempt(COMMAND, "compile", "--no-cache", "-q", "--exclude", "nothing", image, tmp_path / "b.tar")
    assert done_again.returncode == 0
    assert "--exclude 'nothing' matches nothing in the image" in done_again.stderr.decode()


def test_edits_are_plain_data(source: Path) -> None:
    edits = Edits(add=[(source / "agent", "/a")], layers=[Path("x.tar")], exclude=["a", "b"])
    assert pickle.loads(pickle.dumps(edits)) == edits
    assert hash(edits) == hash(replace(edits))
    assert not Edits()
    assert edits
    plan = CompilePlan("oci:x:y", ("out.tar",), edits=edits)
    assert pickle.loads(pickle.dumps(plan)) == plan


def test_options_say_what_the_library_says() -> None:
    text = ["./a:b:/c:mode=0755,owner=1:2,mtime=keep", "d:/e/", "f:/g:owner=3:4"]
    assert make_edits(
        add=tuple(text), layer=("-",), exclude=("x",), subtree="/s", mount_points=True, chown="5:6", id_offset=7
    ) == Edits(
        add=[
            Addition("./a:b", "/c", 0o755, (1, 2), keep_mtime=True),
            Addition("d", "/e/"),
            Addition("f", "/g", owner=(3, 4)),
        ],
        layers=["-"],
        exclude=["x"],
        subtree="/s",
        mount_points=True,
        owner=(5, 6),
        id_offset=7,
    )


BAD = [
    (["--add", "agent"], "--add 'agent' says not where to"),
    (["--add", "agent:x"], "--add 'agent:x' says not where to"),
    (["--add", "agent:/x:mode=9"], "'mode=9' is none of mode=OCTAL, owner=UID:GID and mtime=keep"),
    (["--add", "agent:/x:owner=root"], "owner=root is no owner; write two numbers"),
    (["--add", "agent:/x:mode=77777"], "agent: a mode is at most 7777"),
    (["--add", "agent:/../x"], "'/../x' is no plain path"),
    (["--add", "agent:/.wh.x"], "'/.wh.x' is no plain path"),
    (["--add", f"agent:/{'x' * 256}"], "longer than 255 bytes"),
    (["--add", "missing:/x"], "missing: No such file or directory"),
    (["--add", "agent:/sbin"], "the image has a directory there; end the destination with a slash"),
    (["--add", "lower:/etc/passwd"], "a folder cannot be added where the image has a file"),
    (["--add", "agent:/etc/passwd/x"], "a parent of the path is not a directory"),
    (["--add", "agent:/x", "--add", "tree/inner/key:/x"], "two files want to be /x in the image"),
    (["--add", "tree/pipe:/x"], "tree/pipe is neither a regular file nor a folder"),
    (["--layer", "agent"], "agent:"),
    (["--layer", "missing.tar"], "missing.tar: No such file or directory"),
    (["--layer", "tree"], "tree: Is a directory"),
    (["--layer", "broken.tar.gz"], "broken.tar.gz:"),
    (["--exclude", ""], "is no pattern for paths"),
    (["--exclude", "[z-a]"], "is no pattern for paths"),
    (["--subtree", "/nowhere"], "no such path in the image: /nowhere"),
    (["--subtree", "/etc/passwd"], "the subtree /etc/passwd is no directory"),
    (["--chown", "root"], "--chown 'root' is no owner; write two numbers, as 1000:1000"),
    (["--chown", "4294967295:0"], "4294967295 is no id of a user or group"),
    (["--id-offset", "4294967293"], "/usr/sbin/old: the owner 5:6 and 4294967293 more is no id of 32 bits"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_bad_edits_are_one_line_and_leave_nothing(
    image: str, source: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    os.mkfifo(source / "tree/pipe")
    (source / "broken.tar.gz").write_bytes(gzip.compress(b"x" * 100_000)[:50])
    out = tmp_path / "out"
    out.mkdir()
    done = attempt(COMMAND, "compile", "--no-cache", "-q", *arguments, image, out / "x.erofs", cwd=source)
    said = done.stderr.decode()
    assert done.returncode == 1, said
    assert said.startswith("ocifast: error: ")
    assert said.count("\n") == 1
    assert message in said
    assert list(out.iterdir()) == []


def test_an_added_file_that_grows_while_it_is_read(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = _core.write_layer

    def grow(*arguments: Any, **options: Any) -> tuple[str, int, str]:
        with (source / "agent").open("ab") as file:
            file.write(b"more")
        return real(*arguments, **options)

    monkeypatch.setattr(_core, "write_layer", grow)
    with pytest.raises(SizeMismatchError, match="became longer than 5 bytes"):
        prepare(Edits(add=[(source / "agent", "/a")]), tmp_path, time=0)
