"""Indexes: which of their entries are images, and which of those are there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ocifast
import pytest
from ocifast.errors import BlobNotFoundError, PlatformError
from ocifast.image import Index
from ocifast.sources.open import open_source, parse_location

from tests.support.images import BuiltImage, Layer, build_image, build_index, write_layout
from tests.support.run import ocifast as ocifast_command
from tests.support.run import try_ocifast
from tests.test_image import AMD64, ARM64, ARM_V6, HELM, INDEX_TYPE, TAR, attestation, edited


def test_the_entries_of_an_index_are_images_alone(tmp_path: Path) -> None:
    def add_artifact(index: dict[str, Any]) -> None:
        # With a platform and without one, with a type of its own and with that of an image.
        for image in (helm, bill):
            for kind in ("application/example", "application/vnd.oci.image.config.v1+json"):
                index["manifests"].append(image.descriptor(platform=None, artifactType=kind))
            index["manifests"].append(image.descriptor(artifactType="application/example"))

    helm = edited(config=HELM)
    bill = build_image([Layer(b"{}", "plain", media_type="application/spdx+json")])
    write_layout(tmp_path, build_index([attestation(), ARM64, AMD64, helm, bill], edit=add_artifact))
    source = open_source(parse_location(f"oci:{tmp_path}:app"))
    entries = Index(source, source.root()).entries
    # Entries without an artifact type are believed until they are chosen.
    assert [entry.digest for entry in entries] == [ARM64.digest, AMD64.digest, helm.digest, bill.digest]


@pytest.mark.parametrize("kind", ["application/vnd.oci.image.config.v1+json", "application/example", ""])
@pytest.mark.parametrize("with_platform", [True, False])
def test_an_artifact_type_makes_no_artifact_of_an_image(kind: str, with_platform: bool, tmp_path: Path) -> None:
    """As apko, ko and crane write it, on entries of an index and in manifests."""
    images = [
        build_image([TAR], platform=platform, edit_manifest=lambda manifest: manifest.update(artifactType=kind))
        for platform in ("linux/amd64", "linux/arm64")
    ]

    def write(index: dict[str, Any]) -> None:
        for entry in index["manifests"]:
            entry["artifactType"] = kind
            if not with_platform:
                del entry["platform"]

    write_layout(tmp_path, build_index(images, edit=write))
    for platform, image in zip(("linux/amd64", "linux/arm64"), images, strict=True):
        with ocifast.open(f"oci:{tmp_path}:app", platform=platform) as found, found.flatten() as tree:
            assert found.digest == image.digest
            assert tree.read_bytes("/f") == b"data"


def test_an_index_of_ten_thousand_platforms_is_told_in_one_line(tmp_path: Path) -> None:
    def many(index: dict[str, Any]) -> None:
        for number in range(10_000):
            index["manifests"].append(
                AMD64.descriptor(platform={"os": "linux", "architecture": "amd64", "os.version": f"{number:05}"})
            )

    write_layout(tmp_path, build_index([ARM64, AMD64], edit=many))
    with pytest.raises(PlatformError) as caught:
        ocifast.open(f"oci:{tmp_path}:app", platform="linux/s390x")
    assert caught.value.message == (
        f"oci:{tmp_path}:app has no image for linux/s390x; it has linux(00000)/amd64, linux(00001)/amd64, "
        "linux(00002)/amd64, linux(00003)/amd64, linux(00004)/amd64, linux(00005)/amd64, linux(00006)/amd64, "
        "linux(00007)/amd64, linux(00008)/amd64, linux(00009)/amd64 and 9992 more"
    )
    shown = ocifast_command("inspect", f"oci:{tmp_path}:app").decode().splitlines()
    assert len([line for line in shown if "sha256" in line]) < 110
    assert "              and 9902 more, which --json lists" in shown


def test_an_index_may_call_a_child_by_the_other_name_of_its_kind(tmp_path: Path) -> None:
    child = edited(mediaType="application/vnd.docker.distribution.manifest.v2+json")
    nested = build_index([child], docker=True)

    def announce(index: dict[str, Any]) -> None:
        index["manifests"] = [nested.descriptor(mediaType=INDEX_TYPE)]

    write_layout(tmp_path, build_index([nested], edit=announce))
    with ocifast.open(f"oci:{tmp_path}:app", platform="linux/amd64") as image:
        assert (image.digest, image.document.media_type) == (child.digest, child.manifest["mediaType"])


def drop(layout: Path, *images: BuiltImage) -> None:
    """Takes images out of a layout, as their writer had not got them."""
    for image in images:
        for digest in (image.digest, *image.blobs):
            (layout / "blobs" / digest.replace(":", "/")).unlink()


def test_the_platforms_that_a_layout_has_are_offered(tmp_path: Path) -> None:
    index = build_index([ARM_V6, ARM64, AMD64, attestation()])
    where = f"oci:{write_layout(tmp_path, build_index([index]))}:app"
    drop(tmp_path, ARM_V6)
    for platform, image in {"linux/amd64": AMD64, "linux/arm64": ARM64}.items():
        with ocifast.open(where, platform=platform) as found:
            assert found.digest == image.digest
    with pytest.raises(PlatformError, match=r"no image for linux/arm/v6; it has linux/amd64, linux/arm64/v8$"):
        ocifast.open(where, platform="linux/arm/v6")
    # One that is left alone is taken, unless another one was asked for.
    drop(tmp_path, AMD64)
    with ocifast.open(where) as found:
        assert found.digest == ARM64.digest
    with pytest.raises(PlatformError, match=r"no image for linux/amd64; it has linux/arm64/v8$"):
        ocifast.open(where, platform="linux/amd64")
    drop(tmp_path, ARM64, attestation())
    with pytest.raises(BlobNotFoundError, match=f"none of the 3 manifests .* is there; the first is {ARM_V6.digest}"):
        ocifast.open(where)


def test_a_whole_index_that_is_not_all_there_is_not_copied(tmp_path: Path) -> None:
    write_layout(tmp_path / "in", build_index([AMD64, ARM64]))
    drop(tmp_path / "in", ARM64)
    done = try_ocifast("copy", "--all", f"oci:{tmp_path}/in:app", f"oci:{tmp_path}/out:app")
    assert (done.returncode, done.stderr.decode()) == (
        1,
        f"ocifast: error: oci:{tmp_path}/in:app: of the 2 manifests of its index all but those for linux/amd64 are "
        "missing; leave out --all to copy one of them\n",
    )
    assert not (tmp_path / "out").exists()
    done = try_ocifast("copy", f"oci:{tmp_path}/in:app", f"oci:{tmp_path}/out:app", "--json")
    assert done.returncode == 0
    assert b"all but those for linux/amd64 are missing; one image is copied, without the index\n" in done.stderr
    told = json.loads(done.stdout)
    assert (told["digest"], told["platform"], told["platforms"]) == (AMD64.digest, "linux/amd64", 2)
