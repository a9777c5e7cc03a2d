"""From an image to a filesystem: resolve, look into the cache, flatten, pack, publish."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from ocifast.boot import BootConfig, boot_config
from ocifast.cache import Cache, LentBlobs
from ocifast.cache.flight import Teller
from ocifast.clock import rfc3339_seconds, source_date_epoch
from ocifast.compiled import CompiledImage, facts_of, has_all, refuse_losses
from ocifast.edits import Edits, PreparedEdits
from ocifast.errors import CancelledError, DocumentError, FileError, LayerError, OcifastError, VerificationError
from ocifast.image import Image, resolve
from ocifast.layer_folder import LayerFolder
from ocifast.layered import Store
from ocifast.logs import logger
from ocifast.metrics import Meter
from ocifast.opening import open_cached, refuse_uncached
from ocifast.options import CompileOptions, limits_of, sidecars_of
from ocifast.packers import Written
from ocifast.packers.places import as_named
from ocifast.planned import STDOUT, Outputs, PlannedOutput, plan_outputs, store_for
from ocifast.platforms import parse as parse_platform
from ocifast.progress import Event, LayerState, Phase, Progress, silent
from ocifast.records import dataclass
from ocifast.refusals import processors
from ocifast.seals import load_seals
from ocifast.sharing import layers_to_keep, push_all, shared_cache
from ocifast.sources.open import parse_location
from ocifast.spec import total_size
from ocifast.telemetry import recorded
from ocifast.workspace import check_room, data_bytes
from ocifast.writing import layer_names, prepared_edits, waiting_folder, write_output

if TYPE_CHECKING:
    from ocifast.rootfs import Rootfs

__all__ = ["STDOUT", "CompileOptions", "CompilePlan", "CompiledImage", "compile_image"]

_log = logger(__name__)


@dataclass(frozen=True)
class CompilePlan:
    """One compilation, checked but not begun. Frozen and picklable: it can be run in another process.

    Attributes:
        image: where it is, as `docs/references.md` has it: `HOST/NAME[:TAG][@DIGEST]`, `oci:DIR[:TAG]` and so on.
        outputs: paths, or "-" for standard output (tar and cpio). All are written from one decode.
        format: a key of `ocifast.packers.FORMATS`; None goes by each output's suffix; one without is a directory.
        platform: as `linux/arm64`; None for this machine's.
        options: the rest.
        edits: what is changed on the way.
    """

    image: str
    outputs: tuple[str, ...]
    format: str | None = None
    platform: str | None = None
    options: CompileOptions = field(default_factory=CompileOptions)
    edits: Edits = field(default_factory=Edits)

    def run(
        self, *, progress: Progress = silent, cancelled: Callable[[], bool] | None = None
    ) -> tuple[CompiledImage, ...]:
        """Compiles. See `compile_image`. Returns what was made, in the order of the outputs.

        Args:
            progress: gets the events.
            cancelled: asked several times a second; when it says True, everything is taken back.
        """
        run = Compilation(self, progress, cancelled or (lambda: False))
        with recorded(run.meter, {"image": self.image, "outputs": self.outputs, "platform": self.platform}):
            return run.run()


@overload
def compile_image(
    image: str,
    output: str | os.PathLike[str],
    *,
    format: str | None = None,
    platform: str | None = None,
    options: CompileOptions | None = None,
    edits: Edits | None = None,
    progress: Progress = silent,
    cancelled: Callable[[], bool] | None = None,
) -> CompiledImage: ...
@overload
def compile_image(
    image: str,
    output: Outputs,
    *,
    format: str | None = None,
    platform: str | None = None,
    options: CompileOptions | None = None,
    edits: Edits | None = None,
    progress: Progress = silent,
    cancelled: Callable[[], bool] | None = None,
) -> list[CompiledImage]: ...
def compile_image(
    image: str,
    output: str | os.PathLike[str] | Outputs,
    *,
    format: str | None = None,
    platform: str | None = None,
    options: CompileOptions | None = None,
    edits: Edits | None = None,
    progress: Progress = silent,
    cancelled: Callable[[], bool] | None = None,
) -> CompiledImage | list[CompiledImage]:
    """Turns an image into a directory, an archive or a filesystem image, or into several of them from one decode.

    An output appears whole or not at all, under a temporary name beside it until then; a file that is there is
    replaced, a directory must be empty. Files have mode 0600 and directories the mode of the image's root. Of several
    outputs none appears before all are complete; only a stream cannot be taken back, and is written last.

    Args:
        image: see `CompilePlan`, as all that follow.
        output: a path, or "-"; or several.
        format: a key of `ocifast.packers.FORMATS`.
        platform: as `linux/arm64`.
        options: the rest. What may be chosen about formats goes to all outputs whose format has it.
        edits: files added, paths left out, owners changed; None for the image as it is.
        progress: gets an event for each step, from any thread.
        cancelled: asked several times a second; when it says True, everything is taken back.

    Returns:
        What was made: a list for several outputs.

    Raises:
        ImageReferenceError, UsageError: what was asked for makes no sense; nothing was touched.
        SourceError, VerificationError, LayerError: the image could not be had, or is broken.
        OutputError: the output could not be made; `LossError` when `options.strict` and something would be lost.
        CancelledError: `cancelled` said so.
    """
    single = isinstance(output, (str, os.PathLike))
    names = tuple(os.fspath(each) for each in ((output,) if isinstance(output, (str, os.PathLike)) else output))
    plan = CompilePlan(image, names, format, platform, options or CompileOptions(), edits or Edits())
    done = plan.run(progress=progress, cancelled=cancelled)
    return done[0] if single else list(done)


class _DamagedCacheError(OcifastError):
    """A blob of the cache was not what it should be, and has been removed."""


class Compilation:
    """One compilation on its way."""

    def __init__(self, plan: CompilePlan, progress: Progress, cancelled: Callable[[], bool]) -> None:
        self.plan = plan
        self.options = plan.options
        self.begun = time.monotonic()
        self.told = progress
        self.teller: Teller | None = None
        self.meter = Meter()
        self.progress = self._counted(progress)
        self.fetched, self.found = dict[str, int](), dict[str, int]()
        self.cancelled = cancelled
        beside = load_seals(self.options.seals), sidecars_of(self.options), self.options.extract_kernel
        self.outputs = plan_outputs(plan.outputs, plan.format, self.options.pack, *beside)
        for output in self.outputs if self.options.verify_output else ():
            output.verify()
        self.clamp = source_date_epoch() if self.options.clamp_mtime is None else self.options.clamp_mtime
        self.threads = self.options.threads or processors()
        self.how = refuse_uncached(self.options.cache, self.options.offline, self.options.refresh)
        folder, always_hash = self.options.cache_folder, self.options.verify_cache
        self.cache = Cache.usable(folder, always_hash=always_hash) if self.options.cache else None
        self.layers: LentBlobs | None = None
        self.remote = shared_cache(self.options, self.cache, self.meter)
        self.edits: PreparedEdits | None = None
        self.keyed: dict[PlannedOutput, str] = {}

    def run(self) -> tuple[CompiledImage, ...]:
        try:
            done = self._attempt()
        except _DamagedCacheError:
            # What was damaged is removed by now; nothing was written but into folders that are gone.
            done = self._attempt()
        except FileError:
            # A kept layer may have been damaged while an output was made of it; what went to a stream has gone.
            streams = any(output.streams for output in self.outputs)
            if streams or self.cache is None or not self.cache.decoded.mend(self.meter.adopted):
                raise
            done = self._attempt()
        if self.cache is not None:
            self.cache.keep_to_bound()
        # All of the work counts, also that after the outputs were described.
        seconds = time.monotonic() - self.begun
        phases, decoded = self.meter.metrics(), tuple(self.meter.decoded)
        return tuple(replace(made, seconds=seconds, phases=phases, decoded=decoded) for made in done)

    def _attempt(self) -> tuple[CompiledImage, ...]:
        with ExitStack() as stack:
            if self.remote is not None:
                stack.enter_context(self.remote)
            for output in self.outputs:
                output.open(stack, sync=self.options.sync)
            image = stack.enter_context(self.resolve())
            self.keyed = self.keys(image, stack)
            keys = {output: key for output, key in self.keyed.items() if self.cache is not None and output.is_file}
            if self.cache is not None:
                stack.enter_context(self.cache.leases.take(image.diff_ids))
                # In one order for all processes: two that want the same outputs do not wait for each other.
                outputs, layers = self.cache.outputs, {layer.digest for layer in image.layers}
                held = []
                for key in sorted(set(keys.values())):
                    told = outputs.listener(key, layers, self.told)
                    held.append(stack.enter_context(outputs.lock(key, stopped=self.cancelled, waiting=told)))
                self.teller = Teller([fd for fd in held if fd is not None])
            # A kernel comes out of the tree.
            done = {each: self._from_cache(image, each, keys[each], stack) for each in keys if each.extracts is None}
            made = {output: found for output, found in done.items() if found is not None}
            missing = [output for output in self.outputs if output not in made]
            if missing:
                made |= self._make(image, missing, keys)
            with self.meter.during("publish"):
                self._publish(made)
            self.meter.add("publish", sum(each.data_size or 0 for each in made.values()))
            if self.remote is not None and missing and not self.meter.took_others:
                push_all(self.remote, image.document, map(keys.get, missing), self.meter.decoded)
        return tuple(made[output] for output in self.outputs)

    def _counted(self, progress: Progress) -> Progress:
        """The same, which notes on the way what was fetched and what was there."""

        def take(event: Event) -> None:
            if event.layer is not None and event.state is LayerState.DOWNLOADED:
                self.fetched[event.layer] = event.total or 0
            elif event.layer is not None and event.state is LayerState.EXISTS:
                self.found[event.layer] = event.total or 0
            if self.teller is not None:
                self.teller.tell(event)
            progress(event)

        return take

    def resolve(self) -> Image:
        """Opens the image, which the caller closes, and decides whether it may be used."""
        with self.meter.during("resolve"):
            image = self._resolve()
        self.meter.add("resolve", image.document.size + len(image.config_raw))
        return image

    def _resolve(self) -> Image:
        self._tell(Phase.RESOLVING)
        location = parse_location(self.plan.image)
        wanted = parse_platform(self.plan.platform) if self.plan.platform is not None else None
        source = open_cached(
            location,
            self.cache,
            how=self.how,
            platform=wanted,
            options=self.options.registry,
            seeds=self.options.seeds,
            follow_links=self.options.follow_links,
            # Flattening keeps the layers: it has their digests without hashing a second time.
            layers=False,
        )
        try:
            # Layouts and archives are on disk already: keeping their blobs again would only cost room.
            if self.cache is not None and location.is_remote:
                self.layers = self.layers or self.cache.layers.lend()
            image = resolve(source, wanted)
            # In each run: what the cache has of an image says nothing about who may use it.
            image.check(self.options.verify, location)
            self._tell(Phase.RESOLVED)
            self._tell(Phase.CONFIG_ACQUIRE)
            _ = image.diff_ids
        except BaseException:
            source.close()
            raise
        return image

    def _digest(self, image: Image) -> str:
        """Of the image as it is compiled: stamps that go by it tell edits apart."""
        return image.digest if self.edits is None else self.edits.image_digest(image.digest)

    def keys(self, image: Image, stack: ExitStack) -> dict[PlannedOutput, str]:
        """Of all outputs: what their bytes depend on. Edits are prepared for it, in files that `stack` removes."""
        time = self.clamp if self.clamp is not None else self._created(image)
        self.edits = prepared_edits(self.plan.edits, self.outputs, stack, time=time)
        edits = None if self.edits is None else self.edits.digest
        return {
            output: output.key(image.digest, self.options, clamp_mtime=self.clamp, edits=edits)
            for output in self.outputs
        }

    def _from_cache(self, image: Image, output: PlannedOutput, key: str, stack: ExitStack) -> CompiledImage | None:
        """Puts what is cached where the output is made; None when nothing is."""
        found = self.cache.outputs.get(key) if self.cache is not None else None
        from_remote = found is None
        assert output.made is not None
        if found is None and self.remote is not None:
            to = output.made.parent, stack
            found = self.remote.output(key, image.document, image.config_raw, facts_of, to)
        if found is None or not has_all(found.facts, self.options.tree_digest, self.options.verify_output):
            return None
        facts = facts_of(found.facts)
        self._refuse_missing(facts["boot"])
        if self.options.strict:
            refuse_losses(self.plan.image, output.format.name, facts["losses"])
        if not found.place(output.made, mode=0o600, sync=False):
            return None
        return self._result(image, output, size=found.size, from_cache=True, from_remote=from_remote, **facts)

    def _make(
        self, image: Image, outputs: list[PlannedOutput], keys: Mapping[PlannedOutput, str]
    ) -> dict[PlannedOutput, CompiledImage]:
        """Writes outputs from one decode. Nothing is published before all are complete."""
        store, beside = store_for(outputs, self.threads)
        with ExitStack() as stack, self._hidden():
            waiting = waiting_folder(self.options.tmp_dir, store, beside, stack)
            check_room(waiting, total_size(image.layers), what=f"the layers of {image.name}")
            rootfs = stack.enter_context(self._flatten(image, store, waiting))
            boot = boot_config(image.config, rootfs)
            self._refuse_missing(boot)
            tree_digest = rootfs.digest if self.options.tree_digest else None
            self._tell(Phase.PACKING)
            self.meter.add("merge", rootfs.tree.content_bytes())
            # The image in which contents wait comes first, and what cannot be taken back last.
            order = sorted(outputs, key=lambda output: (output.streams, output is not beside))
            for index, output in enumerate(order):
                with self.meter.during("pack"):
                    output.written = self._write(image, output, rootfs, order[:index], waiting)
                if self.options.strict:
                    refuse_losses(self.plan.image, output.format.name, output.written.losses)
            # Only now: others may have read from an image while it was unsealed.
            for output in outputs:
                with self.meter.during("pack"):
                    output.seal(self._digest(image), self.threads, self.cancelled)
                output.read_back(rootfs.tree, clamp_mtime=self.clamp, threads=self.threads)
            done = {}
            for output in outputs:
                made, directory = output.made, output.format.is_directory
                data_size = rootfs.tree.data_bytes() if directory else made and data_bytes(made)
                self.meter.add("pack", data_size or 0)
                done[output] = self._result(
                    image,
                    output,
                    boot=boot.beside(output.written.properties),
                    size=None if made is None or directory else made.stat().st_size,
                    losses=output.written.losses,
                    properties=tuple(sorted(output.written.properties.items())),
                    notices=tuple(rootfs.notices.items()),
                    tree_digest=tree_digest,
                    verified=output.is_verified,
                    data_size=data_size,
                    entries=len(rootfs),
                    unmatched_patterns=rootfs.unmatched,
                    from_remote=self.meter.took_others,
                )
        # After the layers, which are kept by now, and before others can do anything to the outputs.
        with self._hidden():
            for output in filter(keys.__contains__, outputs):
                self._keep(keys[output], image, done[output], output)
        return done

    def _publish(self, made: Mapping[PlannedOutput, CompiledImage]) -> None:
        """Gives all outputs their names, and tells what has come of it whenever a signal comes.

        Nothing is called off from here on: what was published is never told as cancelled.

        Args:
            made: what each output is.
        """
        size = sum(made[output].size or 0 for output in self.outputs) or None
        try:
            for output in self.outputs:
                output.publish(made[output])
            self.progress(Event(Phase.COMPLETE, done=size, total=size))
        except BaseException as error:
            # A signal may have come at any moment, also between the name and the next line of ours.
            written = tuple(output.shown for output in self.outputs if output.is_published)
            if isinstance(error, OcifastError):
                # What is finished is not thrown away because its place cannot be had.
                left = [output.rescue() for output in self.outputs if output.shown not in written]
                kept = ", ".join(str(path) for path in left if path is not None)
                text = error.message + (f"; only {', '.join(written)} could be written" if written else "")
                text += f"; what was made is kept as {kept}" if kept else ""
                raise type(error)(text, **error.context) from error.__cause__
            if written:
                whole = len(written) == len(self.outputs)
                self.progress(Event(Phase.COMPLETE, written=None if whole else written))
            raise

    def _hidden(self) -> AbstractContextManager[None]:
        return as_named([(output.shown, output.space) for output in self.outputs if output.space is not None])

    def _keep(self, key: str, image: Image, done: CompiledImage, output: PlannedOutput) -> None:
        if self.cache is None or output.made is None:
            return
        if self.cache.max_bytes is not None and data_bytes(output.made) > self.cache.max_bytes:
            _log.info("%s is not cached: it is larger than the cache may become", done.path)
            return
        documents = {"manifest": image.document.raw, "config": image.config_raw}
        facts = {**done.facts(), "reference": done.reference, "format": done.format}
        if self.remote is not None and self.meter.took_others:
            self.remote.put_output(key, output.made, **documents, facts=facts)
            return
        # What is copied from kept layers is made again before it would be hashed; what is to be pushed must be kept.
        remade = self.remote is None and output.backend.copies(output.options)
        if not (remade and self.cache.decoded.has_all(image.diff_ids)):
            self.cache.outputs.put(key, output.made, **documents, facts=facts)

    def _flatten(self, image: Image, store: Store, folder: Path) -> Rootfs:
        # Not imported before it is needed: a kept output is copied.
        from ocifast.flatten import FlattenOptions, flatten

        # A layer on its way keeps two cores busy (one inflates, one hashes and reads), until it ends or waits.
        decoders = max(min(2, self.threads), self.threads // 2) if store.in_order else self.threads
        keep = layers_to_keep(self.options, self.remote)
        layers = None if self.cache is None else self.cache.decoded
        every = isinstance(space := self.outputs[0].space, LayerFolder)
        options = FlattenOptions(
            downloads=self.options.downloads,
            decoders=decoders,
            limits=limits_of(self.options),
            blobs=self.layers,
            layers=space.use(layers, keep=keep is not False) if isinstance(space, LayerFolder) else layers,
            keep_layers=True if every else keep,
            every_layer=every,
            # What is only claimed to be a layer is none of an output of layers.
            others=None if every else self.remote,
            meter=self.meter,
        )
        try:
            return flatten(
                image,
                store=store.place,
                folder=folder,
                options=options,
                progress=self.progress,
                cancelled=self.cancelled,
                edits=self.edits,
            )
        except (FileError, LayerError, VerificationError) as error:
            # Blobs of the cache are hashed while they are read; what was wrong in one is no fault of the image.
            if self.layers is not None and self.layers.mend(image.layers):
                raise _DamagedCacheError(error.message, **error.context) from error
            raise

    def _write(
        self, image: Image, output: PlannedOutput, rootfs: Rootfs, before: Sequence[PlannedOutput], waiting: Path
    ) -> Written:
        if (twin := output.twin(before)) is not None:
            output.copy(twin)
            return twin.written
        return write_output(
            output,
            rootfs,
            waiting,
            name=image.name,
            digest=self._digest(image),
            clamp_mtime=self.clamp,
            created=self._created(image),
            threads=self.threads,
            layers=layer_names(image, self.edits) if output.format.has_layers else (),
            leaves_out=bool(self.plan.edits and (self.plan.edits.exclude or self.plan.edits.subtree)),
            platform=None if image.platform is None else str(image.platform),
            progress=lambda done, total: self._tell(Phase.PACKING, done=done, total=total),
            cancelled=self.cancelled,
            stall=self.options.packer_timeout,
        )

    def _created(self, image: Image) -> int:
        created = rfc3339_seconds(image.config.created or "")
        return created if self.clamp is None else min(created, self.clamp)

    def _refuse_missing(self, boot: BootConfig) -> None:
        if (self.options.strict or self.options.boot) and (missing := boot.user.missing) is not None:
            raise DocumentError(f"{self.plan.image}: {missing}", reference=self.plan.image)

    def _result(self, image: Image, output: PlannedOutput, **facts: Any) -> CompiledImage:
        return CompiledImage(
            path=None if output.streams else Path(output.shown),
            format=output.format.name,
            backend=output.backend.name,
            reference=self.plan.image,
            digest=image.digest,
            platform=None if image.platform is None else str(image.platform),
            fetched_bytes=sum(self.fetched.values()),
            # What a layout or an archive holds is in no cache.
            cached_bytes=0 if self.layers is None else sum(self.found.values()),
            key=self.keyed.get(output),
            **facts,
        )

    def _tell(self, phase: Phase, *, done: int | None = None, total: int | None = None) -> None:
        if self.cancelled():
            raise CancelledError(f"{self.plan.image}: the compilation was stopped")
        self.progress(Event(phase, done=done, total=total))
