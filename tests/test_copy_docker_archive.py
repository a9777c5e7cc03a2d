"""What a Docker archive cannot hold is refused in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ocifast.errors import BlobNotFoundError, NotAnImageError

from tests.support.faulty import serve_faulty
from tests.support.images import Layer, build_image, digest_of
from tests.test_copy import copied


def test_a_docker_archive_holds_whole_images_alone(tmp_path: Path) -> None:
    def edit(manifest: dict[str, Any]) -> None:
        manifest["config"]["mediaType"] = "application/vnd.example+json"
        manifest["layers"][0]["mediaType"] = "text/plain"

    foreign = Layer(
        b"", blob=b"windows", media_type="application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", missing=True
    )
    foreign.urls = ["https://mcr.example/layer"]
    artifact = build_image([Layer(b"", blob=b"chart")], edit_manifest=edit)
    with serve_faulty() as source:
        with pytest.raises(NotAnImageError, match=r"an artifact of type application/vnd\.example\+json"):
            copied(f"docker://{source.put(artifact, 'a:1')}", f"docker-archive:{tmp_path}/out.tar")
        with pytest.raises(BlobNotFoundError, match=f"the foreign layer {digest_of(b'windows')} is not kept"):
            copied(f"docker://{source.put(build_image([foreign]), 'a:2')}", f"docker-archive:{tmp_path}/out.tar")
    assert list(tmp_path.iterdir()) == []
