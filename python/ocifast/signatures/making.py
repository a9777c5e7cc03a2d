"""Signatures of our own: bundles as cosign 3 makes them with a key, without a log and without a time stamp."""

from __future__ import annotations

import base64
import hashlib
import json

from ocifast import _core
from ocifast.records import dataclass
from ocifast.signatures.claims import SIGNED_IMAGE, pre_authentication
from ocifast.signatures.keys import PrivateKey
from ocifast.spec import OCI_EMPTY, OCI_MANIFEST, Descriptor, Document

__all__ = ["EMPTY", "MadeSignature", "sign_document"]

_BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
EMPTY = b"{}"
"""The config of a manifest that has none (image-spec, manifest.md, "Guidance for an Empty Descriptor")."""
_STATEMENT = "https://in-toto.io/Statement/v1"
_PAYLOAD = "application/vnd.in-toto+json"


@dataclass(frozen=True)
class MadeSignature:
    """A signature that is ready to be pushed.

    Attributes:
        document: a manifest whose subject is what is signed.
        blobs: what it names.
    """

    document: Document
    blobs: tuple[tuple[Descriptor, bytes], ...]


def sign_document(document: Document, key: PrivateKey) -> MadeSignature:
    """Signs a manifest by its digest."""
    algorithm, _, encoded = document.digest.partition(":")
    statement = _json(
        {
            "_type": _STATEMENT,
            "subject": [{"digest": {algorithm: encoded}}],
            "predicateType": SIGNED_IMAGE,
            "predicate": {},
        }
    )
    signature = key.sign(pre_authentication(_PAYLOAD, statement))
    bundle = _json(
        {
            "mediaType": _BUNDLE,
            "verificationMaterial": {"publicKey": {"hint": _text(hashlib.sha256(key.public.der).digest())}},
            "dsseEnvelope": {
                "payload": _text(statement),
                "payloadType": _PAYLOAD,
                "signatures": [{"sig": _text(signature), "keyid": ""}],
            },
        }
    )
    empty = Descriptor(OCI_EMPTY, _core.digest(EMPTY), len(EMPTY))
    layer = Descriptor(_BUNDLE, _core.digest(bundle), len(bundle))
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "artifactType": _BUNDLE,
            "config": _named(empty),
            "layers": [_named(layer)],
            "subject": {"mediaType": document.media_type, "digest": document.digest, "size": document.size},
            "annotations": {
                "dev.sigstore.bundle.content": "dsse-envelope",
                "dev.sigstore.bundle.predicateType": SIGNED_IMAGE,
            },
        }
    )
    return MadeSignature(Document(OCI_MANIFEST, manifest), ((empty, EMPTY), (layer, bundle)))


def _named(descriptor: Descriptor) -> dict[str, object]:
    return {"mediaType": descriptor.media_type, "digest": descriptor.digest, "size": descriptor.size}


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
