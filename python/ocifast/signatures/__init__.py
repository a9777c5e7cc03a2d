"""Signatures of images: who must have signed one before it may be used (docs/signatures.md).

What is looked at is cosign's: simple signing by tag and by referrer, and the DSSE bundles of cosign 3, all with public
keys. Certificates, transparency logs and keyless signing are left out: what they would prove is not looked at.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from ocifast.errors import PolicyError, UsageError
from ocifast.reference import Location
from ocifast.signatures.attached import Signature, attached
from ocifast.signatures.identity import SAME_REPOSITORY, Identity, identity_of
from ocifast.signatures.policy import Accepting, Refusing, Requirement, Signed, read_policy
from ocifast.signatures.strict import UnclearError
from ocifast.sources import AttachedSource, Source

__all__ = ["Verification", "check"]

_SHOWN = 3
"""Reasons that a message gives."""


@dataclass(frozen=True)
class Verification:
    """What must be true of an image's signatures. Plain data: it can be pickled and compared.

    Both are asked when both are given. Files are read in each run, on the machine that runs it.

    Attributes:
        keys: files of public keys (PEM; ECDSA on NIST's curves, or Ed25519), of which one must have signed the image.
            What the signature says of the image's name must be of the same repository.
        policy: a file in the format of containers-policy.json(5).
    """

    keys: tuple[str, ...] = ()
    policy: str | None = None

    def __init__(
        self,
        keys: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] = (),
        policy: str | os.PathLike[str] | None = None,
    ) -> None:
        """Raises UsageError for neither keys nor a policy."""
        single = isinstance(keys, (str, os.PathLike))
        given = (keys,) if isinstance(keys, (str, os.PathLike)) else tuple(keys)
        if not given and policy is None:
            raise UsageError("there is nothing to verify with: name a key or a policy")
        if single and not os.fspath(given[0]):
            raise UsageError("the name of the key is empty")
        object.__setattr__(self, "keys", tuple(os.fspath(key) for key in given))
        object.__setattr__(self, "policy", None if policy is None else os.fspath(policy))


def check(verification: Verification | None, location: Location, source: Source, digests: Sequence[str]) -> None:
    """Decides whether an image may be used, before any layer of it is.

    Args:
        verification: what is asked; None asks nothing.
        location: where the image is.
        source: the same, opened; its signatures are read.
        digests: of the manifest and, where it was chosen from an index, of that; of verified bytes.

    Raises:
        PolicyError: it may not be used; the message says why.
        UsageError: the package that verifies is missing.
        FileError: a key or the policy cannot be read.
        SourceError: the signatures cannot be read.
    """
    if verification is None:
        return
    requirements: list[tuple[str, Requirement]] = []
    if verification.keys:
        from ocifast.signatures.keys import read_key

        keys = tuple(read_key(name) for name in verification.keys)
        requirements.append((" and ".join(verification.keys), Signed(keys, SAME_REPOSITORY, unnamed=True)))
    if verification.policy is not None:
        policy = read_policy(verification.policy)
        requirements += [(verification.policy, each) for each in policy.requirements(location)]
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
