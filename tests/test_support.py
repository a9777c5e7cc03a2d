"""What the tests stand on: archives that foreign tools read, a registry that answers, dumps that miss nothing."""

from __future__ import annotations

import json
import os
import tarfile
from io import BytesIO
from pathlib import Path

import pytest

from tests.support import layers
from tests.support.images import Layer, build_image, build_index, write_docker_archive, write_layout, write_oci_archive
from tests.support.layers import TarBuilder
from tests.support.oracle import dump_directory, dump_tar, dump_umoci, without_mtime
from tests.support.real import RealImage
from tests.support.registry import Registry, serve_registry
from tests.support.run import run

MTIME = 1_700_000_000


def archive() -> TarBuilder:
    """One member of each type, with all that a member can have."""
    return (
        TarBuilder()
        .directory(".", mode=0o755, mtime=MTIME)
        .directory("etc", mode=0o1777, uid=1, gid=2, mtime=(MTIME, 123456789))
        .file("etc/a b\\\n", b"hello", mode=0o4755, uid=3_000_000, mtime=MTIME, xattrs={"user.note": b"\x00\xff"})
        .hard_link("etc/hard", "etc/a b\\\n")
        .symlink("etc/link", "/" + "t" * 150, mtime=(-5, 5))
        .file("p" * 90 + "/" + "n" * 90, b"x" * 513, mtime=MTIME)
        .device("null", "char", 1, 3, mtime=MTIME)
        .device("disk", "block", 259, 70000, mtime=MTIME)
        .fifo("fifo", mtime=MTIME)
        .file(b"\xff\xfe", mtime=MTIME)
        .directory("p" * 90, mtime=MTIME)
    )


EXPECTED = """\
/ directory 0755 0 0 1700000000.000000000 - - - -
/disk block 0600 0 0 1700000000.000000000 - 259:70000 - -
/etc directory 1777 1 2 1700000000.123456789 - - - -
/etc/a\\x20b\\x5c\\x0a file 4755 3000000 0 1700000000.000000000 - - user.note=00ff {hello}
/etc/hard file 4755 3000000 0 1700000000.000000000 /etc/a\\x20b\\x5c\\x0a - user.note=00ff {hello}
/etc/link symlink 0777 0 0 -5.000000005 - /{t} - -
/fifo fifo 0600 0 0 1700000000.000000000 - - - -
/null char 0600 0 0 1700000000.000000000 - 1:3 - -
/{p} directory 0755 0 0 1700000000.000000000 - - - -
/{p}/{n} file 0644 0 0 1700000000.000000000 - - - 35ade0090e64e74d6ad04204009c23a4e34b82bdf0f4f317fbcc5f26f9b10241
/\\xff\\xfe file 0644 0 0 1700000000.000000000 - - - e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855
""".format(
    t="t" * 150, p="p" * 90, n="n" * 90, hello="2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
)


@pytest.mark.root
@pytest.mark.parametrize("long", ["pax", "gnu", "ustar"])
def test_gnu_tar_reads_what_the_builder_writes(tmp_path: Path, long: str) -> None:
    name = "d" * 90 + "/" + "n" * 90
    builder = TarBuilder().directory("d" * 90).member(name, data=b"data", long=long)  # type: ignore[arg-type]
    file = tmp_path / "a.tar"
    file.write_bytes(builder.build())
    dump_tar(file, tmp_path / "out")
    assert (tmp_path / "out" / name).read_bytes() == b"data"


@pytest.mark.parametrize("form", ["gnu", "0.0", "0.1", "1.0"])
@pytest.mark.parametrize("pieces", [0, 1, 4, 5, 60])
def test_gnu_tar_reads_sparse_files(tmp_path: Path, form: str, pieces: int) -> None:
    size = 60 * 8192
    extents = [(index * 8192 + 512, bytes([index + 1]) * 1024) for index in range(pieces)] + [(size, b"")]
    file = tmp_path / "a.tar"
    file.write_bytes(TarBuilder().sparse("holes", extents, size, form=form).file("next").build())  # type: ignore[arg-type]
    run("tar", "-C", tmp_path, "-xf", file)
    expected = bytearray(size)
    for offset, piece in extents:
        expected[offset : offset + len(piece)] = piece
    assert (tmp_path / "holes").read_bytes() == expected
    assert (tmp_path / "next").exists()


def test_headers_can_be_wrong_on_demand() -> None:
    right, wrong = layers.header("a"), layers.header("a", checksum=b"0000000\x00")
    with tarfile.open(fileobj=BytesIO(right + bytes(1024))) as archive:
        assert archive.getnames() == ["a"]
    with pytest.raises(tarfile.ReadError), tarfile.open(fileobj=BytesIO(wrong + bytes(1024))):
        pass


@pytest.mark.root
def test_umoci_and_gnu_tar_make_the_same_tree_of_one_layer(tmp_path: Path) -> None:
    file = tmp_path / "a.tar"
    file.write_bytes(archive().build())
    layout = write_layout(tmp_path / "layout", build_image([archive()]))
    by_tar = dump_tar(file, tmp_path / "tar")
    by_umoci = dump_umoci(layout, tmp_path / "umoci")
    assert without_mtime(by_umoci, "/") == without_mtime(by_tar, "/")
    assert by_tar == EXPECTED


@pytest.mark.root
def test_the_dump_shows_every_difference(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"1")
    os.utime(file, ns=(0, 0))
    os.utime(tmp_path, ns=(0, 0))
    seen = {dump_directory(tmp_path)}

    def differs() -> None:
        os.utime(tmp_path, ns=(0, 0))
        dump = dump_directory(tmp_path)
        assert dump not in seen
        seen.add(dump)

    file.write_bytes(b"2")
    os.utime(file, ns=(0, 0))
    differs()
    os.utime(file, ns=(0, 1))
    differs()
    file.chmod(0o4644)
    differs()
    os.chown(file, 1, -1)
    differs()
    os.chown(file, -1, 1)
    differs()
    os.setxattr(file, "user.a", b"")
    differs()
    os.setxattr(file, "user.a", b"1")
    differs()
    os.setxattr(tmp_path, "trusted.a", b"1")
    differs()
    os.link(file, tmp_path / "second")
    differs()
    (tmp_path / "second").unlink()
    (tmp_path / "second").symlink_to("a")
    os.utime(tmp_path / "second", ns=(0, 0), follow_symlinks=False)
    differs()
    (tmp_path / "second").unlink()
    (tmp_path / "second").symlink_to("b")
    os.utime(tmp_path / "second", ns=(0, 0), follow_symlinks=False)
    differs()


@pytest.mark.tools
@pytest.mark.parametrize("compression", ["gzip", "zstd", "plain"])
def test_skopeo_takes_layouts_and_archives(tmp_path: Path, compression: str) -> None:
    image = build_image([Layer(archive(), compression)])  # type: ignore[arg-type]
    write_layout(tmp_path / "layout", image)
    write_oci_archive(tmp_path / "oci.tar", image)
    write_docker_archive(tmp_path / "docker.tar", {"host/name:tag": image})
    for source in [
        f"oci:{tmp_path}/layout",
        f"oci-archive:{tmp_path}/oci.tar",
        f"docker-archive:{tmp_path}/docker.tar",
    ]:
        assert b'"Architecture": "amd64"' in run("skopeo", "inspect", source)


@pytest.mark.parametrize("docker", [False, True])
def test_skopeo_takes_images_from_the_registry(registry: Registry, docker: bool) -> None:
    name = registry.put(build_image([archive()], docker=docker), f"support/docker-{docker}:1".lower())
    assert b'"Architecture": "amd64"' in run("skopeo", "inspect", "--tls-verify=false", f"docker://{name}")


def test_the_registry_holds_images_put_byte_for_byte(registry: Registry) -> None:
    image = build_image([archive()])
    index = build_index([image, build_image([archive()], platform="linux/arm64/v8")])
    registry.put(index, "support/index:1")
    damaged = build_image([Layer(archive(), digest="sha256:" + "0" * 64)])
    registry.put(damaged, "support/damaged:1")
    with registry.client() as client:
        accept = {"Accept": index.media_type}
        assert client.get("/v2/support/index/manifests/1", headers=accept).content == index.raw
        blob = client.get("/v2/support/damaged/blobs/sha256:" + "0" * 64)
        assert blob.content == damaged.blobs["sha256:" + "0" * 64]
        registry.blob(image.layers[0].digest).unlink()
        assert client.get(f"/v2/support/index/blobs/{image.layers[0].digest}").status_code == 404
    assert "GET /v2/support/index/manifests/1 200" in registry.requests()


@pytest.mark.tools
def test_the_registry_asks_for_its_password(tmp_path: Path) -> None:
    with serve_registry(tmp_path / "registry", user=("someone", "secret word")) as private:
        private.put(build_image([archive()]), "private/image:1")
        with private.client() as client:
            assert client.get("/v2/", auth=("someone", "another")).status_code == 401
            assert client.get("/v2/").status_code == 200


@pytest.mark.root
def test_the_real_image_holds_what_it_promises(real_image: RealImage, real_reference: str) -> None:
    lines = {line.split(" ")[0]: line.split(" ")[1:] for line in real_image.dump.splitlines()}
    assert len(lines) > 1000
    assert {line[0] for line in lines.values()} == {"file", "directory", "symlink", "char", "block", "fifo"}
    assert lines["/srv/third"][5] == "/srv/first"
    assert "/srv/second" not in lines
    assert lines["/bin/ping"][7].startswith("security.capability=")
    assert not any(path.startswith("/var/lib/many-6") or "/.wh." in path for path in lines)
    manifest = json.loads(run("skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{real_reference}"))
    assert len(manifest["layers"]) == 6
