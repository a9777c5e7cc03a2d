"""The outputs of a compilation, checked before any work is done: format, options, backend, place."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from ocifast import _core
from ocifast.atomic import NewFile, reported
from ocifast.cache import output_key
from ocifast.compiled import CompiledImage
from ocifast.digests import digest_and_size
from ocifast.errors import FileError, OutputMismatchError, UsageError
from ocifast.file_data import clone_file, write_all
from ocifast.interrupt import interruptible, nothing
from ocifast.kernel_folder import KernelFolder
from ocifast.layer_folder import LayerFolder
from ocifast.layered import EROFS_IMAGE, WAITING, Store
from ocifast.marks import byte_values
from ocifast.packers import (
    Format,
    PackOptions,
    Written,
    check_suffix,
    choose_backend,
    format_of,
    load_format,
    options_of,
)
from ocifast.seals import Seal, SealRequest, Sidecar, apply_seals, check_seal
from ocifast.workspace import Workspace

__all__ = ["READABLE", "STDOUT", "Outputs", "PlannedOutput", "plan_outputs", "store_for"]

STDOUT = "-"

READABLE = ("erofs", "squashfs", "ext4", "cpio", "tar")
"""Formats that can be read back."""

Outputs = list[str] | list[Path] | list[str | os.PathLike[str]] | tuple[str | os.PathLike[str], ...]
"""Several outputs. A string is one output, not several."""


class PlannedOutput:
    """One output.

    Attributes:
        shown: as it was named.
        format: what is made.
        options: of the format.
        backend: what writes it.
        seals: what runs over it when it is written.
        sidecars: what is written beside it.
        is_verified: whether it is read back before it is published; see `verify`.
        streams: whether it goes to standard output.
        file_digests: of files that its options name, once `key` was called.
        extracts: where what boots it is put as well; None for nowhere.
        kernel_folder: where that stands until it is published, once `open` was called.
        space: where it is made, once `open` was called; None for standard output.
        written: what came of it.
    """

    def __init__(
        self,
        shown: str,
        form: Format,
        pack: PackOptions,
        seals: Sequence[Seal] = (),
        sidecars: Sequence[Sidecar] = (),
    ) -> None:
        self.shown = shown
        self.streams = shown == STDOUT
        self.format = form
        compression = pack.compression
        if not self.streams:
            # The suffix says how, even where the format was given as well.
            compression = check_suffix(shown, form.name, compression)
        elif not form.streams:
            raise UsageError(f"{form.name} cannot be written to standard output; tar and cpio can")
        pack = replace(pack, compression=compression)
        self.backend, self._version = choose_backend(form, pack)
        self.options = options_of(form.options, pack)
        self.seals = tuple(seals)
        self.sidecars = tuple(sidecars)
        for seal in self.seals:
            if self.streams:
                raise UsageError(f"the seal {seal.name} needs a file, and standard output is none")
            check_seal(seal, form.name)
        self.is_verified = False
        self.sync = True
        self.file_digests: Mapping[str, str] = {}
        self.extracts: KernelFolder | None = None
        self.kernel_folder: Path | None = None
        self.space: Workspace | LayerFolder | None = None
        self.written = Written(None)
        self._begins_to_publish = False

    def open(self, stack: ExitStack, *, sync: bool) -> None:
        """Looks at the place, and makes a private folder beside it; `sync` as of `Workspace`."""
        self.sync = sync
        if self.format.has_layers:
            self.space = stack.enter_context(LayerFolder(self.shown, sync=sync))
        elif not self.streams:
            space = Workspace(self.shown, is_directory=self.format.is_directory, sync=sync)
            self.space = stack.enter_context(space)
            # An erofs image grows where contents wait, and comes to its place with a rename.
            space.begin_writeback(space.path / WAITING / EROFS_IMAGE, space.path / "output")
            if self.extracts is not None:
                self.kernel_folder = self.space.subfolder("kernel")

    @property
    def made(self) -> Path | None:
        """Where it stands until it is published."""
        return None if self.space is None else self.space.path / "output"

    def seal(self, digest: str, threads: int, cancelled: Callable[[], bool]) -> None:
        """Runs the seals over what was written.

        Args:
            digest: of the image.
            threads: to use.
            cancelled: whether to stop; asked now and then.
        """
        if self.made is None or not self.seals:
            return
        stop = threading.Event()
        request = SealRequest(self.made, self.format.name, digest, threads, lambda: stop.is_set() or cancelled())
        found = interruptible(lambda: apply_seals(self.seals, request), stop, nothing)
        self.written = replace(self.written, properties={**self.written.properties, **found})

    def verify(self) -> None:
        """From here on `read_back` is to look at it. Raises UsageError when that cannot be."""
        if self.streams or self.format.name not in READABLE:
            what = "standard output" if self.streams else f"the format {self.format.name}"
            raise UsageError(f"{self.shown}: {what} cannot be read back; {', '.join(READABLE)} in files can")
        self.is_verified = True

    def read_back(self, tree: _core.Tree, *, clamp_mtime: int | None, threads: int) -> None:
        """Reads back what was written, where that was asked for, and compares it with its tree.

        Args:
            tree: whose contents are still there.
            clamp_mtime: that no time in the output passes.
            threads: that compare.

        Raises:
            OutputMismatchError: they differ.
        """
        if not self.is_verified or self.made is None or self.space is None:
            return
        made, folder, losses = self.made, self.space.path, [(loss.kind, loss.count) for loss in self.written.losses]

        def run() -> None:
            _core.verify(
                tree, made, self.format.name, losses=losses, clamp_mtime=clamp_mtime, folder=folder, threads=threads
            )

        try:
            interruptible(run, threading.Event(), nothing)
        except OutputMismatchError as error:
            text = f"{self.shown}: the finished {self.format.name} is not the tree that it was made of: {error.message}"
            raise OutputMismatchError(f"{text}; it was not published", **error.context) from error.__cause__

    def publish(self, done: CompiledImage) -> None:
        """Gives it its name, and its sidecars theirs before. A stream has been written already.

        Args:
            done: what was made.

        Raises:
            FileError, UsageError: as `Workspace.publish`.
        """
        if self.space is None or self.made is None:
            self._begins_to_publish = True
            return
        for sidecar in self.sidecars:
            place = Path(f"{self.space.destination}{sidecar.suffix}")
            with NewFile(place.parent, mode=0o600, sync=self.sync) as file, reported(place):
                write_all(file.fd, sidecar.make(dict(done.properties)))
                file.publish(place)
        if self.extracts is not None and self.kernel_folder is not None:
            self.extracts.publish(self.kernel_folder, sync=self.sync)
        self._begins_to_publish = True
        if isinstance(self.space, LayerFolder):
            facts = ("reference", "digest", "platform", "boot", "tree_digest", "properties")
            self.space.publish(self.made, {name: done.to_json()[name] for name in facts})
        else:
            self.space.publish(self.made)

    def rescue(self) -> Path | None:
        """Keeps what was finished and cannot be published under another name; see `Workspace.rescue`."""
        return None if self.space is None or self.made is None else self.space.rescue(self.made)

    @property
    def is_published(self) -> bool:
        """Whether it has its name, as the file system says: whoever was interrupted in `publish` cannot know."""
        if self.made is None:
            return self.streams
        return self._begins_to_publish and not os.path.lexists(self.made)

    @property
    def is_file(self) -> bool:
        """Whether it is a file, which can be cached and copied; not a stream, not a directory."""
        return not self.streams and not self.format.is_directory

    def key(self, manifest: str, options: Any, *, clamp_mtime: int | None, edits: str | None) -> str:
        """The key under which the output is cached: of all that changes its bytes.

        Args:
            manifest: digest of the image's manifest.
            options: of the compilation; see `ocifast.marks`.
            clamp_mtime: as it is used, wherever it was said.
            edits: their digest.

        Raises:
            FileError: a file that the options name cannot be read.
        """
        self.file_digests = {name: _file_digest(path) for name, path in self.options.files().items()}
        return output_key(
            manifest=manifest,
            format=self.format.name,
            backend=self.backend.name,
            packer=f"ocifast {_core.__version__}, merge {_core.MERGE_VERSION}, {self._version}",
            options={
                **byte_values(self.options),
                **self.file_digests,
                **byte_values(options),
                "clamp_mtime": clamp_mtime,
                "edits": edits,
                **({"seals": [[seal.name, seal.version] for seal in self.seals]} if self.seals else {}),
            },
        )

    def twin(self, others: Sequence[PlannedOutput]) -> PlannedOutput | None:
        """One of others that has the same bytes, if there is one."""
        same = (other for other in others if other.backend is self.backend and other.options == self.options)
        return next((other for other in same if other.is_file and self.is_file), None)

    def copy(self, twin: PlannedOutput) -> None:
        """Makes this output a copy of another one; blocks are shared where the file system can do that."""
        if self.made is None or twin.made is None:
            raise UsageError(f"{self.shown} is no file")
        with reported(Path(self.shown)), twin.made.open("rb", buffering=0) as source, self.made.open("xb") as copy:
            os.fchmod(copy.fileno(), 0o600)
            clone_file(source.fileno(), copy.fileno())


def plan_outputs(
    outputs: Sequence[str],
    form: str | None,
    pack: PackOptions,
    seals: Sequence[Seal] = (),
    sidecars: Sequence[Sidecar] = (),
    extract_kernel: str | None = None,
) -> list[PlannedOutput]:
    """The outputs in the order in which they are named.

    Args:
        outputs: paths, or "-".
        form: format of all; None goes by the suffix of each.
        pack: options; each goes to all outputs whose format has it.
        seals: of all outputs.
        sidecars: of all outputs.
        extract_kernel: a folder for what boots the first disk; see `CompileOptions`.

    Raises:
        UsageError: what was asked for makes no sense.
        PackerMissingError: nothing that can write a format is installed.
    """
    if not outputs:
        raise UsageError("there is no output; name one")
    formats = [load_format(form or ("tar" if output == STDOUT else format_of(output)[0])) for output in outputs]
    if len(outputs) > 1 and any(form.has_layers for form in formats):
        raise UsageError("an image of layers is written alone; write the other outputs in a run of their own")
    if extract_kernel is not None:
        if all(form.name != "disk" for form in formats):
            raise UsageError("a kernel is extracted beside a disk, which its command line names; choose -f disk")
        # What is beside the disk need not be in it.
        pack = replace(pack, esp=bool(pack.esp))
    planned = _plan_all(outputs, formats, pack, seals, sidecars)
    if extract_kernel is not None:
        next(output for output in planned if output.format.name == "disk").extracts = KernelFolder(extract_kernel)
    elif pack.esp is False and pack.names_boot:
        raise UsageError("nothing takes a kernel without an EFI system partition; choose one, or --extract-kernel")
    return planned


def _plan_all(
    outputs: Sequence[str],
    formats: Sequence[Format],
    pack: PackOptions,
    seals: Sequence[Seal],
    sidecars: Sequence[Sidecar],
) -> list[PlannedOutput]:
    if len(outputs) == 1:
        return [PlannedOutput(outputs[0], formats[0], pack, seals, sidecars)]
    _refuse_common_places(outputs, formats)
    shared = [_own(pack, each) for each in formats]
    for each in fields(pack):
        chosen = getattr(pack, each.name)
        if chosen is not None and all(getattr(own, each.name) is None for own in shared):
            if each.name == "backend":
                raise UsageError(f"no output has a backend {chosen!r}")
            # One format's refusal stands for that of all.
            options_of(formats[0].options, PackOptions(**{each.name: chosen}))
    return [PlannedOutput(*each, seals, sidecars) for each in zip(outputs, formats, shared, strict=True)]


def _file_digest(path: str) -> str:
    try:
        if not Path(path).is_file() and os.path.lexists(path):
            raise FileError(f"{path} is no regular file", path=path)
        with Path(path).open("rb") as file:
            return digest_and_size(file)[0]
    except FileError:
        raise
    except OSError as error:
        raise FileError(f"{path}: {error.strerror or error}", path=path) from error


def _own(pack: PackOptions, form: Format) -> PackOptions:
    """The options that a format has."""
    known = {each.name for each in fields(form.options)}
    if pack.backend in {backend.name for backend in form.backends}:
        known.add("backend")
    return PackOptions(**{name: value for name, value in vars(pack).items() if name in known})


def _refuse_common_places(outputs: Sequence[str], formats: Sequence[Format]) -> None:
    places = [Path(output if output == STDOUT else os.path.realpath(output)) for output in outputs]
    for index, place in enumerate(places):
        if place in places[:index]:
            raise UsageError(f"{outputs[index]} is named twice as an output")
        for folder, form, shown in zip(places, formats, outputs, strict=True):
            if form.is_directory and folder in place.parents:
                raise UsageError(f"{outputs[index]} would be inside of {shown}, which is an output itself")


def store_for(outputs: Sequence[PlannedOutput], threads: int) -> tuple[Store, PlannedOutput]:
    """Where contents wait for some outputs, and the output beside which they do.

    One output has them where its writer takes them as they are. Of several one at most can be that: an erofs image,
    from which the others read. A directory would use them up.
    """
    wanted = [(output.backend.store(output.options, threads), output) for output in outputs]
    if len(wanted) == 1:
        store, output = wanted[0]
        # What a packer's folder takes as it is could not be compared with what the packer made of it.
        return (Store.SPOOL if output.is_verified and store is Store.DIRECTORY else store), output
    in_place = (pair for pair in wanted if pair[0].in_order)
    beside = next((output for output in outputs if not output.streams), outputs[0])
    return next(in_place, (Store.SPOOL, beside))
