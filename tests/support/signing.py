"""Signatures as cosign makes them, made by the tests themselves: simple signing, and the bundles of cosign 3."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from tests.support.images import OCI, BuiltImage, as_json, build_index, digest_of

SIMPLE = "application/vnd.dev.cosign.simplesigning.v1+json"
SIMPLE_ARTIFACT = "application/vnd.dev.cosign.artifact.sig.v1+json"
BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
SIGNED_IMAGE = "https://sigstore.dev/cosign/sign/v1"
KINDS = ("p256", "p384", "ed25519")

Private = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


@dataclass
class Signer:
    """A key pair.

    Attributes:
        private: signs.
        file: the public key in PEM.
        private_file: the private key in PEM.
    """

    private: Private
    file: Path
    private_file: Path

    @classmethod
    def make(cls, folder: Path, kind: str = "p256", name: str = "key") -> Signer:
        private: Private
        if kind == "ed25519":
            private = ed25519.Ed25519PrivateKey.generate()
        else:
            private = ec.generate_private_key({"p256": ec.SECP256R1(), "p384": ec.SECP384R1()}[kind])
        folder.mkdir(exist_ok=True)
        made = cls(private, folder / f"{name}.pub", folder / f"{name}.key")
        made.file.write_bytes(private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
        made.private_file.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return made

    @property
    def data(self) -> str:
        """The public key as `keyData` of a policy."""
        return base64.b64encode(self.file.read_bytes()).decode()

    def sign(self, message: bytes, hashed: hashes.HashAlgorithm | None = None) -> str:
        """A signature in base64."""
        if isinstance(self.private, ed25519.Ed25519PrivateKey):
            raw = self.private.sign(message)
        else:
            raw = self.private.sign(message, ec.ECDSA(hashed or hashes.SHA256()))
        return base64.b64encode(raw).decode()


def rsa_key(file: Path) -> Path:
    """The public key of a kind that nobody takes here."""
    key = rsa.generate_private_key(65537, 2048).public_key()
    file.write_bytes(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return file


def payload_of(digest: str, stated: str, **more: Any) -> bytes:
    """What simple signing signs."""
    critical = {
        "identity": {"docker-reference": stated},
        "image": {"docker-manifest-digest": digest},
        "type": "cosign container image signature",
    }
    return as_json({"critical": {**critical, **more}, "optional": None})


def holding(
    pieces: list[tuple[bytes, str, dict[str, str]]],
    *,
    artifact: str | None = None,
    subject: BuiltImage | None = None,
    annotations: dict[str, str] | None = None,
) -> BuiltImage:
    """A manifest whose layers are such pieces: bytes, media type, annotations."""
    config = b"{}"
    manifest: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": OCI["manifest"],
        "config": {"mediaType": artifact or OCI["config"], "digest": digest_of(config), "size": len(config)},
        "layers": [
            {"mediaType": kind, "digest": digest_of(data), "size": len(data), "annotations": notes}
            for data, kind, notes in pieces
        ],
    }
    if artifact:
        manifest["artifactType"] = artifact
    if subject:
        manifest["subject"] = {"mediaType": subject.media_type, "digest": subject.digest, "size": len(subject.raw)}
    if annotations:
        manifest["annotations"] = annotations
    blobs = {digest_of(data): data for data in (config, *(data for data, _, _ in pieces))}
    return BuiltImage(as_json(manifest), OCI["manifest"], blobs)


def simple(signer: Signer, image: BuiltImage, identity: str, *, subject: bool = False, digest: str = "") -> BuiltImage:
    """A simple signature, as it stands under the tag or as a referrer of the image."""
    payload = payload_of(digest or image.digest, identity)
    piece = (payload, SIMPLE, {"dev.cosignproject.cosign/signature": signer.sign(payload)})
    return holding([piece], artifact=SIMPLE_ARTIFACT, subject=image) if subject else holding([piece])


def bundle(
    signer: Signer,
    image: BuiltImage,
    *,
    name: str | None = None,
    predicate: str = SIGNED_IMAGE,
    digest: str = "",
    hashed: hashes.HashAlgorithm | None = None,
) -> BuiltImage:
    """A bundle of cosign 3, as a referrer of the image."""
    algorithm, _, encoded = (digest or image.digest).partition(":")
    subject = {"digest": {algorithm: encoded}, **({"name": name} if name else {})}
    statement = as_json(
        {"_type": "https://in-toto.io/Statement/v1", "subject": [subject], "predicateType": predicate, "predicate": {}}
    )
    kind = b"application/vnd.in-toto+json"
    message = b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(statement), statement)
    envelope = {
        "payload": base64.b64encode(statement).decode(),
        "payloadType": kind.decode(),
        "signatures": [{"sig": signer.sign(message, hashed), "keyid": ""}],
    }
    document = {
        "mediaType": BUNDLE,
        "verificationMaterial": {"publicKey": {"hint": "aGludA=="}, "tlogEntries": []},
        "dsseEnvelope": envelope,
    }
    notes = {"dev.sigstore.bundle.content": "dsse-envelope", "dev.sigstore.bundle.predicateType": predicate}
    return holding([(as_json(document), BUNDLE, {})], artifact=BUNDLE, subject=image, annotations=notes)


def tag_of(image: BuiltImage) -> str:
    """The tag of an image's signatures."""
    return f"{image.digest.replace(':', '-')}.sig"


def fallback(image: BuiltImage, *referrers: BuiltImage) -> tuple[str, BuiltImage]:
    """The tag that lists an image's referrers where the registry does not, and what stands there."""
    listing = build_index(referrers)
    for entry, referrer in zip(entries := json.loads(listing.raw)["manifests"], referrers, strict=True):
        document = json.loads(referrer.raw)
        entry["artifactType"] = document.get("artifactType")
        entry["annotations"] = document.get("annotations") or {}
    raw = as_json({"schemaVersion": 2, "mediaType": OCI["index"], "manifests": entries})
    return image.digest.replace(":", "-"), BuiltImage(raw, OCI["index"], children=list(referrers))
