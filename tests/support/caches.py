"""What tests of the cache share: an image, an output's key, and a look into the folder."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from ocifast.cache import Cache, output_key
from ocifast.spec import Descriptor

from tests.support.documents import listing
from tests.support.images import build_image, digest_of
from tests.support.layers import TarBuilder

DATA = bytes(range(256)) * 4000
BLOB = Descriptor("application/vnd.oci.image.layer.v1.tar", digest_of(DATA), len(DATA))
HEX = BLOB.digest.removeprefix("sha256:")
IMAGE = build_image([TarBuilder().file("f", b"data")])

KEY: dict[str, Any] = {
    "manifest": "sha256:" + "0" * 64,
    "format": "squashfs",
    "backend": "mksquashfs",
    "packer": "mksquashfs 4.6",
    "options": {"level": 3, "block": None},
}


def files(cache: Cache) -> list[str]:
    """Everything in the cache but the folders and the tag."""
    return [name for name in listing(cache.folder) if not name.endswith("/") and name != "CACHEDIR.TAG"]


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Warnings so far."""
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def keep(cache: Cache, output: Path, facts: dict[str, Any] | None = None) -> str:
    """Puts an output under the key of `KEY`."""
    key = output_key(**KEY)
    config = IMAGE.blobs[IMAGE.manifest["config"]["digest"]]
    with cache.outputs.lock(key):
        cache.outputs.put(key, output, manifest=IMAGE.raw, config=config, facts=facts)
    return key
