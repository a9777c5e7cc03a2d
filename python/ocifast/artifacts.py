"""Which manifests are those of images, and which of artifacts."""

from __future__ import annotations

from ocifast.errors import DocumentError, NotAnImageError
from ocifast.spec import CONFIGS, DOCKER_MANIFEST, Document, Manifest, is_layer

__all__ = ["LAYER_LIMIT", "refuse_artifacts"]

LAYER_LIMIT = 1024
"""Most layers of an image, as the core's limits have it."""


def refuse_artifacts(name: str, document: Document, manifest: Manifest) -> None:
    """Returns for the manifest of an image (image-spec, manifest.md, "Guidelines for Artifact Usage").

    Args:
        name: how messages call it.
        document: the manifest's bytes.
        manifest: what is in them.

    Raises:
        NotAnImageError: it has no root filesystem, or one that cannot be read.
        DocumentError: it has too many layers.
    """
    config_type = manifest.config.media_type
    # Early schema 2 pushes of Docker call the config so.
    legacy = document.media_type == DOCKER_MANIFEST and config_type == "application/octet-stream"
    # What the manifest calls itself (`artifactType`) says nothing: apko, ko and crane write it on images.
    if not (config_type in CONFIGS or legacy):
        kind = manifest.artifact_type or config_type
        raise NotAnImageError(f"{name} is not an image but an artifact of type {kind}", reference=name)
    for layer in manifest.layers:
        if not is_layer(layer.media_type):
            hint = "encrypted" if layer.media_type.endswith("+encrypted") else f"of type {layer.media_type}"
            raise NotAnImageError(
                f"{name} is not an image that can be read: layer {layer.digest} is {hint}",
                reference=name,
                layer=layer.digest,
            )
    if len(manifest.layers) > LAYER_LIMIT:
        raise DocumentError(f"{name}: {len(manifest.layers)} layers; at most {LAYER_LIMIT} are taken", reference=name)
