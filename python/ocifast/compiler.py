"""From an image to a filesystem: resolve, look into the cache, flatten, pack, publish."""

from __future__ import annotations

import logging
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from ocifast import _core
from ocifast.boot import BootConfig, boot_config
from ocifast.cache import BlobStore, Cache, CachedOutput, CachedSource, output_key
from ocifast.cache.layers import keep_layers
from ocifast.clock import rfc3339_seconds, source_date_epoch
from ocifast.compiled import CompiledImage, facts_of, shown
from ocifast.edits import Edits, PreparedEdits, prepare
from ocifast.errors import CancelledError, DocumentError, FileError, LossError, OcifastError, UsageError
from ocifast.flatten import FlattenOptions, flatten
from ocifast.image import Image, resolve
from ocifast.interrupt import interruptible, nothing
from ocifast.packers import (
    Backend,
    Format,
    Loss,
    Packing,
    PackOptions,
    check_suffix,
    choose_backend,
    format_of,
    load_format,
    rows,
    totals,
)
from ocifast.platforms import parse as parse_platform
from ocifast.progress import Event, LayerState, Phase, Progress, silent
from ocifast.reference import parse_location
from ocifast.refusals import processors
from ocifast.rootfs import Rootfs
from ocifast.sources.open import open_source
from ocifast.spec import total_size
from ocifast.streams import fd_of
from ocifast.workspace import Workspace, check_room, data_bytes

if TYPE_CHECKING:
    from ocifast.sources.registry.options import RegistryOptions

__all__ = ["CompileOptions", "CompilePlan", "CompiledImage", "compile"]

STDOUT = "-"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CompileOptions:
    """How an image is compiled. Plain data: it can be pickled and compared.

    Attributes:
        pack: what may be chosen about the output.
        registry: how registries are spoken to; None for the defaults.
        seeds: folders with image layouts that are looked at before a registry.
        cache: whether blobs and outputs are looked up and kept.
        keep_layers: whether layers are kept in the cache once they are decoded; None takes `OCIFAST_KEEP_LAYERS` (1 or
            0), and without it keeps those that whole blocks do not more than double. What is kept is used either way.
        cache_folder: None takes `OCIFAST_CACHE_DIR` or the platform's cache folder.
        tmp_dir: where contents wait while layers arrive, for formats that can wait elsewhere than beside the output.
        threads: that decode and pack; None for one per processor. Changes nothing in the output.
        downloads: layers fetched at the same time.
        strict: whether a loss is an error, or a user that the image does not have.
        boot: whether `CompiledImage.config` must be complete: a user that the image does not have is an error.
        tree_digest: whether `CompiledImage.tree_digest` is wanted, which takes reading all contents once more.
        clamp_mtime: seconds since 1970 that no time in the output passes; None takes `SOURCE_DATE_EPOCH`, if that is
            set.
        max_entries: bound on the entries of all layers; None for the default.
        max_layer_bytes: bound on the decompressed size of one layer, and on the apparent size (holes included) of all
            its sparse files together; None for the default.
        max_metadata_bytes: bound on the bytes of all paths, link targets, attributes and sparse maps of all layers;
            None for 256 MiB.
        max_image_bytes: bound on the sizes of all files of all layers together, holes included; None for the default.
    """

    pack: PackOptions = field(default_factory=PackOptions)
    registry: RegistryOptions | None = None
    seeds: tuple[str, ...] = ()
    cache: bool = True
    keep_layers: bool | None = None
    cache_folder: str | None = None
    tmp_dir: str | None = None
    threads: int | None = None
    downloads: int = 4
    strict: bool = False
    boot: bool = False
    tree_digest: bool = False
    clamp_mtime: int | None = None
    max_entries: int | None = None
    max_layer_bytes: int | None = None
    max_metadata_bytes: int | None = None
    max_image_bytes: int | None = None


@dataclass(frozen=True)
class CompilePlan:
    """One compilation, checked but not begun. Frozen and picklable: it can be run in another process.

    Attributes:
        image: `[docker://]HOST/NAME[:TAG][@DIGEST]`, `oci:DIR[:TAG]`, `oci-archive:FILE[:TAG]` or
            `docker-archive:FILE[:NAME:TAG]`.
        output: a path, or "-" for standard output (tar and cpio).
        format: a key of `ocifast.packers.FORMATS`; None goes by the output's suffix, and without one makes a directory.
        platform: as `linux/arm64`; None for this machine's.
        options: the rest.
        edits: what is changed on the way.
    """

    image: str
    output: str
    format: str | None = None
    platform: str | None = None
    options: CompileOptions = field(default_factory=CompileOptions)
    edits: Edits = field(default_factory=Edits)

    def run(self, *, progress: Progress = silent, cancelled: Callable[[], bool] | None = None) -> CompiledImage:
        """Compiles. See `compile`.

        Args:
            progress: gets the events.
            cancelled: asked several times a second; when it says True, everything is taken back.
        """
        return _Run(self, progress, cancelled or (lambda: False)).run()


def compile(  # noqa: A001 - the verb of this project
    image: str,
    output: str | os.PathLike[str],
    *,
    format: str | None = None,  # noqa: A002 - the word of the command line
    platform: str | None = None,
    options: CompileOptions | None = None,
    edits: Edits | None = None,
    progress: Progress = silent,
    cancelled: Callable[[], bool] | None = None,
) -> CompiledImage:
    """Turns an image into a directory, an archive or a filesystem image.

    The output appears whole or not at all, under a temporary name beside it until then; a file that is there is
    replaced, a directory must be empty. Files have mode 0600 and directories the mode of the image's root.

    Args:
        image: see `CompilePlan`, as all that follow.
        output: a path, or "-".
        format: a key of `ocifast.packers.FORMATS`.
        platform: as `linux/arm64`.
        options: the rest.
        edits: files added, paths left out, owners changed; None for the image as it is.
        progress: gets an event for each step, from any thread.
        cancelled: asked several times a second; when it says True, everything is taken back.

    Raises:
        ImageReferenceError, UsageError: what was asked for makes no sense; nothing was touched.
        SourceError, VerificationError, LayerError: the image could not be had, or is broken.
        OutputError: the output could not be made; `LossError` when `options.strict` and something would be lost.
        CancelledError: `cancelled` said so.
    """
    plan = CompilePlan(image, os.fspath(output), format, platform, options or CompileOptions(), edits or Edits())
    return plan.run(progress=progress, cancelled=cancelled)


class _Run:
    """One compilation on its way."""

    def __init__(self, plan: CompilePlan, progress: Progress, cancelled: Callable[[], bool]) -> None:
        self.plan = plan
        self.options = plan.options
        self.begun = time.monotonic()
        self.progress = self._counted(progress)
        self.fetched: dict[str, int] = {}
        self.found: dict[str, int] = {}
        self.cancelled = cancelled
        self.format, self.pack_options = self._choose_format()
        self.clamp = self._clamp()
        self.threads = self.options.threads or processors()
        self.streams = plan.output == STDOUT
        # An output that is streamed or a directory is not kept: see `ocifast.cache`.
        self.cache = Cache.usable(self.options.cache_folder) if self.options.cache else None
        self.layers: BlobStore | None = None
        self.edits: PreparedEdits | None = None
        self.kept = None if self.streams or self.format.is_directory else self.cache

    def run(self) -> CompiledImage:
        backend, version = choose_backend(self.format, self.pack_options)
        with ExitStack() as stack:
            space = None
            if not self.streams:
                space = stack.enter_context(Workspace(self.plan.output, is_directory=self.format.is_directory))
            image = stack.enter_context(self._resolve())
            self.edits = self._prepare_edits(image, space, stack)
            key = self._key(image, backend, version)
            with self.kept.outputs.lock(key) if self.kept is not None else nullcontext():
                found = self.kept.outputs.get(key) if self.kept is not None else None
                if found is not None and space is not None and self._usable(found):
                    done = self._from_cache(image, backend, found, space)
                else:
                    done = self._make(image, backend, key, space)
        # Not called off any more: what was published is never told as cancelled.
        self.progress(Event(Phase.COMPLETE, done=done.size, total=done.size))
        return done

    def _counted(self, progress: Progress) -> Progress:
        """The same, which notes on the way what was fetched and what was there."""

        def take(event: Event) -> None:
            if event.layer is not None and event.state is LayerState.DOWNLOADED:
                self.fetched[event.layer] = event.total or 0
            elif event.layer is not None and event.state is LayerState.EXISTS:
                self.found[event.layer] = event.total or 0
            progress(event)

        return take

    def _choose_format(self) -> tuple[Format, PackOptions]:
        plan, options = self.plan, self.options.pack
        name, compression = plan.format, options.compression
        if name is None:
            name = "tar" if plan.output == STDOUT else format_of(plan.output)[0]
        chosen = load_format(name)
        if plan.output != STDOUT:
            # The suffix says how, even where the format was given as well.
            compression = check_suffix(plan.output, name, compression)
        if plan.output == STDOUT and not chosen.streams:
            raise UsageError(f"{name} cannot be written to standard output; tar and cpio can")
        if compression != options.compression:
            options = replace(options, compression=compression)
        return chosen, options

    def _clamp(self) -> int | None:
        return source_date_epoch() if self.options.clamp_mtime is None else self.options.clamp_mtime

    def _resolve(self) -> Image:
        self._tell(Phase.RESOLVING)
        location = parse_location(self.plan.image)
        wanted = parse_platform(self.plan.platform) if self.plan.platform is not None else None
        source = open_source(location, options=self.options.registry, seeds=self.options.seeds)
        try:
            # Layouts and archives are on disk already: keeping their blobs again would only cost room.
            if self.cache is not None and location.transport == "docker" and location.reference is not None:
                # Flattening keeps the layers: it has their digests without hashing a second time.
                self.layers = self.cache.layers
                source = CachedSource(source, self.cache.blobs, digest=location.reference.digest, layers=False)
            image = resolve(source, wanted)
            self._tell(Phase.RESOLVED)
            self._tell(Phase.CONFIG_ACQUIRE)
            _ = image.diff_ids
        except BaseException:
            source.close()
            raise
        return image

    def _prepare_edits(self, image: Image, space: Workspace | None, stack: ExitStack) -> PreparedEdits | None:
        if not self.plan.edits:
            return None
        if space is not None:
            folder = space.subfolder("edits")
        else:
            import tempfile

            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ocifast-edits-")))
        time = self.clamp if self.clamp is not None else self._created(image)
        return prepare(self.plan.edits, folder, time=time)

    def _digest(self, image: Image) -> str:
        """Of the image as it is compiled: stamps that go by it tell edits apart."""
        return image.digest if self.edits is None else self.edits.image_digest(image.digest)

    def _key(self, image: Image, backend: Backend, version: str) -> str:
        options = {name: value for name, value in asdict(self.pack_options).items() if name != "backend"}
        return output_key(
            manifest=image.digest,
            format=self.format.name,
            backend=backend.name,
            packer=f"ocifast {_core.__version__}, {version}",
            options={
                **options,
                "clamp_mtime": self.clamp,
                "edits": None if self.edits is None else self.edits.digest,
            },
        )

    def _usable(self, found: CachedOutput) -> bool:
        return not self.options.tree_digest or found.facts.get("tree_digest") is not None

    def _from_cache(self, image: Image, backend: Backend, found: CachedOutput, space: Workspace) -> CompiledImage:
        facts = facts_of(found.facts)
        self._refuse_missing(facts["config"])
        self._refuse_losses(facts["losses"])
        copy = space.path / "output"
        found.place(copy, mode=0o600)
        space.publish(copy)
        return self._result(image, backend, size=found.size, from_cache=True, **facts)

    def _make(self, image: Image, backend: Backend, key: str, space: Workspace | None) -> CompiledImage:
        with ExitStack() as stack, self._hidden(space):
            waiting = self._waiting_folder(backend, space, stack)
            check_room(waiting, total_size(image.layers), what=f"the layers of {image.name}")
            rootfs = stack.enter_context(self._flatten(image, backend, waiting))
            config = boot_config(image.config, rootfs)
            self._refuse_missing(config)
            tree_digest = rootfs.digest if self.options.tree_digest else None
            self._tell(Phase.PACKING)
            made = None if space is None else space.path / "output"
            losses = self._pack(image, backend, rootfs, made, space.path if space is not None else waiting)
            self._refuse_losses(losses)
            size = None if made is None or self.format.is_directory else made.stat().st_size
            data_size = totals(rows(rootfs.tree)).bytes if self.format.is_directory else made and data_bytes(made)
            done = self._result(
                image,
                backend,
                config=config,
                size=size,
                losses=losses,
                notices=tuple(rootfs.notices.items()),
                tree_digest=tree_digest,
                data_size=data_size,
                entries=len(rootfs),
                unmatched_patterns=rootfs.unmatched,
            )
            if made is not None and space is not None:
                space.publish(made)
                self._keep(key, image, done)
            return done

    @contextmanager
    def _hidden(self, space: Workspace | None) -> Iterator[None]:
        """Errors while the block runs name the output and its folder, not the hidden ones beside them."""
        try:
            yield
        except OcifastError as error:
            if space is not None and str(space.path) in error.message:
                made, private = re.escape(str(space.path / "output")), re.escape(str(space.path))
                message = re.sub(rf"{made}\b", lambda _: self.plan.output, error.message)
                message = re.sub(rf"{private}[^\s:;,\"']*", lambda _: str(space.destination.parent), message)
                raise type(error)(message, **error.context) from error.__cause__
            raise

    def _keep(self, key: str, image: Image, done: CompiledImage) -> None:
        if self.kept is None or done.path is None:
            return
        try:
            self.kept.outputs.put(
                key, done.path, manifest=image.document.raw, config=image.config_raw, facts=done.facts()
            )
        except FileError as error:
            _log.warning("%s is not cached: %s", done.path, error)

    def _waiting_folder(self, backend: Backend, space: Workspace | None, stack: ExitStack) -> Path:
        elsewhere = self.options.tmp_dir
        if elsewhere is not None and backend.store == "spool":
            return stack.enter_context(Workspace(Path(elsewhere, "spool"), is_directory=True)).subfolder("layers")
        if space is None:
            import tempfile

            folder = Path(tempfile.gettempdir(), "spool")
            return stack.enter_context(Workspace(folder, is_directory=True)).subfolder("layers")
        return space.subfolder("layers")

    def _flatten(self, image: Image, backend: Backend, folder: Path) -> Rootfs:
        limits = _core.Limits(
            entries=self.options.max_entries,
            layer_bytes=self.options.max_layer_bytes,
            metadata_bytes=self.options.max_metadata_bytes,
            image_bytes=self.options.max_image_bytes,
        )
        # A layer on its way keeps two cores busy: one inflates, one hashes and reads. In an erofs image layers stand in
        # order, so that one that runs ahead is copied once more.
        decoders = max(1, self.threads // 2) if backend.store.startswith("erofs") else self.threads
        options = FlattenOptions(
            jobs=self.options.downloads,
            decoders=decoders,
            limits=limits,
            blobs=self.layers,
            layers=None if self.cache is None else self.cache.decoded,
            keep_layers=keep_layers(self.options.keep_layers),
        )
        return flatten(
            image,
            store=backend.store,
            folder=folder,
            options=options,
            progress=self.progress,
            cancelled=self.cancelled,
            edits=self.edits,
        )

    def _pack(
        self, image: Image, backend: Backend, rootfs: Rootfs, made: Path | None, folder: Path
    ) -> tuple[Loss, ...]:
        stop = threading.Event()
        scratch = folder / "packer"
        scratch.mkdir(mode=0o700)
        with ExitStack() as streams:
            fd = streams.enter_context(fd_of(_stdout())) if made is None else None
            packing = Packing(
                tree=rootfs.tree,
                path=made,
                folder=scratch,
                digest=self._digest(image),
                options=self.pack_options,
                descriptor=fd,
                clamp_mtime=self.clamp,
                created=self._created(image),
                threads=self.threads,
                progress=lambda done, total: self._tell(Phase.PACKING, done=done, total=total),
                cancelled=lambda: stop.is_set() or self.cancelled(),
            )
            if made is not None and (size := backend.size(packing)) is not None:
                folder = Path(self.plan.output).absolute().parent
                check_room(folder, size, what=f"the {self.format.name} of {image.name}")
            tick = nothing if backend.tells else self._packing_tick(rootfs.tree)
            try:
                losses = tuple(interruptible(lambda: backend.pack(packing), stop, tick))
            except FileError as error:
                place = "standard output" if made is None else self.plan.output
                raise FileError(f"{place}: {error.message}", **error.context) from error.__cause__
            tick(True)
            return losses

    def _packing_tick(self, tree: _core.Tree) -> Callable[..., None]:
        """What tells how far a writer of the core is, when that is news."""
        total = tree.content_bytes()
        told = -1

        def tick(finished: bool = False) -> None:
            nonlocal told
            # Holes are not read where the format can hold them.
            done = total if finished else min(tree.packed(), total)
            if done != told:
                told = done
                self._tell(Phase.PACKING, done=done, total=total)

        return tick

    def _created(self, image: Image) -> int:
        created = rfc3339_seconds(image.config.created or "")
        return created if self.clamp is None else min(created, self.clamp)

    def _refuse_missing(self, config: BootConfig) -> None:
        if (self.options.strict or self.options.boot) and (missing := config.user.missing) is not None:
            raise DocumentError(f"{self.plan.image}: {missing}", reference=self.plan.image)

    def _refuse_losses(self, losses: tuple[Loss, ...]) -> None:
        if not self.options.strict or not losses:
            return
        first = losses[0]
        where = f" (first: /{shown(first.paths[0])})" if first.paths else ""
        raise LossError(
            f"{self.format.name} cannot hold all of {self.plan.image}: {first.detail}, {first.count} times{where}"
            + (f", and {len(losses) - 1} losses of other kinds" if len(losses) > 1 else ""),
            reference=self.plan.image,
            losses=[asdict(loss) | {"paths": [shown(path) for path in loss.paths]} for loss in losses],
        )

    def _result(self, image: Image, backend: Backend, **facts: Any) -> CompiledImage:
        return CompiledImage(
            path=None if self.streams else Path(self.plan.output),
            format=self.format.name,
            backend=backend.name,
            reference=self.plan.image,
            digest=image.digest,
            platform=None if image.platform is None else str(image.platform),
            seconds=time.monotonic() - self.begun,
            fetched_bytes=sum(self.fetched.values()),
            # What a layout or an archive holds is in no cache.
            cached_bytes=0 if self.layers is None else sum(self.found.values()),
            **facts,
        )

    def _tell(self, phase: Phase, *, done: int | None = None, total: int | None = None) -> None:
        if self.cancelled():
            raise CancelledError(f"{self.plan.image}: the compilation was stopped")
        self.progress(Event(phase, done=done, total=total))


def _stdout() -> BinaryIO:
    stream: BinaryIO | None = getattr(sys.stdout, "buffer", None)
    if stream is None:
        raise UsageError("standard output was replaced by something that takes text only; name a file")
    return stream
