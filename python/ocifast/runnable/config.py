"""The documents of a runnable: image config, manifest, index (image-spec, config.md, manifest.md, image-index.md)."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from ocifast.errors import DocumentError, reason
from ocifast.records import dataclass
from ocifast.runnable.options import RunnableOptions
from ocifast.sources.open import parse_location
from ocifast.spec import (
    OCI_CONFIG,
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
    Document,
    Platform,
    oci_layer,
)

if TYPE_CHECKING:
    from ocifast.image import Image

__all__ = ["BASE_DIGEST", "BASE_NAME", "BuiltLayer", "base_layers", "config_of", "index_of", "manifest_of", "timestamp"]

BASE_DIGEST = "org.opencontainers.image.base.digest"
BASE_NAME = "org.opencontainers.image.base.name"

_KEPT = ("author", "os.version", "os.features")
"""Fields of a base's config that are true of what is built on it; Docker's container ids and dates are not."""


@dataclass(frozen=True)
class BuiltLayer:
    """A layer that was written.

    Attributes:
        descriptor: of the blob.
        diff_id: of the tar.
        comment: its line in the history.
    """

    descriptor: Descriptor
    diff_id: str
    comment: str


def timestamp(seconds: int) -> str:
    """RFC 3339, as `created` has it."""
    return datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def config_of(
    runnable: RunnableOptions,
    platform: Platform,
    layers: Sequence[BuiltLayer],
    *,
    name: str,
    created: int,
    base: Image | None = None,
) -> Document:
    """The image config.

    Args:
        runnable: the options.
        platform: of the image.
        layers: the new layers, bottom first.
        name: of the executable in the image.
        created: seconds since 1970.
        base: the image below, whose config is added to: variables, labels, ports and volumes by name, ours winning;
            user, working directory and stop signal unless we have one; entrypoint and arguments are ours.
    """
    old = _base_config(base)
    time = timestamp(created)
    document: dict[str, Any] = {key: old[key] for key in _KEPT if old.get(key)}
    document |= {"created": time, "architecture": platform.architecture, "os": platform.os}
    if platform.variant:
        document["variant"] = platform.variant
    document["config"] = _runtime(runnable, name, dict(old.get("config") or {}))
    diff_ids = base.diff_ids if base is not None else ()
    document["rootfs"] = {"type": "layers", "diff_ids": [*diff_ids, *(layer.diff_id for layer in layers)]}
    document["history"] = [
        *_base_history(old, len(diff_ids)),
        *({"created": time, "created_by": "ocifast runnable", "comment": layer.comment} for layer in layers),
    ]
    return Document(OCI_CONFIG, msgspec.json.encode(document))


def manifest_of(
    config: Document, layers: Sequence[Descriptor], annotations: Mapping[str, str], *, base: Image | None = None
) -> Document:
    """The image manifest, with the annotations that tell the base."""
    notes = dict(annotations)
    if base is not None:
        notes.setdefault(BASE_DIGEST, base.digest)
        # A path of this machine is nobody's business; a reference is what the annotation is for.
        if parse_location(base.name).is_remote:
            notes.setdefault(BASE_NAME, base.name.removeprefix("docker://"))
    document: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": _plain(config.descriptor()),
        "layers": [_plain(layer) for layer in layers],
    }
    if notes:
        document["annotations"] = dict(sorted(notes.items()))
    return Document(OCI_MANIFEST, msgspec.json.encode(document))


def index_of(manifests: Sequence[tuple[Platform, Document]], annotations: Mapping[str, str]) -> Document:
    """The image index over manifests of different platforms."""
    entries = []
    for platform, manifest in manifests:
        stated = {"architecture": platform.architecture, "os": platform.os}
        if platform.variant:
            stated["variant"] = platform.variant
        entries.append({**_plain(manifest.descriptor()), "platform": stated})
    document: dict[str, Any] = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}
    if annotations:
        document["annotations"] = dict(sorted(annotations.items()))
    return Document(OCI_INDEX, msgspec.json.encode(document))


def base_layers(base: Image) -> list[Descriptor]:
    """The base's layers, with Docker's media types turned into the OCI's: one manifest does not mix them."""
    return [Descriptor(oci_layer(layer.media_type), layer.digest, layer.size, urls=layer.urls) for layer in base.layers]


def _plain(descriptor: Descriptor) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "mediaType": descriptor.media_type,
        "digest": descriptor.digest,
        "size": descriptor.size,
    }
    if descriptor.urls:
        plain["urls"] = list(descriptor.urls)
    return plain


def _base_config(base: Image | None) -> dict[str, Any]:
    if base is None:
        return {}
    _ = base.config  # the types of all fields that are used below are checked here
    try:
        found: dict[str, Any] = msgspec.json.decode(base.config_raw, type=dict[str, Any])
    except (ValueError, RecursionError) as error:
        raise DocumentError(f"{base.name}: config is not valid: {reason(error)}", reference=base.name) from None
    return found


def _runtime(runnable: RunnableOptions, name: str, config: dict[str, Any]) -> dict[str, Any]:
    """The `config` of the config. Unknown fields of a base stay; ours come in the order of the specification."""
    for gone in ("Image", "Cmd", "Entrypoint"):
        config.pop(gone, None)
    ours: dict[str, Any] = {
        "User": runnable.user or config.get("User"),
        "ExposedPorts": {**(config.get("ExposedPorts") or {}), **{_with_protocol(port): {} for port in runnable.ports}},
        "Env": _merged_env(config.get("Env") or [], runnable.env),
        "Entrypoint": [f"/{name}"],
        "Cmd": list(runnable.args),
        "Volumes": {**(config.get("Volumes") or {}), **{path: {} for path in runnable.volumes}},
        "WorkingDir": runnable.working_dir or config.get("WorkingDir") or "/",
        "Labels": {**(config.get("Labels") or {}), **runnable.labels},
        "StopSignal": runnable.stop_signal or config.get("StopSignal"),
    }
    for key in ours:
        config.pop(key, None)
    sorted_ours = {
        key: dict(sorted(value.items())) if isinstance(value, dict) else value for key, value in ours.items()
    }
    return {key: value for key, value in sorted_ours.items() if value} | config


def _merged_env(old: Sequence[str], new: Mapping[str, str]) -> list[str]:
    merged = {variable.partition("=")[0]: variable for variable in old}
    merged |= {name: f"{name}={value}" for name, value in new.items()}
    return list(merged.values())


def _with_protocol(port: str) -> str:
    return port if "/" in port else f"{port}/tcp"


def _base_history(old: Mapping[str, Any], layers: int) -> list[Any]:
    """The base's history, if it has a line for each layer; else lines that say where the layers are from."""
    history = old.get("history") or []
    if not isinstance(history, list) or not all(isinstance(line, dict) for line in history):
        raise DocumentError("the base's config has a history that is no list of objects")
    if sum(1 for line in history if not line.get("empty_layer")) == layers:
        return history
    return [{"comment": "layer of the base image"}] * layers
