"""What tests of the cache share: an image, an output's key, and a look into the folder."""

from __future__ import annotations

import json
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


def rot(entry: Path) -> None:
    """Damage below the file system to a cached output: reading gives other bytes, and nothing recorded has changed."""
    output, record = entry / "output", entry / "entry.json"
    output.chmod(0o600)
    with output.open("r+b") as file:
        file.seek(output.stat().st_size // 2)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 1]))
    output.chmod(0o400)
    status = output.stat()
    facts = json.loads(record.read_text())
    facts["output"] |= {"mtime": status.st_mtime_ns, "ctime": status.st_ctime_ns}
    record.write_text(json.dumps(facts))
