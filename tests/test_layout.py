"""OCI image layouts: read whatever others wrote, written so that others read them."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import ocifast
import pytest
from ocifast.errors import (
    BlobNotFoundError,
    DigestMismatchError,
    DocumentError,
    FileError,
    ImageNotFoundError,
    ImageReferenceError,
    OcifastError,
    SizeMismatchError,
    UsageError,
)
from ocifast.reference import Reference
from ocifast.sources.layout import FolderFiles, LayoutSource
from ocifast.sources.layout_destination import LayoutDestination
from ocifast.sources.open import open_source, parse_location
from ocifast.spec import OCI_MANIFEST, Descriptor, Document

from tests.support.documents import listing, move
from tests.support.images import Layer, build_image, build_index, digest_of, write_layout
from tests.support.layers import TarBuilder
from tests.support.run import run

ONE = build_image([Layer(TarBuilder().file("one", b"1" * 3000))])
TWO = build_image([Layer(TarBuilder().file("two", b"2" * 3000)), Layer(TarBuilder().file("b"), compression="plain")])
MANY = build_index([ONE, build_image([TarBuilder().file("arm")], platform="linux/arm64/v8")])


def edit_index(layout: Path, edit: Any) -> None:
    """Changes the parsed `index.json` of a layout."""
    path = layout / "index.json"
    index = json.loads(path.read_text())
    edit(index)
    path.write_text(json.dumps(index))


def read(location: str) -> Document:
    """The root document at a location."""
    source = open_source(parse_location(location))
    try:
        return source.root()
    finally:
        source.close()


def failure(location: str) -> OcifastError:
    """What reading everything at a location ends with."""
    with pytest.raises(OcifastError) as caught:
        read_all(location)
    return caught.value


def read_all(location: str) -> None:
    """Opens an image and reads its config and its layers."""
    with ocifast.open(location) as image:
        for layer in (image.manifest.config, *image.layers):
            with image.blob(layer) as blob:
                b"".join(blob)
        assert image.config is not None


def test_an_image_is_read_by_tag_by_digest_and_alone(tmp_path: Path) -> None:
    write_layout(tmp_path, {"one": ONE, "two": TWO, "": MANY})
    assert read(f"oci:{tmp_path}:one").raw == ONE.raw
    assert read(f"oci:{tmp_path}:two").raw == TWO.raw
    assert read(f"oci:{tmp_path}@{MANY.digest}").raw == MANY.raw
    # A child of an index has no entry of its own, but a digest.
    assert read(f"oci:{tmp_path}@{MANY.children[1].digest}").raw == MANY.children[1].raw
    assert failure(f"oci:{tmp_path}").message == (
        f"oci:{tmp_path}: the layout holds several images; name one of one, two, @{MANY.digest}"
    )
    assert failure(f"oci:{tmp_path}:three").message == (
        f"oci:{tmp_path}:three: there is no 'three'; the layout has one, two, @{MANY.digest}"
    )
    edit_index(tmp_path, lambda index: index["manifests"].__delitem__(slice(1, None)))
    assert read(f"oci:{tmp_path}").raw == ONE.raw


def test_blobs_are_slices_of_files(tmp_path: Path) -> None:
    write_layout(tmp_path, TWO)
    with ocifast.open(f"oci:{tmp_path}:app") as image:
        blob = image.blob(image.layers[0])
        path = tmp_path / "blobs" / image.layers[0].digest.replace(":", "/")
        assert blob.local is not None
        assert (blob.local.path, blob.local.offset, blob.local.length) == (path, 0, image.layers[0].size)
        assert b"".join(blob) == path.read_bytes()
        assert b"".join(image.blob(image.layers[0], offset=10)) == path.read_bytes()[10:]
        assert b"".join(image.blob(image.layers[0], offset=image.layers[0].size)) == b""


def test_no_more_than_one_byte_beyond_the_size_is_handed_on(tmp_path: Path) -> None:
    write_layout(tmp_path, ONE)
    with ocifast.open(f"oci:{tmp_path}:app") as image:
        layer = image.layers[0]
        (tmp_path / "blobs" / layer.digest.replace(":", "/")).write_bytes(b"x" * (layer.size + 1000))
        assert len(b"".join(image.blob(layer))) == layer.size + 1
        assert image.blob(layer).local.length == layer.size + 1  # type: ignore[union-attr]


def containerd(tag: str, name: str) -> dict[str, str]:
    """Annotations as containerd and BuildKit write them."""
    return {"org.opencontainers.image.ref.name": tag, "io.containerd.image.name": name}


def test_full_names_of_containerd(tmp_path: Path) -> None:
    write_layout(tmp_path, {"one": ONE, "two": TWO})

    def name(index: Any) -> None:
        index["manifests"][0]["annotations"] = containerd("1", "docker.io/library/app:1")
        index["manifests"][1]["annotations"] = containerd("2", "docker.io/library/app:2")

    edit_index(tmp_path, name)
    for tag in ("1", "docker.io/library/app:1", "app:1"):
        assert read(f"oci:{tmp_path}:{tag}").raw == ONE.raw, tag
    assert isinstance(failure(f"oci:{tmp_path}:ghcr.io/app:1"), ImageNotFoundError)
    assert isinstance(failure(f"oci:{tmp_path}:app"), ImageNotFoundError)


def test_a_registrys_reference_is_looked_up_by_its_full_name(tmp_path: Path) -> None:
    write_layout(tmp_path, {"app": ONE, "docker.io/library/other:latest": TWO})
    source = LayoutSource(FolderFiles(tmp_path, name="seed"), name="seed")
    assert source.look_up(Reference.parse("app")) is None
    found = source.look_up(Reference.parse("other"))
    assert found is not None
    assert found.raw == TWO.raw
    assert source.look_up(Reference.parse(f"any.example/name@{ONE.digest}")) == Document(ONE.media_type, ONE.raw)


def test_an_index_json_of_platforms_is_an_index_itself(tmp_path: Path) -> None:
    write_layout(tmp_path, {"": MANY.children[0]})
    write_layout(tmp_path, MANY)
    edit_index(tmp_path, lambda index: index.update(manifests=[child.descriptor() for child in MANY.children]))
    with ocifast.open(f"oci:{tmp_path}", platform="linux/arm64") as image:
        assert image.digest == MANY.children[1].digest


def test_a_tag_that_two_images_have(tmp_path: Path) -> None:
    write_layout(tmp_path, {"one": ONE, "two": TWO})
    edit_index(tmp_path, lambda index: [entry.update(annotations=containerd("t", "")) for entry in index["manifests"]])
    assert failure(f"oci:{tmp_path}:t").message == f"oci:{tmp_path}:t: 't' names 2 different images; use @DIGEST"
    edit_index(tmp_path, lambda index: index["manifests"].append(index["manifests"].pop(0)))
    edit_index(tmp_path, lambda index: index.update(manifests=[index["manifests"][0]] * 2))
    assert read(f"oci:{tmp_path}:t").raw == TWO.raw


def break_layout(folder: Path, kind: str) -> None:
    """Makes one thing of a layout wrong."""
    layer = folder / "blobs" / TWO.layers[0].digest.replace(":", "/")
    manifest = folder / "blobs" / TWO.digest.replace(":", "/")
    config = folder / "blobs" / TWO.manifest["config"]["digest"].replace(":", "/")
    match kind:
        case "no folder":
            run("rm", "-r", folder)
        case "file":
            run("rm", "-r", folder)
            folder.touch()
        case "no oci-layout and no index.json":
            (folder / "oci-layout").unlink()
            (folder / "index.json").unlink()
        case "no index.json":
            (folder / "index.json").unlink()
        case "version":
            (folder / "oci-layout").write_text('{"imageLayoutVersion": "2.0.0"}')
        case "oci-layout is no JSON":
            (folder / "oci-layout").write_text("x")
        case "index.json is no JSON":
            (folder / "index.json").write_text('{"manifests": [')
        case "index.json is deep":
            (folder / "index.json").write_text("[" * 100_000)
        case "index.json is big":
            (folder / "index.json").write_text(" " * ((16 << 20) + 1))
        case "negative size":
            edit_index(folder, lambda index: index["manifests"][0].update(size=-1))
        case "no size":
            edit_index(folder, lambda index: index["manifests"][0].pop("size"))
        case "bad digest":
            edit_index(folder, lambda index: index["manifests"][0].update(digest="sha256:../../../etc/passwd"))
        case "empty":
            edit_index(folder, lambda index: index.update(manifests=[]))
        case "manifest is missing":
            manifest.unlink()
        case "manifest is longer":
            manifest.write_bytes(manifest.read_bytes() + b" ")
        case "manifest is shorter":
            manifest.write_bytes(manifest.read_bytes()[:-1])
        case "manifest is another":
            manifest.write_bytes(manifest.read_bytes().replace(b"2", b"3", 1))
        case "config is missing":
            config.unlink()
        case "config is another":
            config.write_bytes(config.read_bytes().replace(b"linux", b"Linux"))
        case "layer is missing":
            layer.unlink()
        case "layer is a link out":
            layer.rename(folder.parent / "elsewhere")
            layer.symlink_to(folder.parent / "elsewhere")
        case "layer is a link to a FIFO":
            layer.unlink()
            os.mkfifo(folder.parent / layer.name)
            layer.symlink_to(folder.parent / layer.name)
        case "layer is a link to a device":
            layer.unlink()
            layer.symlink_to("/dev/zero")
        case "layer is a link to itself":
            layer.unlink()
            layer.symlink_to(layer.name)
        case "layer is a link to nothing":
            layer.unlink()
            layer.symlink_to("nothing")
        case "layer is a FIFO":
            layer.unlink()
            os.mkfifo(layer)
        case "layer is a folder":
            layer.unlink()
            layer.mkdir()
        case "index.json is a link out":
            (folder / "index.json").rename(folder.parent / "index.json")
            (folder / "index.json").symlink_to("../index.json")
        case _:
            raise AssertionError(kind)


LAYER = "blobs/" + TWO.layers[0].digest.replace(":", "/")
MANIFEST = len(TWO.raw)
BROKEN = {
    "no folder": (ImageNotFoundError, "there is no folder {0}"),
    "file": (ImageNotFoundError, "{0} is a file; a layout is a folder (an archive is written oci-archive:{0})"),
    "no oci-layout and no index.json": (
        ImageNotFoundError,
        "oci:{0}: this is not an OCI image layout, it has no file oci-layout",
    ),
    "no index.json": (ImageNotFoundError, "oci:{0}: the layout has no index.json"),
    "version": (DocumentError, "oci:{0}: the layout's version is '2.0.0'; only 1.x is known"),
    "oci-layout is no JSON": (DocumentError, "oci:{0}: oci-layout is not JSON: JSON is malformed: invalid character"),
    "index.json is no JSON": (DocumentError, "oci:{0}: index.json is not a valid ImageIndex: Input data was truncated"),
    "index.json is deep": (
        DocumentError,
        "oci:{0}: index.json is not a valid ImageIndex: Expected `object`, got `array`",
    ),
    "index.json is big": (DocumentError, "oci:{0}: index.json is longer than 16 MiB"),
    "negative size": (DocumentError, f"oci:{{0}}: index.json: descriptor {TWO.digest} has the negative size -1"),
    "no size": (DocumentError, "oci:{0}: index.json is not a valid ImageIndex: Object missing required field `size`"),
    "bad digest": (OcifastError, 'oci:{0}: index.json: "sha256:../../../etc/passwd" is not a sha256 or sha512 digest'),
    "empty": (ImageNotFoundError, "oci:{0}: the layout holds no image"),
    "manifest is missing": (BlobNotFoundError, f"oci:{{0}}: blob {TWO.digest} is missing"),
    "manifest is longer": (
        SizeMismatchError,
        f"oci:{{0}}: blob {TWO.digest} should be {MANIFEST} bytes long, but is more than {MANIFEST}",
    ),
    "manifest is shorter": (
        SizeMismatchError,
        f"oci:{{0}}: blob {TWO.digest} should be {MANIFEST} bytes long, but is {MANIFEST - 1}",
    ),
    "manifest is another": (
        DigestMismatchError,
        f"oci:{{0}}: a blob's digest should be {TWO.digest}, but is {digest_of(TWO.raw.replace(b'2', b'3', 1))}",
    ),
    "config is missing": (BlobNotFoundError, f"oci:{{0}}: blob {TWO.manifest['config']['digest']} is missing"),
    "config is another": (
        DigestMismatchError,
        f"oci:{{0}}: config: a blob's digest should be {TWO.manifest['config']['digest']}, but is sha256:",
    ),
    "layer is missing": (BlobNotFoundError, f"oci:{{0}}: blob {TWO.layers[0].digest} is missing"),
    "layer is a link out": (
        DocumentError,
        f"oci:{{0}}: {LAYER} is a symbolic link that leads out of the layout; --follow-links follows it",
    ),
    "layer is a link to a FIFO": (DocumentError, f"oci:{{0}}: {LAYER} is not a regular file"),
    "layer is a link to a device": (
        DocumentError,
        f"oci:{{0}}: {LAYER} is a symbolic link that leads out of the layout",
    ),
    "layer is a link to itself": (
        FileError,
        f"oci:{{0}}: cannot read {{0}}/{LAYER}: Too many levels of symbolic links",
    ),
    "layer is a link to nothing": (BlobNotFoundError, f"oci:{{0}}: blob {TWO.layers[0].digest} is missing"),
    "layer is a FIFO": (DocumentError, f"oci:{{0}}: {LAYER} is not a regular file"),
    "layer is a folder": (DocumentError, f"oci:{{0}}: {LAYER} is not a regular file"),
    "index.json is a link out": (
        DocumentError,
        "oci:{0}: index.json is a symbolic link that leads out of the layout; --follow-links follows it",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_is_wrong_is_named(kind: str, tmp_path: Path) -> None:
    layout = write_layout(tmp_path / "layout", {"": TWO})
    break_layout(layout, kind)
    error = failure(f"oci:{layout}")
    expected, message = BROKEN[kind]
    assert isinstance(error, expected)
    assert message.format(layout) in error.message
    assert "\n" not in error.message


@pytest.mark.tools
def test_a_layout_of_skopeo_is_read_and_ours_by_skopeo(tmp_path: Path) -> None:
    write_layout(tmp_path / "in", {"a": TWO})
    skopeo = ("skopeo", "--insecure-policy", "copy", "--quiet", "--preserve-digests", "--all")
    run(*skopeo, f"oci:{tmp_path}/in:a", f"oci:{tmp_path}/skopeo:b")
    assert move(f"oci:{tmp_path}/skopeo:b", f"oci:{tmp_path}/ours:c") == TWO.digest
    run(*skopeo, f"oci:{tmp_path}/ours:c", f"oci:{tmp_path}/again:d")
    assert listing(tmp_path / "ours") == listing(tmp_path / "again")
    for name in listing(tmp_path / "ours/blobs"):
        if not name.endswith("/"):
            assert (tmp_path / "ours/blobs" / name).read_bytes() == (tmp_path / "again/blobs" / name).read_bytes()
    assert json.loads((tmp_path / "ours/index.json").read_text())["manifests"] == [
        {
            "mediaType": TWO.media_type,
            "digest": TWO.digest,
            "size": len(TWO.raw),
            "annotations": {"org.opencontainers.image.ref.name": "c"},
        }
    ]
    run("umoci", "stat", "--image", f"{tmp_path}/ours:c")


def test_a_whole_index_moves(tmp_path: Path) -> None:
    write_layout(tmp_path / "in", {"a": MANY})
    assert move(f"oci:{tmp_path}/in:a", f"oci:{tmp_path}/out:b") == MANY.digest
    assert listing(tmp_path / "out") == listing(tmp_path / "in")


def test_other_entries_of_index_json_stay_as_they_are(tmp_path: Path) -> None:
    write_layout(tmp_path / "in", {"one": ONE, "two": TWO})
    write_layout(tmp_path / "out", {"one": ONE, "two": TWO, "": MANY})

    def extend(index: Any) -> None:
        index["annotations"] = {"who": "me"}
        index["manifests"][0]["x-unknown"] = {"kept": [1, 2.5, None]}

    edit_index(tmp_path / "out", extend)
    before = json.loads((tmp_path / "out/index.json").read_text())
    move(f"oci:{tmp_path}/in:one", f"oci:{tmp_path}/out:two")
    after = json.loads((tmp_path / "out/index.json").read_text())
    expected = [before["manifests"][0], ONE.descriptor(annotations=containerd("two", "")), before["manifests"][2]]
    for entry in expected[1:]:
        entry.pop("platform", None)
    expected[1]["annotations"].pop("io.containerd.image.name")
    expected[2] = before["manifests"][2]
    assert after == {**before, "manifests": expected}
    # Once more, without a name: the digest is there already.
    move(f"oci:{tmp_path}/in:one", f"oci:{tmp_path}/out")
    assert json.loads((tmp_path / "out/index.json").read_text()) == after


def test_nothing_is_written_twice(tmp_path: Path) -> None:
    write_layout(tmp_path / "in", {"a": TWO})
    move(f"oci:{tmp_path}/in:a", f"oci:{tmp_path}/out:a")
    blobs = tmp_path / "out/blobs/sha256"
    before = {path.name: path.stat().st_ino for path in blobs.iterdir()}
    move(f"oci:{tmp_path}/in:a", f"oci:{tmp_path}/out:b")
    assert {path.name: path.stat().st_ino for path in blobs.iterdir()} == before
    # A file of the wrong length is what somebody else's crash has left.
    broken = blobs / TWO.layers[0].digest.removeprefix("sha256:")
    broken.write_bytes(b"")
    move(f"oci:{tmp_path}/in:a", f"oci:{tmp_path}/out:b")
    assert digest_of(broken.read_bytes()) == TWO.layers[0].digest


def put_wrong(destination: LayoutDestination, kind: str) -> None:
    """Puts a good blob and then one that is not what its descriptor says."""
    good = b"good"
    destination.put_blob(Descriptor("x", digest_of(good), 4), [good])
    data = {"longer": [b"12345", b"6"], "shorter": [b"1234"], "other": [b"12346"]}[kind]
    destination.put_blob(Descriptor("x", digest_of(b"12345"), 5), data)


@pytest.mark.parametrize("kind", ["longer", "shorter", "other"])
@pytest.mark.parametrize("existing", [False, True])
def test_nothing_stays_of_a_blob_that_does_not_match(kind: str, existing: bool, tmp_path: Path) -> None:
    out = tmp_path / "sub/out"
    if existing:
        write_layout(out, {"one": ONE})
    before = listing(tmp_path)
    destination = LayoutDestination(out, name="out", tag="t")
    with pytest.raises((SizeMismatchError, DigestMismatchError)):
        put_wrong(destination, kind)
    assert not [name for name in listing(tmp_path) if "tmp" in name]
    destination.abort()
    assert listing(tmp_path) == before


def test_a_blob_that_was_there_and_vanished_stops_the_commit(tmp_path: Path) -> None:
    write_layout(tmp_path, {"one": ONE})
    index = (tmp_path / "index.json").read_bytes()
    destination = LayoutDestination(tmp_path, name="out", tag="t")
    layer = Descriptor("x", ONE.layers[0].digest, len(ONE.layers[0].blob))
    assert destination.has_blob(layer)
    assert not destination.has_blob(Descriptor("x", layer.digest, layer.size + 1))
    (tmp_path / "blobs" / layer.digest.replace(":", "/")).unlink()
    destination.put_document(Document(ONE.media_type, ONE.raw), root=True)
    with pytest.raises(FileError, match="was removed meanwhile"):
        destination.commit()
    assert (tmp_path / "index.json").read_bytes() == index


def test_who_fails_takes_away_nothing_that_another_image_has(tmp_path: Path) -> None:
    shared, own = Layer(TarBuilder().file("shared", b"s")), Layer(TarBuilder().file("own", b"o"))
    image = build_image([shared])
    failing = LayoutDestination(tmp_path / "out", name="out", tag="a")
    for layer in (shared, own):
        failing.put_blob(Descriptor("application/x", layer.digest, len(layer.blob)), [layer.blob])
    other = LayoutDestination(tmp_path / "out", name="out", tag="b")
    assert other.has_blob(Descriptor("application/x", shared.digest, len(shared.blob)))
    config = image.manifest["config"]
    other.put_blob(Descriptor(config["mediaType"], config["digest"], config["size"]), [image.blobs[config["digest"]]])
    other.put_document(Document(OCI_MANIFEST, image.raw), root=True)
    other.commit()
    failing.abort()
    left = {path.name for path in (tmp_path / "out/blobs/sha256").iterdir()}
    assert left == {digest.partition(":")[2] for digest in (shared.digest, config["digest"], image.digest)}


def test_two_writers_lose_nothing_of_each_other(tmp_path: Path) -> None:
    write_layout(tmp_path / "in", {"a": TWO})
    threads = [
        threading.Thread(target=move, args=(f"oci:{tmp_path}/in:a", f"oci:{tmp_path}/out:t{number}"))
        for number in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    index = json.loads((tmp_path / "out/index.json").read_text())
    tags = sorted(entry["annotations"]["org.opencontainers.image.ref.name"] for entry in index["manifests"])
    assert tags == [f"t{number}" for number in range(8)]


def test_where_no_layout_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="file is no image layout; name an empty or a new folder"):
        LayoutDestination(tmp_path / "file", name="x")
    with pytest.raises(UsageError, match="is no image layout; name an empty or a new folder"):
        LayoutDestination(tmp_path, name="x")
    (tmp_path / "empty").mkdir()
    LayoutDestination(tmp_path / "empty", name="x")
    for tag in ("-a", "a b", "a//b", "a/", "ä", "a\n"):
        with pytest.raises(ImageReferenceError, match="is no name for an image in a layout"):
            LayoutDestination(tmp_path / "new", name="x", tag=tag)
    LayoutDestination(tmp_path / "new", name="x", tag="docker.io/library/a--b:1.0+x@y")
    assert listing(tmp_path) == ["empty/", "file"]


def test_links_in_a_layout_are_not_written_through(tmp_path: Path) -> None:
    out = write_layout(tmp_path / "out", {"one": ONE})
    (tmp_path / "victim").mkdir()
    run("rm", "-r", out / "blobs")
    (out / "blobs").symlink_to(tmp_path / "victim")
    destination = LayoutDestination(out, name="out")
    with pytest.raises(DocumentError, match="links in a layout are not followed"):
        destination.put_blob(Descriptor("x", digest_of(b"x"), 1), [b"x"])
    assert listing(tmp_path / "victim") == []
