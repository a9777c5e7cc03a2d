"""What a compilation made, and what the cache remembers of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, field
from pathlib import Path
from typing import Any

from ocifast.boot import BootConfig
from ocifast.errors import LossError
from ocifast.metrics import PhaseMetric
from ocifast.packers import Loss
from ocifast.records import dataclass

__all__ = ["CompiledImage", "facts_of", "has_all", "refuse_losses"]


@dataclass(frozen=True)
class CompiledImage:
    """What was made.

    Attributes:
        path: the output; None when it went to standard output.
        format: name of the format.
        backend: name of the backend that packed it.
        reference: the image as it was asked for.
        digest: of the image manifest.
        platform: that the image is for, as `os/architecture/variant`; None when neither index nor config says.
        boot: what a machine needs to boot it.
        size: bytes of the output file; of a directory None.
        losses: what the format could not hold.
        properties: what names the output besides, as "uuid", in pairs.
        notices: what of the layers was dropped on the way in, by kind, with counts.
        from_cache: whether nothing had to be downloaded or packed.
        tree_digest: of the tree (docs/dump.md), the same for all formats; None unless asked for.
        verified: whether the output was read back and is the tree that it was made of.
        data_size: bytes of data, holes left out: of the output file, or of a directory's files; None when nobody knows.
        entries: number of names in the tree, the root included; None when nobody knows.
        seconds: that the work took.
        fetched_bytes: bytes of layers that came over the network.
        cached_bytes: bytes of layers that were in the cache.
        unmatched_patterns: of `Edits.exclude`, those that match nothing in the image.
        key: of the output's bytes: the same exactly when the image, the edits, the options and the version of what
            wrote it would give the same bytes again.
        phases: how long each phase of the work took, and with how many bytes; several outputs have one work.
        from_remote: whether it, or a layer of it, came from the remote cache, as others have made it.
        decoded: diff IDs of the layers that were decompressed in this work; those that were kept were not.
    """

    path: Path | None
    format: str
    backend: str
    reference: str
    digest: str
    platform: str | None
    boot: BootConfig
    size: int | None
    losses: tuple[Loss, ...] = ()
    notices: tuple[tuple[str, int], ...] = ()
    from_cache: bool = False
    tree_digest: str | None = None
    verified: bool = False
    data_size: int | None = None
    entries: int | None = None
    seconds: float = field(default=0.0, compare=False)
    fetched_bytes: int = field(default=0, compare=False)
    cached_bytes: int = field(default=0, compare=False)
    unmatched_patterns: tuple[str, ...] = ()
    properties: tuple[tuple[str, str], ...] = ()
    key: str | None = field(default=None, compare=False)
    phases: tuple[PhaseMetric, ...] = field(default=(), compare=False)
    decoded: tuple[str, ...] = field(default=(), compare=False)
    from_remote: bool = field(default=False, compare=False)

    def to_json(self) -> dict[str, Any]:
        """The same as JSON-able data; paths that are no UTF-8 with escapes."""
        return {
            "path": None if self.path is None else str(self.path),
            "format": self.format,
            "backend": self.backend,
            "reference": self.reference,
            "digest": self.digest,
            "platform": self.platform,
            "boot": self.boot.to_json(),
            "size": self.size,
            "losses": [asdict(loss) | {"paths": [shown(path) for path in loss.paths]} for loss in self.losses],
            "notices": dict(self.notices),
            "from_cache": self.from_cache,
            "tree_digest": self.tree_digest,
            "verified": self.verified,
            "data_size": self.data_size,
            "entries": self.entries,
            "seconds": round(self.seconds, 3),
            "fetched_bytes": self.fetched_bytes,
            "cached_bytes": self.cached_bytes,
            "unmatched_patterns": list(self.unmatched_patterns),
            "properties": dict(self.properties),
            "key": self.key,
            "phases": {
                phase.name: {
                    "begun": round(phase.begun, 3),
                    "seconds": round(phase.seconds, 3),
                    "bytes": phase.bytes,
                }
                for phase in self.phases
            },
            "decoded_layers": len(self.decoded),
            "from_remote": self.from_remote,
        }

    def facts(self) -> dict[str, Any]:
        """What the cache keeps beside the output, so that a hit has the same result."""
        return {
            "boot": self.boot.to_json(),
            "losses": [asdict(loss) | {"paths": [path.hex() for path in loss.paths]} for loss in self.losses],
            "notices": [list(notice) for notice in self.notices],
            "tree_digest": self.tree_digest,
            "verified": self.verified,
            "data_size": self.data_size,
            "entries": self.entries,
            "unmatched_patterns": list(self.unmatched_patterns),
            "properties": dict(self.properties),
        }


def facts_of(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `CompiledImage` that `CompiledImage.facts` kept."""
    return {
        "boot": BootConfig.from_json(facts["boot"]),
        "losses": tuple(
            Loss(loss["kind"], loss["detail"], loss["count"], tuple(bytes.fromhex(path) for path in loss["paths"]))
            for loss in facts["losses"]
        ),
        "notices": tuple((name, count) for name, count in facts["notices"]),
        "tree_digest": facts.get("tree_digest"),
        "verified": bool(facts.get("verified")),
        "data_size": facts.get("data_size"),
        "entries": facts.get("entries"),
        "unmatched_patterns": tuple(facts.get("unmatched_patterns", ())),
        "properties": tuple(sorted(facts.get("properties", {}).items())),
    }


def has_all(facts: Mapping[str, Any], tree_digest: bool, verified: bool) -> bool:
    """Whether what the cache kept beside an output says all that is wanted now.

    Args:
        facts: what was kept.
        tree_digest: whether the digest of the tree is wanted.
        verified: whether the output has to have been read back.
    """
    return not (tree_digest and facts.get("tree_digest") is None) and not (verified and not facts.get("verified"))


def refuse_losses(reference: str, form: str, losses: Sequence[Loss]) -> None:
    """Refuses an output that something was lost in.

    Args:
        reference: the image.
        form: the format.
        losses: what was lost.

    Raises:
        LossError: there is any.
    """
    if not losses:
        return
    first = losses[0]
    where = f" (first: /{shown(first.paths[0])})" if first.paths else ""
    more = f", and {len(losses) - 1} losses of other kinds" if len(losses) > 1 else ""
    raise LossError(
        f"{form} cannot hold all of {reference}: {first.detail}, {first.count} times{where}{more}",
        reference=reference,
        losses=[asdict(loss) | {"paths": [shown(path) for path in loss.paths]} for loss in losses],
    )


def shown(path: bytes) -> str:
    """A path of an image as text; bytes that are no UTF-8 as backslash escapes."""
    return path.decode("utf-8", "backslashreplace")
