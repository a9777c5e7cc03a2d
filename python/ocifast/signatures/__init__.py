"""Signatures of images: who must have signed one before it may be used (docs/signatures.md).

What is looked at is cosign's: simple signing by tag and by referrer, and the DSSE bundles of cosign 3, all with public
keys. Certificates, transparency logs and keyless signing are left out: what they would prove is not looked at.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from ocifast.errors import UsageError
from ocifast.records import dataclass
from ocifast.reference import Location
from ocifast.sources import Source

__all__ = ["Verification", "check"]


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
    # Not imported before it is needed: most images are used without being asked.
    from ocifast.signatures.asked import check_asked

    check_asked(verification.keys, verification.policy, location, source, digests)
