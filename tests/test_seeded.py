"""Seed layouts: what they have is not asked of the registry, and what they have wrong is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ocifast
import pytest
from ocifast.errors import ImageNotFoundError
from ocifast.image import Image

from tests.support.images import BuiltImage, Layer, build_image, build_index, write_layout
from tests.support.layers import TarBuilder
from tests.support.registry import Registry

IMAGE = build_image([Layer(TarBuilder().file("one")), Layer(TarBuilder().file("two"))])
OTHER = build_image([Layer(TarBuilder().file("other"))])
INDEX = build_index([IMAGE, build_image([TarBuilder().file("arm")], platform="linux/arm64")])


def contents(image: Image) -> dict[str, bytes]:
    """Config and layers by digest."""
    found = {image.manifest.config.digest: image.config_raw}
    for layer in image.layers:
        with image.blob(layer) as blob:
            found[layer.digest] = b"".join(blob)
    return found


def opened(name: str, *seeds: Path) -> tuple[str, dict[str, bytes]]:
    """Digest of the manifest, and config and layers by digest."""
    with ocifast.open(name, platform="linux/amd64", seeds=seeds) as image:
        return image.digest, contents(image)


def rename(layout: Path, annotations: dict[str, str]) -> None:
    """Gives the first entry of a layout other names."""
    path = layout / "index.json"
    index: Any = json.loads(path.read_text())
    index["manifests"][0]["annotations"] = annotations
    path.write_text(json.dumps(index))


NAME = "seeded.invalid:5000/app:1"


@pytest.mark.parametrize(
    "annotations",
    [
        {"org.opencontainers.image.ref.name": NAME},
        {"org.opencontainers.image.ref.name": "1", "io.containerd.image.name": NAME},
    ],
)
@pytest.mark.parametrize("image", [IMAGE, INDEX])
def test_a_seed_that_has_all_needs_no_registry(annotations: dict[str, str], image: BuiltImage, tmp_path: Path) -> None:
    # The host does not exist: asking it would fail.
    other = write_layout(tmp_path / "other", {"1": OTHER})
    seed = write_layout(tmp_path / "seed", image)
    rename(seed, annotations)
    expected = (IMAGE.digest, IMAGE.all_blobs())
    assert opened(NAME, other, seed) == expected
    assert opened(f"seeded.invalid:5000/app@{IMAGE.digest}", seed) == expected


@pytest.mark.parametrize("tag", ["1", "app:1", "r.io/app:1", "seeded.invalid:5000/app", "seeded.invalid:5000/app:2"])
def test_a_bare_tag_says_nothing_about_the_repository(tag: str, tmp_path: Path, registry: Registry) -> None:
    name = registry.put(IMAGE, "seeded/app:1")
    seed = write_layout(tmp_path / "seed", OTHER, tag=tag)
    assert opened(name, seed)[0] == IMAGE.digest


def test_blobs_come_from_the_seed_where_it_has_them(tmp_path: Path, registry: Registry) -> None:
    name = registry.put(IMAGE, "seeded/parts:1")
    seed = write_layout(tmp_path / "seed", {"anything": IMAGE})
    one, two = IMAGE.layers
    # One is missing there, as is the config; of the other an interrupted copy has left a part.
    (seed / "blobs" / one.digest.replace(":", "/")).unlink()
    (seed / "blobs" / IMAGE.manifest["config"]["digest"].replace(":", "/")).write_bytes(b"part")
    before = len(registry.requests())
    assert opened(name, seed) == (IMAGE.digest, IMAGE.all_blobs())
    asked = {line.split()[1].rpartition("/")[2] for line in registry.requests()[before:] if "/blobs/" in line}
    assert asked == {one.digest, IMAGE.manifest["config"]["digest"]}
    assert two.digest not in asked


def test_a_seed_must_be_a_layout(tmp_path: Path) -> None:
    with pytest.raises(ImageNotFoundError, match="there is no folder"):
        ocifast.open(NAME, seeds=[tmp_path / "none"])
    with pytest.raises(ImageNotFoundError, match="this is not an OCI image layout, it has no file oci-layout"):
        ocifast.open(NAME, seeds=[tmp_path])
