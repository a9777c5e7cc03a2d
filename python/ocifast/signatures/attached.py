"""The signatures that are attached to an image: found, read within bounds, and not verified yet.

cosign keeps them under the tag `ALGORITHM-HEX.sig` of the digest, or in manifests whose `subject` is the image: those
of simple signing (`application/vnd.dev.cosign.artifact.sig.v1+json`), and bundles.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from ocifast.errors import DocumentError, NotAnImageError, PolicyError, VerificationError
from ocifast.logs import logger
from ocifast.records import dataclass
from ocifast.signatures.claims import (
    BUNDLE,
    SIGNED_IMAGE,
    Claim,
    decoded,
    envelope_of,
    pre_authentication,
    simple_claim,
    statement_claim,
)
from ocifast.signatures.strict import UnclearError
from ocifast.sources import AttachedSource
from ocifast.sources.verify import read_small
from ocifast.spec import MANIFESTS, Descriptor, Document, decode_manifest

__all__ = ["SIGNATURE", "SIMPLE", "SIMPLE_ARTIFACT", "Signature", "attached", "signature_tag"]

_log = logger(__name__)

SIMPLE = "application/vnd.dev.cosign.simplesigning.v1+json"
"""Media type of a payload of simple signing."""
SIMPLE_ARTIFACT = "application/vnd.dev.cosign.artifact.sig.v1+json"
"""Type of a referrer that holds such payloads."""
SIGNATURE = "dev.cosignproject.cosign/signature"
"""Annotation of a payload's descriptor: the signature, in base64."""
_PREDICATE = "dev.sigstore.bundle.predicateType"

_MANIFESTS = 64
"""Most manifests of signatures of one image; a repository of a stranger may list any number."""
_SIGNATURES = 256
"""Most signatures of one image."""
_ONE = 1 << 20
"""Most bytes of one payload or bundle; cosign's have some kilobytes."""
_ALL = 16 << 20
"""Most bytes of all of them."""


@dataclass(frozen=True)
class Signature:
    """One signature, as it was found.

    Attributes:
        kind: what it is, for messages.
        message: the bytes that it is of.
        value: the signature.
        claim: what it says, to be asked once it is verified; raises UnclearError when that is not understood.
    """

    kind: str
    message: bytes
    value: bytes
    claim: Callable[[], Claim]


def signature_tag(digest: str) -> str:
    """The tag under which cosign keeps the signatures of a manifest."""
    return f"{digest.replace(':', '-')}.sig"


def attached(source: AttachedSource, digests: Sequence[str]) -> Iterator[Signature]:
    """All signatures of some manifests, in no order that means anything.

    What is malformed is left out, with a line in the log: others may write to where signatures are, and a wrong one
    must not keep a right one from being seen. What is too much is refused.

    Raises:
        PolicyError: there are more, or larger ones, than an image has.
        SourceError: they could not be read.
    """
    reader = _Reader(source)
    for digest in digests:
        try:
            found = source.tagged(signature_tag(digest))
        except (DocumentError, NotAnImageError, VerificationError) as error:
            _log.info("a signature is left out: %s", error)
            continue
        if found is not None and not found.is_index:
            yield from reader.signatures(found)
    for digest in digests:
        for descriptor in source.referring(digest):
            if descriptor.media_type in MANIFESTS and _may_sign(descriptor):
                yield from reader.referrer(descriptor)


def _may_sign(descriptor: Descriptor) -> bool:
    """Whether a referrer may hold signatures of an image; the annotations of an SBOM say that it does not."""
    kind = descriptor.artifact_type
    stated = (descriptor.annotations or {}).get(_PREDICATE, SIGNED_IMAGE)
    known = (SIMPLE_ARTIFACT, "application/vnd.oci.empty.v1+json", "application/vnd.oci.image.config.v1+json", "", None)
    return stated == SIGNED_IMAGE and (kind in known or str(kind).startswith(BUNDLE))


class _Reader:
    """Reads manifests of signatures, and counts what it takes."""

    def __init__(self, source: AttachedSource) -> None:
        self._source = source
        self._seen: set[str] = set()
        self._manifests = 0
        self._signatures = 0
        self._bytes = 0

    def referrer(self, descriptor: Descriptor) -> Iterator[Signature]:
        if descriptor.digest in self._seen:
            return
        self._count("_manifests", 1, _MANIFESTS)
        self._count("_bytes", descriptor.size, _ALL)
        try:
            document = self._source.document(descriptor)
        except (DocumentError, NotAnImageError, VerificationError) as error:
            _log.info("a referrer is left out: %s", error)
            return
        yield from self.signatures(document)

    def signatures(self, document: Document) -> Iterator[Signature]:
        if document.digest in self._seen:
            return
        self._seen.add(document.digest)
        try:
            manifest = decode_manifest(document, name=f"{self._source.name}: signature {document.digest}")
        except (DocumentError, VerificationError) as error:
            _log.info("a signature is left out: %s", error)
            return
        for layer in manifest.layers:
            if layer.media_type == SIMPLE or layer.media_type.startswith(BUNDLE):
                yield from self._layer(layer)

    def _layer(self, layer: Descriptor) -> Iterator[Signature]:
        self._count("_signatures", 1, _SIGNATURES)
        if layer.size > _ONE:
            raise self._too_much(f"a signature of {layer.size} bytes")
        self._count("_bytes", layer.size, _ALL)
        try:
            data = read_small(self._source.blob(layer), layer, _ONE, name=f"{self._source.name}: signature")
            if layer.media_type == SIMPLE:
                value = decoded((layer.annotations or {}).get(SIGNATURE))
                yield Signature("simple signature", data, value, lambda: simple_claim(data))
                return
            envelope = envelope_of(data)
        except (UnclearError, VerificationError) as error:
            _log.info("a signature is left out: %s", error)
            return
        message = pre_authentication(envelope.kind, envelope.payload)
        for value in envelope.signatures:
            self._count("_signatures", 1, _SIGNATURES)
            yield Signature("bundle", message, value, lambda: statement_claim(envelope))

    def _count(self, what: str, more: int, most: int) -> None:
        count = getattr(self, what) + more
        setattr(self, what, count)
        if count > most:
            raise self._too_much(f"more than {most} {what.strip('_')} of signatures")

    def _too_much(self, what: str) -> PolicyError:
        name = self._source.name
        return PolicyError(f"{name}: beside the image stands {what}; that is refused", reference=name)
