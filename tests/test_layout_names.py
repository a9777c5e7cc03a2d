"""Names and links of a layout: what a user's words find, and where links may lead."""

from __future__ import annotations

from pathlib import Path

import ocifast
import pytest
from ocifast.errors import DigestMismatchError, ImageNotFoundError

from tests.support.images import write_layout
from tests.test_layout import MANY, ONE, TWO, edit_index, failure, read, read_all


def test_a_bare_tag_finds_a_full_name_when_it_is_the_only_one(tmp_path: Path) -> None:
    names = {"docker.io/library/app:latest": ONE, "ghcr.io/org/tool": TWO, "r.io/other:1": MANY}
    write_layout(tmp_path, names)
    assert read(f"oci:{tmp_path}:1").raw == MANY.raw
    assert failure(f"oci:{tmp_path}:latest").message == (
        f"oci:{tmp_path}:latest: 'latest' is the tag of several images; name one of docker.io/library/app:latest, "
        "ghcr.io/org/tool"
    )
    edit_index(tmp_path, lambda index: index["manifests"].pop(1))
    assert read(f"oci:{tmp_path}:latest").raw == ONE.raw
    assert isinstance(failure(f"oci:{tmp_path}:2"), ImageNotFoundError)
    # Two names of one image are one, and a tag as it stands wins.
    edit_index(
        tmp_path, lambda index: index["manifests"].append({**index["manifests"][0], "annotations": named("b/c")})
    )
    assert read(f"oci:{tmp_path}:latest").raw == ONE.raw
    edit_index(tmp_path, lambda index: index["manifests"][1].update(annotations=named("latest")))
    assert read(f"oci:{tmp_path}:latest").raw == MANY.raw


def named(name: str) -> dict[str, str]:
    """The annotation of a name."""
    return {"org.opencontainers.image.ref.name": name}


def test_images_without_a_name_are_listed_by_digest(tmp_path: Path) -> None:
    write_layout(tmp_path, {"one": ONE, "two": TWO})
    edit_index(tmp_path, lambda index: [entry.pop("annotations") for entry in index["manifests"]])
    edit_index(tmp_path, lambda index: index["manifests"][0].pop("platform"))
    listed = ", ".join(f"@{digest}" for digest in sorted((ONE.digest, TWO.digest)))
    assert failure(f"oci:{tmp_path}").message == (
        f"oci:{tmp_path}: the layout holds several images; name one of {listed}"
    )
    assert read(f"oci:{tmp_path}@{ONE.digest}").raw == ONE.raw


def test_a_layout_without_a_version_is_read_as_all_others_read_it(tmp_path: Path) -> None:
    write_layout(tmp_path, ONE)
    (tmp_path / "oci-layout").unlink()
    read_all(f"oci:{tmp_path}:app")


def test_links_within_a_layout_and_to_blobs_of_another(tmp_path: Path) -> None:
    """As bazel's rules_oci links the blobs of a base image, and as copies that save room have it."""
    base = write_layout(tmp_path / "base", TWO)
    app = tmp_path / "app"
    (app / "blobs/sha256").mkdir(parents=True)
    for blob in (base / "blobs/sha256").iterdir():
        (app / "blobs/sha256" / blob.name).symlink_to(f"../../../base/blobs/sha256/{blob.name}")
    (app / "kept").mkdir()
    for part in ("index.json", "oci-layout"):
        (app / "kept" / part).write_bytes((base / part).read_bytes())
        (app / part).symlink_to(f"kept/{part}")
    read_all(f"oci:{app}:app")
    (tmp_path / "link").symlink_to("app")
    read_all(f"oci:{tmp_path}/link:app")
    # A folder of blobs that stands elsewhere, and one that stands within under another name.
    whole = write_layout(tmp_path / "whole", TWO)
    (whole / "blobs").rename(tmp_path / "elsewhere")
    (whole / "blobs").symlink_to("../elsewhere")
    read_all(f"oci:{whole}:app")
    layer = tmp_path / "elsewhere" / TWO.layers[0].digest.replace(":", "/")
    layer.rename(whole / "layer")
    layer.symlink_to(whole / "layer")
    read_all(f"oci:{whole}:app")
    # Whatever stands there must have the digest.
    (whole / "layer").write_bytes(b"x" * len(TWO.layers[0].blob))
    with ocifast.open(f"oci:{whole}:app") as image, pytest.raises(DigestMismatchError):
        image.flatten()
