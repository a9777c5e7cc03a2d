"""Reading from a remote cache: files are written while they are fetched, and kept once they are as the manifest says.

A blob is compared with its digest on the way, and each frame with its checksum. So the file is the one that was pushed.
The digest that its facts state was pushed with it, and is recorded without hashing the file again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from ocifast import _core
from ocifast.atomic import NewFile
from ocifast.cache import Cache, CachedOutput
from ocifast.errors import DocumentError, LimitError, reason
from ocifast.file_data import share_blocks
from ocifast.records import dataclass
from ocifast.remote.form import DIFF_ID, FACTS, FILE, LAYER, LayerFacts, OutputFacts
from ocifast.remote.place import RemotePlace
from ocifast.sources.verify import read_small, verified
from ocifast.spec import Descriptor, Document, decode_manifest

__all__ = ["Reader"]

_FACTS = 16 << 20
"""Most bytes of the facts about files."""

Facts = TypeVar("Facts", OutputFacts, LayerFacts)


@dataclass(frozen=True)
class Reader:
    """Takes outputs and layers from a place to where they are kept.

    Attributes:
        place: where they are.
        kept: where they go.
        threads: that decompress at a time.
        fetched: gets the number of bytes of each piece that came.
    """

    place: RemotePlace
    kept: Cache
    threads: int
    fetched: Callable[[int], None]

    def output(
        self,
        document: Document,
        key: str,
        image: Document,
        config: bytes,
        accept: Callable[[Mapping[str, Any]], object],
        beside: tuple[Path, ExitStack] | None,
    ) -> CachedOutput | None:
        """Keeps an output.

        Args:
            document: its manifest.
            key: of its bytes.
            image: manifest of the image.
            config: of the image.
            accept: looks at what is said of it.
            beside: a folder for a copy, which is written at the same time where the cache cannot share extents with it,
                and what removes it if it is not placed; None for none.

        Returns:
            What is kept now; None where it could not be kept, which was told.

        Raises:
            OcifastError: it could not be fetched, or is not what its manifest or its facts say.
            OSError: it cannot be kept.
        """
        name = f"{self.place.location}: output {key}"
        with ExitStack() as stack:
            facts, (file,) = self._described(document, OutputFacts, 1, name)
            try:
                accept(facts.facts)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise DocumentError(f"{name}: what it says of the output is not understood: {error!r}") from None
            made = self._new(stack)
            copy = None if beside is None else _copy(made, *beside)
            self._take(file, facts.size, name, *[made] if copy is None else [made, copy])
            self.kept.outputs.take(key, made, facts.digest, manifest=image.raw, config=config, facts=facts.facts)
        found = self.kept.outputs.get(key)
        return found if found is None or copy is None else replace(found, copy=copy)

    def layer(self, document: Document, diff_id: str) -> None:
        """Keeps a decoded layer.

        Args:
            document: its manifest.
            diff_id: of the layer.

        Raises:
            OcifastError: it could not be fetched, or is not what its manifest says.
            OSError: it cannot be kept.
        """
        name = f"{self.place.location}: layer {diff_id}"
        manifest = decode_manifest(document, name=name)
        if manifest.artifact_type != LAYER or (manifest.annotations or {}).get(DIFF_ID) != diff_id:
            raise DocumentError(f"{name}: its manifest is that of something else")
        with ExitStack() as stack:
            facts, (entries, data) = self._described(document, LayerFacts, 2, name)
            told, table, contents = self._new(stack), self._new(stack), self._new(stack)
            self._take(entries, facts.entries, name, told)
            read = _core.LayerTable(told.fd)
            if read.diff_id != diff_id:
                raise DocumentError(f"{name}: its table is that of another layer")
            self._take(data, facts.size, name, contents)
            complete = partial(read.copy, table.fd)
            self.kept.decoded.publish(diff_id, table, contents, facts.size, facts.digest, complete)

    def _described(
        self, document: Document, kind: type[Facts], files: int, name: str
    ) -> tuple[Facts, tuple[Descriptor, ...]]:
        """What a manifest says of its files, and the files."""
        manifest = decode_manifest(document, name=name)
        if manifest.config.media_type != FACTS or [layer.media_type for layer in manifest.layers] != [FILE] * files:
            raise DocumentError(f"{name}: it has not {files} {'file' if files == 1 else 'files'} of type {FILE}")
        raw = read_small(self.place.blob(manifest.config), manifest.config, _FACTS, name=name)
        try:
            facts = msgspec.json.decode(raw, type=kind)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise DocumentError(f"{name}: what is said of it is not understood: {reason(error)}") from None
        self.kept.prepare()
        return facts, manifest.layers

    def _new(self, stack: ExitStack) -> NewFile:
        return stack.enter_context(NewFile(self.kept.beside(), mode=0o600))

    def _take(self, blob: Descriptor, size: int, name: str, *files: NewFile) -> None:
        """Fetches a file of so many bytes and writes it to empty ones."""
        most = self.kept.max_bytes
        if most is not None and max(size, blob.size) > most:
            raise LimitError(f"{name}: {max(size, blob.size)} bytes are more than the cache may become")
        writer = _core.FrameWriter([file.fd for file in files], size, threads=self.threads)
        with self.place.blob(blob) as chunks:
            for chunk in verified(blob, chunks, name=name):
                self.fetched(len(chunk))
                writer.write(chunk)
        writer.finish()


def _copy(made: NewFile, folder: Path, stack: ExitStack) -> NewFile | None:
    """A second file to write, unless the first can be made one later without copying."""
    # Whoever places it brings it to the disk, if that is wanted.
    copy = stack.enter_context(NewFile(folder, mode=0o600, sync=False))
    if not share_blocks(made.fd, copy.fd):
        return copy
    copy.discard()
    return None
