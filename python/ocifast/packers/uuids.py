"""UUIDs of filesystems."""

from __future__ import annotations

import uuid

__all__ = ["image_uuid"]


def image_uuid(digest: str) -> uuid.UUID:
    """The UUID of every filesystem that is made of a manifest: always the same for the same digest."""
    return uuid.uuid5(uuid.NAMESPACE_OID, digest)
