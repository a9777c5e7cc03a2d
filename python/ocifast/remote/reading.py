"""What comes from a remote cache: fetched, compared with what its manifest says, and put where such things are kept."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from ocifast import _core
from ocifast.atomic import NewFile
from ocifast.cache import Cache
from ocifast.cache.kept import file_digest
from ocifast.errors import DigestMismatchError, DocumentError, LimitError
from ocifast.file_data import write_all
from ocifast.remote.form import DIFF_ID, LAYER, TAR, LayerFacts, Member, OutputFacts, members
from ocifast.remote.place import RemotePlace
from ocifast.sources.verify import verified
from ocifast.spec import Document, decode_manifest

__all__ = ["take_layer", "take_output"]

_CHUNK = 1 << 20
_ZEROS = bytes(_CHUNK)
_FACTS = 16 << 20
"""Most bytes of `facts.json`."""

Facts = TypeVar("Facts", OutputFacts, LayerFacts)


def take_output(
    place: RemotePlace,
    document: Document,
    key: str,
    image: Document,
    config: bytes,
    kept: Cache,
    accept: Callable[[Mapping[str, Any]], object],
) -> None:
    """Keeps an output.

    Args:
        place: where it is.
        document: its manifest.
        key: of its bytes.
        image: manifest of the image.
        config: of the image.
        kept: where it goes.
        accept: looks at what is said of it.

    Raises:
        OcifastError: it could not be fetched, or is not what its manifest or its facts say.
        OSError: it cannot be kept.
    """
    name = f"{place.location}: output {key}"
    with ExitStack() as stack:
        beside, fd, found = _fetched(stack, place, document, kept, name)
        facts = _facts(fd, found, OutputFacts, name)
        try:
            accept(facts.facts)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DocumentError(f"{name}: what it says of the output is not understood: {error!r}") from None
        made = stack.enter_context(NewFile(beside, mode=0o600))
        _copy(fd, _member(found, "output", name), made.descriptor)
        seen = file_digest(made.descriptor)
        if (os.fstat(made.descriptor).st_size, seen) != (facts.size, facts.digest):
            raise DigestMismatchError(f"{name}: its digest should be {facts.digest}, but is {seen}")
        kept.outputs.take(key, made, seen, manifest=image.raw, config=config, facts=facts.facts)


def take_layer(place: RemotePlace, document: Document, diff_id: str, kept: Cache) -> None:
    """Keeps a decoded layer.

    Raises:
        OcifastError: it could not be fetched, or is not what its manifest says.
        OSError: it cannot be kept.
    """
    name = f"{place.location}: layer {diff_id}"
    manifest = decode_manifest(document, name=name)
    if manifest.artifact_type != LAYER or (manifest.annotations or {}).get(DIFF_ID) != diff_id:
        raise DocumentError(f"{name}: its manifest is that of something else")
    with ExitStack() as stack:
        beside, fd, found = _fetched(stack, place, document, kept, name)
        facts = _facts(fd, found, LayerFacts, name)
        table = stack.enter_context(NewFile(beside, mode=0o600))
        data = stack.enter_context(NewFile(beside, mode=0o600))
        _copy(fd, _member(found, "layer.entries", name), table.descriptor)
        _copy(fd, _member(found, "layer.erofs", name), data.descriptor)
        seen = _core.layer_digest(data.descriptor)
        if seen != facts.digest:
            raise DigestMismatchError(f"{name}: its digest should be {facts.digest}, but is {seen}")
        if _core.LayerTable(table.descriptor).diff_id != diff_id:
            raise DocumentError(f"{name}: its table is that of another layer")
        kept.decoded.take(diff_id, table, data)


def _fetched(
    stack: ExitStack, place: RemotePlace, document: Document, kept: Cache, name: str
) -> tuple[Path, int, dict[str, Member]]:
    """The blob of a manifest as a plain tar: a folder beside, the open file, and its members."""
    layers = decode_manifest(document, name=name).layers
    if len(layers) != 1 or layers[0].media_type != TAR:
        raise DocumentError(f"{name}: it has not one blob of type {TAR}")
    (layer,) = layers
    if kept.max_bytes is not None and layer.size > kept.max_bytes:
        raise LimitError(f"{name}: {layer.size} bytes are more than the cache may become")
    kept.prepare()
    beside = kept.beside()
    blob = stack.enter_context(NewFile(beside, mode=0o600))
    with place.blob(layer) as chunks:
        at = 0
        for chunk in verified(layer, chunks, name=name):
            write_all(blob.descriptor, chunk, at)
            at += len(chunk)
    tar = stack.enter_context(NewFile(beside, mode=0o600))
    os.lseek(blob.descriptor, 0, os.SEEK_SET)
    # The core holds it to a ratio that no file of ours passes.
    _core.decompress(blob.descriptor, tar.descriptor)
    return beside, tar.descriptor, members(tar.descriptor, name=name)


def _member(found: Mapping[str, Member], member: str, name: str) -> Member:
    if member not in found:
        raise DocumentError(f"{name}: it has no {member}")
    return found[member]


def _facts(fd: int, found: Mapping[str, Member], kind: type[Facts], name: str) -> Facts:
    member = _member(found, "facts.json", name)
    if member.size > _FACTS:
        raise DocumentError(f"{name}: what is said of it is longer than {_FACTS >> 20} MiB")
    try:
        return msgspec.json.decode(os.pread(fd, member.size, member.offset), type=kind)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise DocumentError(f"{name}: what is said of it is not understood: {error}") from None


def _copy(source: int, member: Member, destination: int) -> None:
    """Copies a member to the beginning of a file; what is zero becomes a hole."""
    done = 0
    while done < member.size:
        chunk = os.pread(source, min(_CHUNK, member.size - done), member.offset + done)
        if not chunk:
            break
        if chunk != _ZEROS[: len(chunk)]:
            write_all(destination, chunk, done)
        done += len(chunk)
    os.ftruncate(destination, member.size)
