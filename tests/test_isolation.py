"""Nothing of an image reaches what is not its output: no path, no name, no deleted secret, no entry of the cache."""

from __future__ import annotations

import ast
import json
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import ocifast
import pytest
from ocifast.progress import Event

from tests.support.images import BuiltImage, Layer, as_json, build_image, digest_of, write_docker_archive, write_layout
from tests.support.layers import TarBuilder
from tests.support.oracle import dump_directory
from tests.support.run import ocifast as command
from tests.support.run import run, try_ocifast

ROOT = Path(__file__).parent.parent
SECRETS = [b"a short secret that a later layer deletes", b"a long secret that a later layer replaces. " * 300]


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, with a sentinel; the test fails when anything in it changes."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "sentinel").write_bytes(b"untouched")
    monkeypatch.chdir(folder)
    before = dump_directory(folder)
    yield folder
    assert dump_directory(folder) == before


def titled(manifest: dict[str, object]) -> None:
    """Annotations that other tools take for paths."""
    for descriptor in manifest["layers"]:  # type: ignore[attr-defined]
        descriptor["annotations"] = {
            "org.opencontainers.image.title": "../outside/evil",
            "io.deis.oras.content.unpack": "true",
            "org.opencontainers.image.ref.name": "/etc/evil",
        }
    manifest["annotations"] = {"org.opencontainers.image.title": "../outside/sentinel"}


@pytest.mark.parametrize("form", ["dir", "tar", "erofs", "ext4", "cpio", "squashfs"])
def test_annotations_are_never_paths(tmp_path: Path, outside: Path, form: str) -> None:
    image = build_image([TarBuilder().file("fine", b"x")], edit_manifest=titled)
    layout = write_layout(tmp_path / "layout", image)
    (tmp_path / "out").mkdir()
    command("compile", f"oci:{layout}:app", tmp_path / "out/result", "-f", form)
    command("copy", f"oci:{layout}:app", f"oci:{tmp_path}/out/copy:app")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["copy", "result"]
    assert not Path("/etc/evil").exists()


HOSTILE_ARCHIVES = {
    "a config outside": ("../outside/sentinel", "layer.tar"),
    "an absolute config": ("/etc/hostname", "layer.tar"),
    "a layer outside": ("config.json", "../outside/sentinel"),
    "an absolute layer": ("config.json", "{outside}/sentinel"),
    "a layer that is a link outside": ("config.json", "link"),
}


@pytest.mark.parametrize("name", HOSTILE_ARCHIVES)
def test_names_in_docker_archives_stay_in_the_archive(tmp_path: Path, outside: Path, name: str) -> None:
    config, layer = HOSTILE_ARCHIVES[name]
    layer = layer.format(outside=outside)
    tar = TarBuilder().file("fine", b"x").build()
    raw = as_json({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [digest_of(tar)]}})
    archive = TarBuilder().file("config.json", raw).file("layer.tar", tar).symlink("link", f"{outside}/sentinel")
    archive.file("manifest.json", as_json([{"Config": config, "RepoTags": ["app:1"], "Layers": [layer]}]))
    (tmp_path / "image.tar").write_bytes(archive.build())
    done = try_ocifast("compile", f"docker-archive:{tmp_path}/image.tar", tmp_path / "out.tar")
    assert done.returncode == 1
    assert b"untouched" not in done.stdout + done.stderr
    assert not (tmp_path / "out.tar").exists()


@pytest.mark.parametrize("name", ["a/../../outside", "/etc", "..", "sha256:../../x"])
def test_tags_and_names_are_never_paths(tmp_path: Path, outside: Path, name: str) -> None:
    layout = write_layout(tmp_path / "layout", build_image([TarBuilder().file("fine")]), tag=name)
    try_ocifast("copy", f"oci:{layout}:{name}", f"oci:{tmp_path}/copy:{name}")
    try_ocifast("compile", f"oci:{layout}:{name}", tmp_path / "out.tar")
    found = sorted(path.name for path in tmp_path.iterdir())
    assert set(found) <= {"layout", "outside", "copy", "out.tar"}
    if (tmp_path / "copy").exists():
        assert {path.name for path in (tmp_path / "copy").iterdir()} <= {"blobs", "index.json", "oci-layout"}


PASSWD: dict[str, tuple[Callable[[TarBuilder, Path], object], int | None]] = {
    "a file": (lambda tar, _: tar.file("etc/passwd", b"app:x:42:43::/:/bin/sh\n"), 42),
    "a link to the host": (lambda tar, outside: tar.symlink("etc/passwd", f"{outside}/passwd"), None),
    "a link up to the host": (lambda tar, _: tar.symlink("etc/passwd", "../../../../../outside/passwd"), None),
    "a link inside": (lambda tar, _: tar.symlink("etc/passwd", "/p").file("p", b"app:x:44:45::/:/bin/sh\n"), 44),
    "a pipe": (lambda tar, _: tar.fifo("etc/passwd"), None),
    "a device": (lambda tar, _: tar.device("etc/passwd", "char", 1, 5), None),
    "a directory": (lambda tar, _: tar.directory("etc/passwd"), None),
}


@pytest.mark.parametrize("name", PASSWD)
def test_users_are_looked_up_in_the_image_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/passwd").write_text("app:x:666:666::/:/bin/sh\n")
    tar = TarBuilder()
    make, uid = PASSWD[name]
    make(tar, tmp_path / "outside")
    layout = write_layout(tmp_path / "layout", build_image([tar], config={"User": "app", "Cmd": ["x"]}))
    done = try_ocifast(
        "compile", f"oci:{layout}:app", tmp_path / "out.tar", "--config", tmp_path / "boot.json", "--json"
    )
    if uid is None:
        assert done.returncode == 1
        assert b"'app' is not in the image's /etc/passwd" in done.stderr
    else:
        assert json.loads((tmp_path / "boot.json").read_text())["user"]["uid"] == uid


@pytest.mark.parametrize("form", ["dir", "tar", "cpio", "erofs", "ext4", "squashfs"])
def test_what_a_later_layer_deleted_is_in_no_output(tmp_path: Path, form: str) -> None:
    lower = TarBuilder().file("etc/short", SECRETS[0]).file("etc/long", SECRETS[1]).file("etc/kept", b"k" * 5000)
    lower.directory("d").file("d/short", SECRETS[0]).file("d/long", SECRETS[1])
    upper = TarBuilder().whiteout("etc/short").file("etc/long", b"harmless").opaque("d")
    layout = write_layout(tmp_path / "layout", build_image([lower, upper]))
    out = tmp_path / "out"
    # Nothing compressed, so that the bytes can be looked for.
    plain = ["--compression", "none"] if form in ("erofs", "squashfs") else []
    command("compile", f"oci:{layout}:app", out, "-f", form, *plain)
    raw = (
        b"".join(path.read_bytes() for path in out.rglob("*") if path.is_file()) if form == "dir" else out.read_bytes()
    )
    # The tail of the file: its last block may stand elsewhere than the others.
    assert b"k" * (5000 % 4096) in raw
    assert b"harmless" in raw
    assert [secret for secret in (SECRETS[0], SECRETS[1][:100]) if secret in raw] == []


def test_an_output_on_its_way_is_for_its_owner_alone(tmp_path: Path) -> None:
    seen: set[int] = set()

    def look(_: Event) -> None:
        seen.update(stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "work").glob(".*"))

    (tmp_path / "work").mkdir()
    setuid = build_image([TarBuilder().file("bin/su", b"x" * 100_000, mode=0o4755)])
    layout = write_layout(tmp_path / "layout", setuid)
    before = os.umask(0)
    try:
        ocifast.compile(f"oci:{layout}:app", tmp_path / "work/out", format="dir", progress=look)
        assert seen == {0o700}
        ocifast.compile(f"oci:{layout}:app", tmp_path / "work/out.tar", format="tar")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "work/out.tar").stat().st_mode) == 0o600


def named(name: str, content: bytes) -> BuiltImage:
    """An image that says of itself what it is called."""
    return build_image(
        [Layer(TarBuilder().file("who", content))], annotations={"org.opencontainers.image.ref.name": name}
    )


def test_a_name_inside_an_archive_is_no_name_of_the_cache(tmp_path: Path) -> None:
    true = "127.0.0.1:9/library/alpine:3"
    archive = write_docker_archive(tmp_path / "poison.tar", {true: named(true, b"poison")})
    layout = write_layout(tmp_path / "layout", {true: named(true, b"poison")})
    command("compile", f"docker-archive:{archive}", tmp_path / "one.tar")
    command("compile", f"oci:{layout}:{true}", tmp_path / "two.tar")
    done = try_ocifast("compile", true, tmp_path / "three.tar", "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["error"]["code"] == "network_error"
    assert not (tmp_path / "three.tar").exists()


def test_nobody_extracts_with_pythons_tarfile() -> None:
    """It is for reading headers of archives that we hold; extracting has one filter too few in every release."""
    calls = [
        f"{path.name}:{node.lineno}"
        for path in (ROOT / "python").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in ("extract", "extractall", "unpack_archive")
    ]
    assert calls == []


@pytest.mark.tools
def test_a_squashfs_made_to_escape_is_never_unpacked_by_us(tmp_path: Path, outside: Path) -> None:
    """Packers' images are looked at, never extracted: a packer that writes a hostile one cannot place a file."""
    (tmp_path / "bin").mkdir()
    hostile = tmp_path / "hostile.squashfs"
    (tmp_path / "empty").mkdir()
    run("mksquashfs", tmp_path / "empty", hostile, "-p", "evil f 666 0 0 echo x", "-quiet", "-no-progress")
    (tmp_path / "bin/mksquashfs").write_text(
        f'#!/bin/sh\n[ "$1" = -version ] && exec /usr/bin/mksquashfs -version\ncp {hostile} "$2"\n'
    )
    (tmp_path / "bin/mksquashfs").chmod(0o755)
    layout = write_layout(tmp_path / "layout", build_image([TarBuilder().file("fine", b"x")]))
    done = try_ocifast(
        *("compile", f"oci:{layout}:app", tmp_path / "out.squashfs", "--backend", "mksquashfs"),
        env={"PATH": f"{tmp_path}/bin:{os.environ['PATH']}"},
    )
    assert done.returncode == 1
    assert not (tmp_path / "out.squashfs").exists()
    assert not list(tmp_path.rglob("evil"))
