"""Images over a source: platforms, configs, layers, and what is no image."""

from __future__ import annotations

import doctest
import json
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ocifast
import pytest
from ocifast import Platform
from ocifast.errors import (
    BlobNotFoundError,
    DigestInvalidError,
    DocumentError,
    FileError,
    NotAnImageError,
    OcifastError,
    PlatformError,
)
from ocifast.image import Index
from ocifast.sources.open import open_source, parse_location

from tests.support.images import BuiltImage, Layer, as_json, build_image, build_index, digest_of, write_layout
from tests.support.layers import TarBuilder

TAR = TarBuilder().file("f", b"data")
AMD64 = build_image([TAR], config={"Entrypoint": ["/f"], "Env": ["A=1"]})
ARM64 = build_image([TarBuilder().file("arm")], platform="linux/arm64/v8")
ARM_V6 = build_image([TarBuilder().file("v6")], platform="linux/arm/v6")


def attestation() -> BuiltImage:
    """BuildKit's provenance of an image."""
    layer = Layer(b"{}", blob=b"{}", media_type="application/vnd.in-toto+json")
    return build_image([layer], platform="unknown/unknown")


def open_layout(folder: Path, image: BuiltImage, platform: str | None = None) -> ocifast.Image:
    """The image in a layout of its own."""
    write_layout(folder, image)
    return ocifast.open(f"oci:{folder}:app", platform=platform)


def test_an_image(tmp_path: Path) -> None:
    with open_layout(tmp_path, AMD64) as image:
        assert (image.name, image.digest, image.index) == (f"oci:{tmp_path}:app", AMD64.digest, None)
        assert image.document.raw == AMD64.raw
        assert image.config_raw == AMD64.blobs[AMD64.manifest["config"]["digest"]]
        assert image.platform == Platform("amd64", "linux")
        assert image.config.config is not None
        assert image.config.config.entrypoint == ("/f",)
        assert image.config.config.env == ("A=1",)
        assert image.diff_ids == (digest_of(TAR.build()),)
        assert [layer.digest for layer in image.layers] == [layer.digest for layer in AMD64.layers]
        assert image.size == len(AMD64.layers[0].blob)
        assert repr(image) == f"<Image oci:{tmp_path}:app {AMD64.digest}>"


def test_an_image_becomes_a_tree(tmp_path: Path) -> None:
    states: list[str] = []
    with (
        open_layout(tmp_path, AMD64) as image,
        image.flatten(progress=lambda event: states.append(event.state.value if event.state else "")) as tree,
    ):
        assert [entry.path for entry in tree] == ["/", "/f"]
        assert tree.read_bytes("/f") == b"data"
    assert (states[0], states[-1]) == ("waiting", "extracted")


def test_a_tar_that_cannot_get_its_name(tmp_path: Path) -> None:
    place = tmp_path / "out.tar"
    place.mkdir()
    image = build_image([TarBuilder().file("a", b"1")])
    with (
        open_layout(tmp_path / "layout", image) as opened,
        opened.flatten() as rootfs,
        pytest.raises(FileError, match=r"cannot write .*/out\.tar: Is a directory"),
    ):
        rootfs.write_tar(place)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["layout", "out.tar"]


def test_the_platform_of_this_machine_is_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = build_index([ARM_V6, ARM64, AMD64, attestation()])
    write_layout(tmp_path, index)
    for machine, chosen in {"x86_64": AMD64, "aarch64": ARM64, "armv7l": ARM_V6}.items():
        monkeypatch.setattr("platform.machine", lambda machine=machine: machine)
        with ocifast.open(f"oci:{tmp_path}:app") as image:
            assert image.digest == chosen.digest
            assert image.index is not None
            assert image.index.raw == index.raw
    monkeypatch.setattr("platform.machine", lambda: "s390x")
    with pytest.raises(PlatformError) as caught:
        ocifast.open(f"oci:{tmp_path}:app")
    assert caught.value.message == (
        f"oci:{tmp_path}:app has no image for linux/s390x; it has linux/amd64, linux/arm/v6, linux/arm64/v8"
    )


def test_indexes_in_indexes(tmp_path: Path) -> None:
    nested = build_index([build_index([build_index([ARM_V6, ARM64]), attestation()]), AMD64])
    for platform, chosen in {"linux/arm64": ARM64, "linux/arm": ARM_V6, "linux/amd64": AMD64}.items():
        with open_layout(tmp_path / "3", nested, platform) as image:
            assert image.digest == chosen.digest
    # One level more: refused, whatever is asked for.
    deep = build_index([build_index([nested])])
    with pytest.raises(DocumentError, match="indexes are nested more than 3 times deep"):
        open_layout(tmp_path / "4", deep, "linux/amd64")


def test_an_entry_without_a_platform_has_that_of_its_config(tmp_path: Path) -> None:
    def strip(index: dict[str, Any]) -> None:
        for entry in index["manifests"]:
            entry.pop("platform", None)

    index = build_index([ARM64, attestation(), AMD64], edit=strip)
    with open_layout(tmp_path, index, "linux/amd64") as image:
        assert image.digest == AMD64.digest
    source = open_source(parse_location(f"oci:{tmp_path}:app"))
    assert Index(source, source.root()).platforms == (Platform("arm64", "linux", "v8"), Platform("amd64", "linux"))


def test_two_images_for_one_platform(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    other = build_image([TarBuilder().file("other")])
    with caplog.at_level(logging.WARNING), open_layout(tmp_path, build_index([AMD64, other]), "linux/amd64") as image:
        assert image.digest == AMD64.digest
    assert [record.getMessage() for record in caplog.records] == [
        f"oci:{tmp_path}:app has 2 images for linux/amd64; taking the first, {AMD64.digest}"
    ]


# platform of an image that stands alone, platform that is asked for, whether it is taken
ALONE = [
    ("linux/amd64", None, True),
    ("linux/s390x", None, True),
    ("linux/amd64", "linux/amd64", True),
    ("linux/amd64", "linux/amd64/v3", True),
    ("linux/amd64", "linux/arm64", False),
    ("linux/amd64/v3", "linux/amd64", False),
    ("windows/amd64", "linux/amd64", False),
    ("linux/arm64", "linux/arm64/v8", True),
    ("linux/arm", "linux/arm/v6", True),
    ("linux/arm/v7", "linux/arm/v6", False),
    ("linux/arm/v5", "linux/arm/v6", True),
]


@pytest.mark.parametrize(("offered", "wanted", "taken"), ALONE)
def test_an_image_that_stands_alone(offered: str, wanted: str | None, taken: bool, tmp_path: Path) -> None:
    image = build_image([TAR], platform=offered)
    if taken:
        with open_layout(tmp_path, image, wanted) as found:
            assert found.digest == image.digest
        return
    with pytest.raises(PlatformError) as caught:
        open_layout(tmp_path, image, wanted)
    assert caught.value.message == f"oci:{tmp_path}:app is for {offered}, not for {wanted}"


def test_a_config_without_a_platform_is_for_all(tmp_path: Path) -> None:
    def strip(config: dict[str, Any]) -> None:
        del config["os"], config["architecture"]

    with open_layout(tmp_path, build_image([TAR], edit_config=strip), "linux/arm64") as image:
        assert image.platform is None


def test_an_image_without_layers(tmp_path: Path) -> None:
    def null(document: dict[str, Any]) -> None:
        document.get("rootfs", {}).update(diff_ids=None)
        if "layers" in document:
            document["layers"] = None

    for number, built in enumerate((build_image([]), build_image([], edit_config=null, edit_manifest=null))):
        with open_layout(tmp_path / str(number), built) as image:
            assert (image.layers, image.diff_ids, image.size) == ((), (), 0)


def edited(**fields: Any) -> BuiltImage:
    """An image whose manifest has other fields; None removes one."""

    def edit(manifest: dict[str, Any]) -> None:
        manifest.update(fields)
        for name in [name for name, value in fields.items() if value is None]:
            del manifest[name]

    return build_image([TAR], edit_manifest=edit)


def document(raw: bytes, media_type: str = "application/vnd.oci.image.manifest.v1+json") -> BuiltImage:
    """Bytes in a manifest's place."""
    return BuiltImage(raw, media_type)


DESCRIPTOR = AMD64.manifest["layers"][0]
HELM = {**AMD64.manifest["config"], "mediaType": "application/vnd.cncf.helm.config.v1+json"}
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
DIGEST = AMD64.layers[0].digest

NOT_IMAGES: dict[str, tuple[Callable[[], BuiltImage], type[OcifastError], str]] = {
    "artifact by its config": (
        lambda: edited(config=HELM),
        NotAnImageError,
        "{0} is not an image but an artifact of type application/vnd.cncf.helm.config.v1+json",
    ),
    "artifact by its config and type": (
        lambda: edited(config=HELM, artifactType="application/example"),
        NotAnImageError,
        "{0} is not an image but an artifact of type application/example",
    ),
    "attestation": (
        attestation,
        NotAnImageError,
        "is of type application/vnd.in-toto+json",
    ),
    "encrypted layer": (
        lambda: edited(layers=[{**DESCRIPTOR, "mediaType": DESCRIPTOR["mediaType"] + "+encrypted"}]),
        NotAnImageError,
        f"{{0}} is not an image that can be read: layer {DIGEST} is encrypted",
    ),
    "schema 1": (
        lambda: document(as_json({"schemaVersion": 1, "fsLayers": []})),
        NotAnImageError,
        "is a Docker schema 1 manifest; push the image again with a current tool",
    ),
    "manifest and index at once": (
        lambda: edited(manifests=[]),
        DocumentError,
        "is a manifest and an index at once",
    ),
    "index under the type of a manifest": (
        lambda: document(as_json({"schemaVersion": 2, "manifests": []})),
        DocumentError,
        f"does not have the fields of {MANIFEST_TYPE}",
    ),
    "manifest under the type of an index": (
        lambda: document(AMD64.raw, INDEX_TYPE),
        DocumentError,
        f"says that it is {MANIFEST_TYPE}, but was announced as {INDEX_TYPE}",
    ),
    "text": (lambda: document(b"hello"), DocumentError, "is not JSON: JSON is malformed"),
    "not UTF-8": (lambda: document(b'{"a": "\xff"}'), DocumentError, "is not JSON: "),
    "deep": (lambda: document(b"[" * 100_000), DocumentError, "is not JSON: it is nested too deeply"),
    "a list": (lambda: document(b"[]"), DocumentError, "is not a JSON object"),
    "nothing known": (lambda: document(b"{}"), DocumentError, "Object missing required field `config`"),
    "no config": (lambda: edited(config=None), DocumentError, "Object missing required field `config`"),
    "no layers": (lambda: edited(layers=None), DocumentError, "Object missing required field `layers`"),
    "negative size": (
        lambda: edited(layers=[{**DESCRIPTOR, "size": -5}]),
        DocumentError,
        f"{{0}}: descriptor {DIGEST} has the negative size -5",
    ),
    "size is no number": (lambda: edited(layers=[{**DESCRIPTOR, "size": "5"}]), DocumentError, "Expected `int`"),
    "digest is a path": (
        lambda: edited(layers=[{**DESCRIPTOR, "digest": "sha256:../../../../etc/passwd"}]),
        DigestInvalidError,
        '{0}: "sha256:../../../../etc/passwd" is not a sha256 or sha512 digest',
    ),
    "digest in capitals": (
        lambda: edited(layers=[{**DESCRIPTOR, "digest": DIGEST.upper()}]),
        DigestInvalidError,
        f'{{0}}: "{DIGEST.upper()}" is not a sha256 or sha512 digest',
    ),
    "too many layers": (lambda: edited(layers=[DESCRIPTOR] * 1025), DocumentError, "1025 layers; at most 1024"),
    "huge manifest": (
        lambda: edited(annotations={"a": "x" * (4 << 20)}),
        DocumentError,
        "bytes long; at most 4 MiB are taken",
    ),
}


@pytest.mark.parametrize("kind", NOT_IMAGES)
def test_what_is_no_image_is_refused_when_it_is_opened(kind: str, tmp_path: Path) -> None:
    build, expected, message = NOT_IMAGES[kind]
    with pytest.raises(OcifastError) as caught:
        open_layout(tmp_path, build())
    assert isinstance(caught.value, expected), caught.value
    assert message.format(f"oci:{tmp_path}:app") in caught.value.message
    assert f"oci:{tmp_path}:app" in caught.value.message
    assert "\n" not in caught.value.message


def config_of(edit: Callable[[dict[str, Any]], Any]) -> BuiltImage:
    """An image with an edited config."""
    return build_image([TAR], edit_config=lambda config: edit(config))


BAD_CONFIGS: dict[str, tuple[Callable[[], BuiltImage], type[OcifastError], str]] = {
    "too few diff IDs": (
        lambda: config_of(lambda config: config["rootfs"].update(diff_ids=[])),
        DocumentError,
        "{0}: the manifest has 1 layers, but the config 0 diff IDs",
    ),
    "no rootfs": (
        lambda: config_of(lambda config: config.pop("rootfs")),
        DocumentError,
        "{0}: the manifest has 1 layers, but the config 0 diff IDs",
    ),
    "a diff ID that is none": (
        lambda: config_of(lambda config: config["rootfs"].update(diff_ids=["md5:00"])),
        DigestInvalidError,
        '{0}: config: "md5:00" is not a sha256 or sha512 digest',
    ),
    "a number for a name": (
        lambda: config_of(lambda config: config.update(os=5)),
        DocumentError,
        "{0}: config is not a valid ImageConfig: Expected `str | null`, got `int` - at `$.os`",
    ),
    "a huge config": (
        lambda: config_of(lambda config: config.update(x="x" * (16 << 20))),
        DocumentError,
        "bytes long; at most 16 MiB are taken",
    ),
}


@pytest.mark.parametrize("kind", BAD_CONFIGS)
def test_what_is_wrong_with_a_config_is_named(kind: str, tmp_path: Path) -> None:
    build, expected, message = BAD_CONFIGS[kind]
    with open_layout(tmp_path, build()) as image, pytest.raises(OcifastError) as caught:
        image.diff_ids  # noqa: B018
    assert isinstance(caught.value, expected), caught.value
    assert message.format(f"oci:{tmp_path}:app") in caught.value.message


FOREIGN = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"


def test_foreign_layers(tmp_path: Path) -> None:
    for number, layer in enumerate(
        (Layer(TAR, missing=True, media_type=FOREIGN), Layer(TAR, missing=True, urls=["http://127.0.0.1:9/layer"]))
    ):
        with open_layout(tmp_path / str(number), build_image([layer])) as image:
            with pytest.raises(BlobNotFoundError) as caught:
                image.blob(image.layers[0])
            assert caught.value.message == (
                f"oci:{tmp_path}/{number}:app: layer {layer.digest} is a foreign layer that is not kept with the "
                "image, and its URLs are not followed; copy the image together with its foreign layers first"
            )
    with open_layout(tmp_path / "there", build_image([Layer(TAR, media_type=FOREIGN)])) as image:
        assert digest_of(b"".join(image.blob(image.layers[0]))) == image.layers[0].digest


LAYER_TYPES = [
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd",
]


@pytest.mark.parametrize("media_type", LAYER_TYPES)
def test_layers_of_every_type(media_type: str, tmp_path: Path) -> None:
    with open_layout(tmp_path, build_image([Layer(TAR, media_type=media_type)])) as image:
        assert image.layers[0].media_type == media_type


def test_early_docker_images(tmp_path: Path) -> None:
    def edit(manifest: dict[str, Any]) -> None:
        manifest["config"]["mediaType"] = "application/octet-stream"

    with open_layout(tmp_path / "docker", build_image([TAR], docker=True, edit_manifest=edit)) as image:
        assert image.platform == Platform("amd64", "linux")
    with pytest.raises(NotAnImageError):
        open_layout(tmp_path / "oci", build_image([TAR], edit_manifest=edit))


def test_the_public_names() -> None:
    assert [name for name in ocifast.__all__ if not hasattr(ocifast, name)] == []
    assert sorted(ocifast.__all__) == ocifast.__all__
    assert set(ocifast.__all__) <= set(dir(ocifast))
    with pytest.raises(AttributeError, match="module 'ocifast' has no attribute 'nothing'"):
        ocifast.nothing  # noqa: B018


def test_importing_the_package_imports_nothing_else() -> None:
    code = "import sys; before = set(sys.modules); import ocifast; print(sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = json.loads(done.stdout.replace("'", '"'))
    assert {name.partition(".")[0] for name in loaded} - sys.stdlib_module_names == {"ocifast"}
    assert [name for name in loaded if name.startswith("ocifast")] == ["ocifast"]
    assert "logging" not in loaded


def test_the_examples_in_the_documents() -> None:
    failed, run = doctest.testfile("../docs/references.md")
    assert (failed, run) == (0, 4)


FIRST_IN_THREADS = """
import sys, threading
from ocifast.spec import Document, OCI_MANIFEST, decode_manifest
sys.setswitchinterval(1e-6)
document = Document(OCI_MANIFEST, sys.argv[1].encode())
start = threading.Barrier(8)
def first():
    start.wait()
    decode_manifest(document, name="x")
threads = [threading.Thread(target=first) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


def test_threads_may_be_the_first_to_read_a_manifest() -> None:
    """A crash that one of five processes had; so many are tried."""
    words = [sys.executable, "-c", FIRST_IN_THREADS, json.dumps(AMD64.manifest)]
    assert [subprocess.run(words, check=False).returncode for _ in range(20)] == [0] * 20
