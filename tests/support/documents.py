"""Moves whole images between sources and destinations, in order and in one thread: what tests of either need."""

from __future__ import annotations

from pathlib import Path

from ocifast.sources import Destination, Source
from ocifast.sources.open import open_destination, open_source, parse_location
from ocifast.spec import Document, decode_index, decode_manifest


def move(source: str, destination: str) -> str:
    """Copies everything at a location to another one; returns the digest of the root document."""
    reading = open_source(parse_location(source))
    writing = open_destination(parse_location(destination))
    try:
        root = reading.root()
        _move(reading, writing, root, root=True)
        writing.commit()
    except BaseException:
        writing.abort()
        raise
    finally:
        reading.close()
    return root.digest


def _move(source: Source, destination: Destination, document: Document, *, root: bool) -> None:
    if document.is_index:
        for child in decode_index(document, name="test").manifests:
            _move(source, destination, source.document(child), root=False)
    else:
        manifest = decode_manifest(document, name="test")
        blobs = [manifest.config, *manifest.layers]
        destination.announce(blobs)
        for descriptor in blobs:
            if not destination.has_blob(descriptor):
                with source.blob(descriptor) as blob:
                    destination.put_blob(descriptor, blob)
    destination.put_document(document, root=root)


def listing(folder: Path) -> list[str]:
    """Everything below a folder by path, folders with a slash at the end."""
    return sorted(
        path.relative_to(folder).as_posix() + ("/" if path.is_dir() and not path.is_symlink() else "")
        for path in folder.rglob("*")
    )
