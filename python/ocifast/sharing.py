"""What a compilation has to do with a remote cache."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

from ocifast.cache import Cache
from ocifast.cache.layers import keep_layers
from ocifast.errors import UsageError
from ocifast.metrics import Meter
from ocifast.opening import Asking, asking
from ocifast.options import CompileOptions
from ocifast.refusals import processors
from ocifast.sources.open import parse_location
from ocifast.spec import Document

if TYPE_CHECKING:
    from ocifast.remote import RemoteCache

__all__ = ["layers_to_keep", "push_all", "shared_cache"]


def shared_cache(options: CompileOptions, cache: Cache | None, meter: Meter) -> RemoteCache | None:
    """The remote cache of a compilation; None where there is none, or where this machine's cache cannot be used.

    Raises:
        ImageReferenceError, UsageError, FileError: as `RemoteCache`; and UsageError without a cache of this machine.
    """
    if options.remote_cache is None:
        if options.sign_key is not None:
            raise UsageError("a key signs what is pushed to a remote cache; name one")
        return None
    if not options.cache:
        raise UsageError("a remote cache needs the cache of this machine; leave out --no-cache")
    if cache is None:
        return None
    offline = asking(options.offline, options.refresh) is Asking.OFFLINE
    if offline and parse_location(options.remote_cache).is_remote:
        return None
    # Not imported before it is needed: most runs have none.
    from ocifast.remote import RemoteCache

    return RemoteCache(
        options.remote_cache,
        cache,
        keys=() if options.verify is None else options.verify.keys,
        sign_key=options.sign_key,
        read_only=options.remote_read_only,
        options=options.registry,
        threads=options.threads or processors(),
        always_hash=options.verify_cache,
        fetched=meter.note_fetched,
    )


def layers_to_keep(options: CompileOptions, remote: RemoteCache | None) -> bool | None:
    """Whether decoded layers are kept: what is pushed must be kept first, unless somebody has said otherwise."""
    said = options.keep_layers is not None or os.environ.get("OCIFAST_KEEP_LAYERS")
    return True if remote is not None and not remote.read_only and not said else keep_layers(options.keep_layers)


def push_all(remote: RemoteCache, image: Document, keys: Iterable[str | None], diff_ids: Iterable[str]) -> None:
    """Pushes what was made here of layers that were verified here; whatever fails is a warning.

    Args:
        remote: where to.
        image: manifest of the image.
        keys: of outputs; None of those that are not cached.
        diff_ids: of layers.
    """
    for key in filter(None, keys):
        remote.push_output(key, image)
    for diff_id in dict.fromkeys(diff_ids):
        remote.push_layer(diff_id)
