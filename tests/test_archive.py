"""OCI archives: read where they stand, written once and always the same."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

import ocifast
import pytest
from ocifast import _core
from ocifast.errors import (
    CompressionError,
    DigestMismatchError,
    DocumentError,
    FileError,
    ImageNotFoundError,
    LimitError,
    OcifastError,
    OutputUnsupportedError,
    UsageError,
)
from ocifast.sources.archive_destination import ArchiveDestination, TarWriter
from ocifast.sources.archive_place import FilePlace
from ocifast.spec import Descriptor, Document

from tests.support.documents import listing, move
from tests.support.images import (
    Layer,
    as_json,
    build_image,
    build_index,
    digest_of,
    layout_files,
    write_docker_archive,
    write_layout,
    write_oci_archive,
)
from tests.support.layers import TarBuilder
from tests.support.run import COMMAND, attempt, run

IMAGE = build_image(
    [
        Layer(TarBuilder().file("one", b"1" * 300_000)),
        Layer(TarBuilder().file("two", b"2" * 700_000), compression="plain"),
    ]
)
MANY = build_index([IMAGE, build_image([TarBuilder().file("arm")], platform="linux/arm64/v8")])


def contents(location: str) -> dict[str, bytes]:
    """Manifest, config and layers by digest, as they are read."""
    with ocifast.open(location, platform="linux/amd64") as image:
        found = {image.digest: image.document.raw, image.manifest.config.digest: image.config_raw}
        for layer in image.layers:
            with image.blob(layer) as blob:
                found[layer.digest] = b"".join(blob)
                assert blob.local is not None
                with blob.local.path.open("rb") as file:
                    file.seek(blob.local.offset)
                    assert file.read(blob.local.length) == found[layer.digest]
    assert {digest_of(data) for data in found.values()} == set(found)
    return found


def expected() -> dict[str, bytes]:
    """What `contents` gives for `IMAGE`."""
    return {IMAGE.digest: IMAGE.raw, **IMAGE.all_blobs()}


def test_an_archive_is_read_by_tag_by_digest_and_alone(tmp_path: Path) -> None:
    archive = write_oci_archive(tmp_path / "a.tar", {"app": IMAGE})
    for suffix in ("", ":app", f"@{IMAGE.digest}"):
        assert contents(f"oci-archive:{archive}{suffix}") == expected()


@pytest.mark.tools
def test_a_compressed_archive_is_unpacked_beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = write_oci_archive(tmp_path / "a.tar", {"app": IMAGE})
    run("gzip", "-k", archive)
    run("zstd", "-q", archive)
    # As xz and bzip2 write with several threads: many streams, padded.
    data = archive.read_bytes()
    for tool, suffix, padding in (("xz", ".xz", bytes(8)), ("bzip2", ".bz2", b"")):
        halves = run(tool, "-c", stdin=data[:100_000]) + padding + run(tool, "-c", stdin=data[100_000:]) + padding
        archive.with_name(archive.name + suffix).write_bytes(halves)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    for suffix in (".gz", ".zst", ".xz", ".bz2"):
        image = ocifast.open(f"oci-archive:{archive}{suffix}")
        assert len(listing(tmp_path / "tmp")) == 1
        image.close()
        assert listing(tmp_path / "tmp") == []
        assert contents(f"oci-archive:{archive}{suffix}") == expected()


def test_names_in_other_words_and_links_within(tmp_path: Path) -> None:
    files = layout_files({"app": IMAGE})
    layer = "blobs/" + IMAGE.layers[0].digest.replace(":", "/")
    config = "blobs/" + IMAGE.manifest["config"]["digest"].replace(":", "/")
    archive = TarBuilder()
    for name, data in files.items():
        if name == layer:
            archive.file("/elsewhere/layer", data).symlink(f"./{name}", "../../elsewhere/layer")
        elif name == config:
            archive.file(f"./a/../{name}", b"the last one of a name counts").file("x", data).hard_link(name, "./x")
        else:
            archive.file(f"./{name}", data)
    (tmp_path / "a.tar").write_bytes(archive.build())
    assert contents(f"oci-archive:{tmp_path}/a.tar") == expected()


def big_tar(form: int) -> bytes:
    """The archive with long names before it, as other writers have it."""
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w", format=form) as archive:
        for name, data in {"a/" * 150 + "b": b"x", **layout_files({"app": IMAGE})}.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return output.getvalue()


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_formats_of_tar(form: int, tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(big_tar(form))
    assert contents(f"oci-archive:{tmp_path}/a.tar") == expected()


def test_a_pax_size_wins_over_the_header(tmp_path: Path) -> None:
    # Another reader of the same bytes would find a second index.json within the first one's data.
    hidden = TarBuilder().file("index.json", as_json({"manifests": []})).build(end=False)
    files = layout_files({"app": IMAGE})
    archive = TarBuilder().pax({"size": str(len(hidden))}).file("decoy", b"").raw(hidden)
    for name, data in files.items():
        archive.file(name, data)
    (tmp_path / "a.tar").write_bytes(archive.build())
    assert contents(f"oci-archive:{tmp_path}/a.tar") == expected()


def broken(kind: str, whole: bytes) -> bytes:
    """An archive with one thing wrong."""
    first = 512 + 512
    match kind:
        case "empty":
            return b""
        case "text":
            return b"this is no tar at all\n" * 100
        case "zeros":
            return bytes(10240)
        case "cut in a member":
            return whole[: len(whole) // 2]
        case "damaged header":
            return whole[:first] + b"\xff" + whole[first + 1 :]
        case "negative size":
            return TarBuilder().file("x", b"", size=-512).build() + whole
        case "endless pax header":
            return TarBuilder().pax({"path": "x" * (2 << 20)}).file("x").build(end=False) + whole
        case "sparse":
            return TarBuilder().sparse("oci-layout", [(0, b"x" * 512)], 4096, form="1.0").build(end=False) + whole
        case "too many":
            return TarBuilder().file("x").build(end=False) * 50_001 + whole
        case "other":
            return TarBuilder().file("etc/passwd", b"root").build()
        case "cut gzip":
            return gzip.compress(whole)[:-100]
        case "cut xz":
            return lzma.compress(whole)[:-100]
        case "damaged xz":
            return (packed := lzma.compress(whole))[:100] + b"xxxxxxxx" + packed[108:]
        case "text after xz":
            return lzma.compress(whole) + b"text"
        case "cut bzip2":
            return bz2.compress(whole)[:-100]
        case "damaged bzip2":
            return (packed := bz2.compress(whole))[:100] + b"xxxxxxxx" + packed[108:]
        case "xz in gzip":
            return gzip.compress(lzma.compress(whole))
        case _:
            raise AssertionError(kind)


BROKEN = {
    "empty": (DocumentError, "this is not a tar archive: empty file"),
    "text": (DocumentError, "this is not a tar archive: "),
    "zeros": (ImageNotFoundError, "the file has no oci-layout; it is no image archive"),
    "cut in a member": (DocumentError, "the archive ends within its member "),
    "damaged header": (DocumentError, "the archive is damaged at byte 1024"),
    # Python's tarfile sees it itself in some versions.
    "negative size": (DocumentError, " archive"),
    "endless pax header": (DocumentError, "an extended header of "),
    "sparse": (DocumentError, "the member 'oci-layout' is sparse; pack the archive without holes"),
    "too many": (DocumentError, "more than 50000 members; this is no image archive"),
    "other": (ImageNotFoundError, "the file has no oci-layout; it is no image archive"),
    "cut gzip": (CompressionError, ""),
    "cut xz": (CompressionError, "the xz stream is damaged: it ends early"),
    "damaged xz": (CompressionError, "the xz stream is damaged: "),
    "text after xz": (CompressionError, "the xz stream is damaged: "),
    "cut bzip2": (CompressionError, "the bzip2 stream is damaged: it ends early"),
    "damaged bzip2": (CompressionError, "the bzip2 stream is damaged: "),
    "xz in gzip": (OcifastError, ""),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_is_wrong_with_an_archive_is_named(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = write_oci_archive(tmp_path / "a.tar", IMAGE)
    archive.write_bytes(broken(kind, archive.read_bytes()))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    expected_class, message = BROKEN[kind]
    with pytest.raises(OcifastError) as caught:
        ocifast.open(f"oci-archive:{archive}")
    assert isinstance(caught.value, expected_class), caught.value
    assert caught.value.message.startswith(f"oci-archive:{archive}: ")
    assert message in caught.value.message
    assert "\n" not in caught.value.message
    assert listing(tmp_path) == ["a.tar", "tmp/"]


def test_a_file_of_another_kind_is_told_its_prefix(tmp_path: Path) -> None:
    write_docker_archive(tmp_path / "d.tar", {"app:1": IMAGE})
    with pytest.raises(ImageNotFoundError, match=r"it is a Docker archive, write docker-archive:.*/d\.tar$"):
        ocifast.open(f"oci-archive:{tmp_path}/d.tar")
    with pytest.raises(ImageNotFoundError, match=r"is a folder; an archive is a file \(a layout is written oci:"):
        ocifast.open(f"oci-archive:{tmp_path}")
    with pytest.raises(ImageNotFoundError, match="there is no file "):
        ocifast.open(f"oci-archive:{tmp_path}/none.tar")
    with pytest.raises(DocumentError, match="/dev/null is neither a file nor a pipe"):
        ocifast.open("oci-archive:/dev/null")


def test_what_xz_unpacks_to_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ocifast.sources.unpacked._RATIO_FROM", 1 << 20)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    for compress in (lzma.compress, bz2.compress):
        (tmp_path / "a.tar").write_bytes(compress(bytes(64 << 20)))
        with pytest.raises(LimitError, match=r"bytes decompress to [0-9]+, more than 2000 times as many"):
            ocifast.open(f"oci-archive:{tmp_path}/a.tar")
        assert listing(tmp_path / "tmp") == []


def test_without_the_module_of_a_compression(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = write_oci_archive(tmp_path / "a.tar", IMAGE)
    archive.with_name("a.tar.xz").write_bytes(lzma.compress(archive.read_bytes()))
    monkeypatch.setitem(sys.modules, "lzma", None)
    with pytest.raises(DocumentError, match="is compressed with xz, and this Python has no lzma; unpack it first"):
        ocifast.open(f"oci-archive:{archive}.xz")


@pytest.mark.tools
@pytest.mark.parametrize("kind", ["oci-archive", "docker-archive"])
@pytest.mark.parametrize("compression", ["cat", "gzip -c", "zstd -qc", "xz -c", "bzip2 -c"])
def test_an_archive_from_a_pipe(kind: str, compression: str, tmp_path: Path) -> None:
    """Standard input by either name, and a named pipe; nothing stays in the temporary folder."""
    if kind == "oci-archive":
        archive = write_oci_archive(tmp_path / "a.tar", {"app": IMAGE})
    else:
        archive = write_docker_archive(tmp_path / "a.tar", {"app:1": IMAGE})
    packed = run(*compression.split(), stdin=archive.read_bytes())
    for folder in ("tmp", "out"):
        (tmp_path / folder).mkdir()
    env = {**os.environ, "TMPDIR": str(tmp_path / "tmp")}
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for number, place in enumerate(("-", "/dev/stdin", str(fifo))):
        words = [str(COMMAND), "compile", "-q", "--no-cache", f"{kind}:{place}", str(tmp_path / f"out/{number}.tar")]
        with subprocess.Popen(words, stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=env) as process:
            if place == str(fifo):
                fifo.write_bytes(packed)
            _, said = process.communicate(packed if place != str(fifo) else None, timeout=60)
        assert (process.returncode, said) == (0, b"")
    assert listing(tmp_path / "tmp") == []
    assert len({(tmp_path / f"out/{number}.tar").read_bytes() for number in range(3)}) == 1


def test_a_name_within_an_archive_from_a_pipe(tmp_path: Path) -> None:
    archive = write_oci_archive(tmp_path / "a.tar", {"one": IMAGE, "many": MANY})
    for suffix, digest in {":one": IMAGE.digest, f"@{MANY.digest}": MANY.digest}.items():
        done = attempt(COMMAND, "inspect", "--raw", f"oci-archive:-{suffix}", stdin=archive.read_bytes())
        assert digest_of(done.stdout) == digest


def test_a_pipe_through_which_nothing_comes(tmp_path: Path) -> None:
    for kind in ("oci-archive", "docker-archive"):
        done = attempt(COMMAND, "inspect", f"{kind}:-", stdin=b"")
        message = f"{kind}:-: nothing comes through standard input; a pipe can be read once only"
        assert (done.returncode, done.stderr.decode()) == (1, f"ocifast: error: {message}\n")
        # What is written is never a file that is called so.
        write_layout(tmp_path / "layout", IMAGE)
        done = attempt(COMMAND, "copy", f"oci:{tmp_path}/layout:app", f"{kind}:-:app:1", cwd=tmp_path)
        assert (done.returncode, bool(done.stdout)) == (0, True)
    assert [path.name for path in tmp_path.iterdir()] == ["layout"]


def test_no_room_for_what_comes_through_a_pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = write_oci_archive(tmp_path / "a.tar", IMAGE)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "not there"))
    monkeypatch.setattr("os.dup", lambda fd: os.open(archive, os.O_RDONLY))
    with pytest.raises(FileError, match=r"oci-archive:-: cannot unpack it in .*/not there: No such file"):
        ocifast.open("oci-archive:-")


def test_an_archive_without_a_version(tmp_path: Path) -> None:
    """As ocipkg 0.4 writes it; skopeo and buildah read it."""
    archive = TarBuilder()
    for name, data in layout_files({"app": IMAGE}).items():
        if name != "oci-layout":
            archive.file(name, data)
    (tmp_path / "a.tar").write_bytes(archive.build())
    assert contents(f"oci-archive:{tmp_path}/a.tar") == expected()


NOWHERE = [b"", b"{", b"[" * 100_000, b'{"schemaVersion":2,"manifests":[]}', b"missing", b"null"]


@pytest.mark.parametrize("index", NOWHERE, ids=lambda index: index[:8].decode())
def test_an_index_that_leads_nowhere_gives_way_to_dockers_list(index: bytes, tmp_path: Path) -> None:
    files = layout_files({"app": IMAGE})
    if index == b"missing":
        absent = build_image([TarBuilder().file("absent")])
        index = as_json({"schemaVersion": 2, "manifests": [absent.descriptor()]})
    config = "blobs/" + IMAGE.manifest["config"]["digest"].replace(":", "/")
    layers = ["blobs/" + layer.digest.replace(":", "/") for layer in IMAGE.layers]
    listed = [{"Config": config, "RepoTags": ["app:1"], "Layers": layers}]
    archive = TarBuilder()
    for name, data in {**files, "index.json": index, "manifest.json": as_json(listed)}.items():
        archive.file(name, data)
    (tmp_path / "a.tar").write_bytes(archive.build())
    for kind in ("oci-archive", "docker-archive"):
        for suffix in ("", ":app:1", ":1"):
            with ocifast.open(f"{kind}:{tmp_path}/a.tar{suffix}") as image:
                assert [layer.digest for layer in image.layers] == [layer.digest for layer in IMAGE.layers]
    with pytest.raises(OcifastError, match=r"there is no docker\.io/library/app:2"):
        ocifast.open(f"oci-archive:{tmp_path}/a.tar:app:2")


def test_a_written_archive_is_the_same_every_time(tmp_path: Path) -> None:
    write_layout(tmp_path / "in", {"a": MANY})
    for number, mask in enumerate((0o022, 0o077)):
        before = os.umask(mask)
        try:
            assert move(f"oci:{tmp_path}/in:a", f"oci-archive:{tmp_path}/{number}.tar:x/y:1") == MANY.digest
        finally:
            os.umask(before)
        assert (tmp_path / f"{number}.tar").stat().st_mode & 0o777 == 0o666 & ~mask
    assert (tmp_path / "0.tar").read_bytes() == (tmp_path / "1.tar").read_bytes()
    children = [child.manifest for child in MANY.children]
    blobs = [descriptor["digest"] for child in children for descriptor in (child["config"], *child["layers"])]
    order = [*blobs[:3], MANY.children[0].digest, *blobs[3:], MANY.children[1].digest, MANY.digest]
    with tarfile.open(tmp_path / "0.tar") as archive:
        members = [(m.name, m.type, m.mode, m.uid, m.gid, m.uname, m.gname, m.mtime) for m in archive]
    plain = [("blobs/" + digest.replace(":", "/"), tarfile.REGTYPE, 0o644, 0, 0, "", "", 0) for digest in order]
    assert members == [
        ("oci-layout", tarfile.REGTYPE, 0o644, 0, 0, "", "", 0),
        ("blobs", tarfile.DIRTYPE, 0o755, 0, 0, "", "", 0),
        ("blobs/sha256", tarfile.DIRTYPE, 0o755, 0, 0, "", "", 0),
        *plain,
        ("index.json", tarfile.REGTYPE, 0o644, 0, 0, "", "", 0),
    ]


@pytest.mark.tools
def test_a_written_archive_is_read_by_skopeo_and_umoci(tmp_path: Path) -> None:
    write_layout(tmp_path / "in", {"a": IMAGE})
    move(f"oci:{tmp_path}/in:a", f"oci-archive:{tmp_path}/a.tar:b")
    skopeo = ("skopeo", "--insecure-policy", "copy", "--quiet", "--preserve-digests")
    run(*skopeo, f"oci-archive:{tmp_path}/a.tar:b", f"oci:{tmp_path}/out:c")
    assert listing(tmp_path / "out") == listing(tmp_path / "in")
    (tmp_path / "unpacked").mkdir()
    run("tar", "-xf", tmp_path / "a.tar", "-C", tmp_path / "unpacked")
    run("umoci", "stat", "--image", f"{tmp_path}/unpacked:b")
    run(*skopeo, f"oci:{tmp_path}/in:a", f"oci-archive:{tmp_path}/skopeo.tar:d")
    assert contents(f"oci-archive:{tmp_path}/skopeo.tar:d") == expected()


def put_all(destination: ArchiveDestination, order: list[int]) -> None:
    """Puts the blobs of `IMAGE` in some order, each from its own thread, one after another."""
    descriptors = [Descriptor("x", digest, len(data)) for digest, data in IMAGE.all_blobs().items()]
    destination.announce(descriptors)
    for position in order:
        descriptor = descriptors[position]
        data = IMAGE.all_blobs()[descriptor.digest]
        thread = threading.Thread(target=destination.put_blob, args=(descriptor, [data[:10], data[10:]]))
        thread.start()
        thread.join()
    destination.put_document(Document(IMAGE.media_type, IMAGE.raw), root=True)
    destination.commit()


def test_the_order_of_arrival_shows_nowhere(tmp_path: Path) -> None:
    put_all(ArchiveDestination(tmp_path / "1.tar", name="x", tag="t"), [0, 1, 2])
    put_all(ArchiveDestination(tmp_path / "2.tar", name="x", tag="t"), [2, 0, 1])
    assert (tmp_path / "1.tar").read_bytes() == (tmp_path / "2.tar").read_bytes()
    assert contents(f"oci-archive:{tmp_path}/1.tar:t") == expected()


def test_a_blob_may_come_again_after_a_failure(tmp_path: Path) -> None:
    destination = ArchiveDestination(tmp_path / "a.tar", name="x")
    digest, data = next(iter(IMAGE.all_blobs().items()))
    descriptor = Descriptor("x", digest, len(data))
    with pytest.raises(DigestMismatchError):
        destination.put_blob(descriptor, [b"?" * len(data)])
    assert not destination.has_blob(descriptor)
    put_all(destination, [0, 1, 2])
    assert contents(f"oci-archive:{tmp_path}/a.tar") == expected()


def test_an_archive_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_text("old")
    destination = ArchiveDestination(tmp_path / "a.tar", name="x")
    destination.announce([Descriptor("x", digest_of(b"12345"), 5)])
    destination.put_document(Document(IMAGE.media_type, IMAGE.raw), root=True)
    assert len(listing(tmp_path)) == 2
    with pytest.raises(FileError, match="1 blobs were announced and never written"):
        destination.commit()
    assert (tmp_path / "a.tar").read_text() == "old"
    destination.abort()
    assert listing(tmp_path) == ["a.tar"]
    put_all(ArchiveDestination(tmp_path / "a.tar", name="x"), [0, 1, 2])
    assert listing(tmp_path) == ["a.tar"]
    assert contents(f"oci-archive:{tmp_path}/a.tar") == expected()


def test_where_no_archive_can_be_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a file, so no archive can be written there"):
        ArchiveDestination(tmp_path, name="x")
    with pytest.raises(UsageError, match="is not a file, so no archive can be written there"):
        ArchiveDestination(Path("/dev/null"), name="x")
    with pytest.raises(UsageError, match=r"there is no folder .*none to write a\.tar in"):
        ArchiveDestination(tmp_path / "none/a.tar", name="x")
    with pytest.raises(UsageError, match="no manifest was written"):
        ArchiveDestination(tmp_path / "a.tar", name="x").commit()
    (tmp_path / "link.tar").symlink_to("real.tar")
    put_all(ArchiveDestination(tmp_path / "link.tar", name="x"), [0, 1, 2])
    assert listing(tmp_path) == ["link.tar", "real.tar"]
    assert (tmp_path / "link.tar").is_symlink()


def test_members_beyond_eight_gibibytes(tmp_path: Path) -> None:
    writer = TarWriter(FilePlace(tmp_path / "a.tar"))
    size = (8 << 30) + 3
    offset = writer.reserve("big", size)
    writer.write(b"end", offset + size - 3)
    writer.add("after", b"x")
    writer.publish()
    # GNU tar is the judge of what we wrote; nothing but holes was written.
    told = run("tar", "--numeric-owner", "-tvf", tmp_path / "a.tar").decode().split("\n")
    assert [line.split()[2::3] for line in told if line] == [[str(size), "big"], ["1", "after"]]
    assert (tmp_path / "a.tar").stat().st_blocks < 1000


@pytest.mark.parametrize("name", ["a", "b" * 100, "c/" * 60 + "d", "e" * 300, "ü"])
@pytest.mark.parametrize("size", [None, 0, 1, (8 << 30) - 1, 8 << 30])
def test_headers_are_read_by_python(name: str, size: int | None) -> None:
    header = _core.tar_header(name.encode(), size)
    assert len(header) % 512 == 0
    with tarfile.open(fileobj=io.BytesIO(header + bytes(1024)), mode="r:") as archive:
        found = archive.next()
    assert found is not None
    mode, kind = (0o755, tarfile.DIRTYPE) if size is None else (0o644, tarfile.REGTYPE)
    assert (found.name, found.size, found.type, found.mode) == (name, size or 0, kind, mode)
    assert (found.uid, found.gid, found.mtime, found.offset_data) == (0, 0, 0, len(header))


def test_a_name_that_no_header_holds_is_refused() -> None:
    with pytest.raises(OutputUnsupportedError, match="NUL"):
        _core.tar_header(b"a\0b", 1)


def test_the_index_of_a_written_archive(tmp_path: Path) -> None:
    write_layout(tmp_path / "in", {"a": IMAGE})
    move(f"oci:{tmp_path}/in:a", f"oci-archive:{tmp_path}/a.tar")
    with tarfile.open(tmp_path / "a.tar") as archive:
        index = archive.extractfile("index.json")
        assert index is not None
        assert json.load(index) == {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [{"mediaType": IMAGE.media_type, "digest": IMAGE.digest, "size": len(IMAGE.raw)}],
        }
