"""The manifests of a remote cache, of two kinds.

An output is a referrer of the image that it was made of; a decoded layer has a tag made of its diff ID. The config of
each is `OutputFacts` or `LayerFacts` as JSON, its layers are files as rows of zstd frames (`_core.compress_frames`).
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from ocifast.models import readable

__all__ = ["DIFF_ID", "FACTS", "FILE", "FORM", "KEY", "LAYER", "OUTPUT", "LayerFacts", "OutputFacts", "layer_tag"]

OUTPUT = "application/vnd.ocifast.output.v1"
"""Artifact type of a compiled output."""
LAYER = "application/vnd.ocifast.layer.v1"
"""Artifact type of a decoded layer."""
FACTS = "application/vnd.ocifast.facts.v1+json"
"""Media type of the facts about files."""
FILE = "application/vnd.ocifast.frames.v1+zstd"
"""Media type of a file as zstd frames."""
KEY = "vnd.ocifast.key"
"""Annotation of an output: its key."""
DIFF_ID = "vnd.ocifast.diff-id"
"""Annotation of a decoded layer: the layer's diff ID."""
FORM = 4
"""Version of all of this; part of the tags."""


_Size = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]


@readable
class OutputFacts(msgspec.Struct, frozen=True):
    """What is said of an output, whose manifest has one file.

    Attributes:
        size: of the output, in bytes.
        digest: of the output (`ocifast.cache.kept.file_digest`).
        facts: what the cache remembers of it.
    """

    size: _Size
    digest: str
    facts: dict[str, Any]


@readable
class LayerFacts(msgspec.Struct, frozen=True):
    """What is said of a layer, whose manifest has two files: the table of its entries, then its data.

    Attributes:
        entries: bytes of the table.
        size: bytes of the data.
        digest: of the data (`_core.layer_digest`).
    """

    entries: _Size
    size: _Size
    digest: str


def layer_tag(diff_id: str) -> str:
    """The tag of a decoded layer."""
    return f"layer-{FORM}-{diff_id.replace(':', '-')}"[:128]
