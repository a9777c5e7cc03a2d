"""OCI archives taken apart, for tests that look at every byte of one."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any


def members(archive: Path) -> dict[str, bytes]:
    """The files of an archive by name, folders left out; a name that stands twice fails."""
    found: dict[str, bytes] = {}
    with tarfile.open(archive) as opened:
        for member in opened:
            if member.isfile():
                assert member.name not in found
                file = opened.extractfile(member)
                assert file is not None
                found[member.name] = file.read()
    return found


class Opened:
    """An archive taken apart and checked: every blob has its digest, every descriptor its size."""

    def __init__(self, archive: Path) -> None:
        self.files = members(archive)
        for name, data in self.files.items():
            if name.startswith("blobs/"):
                assert name == f"blobs/sha256/{hashlib.sha256(data).hexdigest()}"
        self.index = json.loads(self.files["index.json"])
        assert json.loads(self.files["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}

    def json(self, descriptor: dict[str, Any]) -> dict[str, Any]:
        """A blob as JSON."""
        found: dict[str, Any] = json.loads(self.blob(descriptor))
        return found

    def blob(self, descriptor: dict[str, Any]) -> bytes:
        """A blob, whose size must be the descriptor's."""
        data = self.files["blobs/" + descriptor["digest"].replace(":", "/")]
        assert len(data) == descriptor["size"]
        return data

    @property
    def manifest(self) -> dict[str, Any]:
        """The first manifest."""
        return self.json(self.index["manifests"][0])

    @property
    def config(self) -> dict[str, Any]:
        """The first manifest's config."""
        return self.json(self.manifest["config"])

    def layers(self) -> list[list[str]]:
        """The listing of each layer of the only image, bottom first; they must not be compressed."""
        return [listing(self.blob(layer)) for layer in self.manifest["layers"]]


def listing(layer: bytes) -> list[str]:
    """Every entry of a layer with all that it says."""
    lines = []
    with tarfile.open(fileobj=io.BytesIO(layer)) as opened:
        for entry in opened:
            assert (entry.uname, entry.gname, entry.pax_headers) == ("", "", {})
            file = opened.extractfile(entry) if entry.isfile() else None
            content = hashlib.sha256(file.read()).hexdigest()[:12] if file else entry.linkname or "-"
            kind = {tarfile.REGTYPE: "file", tarfile.DIRTYPE: "folder", tarfile.SYMTYPE: "link"}[entry.type]
            lines.append(f"{entry.name} {kind} {entry.mode:o} {entry.uid}:{entry.gid} {entry.mtime} {content}")
    return lines


def short(data: bytes) -> str:
    """What `listing` shows of a file's bytes."""
    return hashlib.sha256(data).hexdigest()[:12]
