"""From executables to a complete image at a destination."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from ocifast.elf import Elf, inspect, require_runnable
from ocifast.errors import PlatformError, UsageError
from ocifast.layers.members import Member
from ocifast.progress import Event, Phase, Progress
from ocifast.records import dataclass
from ocifast.runnable import files
from ocifast.runnable.checks import check_name, creation_time
from ocifast.runnable.config import BuiltLayer, base_layers, config_of, index_of, manifest_of
from ocifast.runnable.layers import BuildWriter
from ocifast.runnable.options import RunnableOptions
from ocifast.sources import Destination
from ocifast.spec import Descriptor, Document, Platform

if TYPE_CHECKING:
    from ocifast.image import Image
    from ocifast.loader import Library
    from ocifast.sources.registry.options import RegistryOptions

__all__ = ["BuiltImage", "BuiltRunnable", "build"]


@dataclass(frozen=True)
class BuiltImage:
    """The image for one platform.

    Attributes:
        platform: of the executable.
        digest: of the manifest.
        config_digest: of the image config, which Docker calls the image ID.
        layers: descriptors, bottom layer first.
    """

    platform: Platform
    digest: str
    config_digest: str
    layers: tuple[Descriptor, ...]


@dataclass(frozen=True)
class BuiltRunnable:
    """What was built.

    Attributes:
        destination: where it is, as the user wrote it.
        media_type: of the manifest, or of the index of several.
        digest: of the manifest, or of the index of several.
        images: one for each executable, sorted by platform.
    """

    destination: str
    media_type: str
    digest: str
    images: tuple[BuiltImage, ...]


@dataclass(frozen=True)
class _Part:
    """One executable with all that goes into its image."""

    elf: Elf
    platform: Platform
    name: str
    bundle: list[Member]
    extra: list[Member]
    executable: list[Member]


def build(
    runnable: RunnableOptions,
    destination: Destination,
    *,
    options: RegistryOptions | None,
    progress: Progress,
    open_base: Callable[..., Image],
) -> BuiltRunnable:
    """Builds an image into a destination; nothing of it stays there when this raises (see `Runnable.write`).

    `open_base` opens the base image, as `ocifast.open` does.
    """
    created = creation_time(runnable.created)
    try:
        parts = _parts(runnable)
        with ExitStack() as stack:
            writer = stack.enter_context(BuildWriter(destination, runnable, progress))
            built: list[tuple[BuiltImage, Document]] = []
            for part in parts:
                base = None
                if runnable.base is not None:
                    base = stack.enter_context(_open_base(runnable, part.platform, options, open_base))
                built.append(_build_one(runnable, part, writer, created, base))
            root = built[0][1]
            if len(built) > 1:
                root = index_of([(image.platform, manifest) for image, manifest in built], runnable.annotations)
                destination.put_document(root, root=True)
            destination.commit()
    except BaseException:
        destination.abort()
        raise
    progress(Event(Phase.COMPLETE))
    return BuiltRunnable(destination.name, root.media_type, root.digest, tuple(image for image, _ in built))


def _build_one(
    runnable: RunnableOptions, part: _Part, writer: BuildWriter, created: int, base: Image | None
) -> tuple[BuiltImage, Document]:
    below: list[Descriptor] = []
    platform = part.platform
    if base is not None:
        platform = _highest(platform, [base.platform] if base.platform is not None else [])
        below = base_layers(base)
        for original, layer in zip(base.layers, below, strict=True):
            writer.copy(original, layer, base)
    layers = list(_layers(part, writer))
    config = config_of(runnable, platform, layers, name=part.name, created=created, base=base)
    writer.put(config)
    descriptors = [*below, *(layer.descriptor for layer in layers)]
    manifest = manifest_of(config, descriptors, runnable.annotations, base=base)
    writer.destination.put_document(manifest, root=len(runnable.paths) == 1)
    return BuiltImage(platform, manifest.digest, config.digest, tuple(descriptors)), manifest


def _layers(part: _Part, writer: BuildWriter) -> Iterator[BuiltLayer]:
    """Bottom first: what changes least and is shared most, then what changes with every build."""
    if part.bundle:
        yield writer.write(part.bundle, f"libraries of /{part.name}")
    if part.extra:
        yield writer.write(part.extra, "files")
    yield writer.write(part.executable, f"executable /{part.name}")


def _parts(runnable: RunnableOptions) -> list[_Part]:
    """Looks at all that is to be taken, before anything is written."""
    shared = [
        *(files.users(runnable.user) if runnable.base is None else ()),
        *files.certificates(runnable.ca_certs),
        *files.time_zones(runnable.time_zones),
    ]
    own = list(files.added(runnable.add))
    chosen = {member.path for member in own if member.kind != "directory"}
    # A file that the user brings takes the place of one that we would have made, such as /etc/passwd.
    members = [*own, *(member for member in shared if member.path not in chosen)]
    parents = runnable.base is None
    extra = files.with_parents(members, parents=parents)
    parts: dict[str, _Part] = {}
    for path in runnable.paths:
        elf = inspect(path)
        require_runnable(elf, bundle=runnable.bundle)
        libraries = () if elf.is_static else _libraries(elf, runnable)
        platform = _highest(elf.platform, [library.elf.platform for library in libraries])
        name = runnable.name if runnable.name is not None else _name_of(path)
        bundle = files.with_parents(files.bundled(libraries), parents=parents)
        part = _Part(elf, platform, name, bundle, extra, [files.executable(elf, name)])
        files.check_members([bundle, extra, part.executable])
        other = parts.setdefault(str(platform), part)
        if other is not part:
            raise UsageError(
                f"{other.elf.path} and {path} are both for {platform}; an image has one executable for each platform"
            )
    return [parts[platform] for platform in sorted(parts)]


def _libraries(elf: Elf, runnable: RunnableOptions) -> Sequence[Library]:
    # Not imported before it is needed: most executables are linked statically.
    from ocifast.loader import resolve

    return resolve(elf, sysroot=runnable.sysroot)


def _highest(platform: Platform, others: Iterable[Platform]) -> Platform:
    """The platform with the highest level that it or another one needs."""
    variants = [platform.variant, *(other.variant for other in others)]
    return msgspec.structs.replace(platform, variant=max((v for v in variants if v), default=None))


def _open_base(
    runnable: RunnableOptions, platform: Platform, options: RegistryOptions | None, open_image: Callable[..., Image]
) -> Image:
    """The base for a machine of this platform, or else for a higher level: there the executable runs as well."""
    assert runnable.base is not None, "there is a base"
    base, follow_links = runnable.base, runnable.follow_links
    try:
        return open_image(base, platform=platform, options=options, follow_links=follow_links)
    except PlatformError:
        if platform.variant is None:
            raise
        lower = msgspec.structs.replace(platform, variant=None)
        return open_image(base, platform=lower, options=options, follow_links=follow_links)


def _name_of(path: Path) -> str:
    name = Path(os.path.abspath(path)).name  # noqa: PTH100 - not the name of a link's target
    check_name(name)
    return name
