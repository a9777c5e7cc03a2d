"""Images through fsspec: names survive, files are read in parts, and what is there is what the tree has."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import fsspec
import ocifast
import pytest
from ocifast import filesystem
from ocifast.errors import ImageNotFoundError
from ocifast.filesystem import OcifastFileSystem

from tests.support.images import build_image, build_index, write_layout
from tests.support.layers import TarBuilder
from tests.support.registry import Registry

DATA = bytes(range(256)) * 2000
LAYER = (
    TarBuilder()
    .directory("etc")
    .pax({"mtime": "7.5"})
    .file("etc/os-release", b"ID=x\n", mode=0o640, uid=3, gid=4)
    .file("etc/machine-id", b"7")
    .directory("usr/lib/deep/er")
    .file("usr/lib/deep/er/big", DATA)
    .symlink("lib", "usr/lib")
    .symlink("etc/link", "os-release")
    .symlink("etc/nowhere", "gone")
    .fifo("run/fifo")
)
IMAGE = build_image([LAYER], platform="linux/amd64")


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    yield
    OcifastFileSystem.clear_instance_cache()


@pytest.fixture
def local(tmp_path: Path) -> str:
    return f"oci:{write_layout(tmp_path / 'layout', IMAGE)}:app"


@pytest.mark.parametrize(
    ("url", "path", "above"),
    [
        (
            "ocifast://ghcr.io/org/app:1.2//etc/os-release",
            "ghcr.io/org/app:1.2//etc/os-release",
            "ghcr.io/org/app:1.2//etc",
        ),
        ("ocifast://localhost:5000/a@sha256:12//etc", "localhost:5000/a@sha256:12//etc", "localhost:5000/a@sha256:12"),
        ("ocifast://r.io/a:1@sha256:12//a//b/", "r.io/a:1@sha256:12//a//b", "r.io/a:1@sha256:12//a/"),
        ("ocifast://oci:/srv/x:app//", "oci:/srv/x:app", "oci:/srv/x:app"),
        ("ocifast://debian", "debian", "debian"),
        ("debian//etc/", "debian//etc", "debian"),
    ],
)
def test_names_survive(url: str, path: str, above: str) -> None:
    assert OcifastFileSystem._strip_protocol(url) == path
    assert OcifastFileSystem._strip_protocol([url, path]) == [path, path]
    assert OcifastFileSystem._parent(path).rstrip("/") == above.rstrip("/")
    found, stripped = fsspec.url_to_fs(url if "://" in url else f"ocifast://{url}")
    assert (type(found), stripped) == (OcifastFileSystem, path)


def test_it_is_found_by_its_entry_point_and_by_no_other_name() -> None:
    named = {point.name: point.value for point in entry_points(group="fsspec.specs") if "ocifast" in point.value}
    assert named == {"ocifast": "ocifast.filesystem:OcifastFileSystem"}


def test_an_image_of_a_registry(registry: Registry, tmp_path: Path) -> None:
    other = build_image([TarBuilder().file("etc/os-release", b"ID=other\n")], platform="linux/s390x")
    index = build_index([IMAGE, other])
    name = registry.put(index, "fsspec/app:1.2")
    for image in (name, f"docker://{name}", f"{name}@{index.digest}"):
        with fsspec.open(f"ocifast://{image}//etc/os-release") as file:
            assert file.read() == b"ID=x\n"
    with fsspec.open(f"ocifast://{name}//etc/os-release", platform="linux/s390x", mode="rt") as text:
        assert text.read() == "ID=other\n"
    with fsspec.open(
        f"simplecache::ocifast://{name}//usr/lib/deep/er/big", simplecache={"cache_storage": str(tmp_path)}
    ) as cached:
        cached.seek(1000)
        assert cached.read(24) == DATA[1000:1024]
    with pytest.raises(ImageNotFoundError):
        fsspec.open(f"ocifast://{registry.host}/fsspec/none:1//etc/x").open()


def test_what_is_there(local: str) -> None:
    found = fsspec.filesystem("ocifast")
    etc = f"{local}//etc"
    assert found.ls(local, detail=False) == [f"{local}//{name}" for name in ("etc", "lib", "run", "usr")]
    assert found.ls(etc, detail=False) == [f"{etc}/{name}" for name in ("link", "machine-id", "nowhere", "os-release")]
    assert found.ls(f"{local}//lib/deep/er", detail=False) == [f"{local}//lib/deep/er/big"]
    assert found.info(f"{etc}/os-release") == {
        "name": f"{etc}/os-release",
        "size": 5,
        "type": "file",
        "mode": 0o640,
        "uid": 3,
        "gid": 4,
        "mtime": 7.5,
        "ino": found.info(f"{etc}/os-release")["ino"],
        "islink": False,
        "destination": "",
    }
    link = found.info(f"{etc}/link")
    assert (link["type"], link["size"], link["islink"], link["destination"]) == ("file", 5, True, "os-release")
    assert found.info(f"{etc}/nowhere")["type"] == "link"
    assert found.info(f"{local}//run/fifo")["type"] == "other"
    assert found.info(local)["type"] == "directory"
    assert (found.isdir(etc), found.isfile(etc), found.exists(f"{etc}/gone")) == (True, False, False)
    assert found.glob(f"{etc}/*-*") == [f"{etc}/machine-id", f"{etc}/os-release"]
    assert found.glob(f"{local}//usr/**/big") == [f"{local}//usr/lib/deep/er/big"]
    assert found.find(f"{local}//usr") == [f"{local}//usr/lib/deep/er/big"]
    assert found.du(f"{local}//usr") == len(DATA)
    assert found.modified(f"{etc}/os-release").timestamp() == 7.5


def test_what_is_read(local: str, tmp_path: Path) -> None:
    found = fsspec.filesystem("ocifast")
    big = f"{local}//lib/deep/er/big"
    assert found.cat_file(big, 500, 600) == DATA[500:600]
    assert found.cat_file(big, -100, None) == DATA[-100:]
    assert found.cat([f"{local}//etc/link", big])[big] == DATA
    found.get(f"{local}//usr", str(tmp_path / "got"), recursive=True)
    assert (tmp_path / "got/lib/deep/er/big").read_bytes() == DATA
    for path, error in ((f"{local}//gone", FileNotFoundError), (f"{local}//etc", IsADirectoryError)):
        with pytest.raises(error):
            found.open(path)
    new = f"{local}//new"
    refused = {
        "open": (big, "wb"),
        "rm": (big,),
        "mkdir": (new,),
        "makedirs": (new,),
        "rmdir": (f"{local}//etc",),
        "copy": (big, new),
        "mv": (big, new),
        "pipe_file": (new, b""),
    }
    for method, arguments in refused.items():
        with pytest.raises(OSError, match="an image is read-only"):
            getattr(found, method)(*arguments)
    assert pickle.loads(pickle.dumps(found)).cat_file(f"{local}//etc/link") == b"ID=x\n"


def test_few_images_stay_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filesystem, "_OPEN", 2)
    closed: list[str] = []
    leave = ocifast.Rootfs.__exit__

    def noted(tree: ocifast.Rootfs, *rest: Any) -> None:
        closed.append(tree.name)
        leave(tree, *rest)

    monkeypatch.setattr(ocifast.Rootfs, "__exit__", noted)
    images = [f"oci:{write_layout(tmp_path / str(number), IMAGE)}:app" for number in range(5)]
    found = fsspec.filesystem("ocifast", skip_instance_cache=True)
    held = found.open(f"{images[0]}//etc/link")
    for image in images:
        found.info(image)
    # The one whose file is read stays, although others were used since.
    assert closed == images[1:3]
    assert held.read() == b"ID=x\n"
    del held
    found.info(images[1])
    assert images[0] in closed
    found.close()
    assert sorted(closed) == sorted([*images, images[1]])
