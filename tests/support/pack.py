"""Layers to an output file by the packers themselves, without an image, a source or a cache around them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ocifast import _core
from ocifast.packers import (
    FORMATS,
    FileTarget,
    Loss,
    PackOptions,
    WriteRequest,
    choose_backend,
    load_format,
    options_of,
)

from tests.support.images import digest_of
from tests.support.layers import TarBuilder

PLAIN_FORMATS = tuple(name for name in FORMATS if not load_format(name).has_layers and name != "disk")
"""Those that are written from any tree, to a place of their own; a disk is one of them with a table before it."""

DIGEST = "sha256:" + "0123456789abcdef" * 4
"""A manifest's digest, for what is derived from one."""


@dataclass(frozen=True)
class LayerFile:
    """A layer that is too big for memory: a plain or compressed archive on disk."""

    path: Path
    digest: str
    diff_id: str


@dataclass(frozen=True)
class Packed:
    """What came of one run.

    Attributes:
        path: the output.
        dump: canonical text of the tree that was packed; empty when it was not asked for.
        losses: what the format could not hold.
    """

    path: Path
    dump: str
    losses: list[Loss] = field(default_factory=list)

    @property
    def lost(self) -> list[str]:
        """Kind and path of each loss that names its paths, sorted."""
        return sorted(
            f"{loss.kind} {path.decode(errors='backslashreplace')}" for loss in self.losses for path in loss.paths
        )


@contextmanager
def flattened(
    layers: Sequence[TarBuilder | bytes | LayerFile],
    *,
    store: str | _core.SquashfsCompression = "spool",
    folder: Path | None = None,
) -> Iterator[_core.Tree]:
    """The tree of some layers, while the block lasts."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        blobs = [layer.build() if isinstance(layer, TarBuilder) else layer for layer in layers]
        flattener = _core.Flattener([_describe(blob) for blob in blobs], store=store, folder=place)
        for index, blob in enumerate(blobs):
            if isinstance(blob, LayerFile):
                flattener.read_file(index, blob.path, 0, blob.path.stat().st_size)
                continue
            for chunk in _chunks(blob):
                flattener.write(index, chunk)
            flattener.close_layer(index)
        yield flattener.finish()


def pack(
    layers: Sequence[TarBuilder | bytes | LayerFile],
    out: Path,
    form: str,
    *,
    options: PackOptions | None = None,
    clamp_mtime: int | None = None,
    with_dump: bool = True,
) -> Packed:
    """Flattens and packs as `compile` does; beside `out` there must be nothing else that begins with a dot."""
    options = options or PackOptions()
    chosen = load_format(form)
    backend, _ = choose_backend(chosen, options)
    own = options_of(chosen.options, options)
    with (
        flattened(layers, store=backend.store(own, 1).place, folder=out.parent) as tree,
        tempfile.TemporaryDirectory(dir=out.parent) as folder,
    ):
        dump = tree.dump().decode() if with_dump else ""
        target = FileTarget(out)
        request = WriteRequest(tree, target, Path(folder), DIGEST, own, clamp_mtime=clamp_mtime, created=1_700_000_000)
        written = backend.write(request)
    return Packed(out, dump, list(written.losses))


def _describe(blob: bytes | LayerFile) -> tuple[str, int, str]:
    if isinstance(blob, LayerFile):
        return blob.digest, blob.path.stat().st_size, blob.diff_id
    return digest_of(blob), len(blob), digest_of(blob)


def _chunks(blob: bytes) -> Iterable[bytes]:
    return (blob[start : start + (1 << 20)] for start in range(0, len(blob), 1 << 20))
