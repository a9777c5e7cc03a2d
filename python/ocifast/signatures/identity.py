"""Which names a signature may state for an image: the `signedIdentity` of containers-policy.json(5)."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from ocifast.errors import ImageReferenceError
from ocifast.records import dataclass
from ocifast.reference import DEFAULT_TAG, Location, Reference

__all__ = ["SAME_REPOSITORY", "Identity", "IdentityRule", "identity_of"]

Identity = Reference
"""What an image is called, with a tag or a digest."""

Kind = Literal[
    "matchExact", "matchRepoDigestOrExact", "matchRepository", "exactReference", "exactRepository", "remapIdentity"
]


@dataclass(frozen=True)
class IdentityRule:
    """One rule.

    Attributes:
        kind: as the man page calls it.
        named: the reference or repository of `exactReference` and `exactRepository`.
        prefix: that `remapIdentity` replaces, of the name in full.
        signed_prefix: that it puts in its place.
    """

    kind: Kind = "matchRepoDigestOrExact"
    named: Reference | None = None
    prefix: str = ""
    signed_prefix: str = ""

    def reason_against(self, image: Identity | None, stated: str) -> str | None:
        """Why a signature that states this name is not for the image; None when it is.

        Args:
            image: what the image is called; None where it has no name in a registry.
            stated: `docker-reference` of the signature.
        """
        try:
            signed = Reference.parse(stated)
        except ImageReferenceError:
            return f"a signature is for {stated[:200]!r}, which is no reference"
        if self.kind in ("exactReference", "exactRepository"):
            assert self.named is not None
            goal = self.named
        elif image is None:
            return f"{self.kind} needs the image's name in a registry, and it has none"
        else:
            goal = image
        try:
            fits = self._fits(goal, signed)
        except ImageReferenceError:
            fits = False
        return None if fits else f"a signature is for {stated[:200]}, which {self.kind} does not take for {goal}"

    def _fits(self, goal: Reference, signed: Reference) -> bool:
        match self.kind:
            case "matchRepository" | "exactRepository":
                return signed.name == goal.name
            case "matchExact" | "exactReference":
                return not _is_bare(signed) and not _is_bare(goal) and signed == goal
            case "remapIdentity":
                goal = self._remapped(goal)
        if _is_bare(signed):
            return False
        # With a tag and a digest the tag was asked for as well: another one must not do.
        return signed == goal if goal.tag is not None else signed.name == goal.name

    def _remapped(self, goal: Reference) -> Reference:
        name = goal.name
        if name != self.prefix and not name.startswith(self.prefix + "/"):
            return goal
        found = Reference.parse(self.signed_prefix + name[len(self.prefix) :])
        return replace(found, tag=goal.tag, digest=goal.digest)


SAME_REPOSITORY = IdentityRule("matchRepository")
"""What cosign's own signatures can be held to: they state a repository without a tag."""


def identity_of(location: Location) -> Identity | None:
    """What an image is called in a registry, with the tag that stands for none; None where it has no such name."""
    reference = location.reference
    if reference is None or location.transport == "docker-archive":
        return None
    if reference.tag is None and reference.digest is None:
        return replace(reference, tag=DEFAULT_TAG)
    return reference


def _is_bare(reference: Reference) -> bool:
    return reference.tag is None and reference.digest is None
