"""One output, written from a tree by its backend."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from ocifast import _core
from ocifast.edits import Edits, PreparedEdits, prepare
from ocifast.errors import FileError
from ocifast.image import Image
from ocifast.interrupt import interruptible, nothing
from ocifast.layered import WAITING, Store
from ocifast.packers import FileTarget, StreamTarget, WriteRequest, Written
from ocifast.planned import PlannedOutput
from ocifast.streams import binary_stdout, fd_of
from ocifast.workspace import Workspace, check_room

if TYPE_CHECKING:
    from ocifast.rootfs import Rootfs

__all__ = ["prepared_edits", "waiting_folder", "write_output"]


def write_output(
    output: PlannedOutput,
    rootfs: Rootfs,
    waiting: Path,
    *,
    name: str,
    digest: str,
    clamp_mtime: int | None,
    created: int,
    threads: int,
    layers: tuple[str, ...],
    leaves_out: bool,
    platform: str | None,
    progress: Callable[[int, int | None], None],
    cancelled: Callable[[], bool],
    stall: float,
) -> Written:
    """Writes one output under its private name, or to standard output.

    Args:
        output: opened.
        rootfs: the tree.
        waiting: where contents wait.
        name: of the image, for messages.
        digest: that UUIDs come from.
        clamp_mtime: seconds since 1970 that no time passes.
        created: seconds since 1970, of filesystems.
        threads: that pack.
        layers: see `WriteRequest`.
        leaves_out: see `WriteRequest`.
        platform: see `WriteRequest`.
        progress: gets bytes that are packed, and bytes to pack.
        cancelled: asked now and then.
        stall: seconds without a sign of life after which a tool counts as hung.

    Raises:
        OutputError: it could not be made.
        FileError: it could not be written; the message begins with the output.
    """
    stop = threading.Event()
    scratch = (waiting if output.space is None else output.space.path) / "packer"
    scratch.mkdir(mode=0o700)
    with ExitStack() as streams:
        target = (
            StreamTarget(streams.enter_context(fd_of(binary_stdout())))
            if output.made is None
            else FileTarget(output.made)
        )
        request = WriteRequest(
            tree=rootfs.tree,
            target=target,
            folder=scratch,
            digest=digest,
            options=output.options,
            clamp_mtime=clamp_mtime,
            created=created,
            threads=threads,
            layers=layers,
            leaves_out=leaves_out,
            platform=platform,
            files=output.file_digests,
            kernel_folder=output.kernel_folder,
            progress=progress,
            cancelled=lambda: stop.is_set() or cancelled(),
            stall=stall,
        )
        if output.space is not None and (size := output.backend.size(request)) is not None:
            check_room(Path(output.shown).absolute().parent, size, what=f"the {output.format.name} of {name}")
        tick = nothing if output.backend.tells(output.options) else _packing_tick(rootfs.tree, progress)
        try:
            written = interruptible(lambda: output.backend.write(request), stop, tick)
        except FileError as error:
            place = "standard output" if output.streams else output.shown
            raise FileError(f"{place}: {error.message}", **error.context) from error.__cause__
        tick(True)
        return written


def prepared_edits(
    edits: Edits, outputs: Sequence[PlannedOutput], stack: ExitStack, *, time: int
) -> PreparedEdits | None:
    """The edits of a compilation as layers, in files beside the first output that has a place; None for no edits.

    Args:
        edits: what is changed.
        outputs: of the compilation.
        stack: removes the files of edits when no output has a place.
        time: of what is added, in seconds since 1970.

    Raises:
        UsageError, FileError: as `ocifast.edits.prepare`.
    """
    if not edits:
        return None
    space = next((output.space for output in outputs if output.space is not None), None)
    if space is not None:
        return prepare(edits, space.subfolder("edits"), time=time)
    import tempfile

    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="ocifast-edits-"))
    return prepare(edits, Path(folder), time=time)


def waiting_folder(elsewhere: str | None, store: Store, beside: PlannedOutput, stack: ExitStack) -> Path:
    """An empty folder where contents wait, until `stack` is closed.

    Args:
        elsewhere: a folder that is named for it, which some stores cannot use.
        store: where contents wait in it.
        beside: the output beside which they wait otherwise.
        stack: removes it.
    """
    if elsewhere is not None and store.may_wait_elsewhere:
        return stack.enter_context(Workspace(Path(elsewhere, "spool"), is_directory=True)).subfolder(WAITING)
    if beside.space is None:
        import tempfile

        folder = Path(tempfile.gettempdir(), "spool")
        return stack.enter_context(Workspace(folder, is_directory=True)).subfolder(WAITING)
    return beside.space.subfolder(WAITING)


def _packing_tick(tree: _core.Tree, progress: Callable[[int, int | None], None]) -> Callable[..., None]:
    """What tells how far a writer of the core is, when that is news."""
    total = tree.content_bytes()
    told = -1

    def tick(finished: bool = False) -> None:
        nonlocal told
        # Holes are not read where the format can hold them.
        done = total if finished else min(tree.packed(), total)
        if done != told:
            told = done
            progress(done, total)

    return tick


def layer_names(image: Image, edits: PreparedEdits | None) -> tuple[str, ...]:
    """The diff IDs of all layers of a tree, of those that edits add as well."""
    return (*image.diff_ids, *(layer.diff_id for layer in (edits.layers if edits else ())))
