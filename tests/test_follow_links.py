"""`--follow-links`: layouts whose files stand elsewhere, under other names."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

import click
import fsspec
import ocifast
import pytest
from ocifast.cli import COMMANDS, cli
from ocifast.errors import DigestMismatchError, DocumentError
from ocifast.runnable import Runnable
from ocifast.sources.open import open_source, parse_location

from tests.support.elf import compile_c
from tests.support.images import build_image, build_index, write_layout
from tests.support.layers import TarBuilder
from tests.support.registry import Registry
from tests.support.run import ocifast as command
from tests.support.run import try_ocifast

NAME = "ghcr.io/org/app:1"
IMAGE = build_image([TarBuilder().file("etc/motd", b"hello\n"), TarBuilder().file("b", b"x")])
LAYER = "blobs/" + IMAGE.layers[0].digest.replace(":", "/")


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    """A layout that is nothing but links to files of another folder."""
    folder = write_layout(tmp_path / "layout", {NAME: IMAGE})
    (tmp_path / "store").mkdir()
    for number, path in enumerate(sorted(path for path in folder.rglob("*") if path.is_file())):
        path.rename(tmp_path / f"store/{number}")
        path.symlink_to(tmp_path / f"store/{number}")
    return folder


READING = {
    "ls": ["ls", "{layout}"],
    "cat": ["cat", "{layout}", "/etc/motd"],
    "compile": ["compile", "{layout}", "{tmp}/out.tar", "--no-cache"],
    "inspect": ["inspect", "{layout}"],
    "history": ["history", "{layout}"],
    "diff": ["diff", "{layout}", "{layout}"],
    "copy": ["copy", "{layout}", "oci-archive:{tmp}/copy.tar:app"],
    "push": ["push", "{layout}", "{registry}/follow/links:1"],
    "seed": ["compile", NAME, "{tmp}/out.tar", "--no-cache", "--seed", "{folder}"],
    "runnable": ["runnable", "{hello}", "-o", "{tmp}/runnable.tar", "--base", "{layout}"],
}


@pytest.mark.parametrize("name", READING)
def test_every_command_that_reads(name: str, layout: Path, registry: Registry, tmp_path: Path) -> None:
    places = {"layout": f"oci:{layout}", "folder": layout, "tmp": tmp_path, "registry": registry.host}
    if name == "runnable":
        places["hello"] = compile_c("musl-gcc", tmp_path / "hello", "-static")
    words = [word.format_map(places) for word in READING[name]]
    before = sorted(tmp_path.rglob("*"))
    done = try_ocifast(*words, *([] if name in ("inspect", "history") else ["--progress", "none"]))
    said = done.stderr.decode()
    assert (done.returncode, said.count("\n")) == (1, 1)
    assert " is a symbolic link that leads out of the layout; --follow-links follows it\n" in said
    assert sorted(tmp_path.rglob("*")) == before
    assert command(*words, "--follow-links") or name == "diff"
    if name == "cat":
        assert command(*words, "--follow-links") == b"hello\n"


def test_no_command_that_reads_lacks_the_option() -> None:
    context = click.Context(cli)
    lacking = set()
    for name in COMMANDS:
        found = cli.get_command(context, name)
        assert found is not None
        if not any(each.name == "follow_links" for each in found.params):
            lacking.add(name)
    assert lacking == {"delete", "tags", "login", "logout", "cache"}


def test_pull_takes_the_option_too(registry: Registry, layout: Path, tmp_path: Path) -> None:
    name = f"{registry.host}/follow/pull:1"
    command("push", f"oci:{layout}", name, "--follow-links", "-q")
    assert command("pull", name, f"oci:{tmp_path}/new:app", "--follow-links", "-q") == f"{IMAGE.digest}\n".encode()


def test_the_error_names_the_blob_and_the_option(tmp_path: Path) -> None:
    folder = write_layout(tmp_path / "layout", {"app": IMAGE})
    (folder / LAYER).rename(tmp_path / "elsewhere")
    (folder / LAYER).symlink_to("../../../elsewhere")
    done = try_ocifast("ls", f"oci:{folder}:app")
    assert (done.returncode, done.stderr.decode()) == (
        1,
        f"ocifast: error: oci:{folder}:app: {LAYER} is a symbolic link that leads out of the layout; "
        "--follow-links follows it\n",
    )


@pytest.mark.tools
def test_the_library(layout: Path, tmp_path: Path) -> None:
    place = f"oci:{layout}"
    with pytest.raises(DocumentError, match="--follow-links"):
        ocifast.open(place)
    with ocifast.open(place, follow_links=True) as image, image.flatten() as rootfs:
        assert rootfs.read_bytes("etc/motd") == b"hello\n"
    ocifast.compile(place, tmp_path / "out.tar", options=ocifast.CompileOptions(follow_links=True, cache=False))
    ocifast.copy(place, f"oci:{tmp_path}/copy:app", follow_links=True)
    (tmp_path / "copy" / LAYER).read_bytes()
    hello = compile_c("musl-gcc", tmp_path / "hello", "-static")
    Runnable(hello, base=place, follow_links=True).write(tmp_path / "runnable.tar")
    files = fsspec.filesystem("ocifast", follow_links=True)
    assert files.cat_file(f"ocifast://{place}//etc/motd") == b"hello\n"


def test_an_index(tmp_path: Path) -> None:
    index = build_index([IMAGE])
    folder = write_layout(tmp_path / "layout", {"app": index})
    blob = folder / "blobs" / index.digest.replace(":", "/")
    blob.rename(tmp_path / "index")
    blob.symlink_to(tmp_path / "index")
    with pytest.raises(DocumentError, match="--follow-links"):
        ocifast.open_index(f"oci:{folder}:app")
    with closing(ocifast.open_index(f"oci:{folder}:app", follow_links=True)) as found:
        assert len(found.entries) == 1


def test_a_folder_of_blobs_elsewhere(tmp_path: Path) -> None:
    folder = write_layout(tmp_path / "layout", {"app": IMAGE})
    for name in ("blobs", "index.json", "oci-layout"):
        (folder / name).rename(tmp_path / name)
        (folder / name).symlink_to(f"../{name}")
    assert b"/etc/motd\n" in command("ls", "-R", f"oci:{folder}:app", "--follow-links")


@pytest.mark.parametrize("kind", ["FIFO", "device", "folder", "loop", "nothing", "other bytes"])
def test_what_is_not_followed(kind: str, layout: Path, tmp_path: Path) -> None:
    """Whoever makes a layout can make us neither wait, nor read devices, nor take bytes that are not the blob's."""
    layer = layout / LAYER
    layer.unlink()
    target = {"device": Path("/dev/zero"), "loop": layer}.get(kind, tmp_path / "target")
    if kind == "FIFO":
        os.mkfifo(target)
    elif kind == "folder":
        target.mkdir()
    elif kind == "other bytes":
        target.write_bytes(b"x" * len(IMAGE.layers[0].blob))
    layer.symlink_to(target)
    said = {
        "loop": "Too many levels of symbolic links",
        "nothing": f"blob {IMAGE.layers[0].digest} is missing",
        "other bytes": "",
    }.get(kind, f"{LAYER} is not a regular file")
    source = open_source(parse_location(f"oci:{layout}"), follow_links=True)
    with closing(source):
        assert source.root().raw == IMAGE.raw
    done = try_ocifast("ls", f"oci:{layout}", "--follow-links")
    assert (done.returncode, done.stdout, done.stderr.count(b"\n")) == (1, b"", 1)
    assert said in done.stderr.decode()
    if kind == "other bytes":
        with (
            pytest.raises(DigestMismatchError),
            ocifast.open(f"oci:{layout}", follow_links=True) as image,
            image.flatten(),
        ):
            pass
