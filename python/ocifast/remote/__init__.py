"""Compiled outputs and decoded layers that machines share through a registry or a layout (docs/fleet.md).

Its content is as trustworthy as those who may write to it: neither an output nor a decoded layer can be compared with a
diff ID. So it is kept apart, in `remote/HASH` of the cache. HASH is of the place and of the keys that are asked for;
only runs that name the same ones use it. It never moves to `layers` and `outputs`, and nothing that is made of it is
pushed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from ocifast import _core
from ocifast.cache import Cache, CachedOutput
from ocifast.cache.layers import DecodedLayer
from ocifast.errors import OcifastError, PolicyError, UsageError
from ocifast.logs import logger
from ocifast.reference import Location
from ocifast.remote import writing
from ocifast.remote.form import layer_tag
from ocifast.remote.place import RemotePlace
from ocifast.remote.reading import Reader
from ocifast.signatures import Verification, check
from ocifast.sources.open import parse_location
from ocifast.spec import Document

if TYPE_CHECKING:
    from ocifast.signatures.keys import PrivateKey
    from ocifast.sources.registry.options import RegistryOptions

__all__ = ["RemoteCache"]

_log = logger(__name__)

Found = TypeVar("Found")

_THREADS = 8
"""Most threads that decompress a file: more bytes than they want come over no network."""


class RemoteCache:
    """A remote cache, with what of it is kept here. Whatever fails is a warning: the work is done without it.

    Args:
        where: `HOST/REPOSITORY`, or `oci:DIR`.
        cache: of this machine.
        keys: files of public keys, of which one must have signed what is used; none ask for no signature.
        sign_key: file of the private key that what is pushed is signed with; None does not sign.
        read_only: whether nothing is pushed.
        options: how registries are spoken to.
        threads: that decompress at a time, each file that comes.
        always_hash: hashes what is used, also when it has just come.
        fetched: gets the number of bytes of each piece that comes, from any thread.

    Raises:
        ImageReferenceError: `where` is no place.
        UsageError: it is a place of another kind, or a key is none.
        FileError: a key cannot be read.

    Attributes:
        read_only: whether nothing is pushed.
    """

    def __init__(
        self,
        where: str,
        cache: Cache,
        *,
        keys: tuple[str, ...] = (),
        sign_key: str | None = None,
        read_only: bool = False,
        options: RegistryOptions | None = None,
        threads: int = 1,
        always_hash: bool = False,
        fetched: Callable[[int], None] = lambda _: None,
    ) -> None:
        location = parse_location(where)
        named = location.tag or location.digest or (location.reference and location.reference.tag)
        if location.transport not in ("docker", "oci") or named or (location.reference and location.reference.digest):
            raise UsageError(f"{where} is no remote cache; write HOST/REPOSITORY or oci:DIR, without a tag")
        self.read_only = read_only
        self._place = RemotePlace(location, options)
        self._verify = Verification(keys) if keys else None
        self._key: PrivateKey | None = None
        if sign_key is not None:
            from ocifast.signatures.keys import read_private_key

            self._key = read_private_key(sign_key)
        # What is kept of it is a cache of its own: the same rules, and no way from there to the other.
        self._cache = cache
        folder = cache.folder / "remote" / _hash(location, keys)
        self._kept = Cache(folder, max_bytes=cache.max_bytes, always_hash=always_hash)
        self._missing: set[str] = set()
        self._reader = Reader(self._place, self._kept, min(threads, _THREADS), fetched)

    def output(
        self,
        key: str,
        manifest: Document,
        config: bytes,
        accept: Callable[[Mapping[str, Any]], object],
        beside: tuple[Path, ExitStack] | None = None,
    ) -> CachedOutput | None:
        """A compiled output, from what is kept or from afar; None where there is none that may be used.

        Args:
            key: of its bytes.
            manifest: of the image.
            config: of the image.
            accept: looks at what is said of the output; raises for what it does not understand.
            beside: a folder where it will be placed, and what removes a copy there that is not; None for nowhere.
        """
        found = self._kept.outputs.get(key)
        if found is not None:
            return found
        return self._attempt(f"output {key}", lambda: self._fetch_output(key, manifest, config, accept, beside))

    def get(self, diff_id: str) -> DecodedLayer | None:
        """A decoded layer, from what is kept or from afar; see `LayerStore.get`."""
        found = self._kept.decoded.get(diff_id)
        if found is None and diff_id not in self._missing:
            if self._attempt(f"layer {diff_id}", lambda: self._fetch_layer(diff_id)):
                found = self._kept.decoded.get(diff_id)
            else:
                self._missing.add(diff_id)
        return found

    def put_output(
        self, key: str, output: Path, *, manifest: bytes, config: bytes, facts: Mapping[str, Any] | None = None
    ) -> None:
        """Keeps an output that was made of what came from afar, where that is kept; see `OutputStore.put`."""
        self._kept.outputs.put(key, output, manifest=manifest, config=config, facts=facts)

    def push_output(self, key: str, manifest: Document) -> None:
        """Pushes an output that this cache has, and that was made here of verified layers."""
        found = self._cache.outputs.get(key)
        if found is not None and not self.read_only:
            self._attempt(f"output {key}", lambda: self._push(writing.output_artifact(found, key, manifest)))

    def push_layer(self, diff_id: str) -> None:
        """Pushes a decoded layer that this cache has, which was compared with its diff ID, unless it is there."""
        if not self.read_only:
            self._attempt(f"layer {diff_id}", lambda: self._push_layer(diff_id))

    def close(self) -> None:
        """Closes connections. What is kept here has one bound with all of the cache, which keeps to it."""
        self._place.close()
        self._cache.take_growth(self._kept)

    def __enter__(self) -> RemoteCache:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        self.close()

    def _fetch_output(
        self,
        key: str,
        manifest: Document,
        config: bytes,
        accept: Callable[[Mapping[str, Any]], object],
        beside: tuple[Path, ExitStack] | None,
    ) -> CachedOutput | None:
        for document in self._place.outputs(manifest.digest, key):
            self._check(document)
            return self._reader.output(document, key, manifest, config, accept, beside)
        return None

    def _fetch_layer(self, diff_id: str) -> bool:
        document = self._place.tagged(layer_tag(diff_id))
        if document is None:
            return False
        self._check(document)
        self._reader.layer(document, diff_id)
        return True

    def _push_layer(self, diff_id: str) -> bool:
        layer = self._cache.decoded.get(diff_id)
        if layer is None:
            return False
        with closing(layer):
            if self._place.tagged(layer_tag(diff_id)) is None:
                self._push(writing.layer_artifact(layer, diff_id))
        return True

    def _push(self, artifact: writing.Artifact) -> bool:
        with artifact:
            self._place.push(artifact)
        if self._key is not None:
            self._place.push_signature(artifact.document, self._key)
        return True

    def _check(self, document: Document) -> None:
        """Raises PolicyError unless the manifest is signed as it must be."""
        if self._verify is not None:
            check(self._verify, self._place.location, self._place.source(), [document.digest])

    def _attempt(self, what: str, work: Callable[[], Found]) -> Found | None:
        """What came of it; a failure is told, and is no reason to fail."""
        try:
            return work()
        except PolicyError as error:
            _log.warning("%s of the remote cache is not used: %s", what, error)
        except (OcifastError, OSError) as error:
            _log.warning("the remote cache %s: %s: %s", self._place.location, what, error)
        return None


def _hash(location: Location, keys: tuple[str, ...]) -> str:
    """Names a place and the keys that are asked for."""
    place = (
        os.path.realpath(location.path)
        if location.path is not None
        else str(location.reference and location.reference.name)
    )
    digests = sorted(_core.digest(Path(key).read_bytes()).partition(":")[2] for key in keys)
    text = json.dumps([location.transport, place, digests])
    return _core.digest(text.encode()).partition(":")[2][:32]
