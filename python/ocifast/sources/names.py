"""Which images of an archive or a layout a name means.

Writers give their images a tag, a full name, or both; users write either.
"""

from __future__ import annotations

from collections.abc import Sequence

from ocifast.errors import ImageReferenceError
from ocifast.platforms import listing
from ocifast.reference import DEFAULT_TAG, Reference

__all__ = ["full_name", "listed", "means", "same_image", "with_tag"]


def full_name(text: str) -> Reference | None:
    """What a full name says, the default tag included; None for a bare tag, which says nothing of the repository."""
    if "/" not in text:
        return None
    try:
        found = Reference.parse(text)
    except ImageReferenceError:
        return None
    return Reference(found.host, found.repository, found.tag or DEFAULT_TAG)


def same_image(wanted: str, known: str) -> bool:
    """Whether a full name means what was asked for, short forms and the default tag considered."""
    try:
        return (found := full_name(known)) is not None and str(found) == str(Reference.parse(wanted))
    except ImageReferenceError:
        return False


def with_tag(wanted: str, known: str) -> bool:
    """Whether a full name has the bare tag that was asked for."""
    return (found := full_name(known)) is not None and found.tag == wanted


def means(wanted: str, images: Sequence[Sequence[str]]) -> list[int]:
    """The positions of the images that a name means, where each image goes by some names.

    The name as it stands wins over the same name written otherwise, and that over a full name with this tag.
    """
    for fits in (lambda wanted, known: wanted == known, same_image, with_tag):
        found = [position for position, names in enumerate(images) if any(fits(wanted, known) for known in names)]
        if found:
            return found
    return []


def listed(names: Sequence[str]) -> str:
    """The names that there are, for a message."""
    return listing(names) or "none"
