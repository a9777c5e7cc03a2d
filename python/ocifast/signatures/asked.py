"""What is asked of an image's signatures, and whether it is answered."""

from __future__ import annotations

from collections.abc import Sequence

from ocifast.errors import PolicyError
from ocifast.reference import Location
from ocifast.signatures.attached import Signature, attached
from ocifast.signatures.identity import SAME_REPOSITORY, Identity, identity_of
from ocifast.signatures.policy import Accepting, Refusing, Requirement, Signed, read_policy
from ocifast.signatures.strict import UnclearError
from ocifast.sources import AttachedSource, Source

__all__ = ["check_asked"]

_SHOWN = 3
"""Reasons that a message gives."""


def check_asked(
    key_files: Sequence[str], policy_file: str | None, location: Location, source: Source, digests: Sequence[str]
) -> None:
    """See `ocifast.signatures.check`, which takes the same in one value, and raises the same."""
    requirements: list[tuple[str, Requirement]] = []
    if key_files:
        from ocifast.signatures.keys import read_key

        keys = tuple(read_key(name) for name in key_files)
        requirements.append((" and ".join(key_files), Signed(keys, SAME_REPOSITORY, unnamed=True)))
    if policy_file is not None:
        policy = read_policy(policy_file)
        requirements += [(policy_file, each) for each in policy.requirements(location)]
    found: list[Signature] | None = None
    image = identity_of(location)
    for where, requirement in requirements:
        match requirement:
            case Accepting():
                continue
            case Refusing(why):
                raise PolicyError(f"{location}: {where} {why}", reference=str(location))
            case Signed():
                if not isinstance(source, AttachedSource):
                    raise PolicyError(
                        f"{location}: signatures stand in registries and OCI layouts only, and {where} asks for one",
                        reference=str(location),
                    )
                if found is None:
                    found = list(attached(source, digests))
                _look(requirement, where, location, image, found, digests)


def _look(
    signed: Signed,
    where: str,
    location: Location,
    image: Identity | None,
    found: Sequence[Signature],
    digests: Sequence[str],
) -> None:
    """Raises PolicyError unless one of the signatures is what is asked for."""
    reasons: dict[str, None] = {}
    for signature in found:
        reason = _reason_against(signed, image, signature, digests)
        if reason is None:
            return
        reasons.setdefault(reason)
    shown = "; ".join(list(reasons)[:_SHOWN]) or f"there is no signature of {' or of '.join(digests)}"
    count = f"none of its {len(found)} signatures is accepted: " if found else ""
    raise PolicyError(
        f"{location} is not signed as {where} asks: {count}{shown}", reference=str(location), digests=list(digests)
    )


def _reason_against(signed: Signed, image: Identity | None, signature: Signature, digests: Sequence[str]) -> str | None:
    """Why a signature is not accepted; None for one that is. Nothing of what is signed is read before the key fits."""
    if not any(key.verifies(signature.message, signature.value) for key in signed.keys):
        return f"a {signature.kind} is not by the key"
    try:
        claim = signature.claim()
    except UnclearError as error:
        return f"a {signature.kind} says nothing that is understood: {error}"
    if not claim.digests & set(digests):
        return f"a {signature.kind} is of {', '.join(sorted(claim.digests)) or 'nothing'}"
    if claim.identity is None:
        if signed.unnamed:
            return None
        return f"a {signature.kind} names no repository, and signedIdentity asks for one"
    return signed.identity.reason_against(image, claim.identity)
