"""Docker archives: all generations of `docker save` are read, and what we write is loaded by others."""

from __future__ import annotations

import functools
import json
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ocifast
import pytest
from ocifast.errors import (
    BlobNotFoundError,
    CompressionError,
    DiffIdMismatchError,
    DigestMismatchError,
    DocumentError,
    ImageNotFoundError,
    ImageReferenceError,
    OcifastError,
    UsageError,
)
from ocifast.image import Image
from ocifast.sources.docker_archive_destination import DockerArchiveDestination
from ocifast.spec import Document

from tests.support.documents import listing, move
from tests.support.images import (
    BuiltImage,
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
from tests.support.run import run

ONE = TarBuilder().file("one", b"1" * 300_000).build()
TWO = TarBuilder().file("two", b"2" * 100_000).build()
PLAIN = build_image([Layer(ONE, compression="plain"), Layer(TWO, compression="plain")], docker=True)


@functools.cache
def mixed() -> BuiltImage:
    """An image whose layers are compressed in two ways; `zstd` makes it, so not before a test asks."""
    return build_image([Layer(ONE), Layer(TWO, compression="zstd")])


CONFIG: str = PLAIN.manifest["config"]["digest"]
DIFF_IDS = (digest_of(ONE), digest_of(TWO))


def write(path: Path, members: Mapping[str, bytes | str]) -> Path:
    """A tar of files, and of symlinks where a member is text."""
    archive = TarBuilder()
    for name, data in members.items():
        if isinstance(data, str):
            archive.symlink(name, data)
        else:
            archive.file(name, data)
    path.write_bytes(archive.build())
    return path


def saved(config: str, layers: list[str], *tags: str) -> dict[str, Any]:
    """An entry of `manifest.json`."""
    return {"Config": config, "RepoTags": list(tags) or None, "Layers": layers}


def config_of(image: BuiltImage) -> bytes:
    """The config's bytes."""
    return image.blobs[image.manifest["config"]["digest"]]


def contents(location: str) -> tuple[list[tuple[str, str, int]], list[bytes]]:
    """Media types, digests and sizes of the layers, and their bytes."""
    with ocifast.open(location) as image:
        assert image.config.config is not None
        assert image.diff_ids == DIFF_IDS
        return described(image), [b"".join(image.blob(layer)) for layer in image.layers]


def described(image: Image) -> list[tuple[str, str, int]]:
    """Media type, digest and size of each layer."""
    return [(layer.media_type, layer.digest, layer.size) for layer in image.layers]


AS_SAVED = (
    [
        ("application/vnd.docker.image.rootfs.diff.tar", DIFF_IDS[0], len(ONE)),
        ("application/vnd.docker.image.rootfs.diff.tar", DIFF_IDS[1], len(TWO)),
    ],
    [ONE, TWO],
)


def test_one_layer_folder_each(tmp_path: Path) -> None:
    config = CONFIG.removeprefix("sha256:") + ".json"
    listed = [saved(config, ["a/layer.tar", "b/layer.tar"], "app:1")]
    members = {
        "a/VERSION": b"1.0",
        "a/json": b"{}",
        "a/layer.tar": ONE,
        "b/layer.tar": TWO,
        config: config_of(PLAIN),
        "manifest.json": as_json(listed),
        "repositories": b"{}",
    }
    write(tmp_path / "d.tar", members)
    for suffix in ("", ":app:1", ":docker.io/library/app:1", ":@0"):
        assert contents(f"docker-archive:{tmp_path}/d.tar{suffix}") == AS_SAVED


def test_layers_that_are_links_to_each_other(tmp_path: Path) -> None:
    double = build_image([Layer(ONE, compression="plain"), Layer(ONE, compression="plain")], docker=True)
    listed = [saved("config.json", ["a/layer.tar", "b/layer.tar"])]
    members: dict[str, bytes | str] = {
        "a/layer.tar": ONE,
        "b/layer.tar": "../a/layer.tar",
        "config.json": config_of(double),
        "manifest.json": as_json(listed),
    }
    write(tmp_path / "d.tar", members)
    with ocifast.open(f"docker-archive:{tmp_path}/d.tar") as image:
        assert [b"".join(image.blob(layer)) for layer in image.layers] == [ONE, ONE]
    for target in ("../../../../../etc/passwd", "/etc/passwd", "layer.tar"):
        write(tmp_path / "d.tar", {**members, "b/layer.tar": target})
        with pytest.raises(BlobNotFoundError, match=r"the layer 'b/layer\.tar' \(sha256:[0-9a-f]+\) is missing"):
            ocifast.open(f"docker-archive:{tmp_path}/d.tar")


@pytest.mark.tools
def test_an_archive_with_a_layout_has_the_true_manifest(tmp_path: Path) -> None:
    files = layout_files({"1": mixed()})
    layers = [f"blobs/{layer.digest.replace(':', '/')}" for layer in mixed().layers]
    config = f"blobs/{mixed().manifest['config']['digest'].replace(':', '/')}"
    members: dict[str, bytes | str] = {**files, "manifest.json": as_json([saved(config, layers, "app:1")])}
    write(tmp_path / "d.tar", members)
    with ocifast.open(f"docker-archive:{tmp_path}/d.tar:app:1") as image:
        assert image.document.raw == mixed().raw
        assert [digest_of(b"".join(image.blob(layer))) for layer in image.layers] == [x.digest for x in image.layers]
    # One manifest blob that is missing, as for the platforms that Docker has not got, or damaged: the other way.
    manifest = "blobs/" + mixed().digest.replace(":", "/")
    for damaged in (b"", mixed().raw.replace(b"2", b"1")):
        write(tmp_path / "d.tar", {**members, manifest: damaged})
        with ocifast.open(f"docker-archive:{tmp_path}/d.tar") as image:
            assert image.document.media_type == "application/vnd.docker.distribution.manifest.v2+json"
            assert [layer.digest for layer in image.layers] == [layer.digest for layer in mixed().layers]


@pytest.mark.tools
def test_an_index_in_the_layout(tmp_path: Path) -> None:
    arm = build_image([TarBuilder().file("arm")], platform="linux/arm64")
    files = layout_files({"1": build_index([arm, mixed()])})
    for digest in (arm.digest, *arm.blobs):
        del files["blobs/" + digest.replace(":", "/")]
    layers = [f"blobs/{layer.digest.replace(':', '/')}" for layer in mixed().layers]
    config = f"blobs/{mixed().manifest['config']['digest'].replace(':', '/')}"
    write(tmp_path / "d.tar", {**files, "manifest.json": as_json([saved(config, layers, "app:1")])})
    with ocifast.open(f"docker-archive:{tmp_path}/d.tar") as image:
        assert image.digest == mixed().digest


@pytest.mark.tools
def test_compressed_layers_have_their_own_digests(tmp_path: Path) -> None:
    write_docker_archive(tmp_path / "d.tar", {"app:1": mixed()})
    found, blobs = contents(f"docker-archive:{tmp_path}/d.tar")
    assert [(digest, size) for _, digest, size in found] == [(x.digest, len(x.blob)) for x in mixed().layers]
    assert blobs == [layer.blob for layer in mixed().layers]


@pytest.mark.tools
def test_several_images(tmp_path: Path) -> None:
    write_docker_archive(tmp_path / "d.tar", {"app:1": PLAIN, "r.io/app": mixed(), "": PLAIN})
    where = f"docker-archive:{tmp_path}/d.tar"
    names = {":app:1": PLAIN, ":r.io/app": mixed(), ":r.io/app:latest": mixed(), ":@1": mixed(), ":@2": PLAIN}
    for suffix, image in names.items():
        with ocifast.open(where + suffix) as found:
            assert found.manifest.config.digest == image.manifest["config"]["digest"], suffix
    with pytest.raises(ImageReferenceError, match=r"the archive holds 3 images; name one of app:1, r\.io/app"):
        ocifast.open(where)
    with pytest.raises(ImageNotFoundError, match=r"there is no docker\.io/library/app:2; the archive has app:1, r\.io"):
        ocifast.open(f"{where}:app:2")
    with pytest.raises(ImageNotFoundError, match="the archive has 3 images, the first is @0"):
        ocifast.open(f"{where}:@3")


def broken(kind: str) -> dict[str, bytes | str]:
    """The members of an archive with one thing wrong."""
    config = CONFIG.removeprefix("sha256:") + ".json"
    raw = config_of(PLAIN)
    layers = ["1.tar", "2.tar"]
    members: dict[str, bytes | str] = {"1.tar": ONE, "2.tar": TWO, config: raw}
    listed: Any = [saved(config, layers)]
    match kind:
        case "no images":
            listed = []
        case "an object":
            listed = {}
        case "no Config":
            listed = [{"Layers": layers}]
        case "a number":
            listed = [{"Config": 1}]
        case "config is missing":
            del members[config]
        case "config in a layout is another":
            del members[config]
            members[f"blobs/sha256/{HEX}"] = raw.replace(b"amd64", b"arm64")
            listed = [saved(f"blobs/sha256/{HEX}", layers)]
        case "config is no JSON":
            members = {**members, "c.json": b"{"}
            listed = [saved("c.json", layers)]
        case "config is a link to the host":
            members[config] = "/etc/passwd"
        case "layer is missing":
            del members["2.tar"]
        case "too few layers":
            listed = [saved(config, layers[:1])]
        case "layers are null":
            listed = [{"Config": config, "Layers": None}]
        case _:
            raise AssertionError(kind)
    return {**members, "manifest.json": as_json(listed)}


HEX = CONFIG.removeprefix("sha256:")
BROKEN = {
    "no images": (ImageNotFoundError, "the archive holds no image"),
    "an object": (DocumentError, "manifest.json is not valid: Expected `array`, got `object`"),
    "no Config": (DocumentError, "manifest.json is not valid: Object missing required field `config` - at `$[0]`"),
    "a number": (DocumentError, "manifest.json is not valid: Expected `str`, got `int` - at `$[0].config`"),
    "config is missing": (BlobNotFoundError, f"the config '{HEX}.json' is missing"),
    "config in a layout is another": (DigestMismatchError, f"a config's digest should be {CONFIG}, but is sha256:"),
    "config is no JSON": (DocumentError, "config is not a valid ImageConfig: Input data was truncated"),
    "config is a link to the host": (BlobNotFoundError, f"the config '{HEX}.json' is missing"),
    "layer is missing": (BlobNotFoundError, f"the layer '2.tar' ({DIFF_IDS[1]}) is missing"),
    "too few layers": (DocumentError, "manifest.json has 1 layers, but the config 2 diff IDs"),
    "layers are null": (DocumentError, "manifest.json has 0 layers, but the config 2 diff IDs"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_is_wrong_with_an_archive_is_named(kind: str, tmp_path: Path) -> None:
    archive = write(tmp_path / "d.tar", broken(kind))
    with pytest.raises(OcifastError) as caught:
        ocifast.open(f"docker-archive:{archive}")
    expected, message = BROKEN[kind]
    assert isinstance(caught.value, expected)
    assert caught.value.message.startswith(f"docker-archive:{archive}: {message}")


@pytest.mark.parametrize("change", [str.lower, str.upper, str.swapcase])
def test_field_names_in_any_case(change: Callable[[str], str], tmp_path: Path) -> None:
    """As old versions of jib write them, and as Docker takes them."""
    listed = [{change(field): value for field, value in saved("c.json", ["1.tar", "2.tar"], "app:1").items()}]
    members = {"1.tar": ONE, "2.tar": TWO, "c.json": config_of(PLAIN), "manifest.json": as_json(listed)}
    write(tmp_path / "d.tar", members)
    assert contents(f"docker-archive:{tmp_path}/d.tar:app:1") == AS_SAVED


@pytest.mark.parametrize(
    "name", ["config.json", digest_of(b"before it was edited")[7:] + ".json", "sha256:" + "0" * 64]
)
def test_the_name_of_a_config_promises_nothing(name: str, tmp_path: Path) -> None:
    listed = [saved(name, ["1.tar", "2.tar"])]
    write(tmp_path / "d.tar", {"1.tar": ONE, "2.tar": TWO, name: config_of(PLAIN), "manifest.json": as_json(listed)})
    assert contents(f"docker-archive:{tmp_path}/d.tar") == AS_SAVED


def test_names_without_end_fill_no_message(tmp_path: Path) -> None:
    listed = [
        saved("c.json", ["1.tar"], *(f"{'x' * 10_000}:{number}-{image}" for number in range(99))) for image in "ab"
    ]
    write(tmp_path / "d.tar", {"manifest.json": as_json(listed)})
    for suffix, message in {"": "the archive holds 2 images", ":app:1": "there is no docker.io/library/app:1"}.items():
        with pytest.raises(OcifastError) as caught:
            ocifast.open(f"docker-archive:{tmp_path}/d.tar{suffix}")
        assert message in caught.value.message
        assert caught.value.message.endswith(" and 188 more")
        assert len(caught.value.message) < 2000


@pytest.mark.tools
def test_a_bare_tag(tmp_path: Path) -> None:
    write_docker_archive(tmp_path / "d.tar", {"app:1": PLAIN, "r.io/app:2": mixed(), "x/y": mixed(), "z": mixed()})
    with ocifast.open(f"docker-archive:{tmp_path}/d.tar:2") as image:
        assert image.manifest.config.digest == mixed().manifest["config"]["digest"]
    for tag in ("latest", "3"):
        with pytest.raises(ImageNotFoundError, match=f"there is no docker.io/library/{tag}:latest"):
            ocifast.open(f"docker-archive:{tmp_path}/d.tar:{tag}")


A, B = "a" * 64, "b" * 64
OLD_FIELDS = {"architecture": "amd64", "os": "linux", "config": {"Cmd": ["/one"]}, "created": "2014-01-01T00:00:00Z"}


def old(**changes: Any) -> dict[str, bytes | str]:
    """What Docker before 1.10 wrote: two layers, the upper one of which has three names."""
    members: dict[str, bytes | str] = {
        "repositories": as_json({"app": {"1": B, "latest": B}, "r.io/base": {"old": A}, "x": {"y": B}}),
        f"{A}/VERSION": b"1.0",
        f"{A}/json": as_json({**OLD_FIELDS, "id": A, "Size": len(ONE)}),
        f"{A}/layer.tar": ONE,
        f"{B}/VERSION": b"1.0",
        f"{B}/json": as_json({**OLD_FIELDS, "id": B, "parent": A, "Size": len(TWO), "throwaway": True}),
        f"{B}/layer.tar": TWO,
    }
    members.update({name.replace("A_", f"{A}/").replace("B_", f"{B}/"): data for name, data in changes.items()})
    return {name: data for name, data in members.items() if data is not None}


def test_an_archive_of_docker_before_1_10(tmp_path: Path) -> None:
    where = f"docker-archive:{write(tmp_path / 'd.tar', old())}"
    for suffix in (":app:1", ":app", ":x:y", ":@0"):
        assert contents(where + suffix) == AS_SAVED
    with ocifast.open(f"{where}:r.io/base:old") as image, image.flatten() as tree:
        assert [entry.path for entry in tree] == ["/", "/one"]
        assert json.loads(image.config_raw) == {**OLD_FIELDS, "rootfs": {"type": "layers", "diff_ids": [DIFF_IDS[0]]}}
        assert str(image.platform) == "linux/amd64"
    with pytest.raises(ImageReferenceError, match=r"the archive holds 2 images; name one of app:1, app:latest, x:y, r"):
        ocifast.open(where)
    move(f"{where}:app:1", f"oci:{tmp_path}/out:1")
    with ocifast.open(f"oci:{tmp_path}/out:1") as image:
        assert image.diff_ids == DIFF_IDS


OLD_BROKEN: dict[str, tuple[dict[str, Any], type[OcifastError], str]] = {
    "no JSON": ({"repositories": b"{"}, DocumentError, "repositories is not valid: "),
    "deep": ({"repositories": b"[" * 100_000}, DocumentError, "repositories is not valid: "),
    "empty": ({"repositories": b"{}"}, ImageNotFoundError, "the archive has 0 images"),
    "no layer": ({"A_layer.tar": None}, BlobNotFoundError, f"the layer '{A}' has no layer.tar"),
    "no json": ({"A_json": None}, BlobNotFoundError, f"the layer '{A}' has no json"),
    "a circle": ({"A_json": as_json({"parent": B})}, DocumentError, f"the chain of layers below '{B}' has no end"),
    "a parent that is none": ({"A_json": b'{"parent": 5}'}, DocumentError, f"{A}/json names no parent but 5"),
    "json is none": ({"A_json": b"x"}, DocumentError, f"{A}/json is not valid: "),
    "fields of other types": (
        {"B_json": b'{"os": 5}'},
        DocumentError,
        f"{B}/json is not a valid ImageConfig",
    ),
    "compressed": ({"B_layer.tar": Layer(TWO).blob}, DocumentError, f"{B}/layer.tar is compressed, and its diff ID"),
    "a parent outside": (
        {"A_json": b'{"parent": "../../etc"}'},
        BlobNotFoundError,
        "the layer '../../etc' has no json",
    ),
}


@pytest.mark.parametrize("kind", OLD_BROKEN)
def test_what_is_wrong_with_an_old_archive_is_named(kind: str, tmp_path: Path) -> None:
    changes, expected, message = OLD_BROKEN[kind]
    archive = write(tmp_path / "d.tar", old(**changes))
    with pytest.raises(expected) as caught:
        ocifast.open(f"docker-archive:{archive}:@0")
    assert caught.value.message.startswith(f"docker-archive:{archive}:@0: {message}")


@pytest.mark.tools
def test_an_oci_archive_is_told_its_prefix(tmp_path: Path) -> None:
    write_oci_archive(tmp_path / "a.tar", mixed())
    with pytest.raises(ImageNotFoundError, match=r"it is an OCI archive, write oci-archive:.*/a\.tar$"):
        ocifast.open(f"docker-archive:{tmp_path}/a.tar")


def members_of(path: Path) -> list[tuple[str, int]]:
    """Names and sizes in a tar."""
    with tarfile.open(path) as archive:
        return [(member.name, member.size) for member in archive]


@pytest.mark.tools
def test_a_written_archive(tmp_path: Path) -> None:
    write_layout(tmp_path / "in", {"a": mixed()})
    for number in (1, 2):
        move(f"oci:{tmp_path}/in:a", f"docker-archive:{tmp_path}/{number}.tar:app:1")
    assert (tmp_path / "1.tar").read_bytes() == (tmp_path / "2.tar").read_bytes()
    config = mixed().manifest["config"]
    name = config["digest"].removeprefix("sha256:") + ".json"
    layers = [diff_id.removeprefix("sha256:") + ".tar" for diff_id in DIFF_IDS]
    manifest = as_json([{"Config": name, "RepoTags": ["docker.io/library/app:1"], "Layers": layers}])
    assert members_of(tmp_path / "1.tar") == [
        (layers[0], len(ONE)),
        (layers[1], len(TWO)),
        (name, config["size"]),
        ("manifest.json", len(manifest)),
    ]
    assert contents(f"docker-archive:{tmp_path}/1.tar:app:1") == AS_SAVED
    assert [name for name in listing(tmp_path) if not name.startswith("in/")] == ["1.tar", "2.tar"]


@pytest.mark.tools
def test_a_written_archive_is_read_by_skopeo_and_back(tmp_path: Path) -> None:
    write_layout(tmp_path / "in", {"a": mixed()})
    move(f"oci:{tmp_path}/in:a", f"docker-archive:{tmp_path}/ours.tar:app:1")
    skopeo = ("skopeo", "--insecure-policy", "copy", "--quiet")
    run(*skopeo, f"docker-archive:{tmp_path}/ours.tar:app:1", f"docker-archive:{tmp_path}/skopeo.tar:app:2")
    assert contents(f"docker-archive:{tmp_path}/skopeo.tar:app:2") == AS_SAVED
    run(*skopeo, f"docker-archive:{tmp_path}/ours.tar", f"oci:{tmp_path}/out:c")
    with ocifast.open(f"oci:{tmp_path}/out:c") as image:
        assert image.diff_ids == DIFF_IDS
        assert json.loads(image.config_raw)["config"] == {}


@pytest.mark.tools
def test_the_same_layer_twice_is_written_once(tmp_path: Path) -> None:
    double = build_image([Layer(ONE), Layer(TWO), Layer(ONE, compression="zstd")])
    write_layout(tmp_path / "in", {"a": double})
    move(f"oci:{tmp_path}/in:a", f"docker-archive:{tmp_path}/d.tar")
    assert [size for name, size in members_of(tmp_path / "d.tar") if name.endswith(".tar")] == [len(ONE), len(TWO)]
    with ocifast.open(f"docker-archive:{tmp_path}/d.tar") as image:
        assert [b"".join(image.blob(layer)) for layer in image.layers] == [ONE, TWO, ONE]


def wrong(kind: str) -> BuiltImage:
    """An image that no Docker archive can be made of."""
    match kind:
        case "diff ID":
            return build_image([Layer(ONE, diff_id=DIFF_IDS[1])])
        case "cut gzip":
            return build_image([Layer(ONE, blob=Layer(ONE).blob[:-20])])
        case "gzip that is none":
            # The decoder gives up at once; whoever still feeds it must not wait for it.
            return build_image([Layer(ONE, blob=b"\x1f\x8b" + bytes(range(256)) * 4096)])
        case "digest":
            return build_image([Layer(ONE, digest=DIFF_IDS[0])])
        case "index":
            return build_index([mixed()])
        case "diff ID count":
            return build_image([Layer(ONE)], edit_config=lambda config: config["rootfs"].update(diff_ids=[]))
        case _:
            raise AssertionError(kind)


@pytest.mark.tools
@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("diff ID", DiffIdMismatchError),
        ("cut gzip", CompressionError),
        ("gzip that is none", CompressionError),
        ("digest", DigestMismatchError),
        ("index", UsageError),
        ("diff ID count", DocumentError),
    ],
)
def test_nothing_stays_of_an_archive_that_cannot_be_written(
    kind: str, expected: type[OcifastError], tmp_path: Path
) -> None:
    write_layout(tmp_path / "in", {"a": wrong(kind)})
    (tmp_path / "out").mkdir()
    with pytest.raises(expected):
        move(f"oci:{tmp_path}/in:a", f"docker-archive:{tmp_path}/out/d.tar:app:1")
    assert listing(tmp_path / "out") == []


@pytest.mark.tools
def test_a_config_without_a_manifest_is_no_image(tmp_path: Path) -> None:
    destination = DockerArchiveDestination(tmp_path / "d.tar", name="d")
    with pytest.raises(UsageError, match="no manifest was written"):
        destination.commit()
    with pytest.raises(UsageError, match="a Docker archive holds one image"):
        destination.put_document(Document(mixed().media_type, mixed().raw), root=False)
    destination.abort()
    assert listing(tmp_path) == []
