"""Images whose layers are rewritten to erofs images: the same tree, by our reader of such layers, and by the kernel."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ocifast import copy
from ocifast.cache import Cache
from ocifast.errors import OutputUnsupportedError, UsageError

from tests.support.images import BuiltImage, build_image, build_index, write_layout
from tests.support.layers import TarBuilder
from tests.support.oracle import dump_directory, dump_umoci
from tests.support.registry import Registry
from tests.support.run import ocifast, run, try_ocifast

CONFIG = {"Cmd": ["sh"], "Env": ["A=1"], "Labels": {"of": "test"}}


def image(platform: str = "linux/amd64") -> BuiltImage:
    base = TarBuilder().directory("./", mode=0o755).directory("etc/").file("etc/os-release", b"ID=test\n")
    base.directory("usr/").file("usr/large", bytes(range(256)) * 3000).hard_link("usr/hard", "usr/large")
    base.symlink("lib", "usr").directory("gone/").file("gone/file", b"g" * 5000).sparse(
        "usr/holes", [(8192, b"data")], 50_000
    )
    top = TarBuilder().directory("./", mode=0o755).directory("etc/").opaque("etc/").file("etc/passwd", b"root\n")
    top.whiteout("gone").directory("usr/").file("usr/more", b"m" * 70_000, mode=0o4755)
    return build_image([base, top], config=CONFIG, platform=platform)


@pytest.fixture
def location(tmp_path: Path) -> str:
    return f"oci:{write_layout(tmp_path / 'layout', image())}:app"


def blob(layout: Path, digest: str) -> bytes:
    return (layout / "blobs" / digest.replace(":", "/")).read_bytes()


def documents(layout: Path) -> tuple[Any, Any]:
    """Manifest and config of the only image of a layout."""
    (entry,) = json.loads((layout / "index.json").read_bytes())["manifests"]
    manifest = json.loads(blob(layout, entry["digest"]))
    return manifest, json.loads(blob(layout, manifest["config"]["digest"]))


@pytest.mark.root
@pytest.mark.tools
def test_the_tree_is_that_of_the_original(location: str, tmp_path: Path) -> None:
    ocifast("copy", "--layers", "erofs", "--draft", location, f"oci:{tmp_path}/new:app")
    ocifast("compile", f"oci:{tmp_path}/new:app", tmp_path / "tree", "--no-cache")
    assert dump_directory(tmp_path / "tree") == dump_umoci(tmp_path / "layout", tmp_path / "bundle")
    for layer in documents(tmp_path / "new")[0]["layers"]:
        run("fsck.erofs", tmp_path / "new/blobs" / layer["digest"].replace(":", "/"))


def test_documents_are_new_and_a_function_of_the_image(location: str, tmp_path: Path) -> None:
    ways = {"alone": None, "kept": Cache(tmp_path / "cache"), "again": Cache(tmp_path / "cache")}
    digests = {
        copy(location, f"oci:{tmp_path / name}:app", layers="erofs", draft=True, cache=cache).digest
        for name, cache in ways.items()
    }
    assert len(digests) == 1
    old_manifest, old = documents(tmp_path / "layout")
    manifest, new = documents(tmp_path / "alone")
    assert [layer["mediaType"] for layer in manifest["layers"]] == ["application/vnd.erofs.layer.v1"] * 2
    assert new["rootfs"]["diff_ids"] == [layer["digest"] for layer in manifest["layers"]]
    assert new["os.features"] == ["erofs"]
    changed = {"rootfs", "os.features"}
    assert {name: value for name, value in new.items() if name not in changed} == {
        name: value for name, value in old.items() if name not in changed
    }
    assert manifest.get("annotations") == old_manifest.get("annotations")
    assert "subject" not in manifest
    with pytest.raises(OutputUnsupportedError, match="is an erofs image already"):
        copy(f"oci:{tmp_path / 'alone'}:app", f"oci:{tmp_path / 'twice'}:app", layers="erofs", draft=True)
    assert not (tmp_path / "twice").exists()


def test_a_registry_lists_it_under_the_original(registry: Registry, tmp_path: Path) -> None:
    original = image()
    index = build_index([original, image("linux/arm64")])
    source = registry.put(index, "rewriting/app:1")
    target = f"{registry.host}/rewriting/app:erofs"
    done = copy(source, target, layers="erofs", draft=True, platform="linux/amd64", cache=Cache(tmp_path / "cache"))
    copy(target, f"oci:{tmp_path}/back:app")
    manifest, _ = documents(tmp_path / "back")
    assert manifest["subject"]["digest"] == original.digest
    assert manifest["subject"]["size"] == len(original.raw)
    assert json.loads(ocifast("inspect", target, "--json"))["digest"] == done.digest


def test_what_cannot_be_had_is_refused(location: str, tmp_path: Path) -> None:
    target = f"oci:{tmp_path}/new:app"
    for options, told in (
        ({"layers": "erofs"}, "say that you know"),
        ({"draft": True}, "ask for some"),
        ({"layers": "squashfs", "draft": True}, "not to 'squashfs'"),
        ({"layers": "erofs", "draft": True, "all_platforms": True}, "one image at a time"),
        ({"layers": "erofs", "draft": True, "referrers": True}, "one image at a time"),
    ):
        with pytest.raises(UsageError, match=told):
            copy(location, target, **options)
    with pytest.raises(UsageError, match="a Docker archive has layers that are archives"):
        copy(location, f"docker-archive:{tmp_path}/a.tar:a:b", layers="erofs", draft=True)
    odd = build_image([TarBuilder().file("deep/file", b"x")])
    there = f"oci:{write_layout(tmp_path / 'odd', odd)}:app"
    with pytest.raises(OutputUnsupportedError, match=rf"{odd.layers[0].diff_id} cannot stand alone.*deep/file"):
        copy(there, target, layers="erofs", draft=True)
    assert b"leave it out" in try_ocifast("copy", "--all-tags", "--layers", "erofs", "--draft", location, target).stderr
    assert not (tmp_path / "new").exists()
