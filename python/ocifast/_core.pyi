"""The Rust core. Coarse calls: paths, descriptors, chunks and integers go in, frozen results come out.

Every call releases the GIL while it works. Failures are raised as the classes of `ocifast.errors`.
"""

from collections.abc import Callable
from os import PathLike
from typing import TypeAlias, final

__all__ = [
    "CODES",
    "MERGE_VERSION",
    "Edit",
    "Flattener",
    "FrameWriter",
    "Hasher",
    "KeptLayer",
    "LayerTable",
    "Limits",
    "SquashfsCompression",
    "Tree",
    "__version__",
    "check_digest",
    "check_points",
    "compare",
    "compress_frames",
    "copy_file",
    "decompress",
    "digest",
    "file_digest",
    "layer_digest",
    "layers_in_use",
    "read_image",
    "seal_verity",
    "start_writeback",
    "tar_header",
    "usage",
    "verify",
    "write_folder",
    "write_layer",
    "write_layered_erofs",
    "write_private_layers",
]

__version__: str
"""The version of the package (it stands in Cargo.toml)."""

MERGE_VERSION: int
"""Counts the changes of what the merge makes of the same entries."""

CODES: tuple[str, ...]
"""The code of every error that the core can raise."""

def digest(data: bytes | bytearray, /) -> str:
    """SHA-256 digest of `data`, as `sha256:hex`."""

def check_digest(text: str, /) -> None:
    """Returns when `text` is a sha256 or sha512 digest of the right length and alphabet; else DigestInvalidError."""

def file_digest(fd: int, /, *, threads: int = 1) -> str:
    """BLAKE3 over the offset and the BLAKE3 of each MiB of a file that is not all zeros, and over its size.

    As `blake3:hex`. Offsets and size are little endian, of 8 bytes. Holes are not read and change nothing. Raises
    FileError, and what the handler of a signal raises.
    """

def copy_file(source: int, destination: int, /, *, threads: int = 1) -> str:
    """Makes an open, empty file the copy of another, with holes where that has zeros; returns its `file_digest`.

    Raises FileError, and what the handler of a signal raises.
    """

def start_writeback(fd: int, /) -> None:
    """Has the system begin to bring an open file's bytes to the disk (sync_file_range(2)), where it can.

    Waits for no disk. What fails is told to who flushes the file.
    """

def check_points(fd: int, digest: str, size: int, /) -> None:
    """Checks restart points of a blob with this digest and size: checksum, version, all numbers.

    Raises FileError for what is damaged, of another version or of another blob.
    """

def decompress(source: int, destination: int, /) -> tuple[str, int]:
    """Decompresses a layer's blob from one file descriptor to another, by its content (gzip, zstd, or a plain tar).

    Returns the digest of the decompressed bytes (the diff ID) and their number. Raises CompressionError, LimitError.
    """

def compress_frames(source: int, destination: int, /, *, level: int, threads: int) -> tuple[str, int]:
    """Writes an open file to another as zstd frames (RFC 8878) of 2 MiB of the file, each with its length in front.

    The same file gives the same bytes, whatever `threads`. Returns the digest of what was written, and its length.
    Raises FileError.
    """

@final
class FrameWriter:
    """Takes what `compress_frames` has written, and writes the file that it was made of to empty files.

    Frames are decompressed side by side, and what is zero stays a hole. Files are complete only after `finish`.
    """

    def __new__(cls, fds: list[int], size: int, /, *, threads: int) -> FrameWriter: ...
    def write(self, data: bytes, /) -> None:
        """The next bytes, in pieces of any size. Raises CompressionError, also of earlier ones, and FileError."""
    def finish(self) -> None:
        """Waits until all is written. Raises as `write`, and CompressionError when frames are missing."""

@final
class Hasher:
    """A running digest (image-spec, descriptor.md, "Digests")."""

    def __new__(cls, algorithm: str = "sha256") -> Hasher: ...
    def update(self, data: bytes | bytearray, /) -> None: ...
    def digest(self) -> str:
        """`algorithm:hex` of all bytes so far; the hasher goes on."""

def tar_header(path: bytes, size: int | None, /) -> bytes:
    """The blocks before a tar member's data: a file 0644 of `size` bytes, or for None a folder 0755; of root, of 1970.

    Raises OutputUnsupportedError.
    """

def write_layer(
    members: list[tuple[bytes, int, str, bytes, int, int, int, int, int]],
    fd: int,
    offset: int,
    /,
    *,
    compression: str,
    level: int,
) -> tuple[str, int, str]:
    """Writes the blob of one layer into a file, in one pass over its members' bytes.

    Args:
        members: in the order of the layer. Each: path without leading slash, mode (0 to 0o7777), kind, data, size,
            owner, group, seconds and nanoseconds of the modification time. "file": `data` is the path of a regular file
            of `size` bytes. "bytes": `data` is the content. "directory". "symlink": `data` is the target.
        fd: an open file; its position is neither used nor changed.
        offset: of the blob's first byte.
        compression: "none", "gzip" or "zstd".
        level: for gzip 1 to 9, for zstd 1 to 22.

    Returns:
        Digest and size of the blob, diff ID. Raises FileError, SizeMismatchError when a file is not as long as its row
        says, OutputUnsupportedError.
    """

def write_folder(
    folder: int,
    members: list[tuple[bytes, int, str, bytes, int, int, int, int, int, list[tuple[bytes, bytes]], tuple[int, int]]],
    fd: int,
    /,
) -> tuple[str, int]:
    """Writes what is below a folder as a tar into a file, from its beginning.

    Args:
        folder: an open folder; files are opened below it, through no link.
        members: in order. Each: path from the folder (empty for itself), mode (0 to 0o7777), kind ("file", "directory",
            "symlink", "hardlink", "char", "block", "fifo"), target of a link (of a hard link the path of a member
            before), size of a file, owner, group, seconds and nanoseconds of the modification time, attributes, device
            number.
        fd: an open file.

    Returns:
        Digest and size of the tar. Raises FileError, SizeMismatchError when a file is not what its row says,
        OutputUnsupportedError.
    """

@final
class Edit:
    """What is changed in a finished tree, in the order of the arguments; see `rust/src/edit.rs`.

    Args:
        exclude: patterns of gitignore(5), relative to the root.
        subtree: the directory that becomes the root.
        mount_points: the time, in seconds since 1970, of the directories for mounts that are made; None makes none.
        owner: user and group of everything.
        id_offset: added to every id.
    """

    def __new__(
        cls,
        *,
        exclude: list[str],
        subtree: bytes | None = None,
        mount_points: int | None = None,
        owner: tuple[int, int] | None = None,
        id_offset: int = 0,
    ) -> Edit: ...

@final
class Limits:
    """Bounds on what layers may ask for; see `rust/src/limits.rs`. None keeps the default."""

    def __new__(
        cls,
        *,
        entries: int | None = None,
        layer_bytes: int | None = None,
        image_bytes: int | None = None,
        ratio: int | None = None,
        metadata_bytes: int | None = None,
    ) -> Limits: ...

@final
class SquashfsCompression:
    """How a squashfs image is compressed.

    Args:
        name: "zstd", "gzip", "xz", "lz4", "lz4hc" or "none".
        level: of zstd (1 to 22) or gzip (1 to 9).
        block_size: bytes of a block, a power of two from 4096 to 1 MiB.
        fragments: whether the ends of files, and small files, are packed together.
        threads: that compress; they change nothing in the image.
    """

    def __new__(
        cls,
        name: str,
        *,
        level: int | None = None,
        block_size: int = 131072,
        fragments: bool = True,
        threads: int = 1,
    ) -> SquashfsCompression: ...

@final
class Flattener:
    """All layers of one image on their way into one tree.

    For each layer either `write` chunks in order and `close_layer`, or `read_file`, each from any thread, one thread
    per layer; then `finish`. Layers must be started in order, or all at once: a higher layer may wait for a lower one.

    Args:
        layers: bottom layer first: digest and size of the blob, diff ID of the decompressed layer.
        store: where contents wait. "spool": files in `folder`, for every output but the others. "directory": one
            file per content in `folder`, moved into place by `Tree.write_directory`. "erofs": in the image that
            `Tree.write_erofs` completes; "erofs-blocks": the same in whole blocks, without tails behind inodes. A
            compression: as blocks of a squashfs image, for `Tree.write_squashfs`.
        folder: an existing folder of this process alone, on the file system of the output; the caller removes it.
        decoders: layers decoded at the same time; None chooses by the number of cores.
        added: indexes of the layers that hold what a user adds to the image; see `Merge::additions` in
            `rust/src/merge.rs`.
        branch: makes two trees: how many of the layers are the lowest ones of both, and the number of the first layer
            that only the second tree has; such layers come last.
        keep_removed: keeps what layers hide, for `usage`.
        from_top: layers are given top layer first and read one after the other; `wait_for`, `settles` and `tree_so_far`
            take the place of `finish`.
        erofs: indexes of the layers that are erofs images; each waits in `folder` until it is whole.
    """

    def __new__(
        cls,
        layers: list[tuple[str, int, str]],
        *,
        store: str | SquashfsCompression,
        folder: str | PathLike[str],
        limits: Limits | None = None,
        decoders: int | None = None,
        added: list[int] | None = None,
        branch: tuple[int, int] | None = None,
        keep_removed: bool = False,
        from_top: bool = False,
        erofs: list[int] | None = None,
    ) -> Flattener: ...
    def write(self, layer: int, chunk: bytes | bytearray, /) -> None:
        """Hands on bytes of the layer's blob; blocks while the decoder has enough. Raises what stopped the decoder."""
    def close_layer(self, layer: int, /) -> None:
        """The blob is complete. Its size and digest are compared now; returns before the layer is applied."""
    def read_file(self, layer: int, path: str | PathLike[str], offset: int, length: int, /) -> None:
        """Reads the whole blob from a slice of a file instead of `write` and `close_layer`."""
    def adopt(self, layer: int, table: LayerTable, fd: int, /) -> None:
        """Takes a decoded layer in the place of a blob: its table, and an open file with its data.

        Returns when all contents are taken, or can be read from the file, which must stay as it is until the tree is
        gone. Raises DiffIdMismatchError for another layer's.
        """
    def keep(self, layer: int, table: int, data: int, /, *, always: bool) -> None:
        """Keeps a layer that will come as a blob; called before its first bytes.

        Args:
            layer: its number.
            table: an empty file, open for reading and writing.
            data: another one. Contents wait in it where the store can share it.
            always: keeps also what whole blocks more than double.
        """
    def kept(self, layer: int, /) -> KeptLayer | None:
        """A layer that was kept and whose diff ID was compared, once, after `finish`; None when it was given up."""
    def use_points(self, layer: int, fd: int, /) -> None:
        """Has a layer's blob inflated from restart points as well; called before its first bytes.

        `fd` is an open file that `note_points` has made of the same blob. Raises FileError as `check_points`.
        """
    def note_points(self, layer: int, points: int, entries: int, /) -> None:
        """Notes restart points of a layer's blob, and the layer's entries; called before its first bytes.

        Both files are empty, and open for reading and writing.
        """
    def adopt_later(
        self, layer: int, table: LayerTable, points: int, blob: str | PathLike[str], offset: int, /
    ) -> None:
        """Takes the entries that `note_points` has noted in the place of a blob.

        Contents are inflated when they are asked for.

        Args:
            layer: its number.
            table: its entries.
            points: an open file with the restart points of its blob.
            blob: the file that the blob stands in, which has its digest and stays as it is until the tree is gone.
            offset: its first byte there.

        Raises:
            FileError: the points are damaged (see `check_points`); then nothing has happened.
            DiffIdMismatchError: they are those of another layer.
        """
    def noted(self, layer: int, /) -> tuple[bool, bool, bool]:
        """Of a layer that is verified, or taken by `adopt_later`: what became of its blob's restart points.

        Returns whether the file of points is complete, whether that of entries is, and whether points that were used
        are of another stream, as far as contents were asked for.
        """
    def progress(self) -> list[tuple[int, int, bool]]:
        """For each layer: compressed bytes taken, decompressed bytes done, whether it is applied."""
    def finish(self, edit: Edit | None = None, /) -> Tree:
        """Waits for all layers and edits the tree. Raises the first failure, by layer order; UsageError."""
    def finish_all(self) -> list[Tree]:
        """The same for all trees, unedited: one, or two with `branch`. Raises the first failure, by layer order."""
    def wait_for(self, layer: int, /) -> None:
        """Waits until a layer is complete and verified, and all before it. Raises the first failure."""
    def settles(self, path: bytes, question: str, /, *, follow: bool = True) -> bool:
        """Whether the layers read so far answer a question, whatever the others hold.

        Args:
            path: any path, as of `Tree.stat`.
            question: "entry": what is there; "path": the path without links that leads there; "children": what is in
                the directory; "all": what is in it at any depth.
            follow: whether a link at the path's end is followed.
        """
    def entries_of(self, layer: int, /) -> list[_LayerRow]:
        """What a layer that was waited for holds itself, in the order of its archive.

        Each: path of the image, what it is (as in `Tree.entries`, or "hardlink", "whiteout", "opaque", "bookkeeping"),
        mode, uid, gid, mtime seconds, mtime nanoseconds, target of a link (else b""), size in bytes. Raises LayerError
        for a path that no tree takes.
        """
    def compare_layers(
        self, first: int | None, second: int | None, /, *, times: bool
    ) -> list[tuple[bytes, _LayerRow | None, _LayerRow | None, list[str]]]:
        """What differs between two layers that were waited for, by path; `rust/src/compare_layers.rs` says what can.

        None for a layer that holds nothing. Each: path, the entry in the first layer and in the second (as in
        `entries_of`; None where it has none), what differs where both have it. `times` compares modification times as
        well. Raises LayerError for a path that no tree takes.
        """
    def tree_so_far(self) -> Tree:
        """The tree of the layers read so far: right where `settles` says so. Raises LayerError, naming the layer."""
    def abort(self) -> None:
        """Stops all threads; blocked writers get CancelledError. Safe at any time, from any thread."""

@final
class LayerTable:
    """The table of a decoded layer, from an open file, with its checksum compared. Raises FileError for any other."""

    def __new__(cls, fd: int, /) -> LayerTable: ...
    @property
    def diff_id(self) -> str:
        """Digest of the decompressed layer."""
    @property
    def entries(self) -> int:
        """Number of entries."""
    @property
    def reason(self) -> tuple[str, str, bytes] | None:
        """Why the layer cannot stand alone: code, what to say of it, path of the entry. None when it can."""
    @property
    def note(self) -> bytes:
        """What `KeptLayer.seal` was given."""
    def copy(self, fd: int, note: bytes, /) -> None:
        """Writes the same table with another note to an empty file. Raises FileError."""

@final
class KeptLayer:
    """A layer that was kept and verified, in its two files."""

    def complete(self) -> tuple[int, str, tuple[str, str, bytes] | None]:
        """Makes the data file an erofs image; returns its size, its `layer_digest`, and `LayerTable.reason`."""
    def seal(self, note: bytes, /) -> None:
        """Makes the table complete, with a note of the caller's."""

def layer_digest(fd: int, /) -> str:
    """BLAKE3 of a decoded layer's data file from its second block of 4096 bytes on, then of its first: `blake3:hex`."""

@final
class Tree:
    """A finished tree. Contents stay in the flattener's folder until the folder is removed."""

    def __len__(self) -> int:
        """Number of names, the root included."""
    def content_bytes(self) -> int:
        """Bytes of all files, holes included, each inode once."""
    def data_bytes(self) -> int:
        """Bytes of all files without their holes, each inode once."""
    def packed(self) -> int:
        """Bytes of contents that the running writer has taken or placed, of `content_bytes`; from any thread."""
    def unmatched(self) -> list[str]:
        """The patterns of the edit that match nothing."""
    def notices(self) -> list[tuple[str, int]]:
        """What was dropped or rewritten on the way in, by code, with counts."""
    def entries(
        self, prefix: bytes, start: int, count: int, /
    ) -> list[tuple[bytes, str, int, int, int, int, int, bytes, int, int]]:
        """Entries at and below `prefix` (a path without leading slash; b"" is the root) in the order of paths' bytes.

        Each: path, type ("file", "directory", "symlink", "char", "block", "fifo"), mode, uid, gid, mtime seconds,
        mtime nanoseconds, symlink target (else b""), size in bytes, inode number (names of one inode share it).
        """
    def stat(self, path: bytes, *, follow: bool = True) -> tuple[bytes, str, int, int, int, int, int, bytes, int, int]:
        """One entry; links are followed inside the root. Raises PathNotFoundError."""
    def resolve(self, path: bytes, *, follow: bool = True) -> bytes:
        """The path, without a leading slash, that leads to the same through no link. Raises PathNotFoundError."""
    def children(self, path: bytes, /) -> list[tuple[bytes, str, int, int, int, int, int, bytes, int, int]]:
        """What is in a directory, in the order of the names' bytes. Links to it are followed; PathNotFoundError."""
    def xattrs(self, path: bytes, /) -> dict[bytes, bytes]: ...
    def read(self, path: bytes, offset: int, length: int, /) -> bytes:
        """Bytes of a file's content (links are followed inside the root), at most 16 MiB; empty only at its end."""
    def dump(self) -> bytes:
        """The canonical text of the tree."""
    def digest(self) -> str:
        """SHA-256 of the canonical text: the tree digest."""
    def write_tar(
        self,
        fd: int,
        /,
        *,
        compression: str = "none",
        level: int = 0,
        clamp_mtime: int | None = None,
        sparse: bool = True,
    ) -> int:
        """Writes a pax tar to a file descriptor, compressed as by `write_cpio`; returns the number of bytes.

        With `sparse` the holes of files are kept (GNU's sparse format 1.0), else they are zeros.
        """
    def tar_size(self, *, clamp_mtime: int | None = None) -> int:
        """How many bytes `write_tar` would write uncompressed. Reads no contents."""
    def cpio_size(self, *, clamp_mtime: int | None = None) -> int:
        """How many bytes `write_cpio` would write uncompressed. Reads no contents."""
    def write_squashfs(
        self,
        path: str | PathLike[str],
        /,
        *,
        compression: SquashfsCompression,
        created: int,
        folder: str | PathLike[str],
        clamp_mtime: int | None = None,
        progress: Callable[[int, int], object] | None = None,
    ) -> tuple[int, list[tuple[str, str, int, list[bytes]]]]:
        """Writes a squashfs image; returns its size and the losses.

        Contents that wait as blocks of that compression are taken as they are; all others are compressed now.

        Args:
            path: of a file that does not exist yet.
            compression: of its blocks.
            created: time of the filesystem, in seconds since 1970.
            folder: for spool files of the writer's own, which have no names.
            clamp_mtime: seconds since 1970 that no time may pass.
            progress: told the bytes of files that are done, and all there are; what it raises ends the work.
        """
    def write_squashfs_tar(
        self, fd: int, /, *, clamp_mtime: int | None = None
    ) -> list[tuple[str, str, int, list[bytes]]]:
        """Writes a tar of what squashfs can hold to a pipe; returns the losses."""
    def squashfs_losses(self, *, clamp_mtime: int | None = None) -> list[tuple[str, str, int, list[bytes]]]:
        """What squashfs cannot hold of the tree: the losses of `write_squashfs_tar` without writing."""
    def devices(self) -> list[tuple[bytes, int, int]]:
        """Path, major and minor number of every name of a device."""
    def write_directory(
        self,
        path: str | PathLike[str],
        /,
        *,
        owners: bool,
        record: bool = False,
        folder: str | PathLike[str] | None = None,
        clamp_mtime: int | None = None,
    ) -> list[tuple[str, str, int, list[bytes]]]:
        """Makes the tree in the empty folder `path`, on the file system of the flattener's folder.

        From another store than "directory" contents are copied first, into the empty folder `folder` on the file system
        of `path`, which the caller removes. From the store "directory" they are moved: then nothing else can read them.

        Args:
            path: the folder.
            owners: whether owners are set.
            record: whether they, modes and devices are written to `user.containers.override_stat` as well.
            folder: for copies.
            clamp_mtime: seconds since 1970 that no time passes.

        Returns the losses: kind ("owner", "device", "xattr", ...), detail, how many entries, the first few paths.
        """
    def write_cpio(
        self, fd: int, /, *, compression: str = "none", level: int = 0, clamp_mtime: int | None = None
    ) -> tuple[int, list[tuple[str, str, int, list[bytes]]]]:
        """Writes a newc cpio to a file descriptor (a file or a pipe); returns the number of bytes and the losses.

        Args:
            fd: a file or a pipe.
            compression: "none", "gzip" or "zstd".
            level: 1 to 9 for gzip, 1 to 22 for zstd; 0 for the default.
            clamp_mtime: seconds since 1970; later times become this.
        """
    def write_erofs(
        self,
        path: str | PathLike[str],
        /,
        *,
        uuid: bytes,
        created: int,
        folder: str | PathLike[str] | None = None,
        whole_blocks: bool = False,
        clamp_mtime: int | None = None,
    ) -> tuple[int, list[tuple[str, str, int, list[bytes]]]]:
        """Writes an erofs image without compression; returns its size and the losses.

        The first one from a store "erofs" is the image that the layers were read into. Every other one is made of a
        copy of the contents, which puts them elsewhere where later layers have replaced files. Contents can still be
        read afterwards.

        Args:
            path: where the image goes, on the file system of the flattener's folder, and of `folder`.
            folder: an empty folder for the copy, which the caller removes; None where none is needed.
            whole_blocks: whether tails are in blocks of their own; as in the store "erofs-blocks".
            uuid: 16 bytes.
            created: seconds since 1970, the image's time. Inodes with just this mtime need half the space of others.
            clamp_mtime: seconds since 1970; later times become this.
        """
    def write_compressed_erofs(
        self,
        path: str | PathLike[str],
        /,
        *,
        uuid: bytes,
        created: int,
        compression: str,
        level: int | None = None,
        cluster: int = 65536,
        threads: int = 1,
        clamp_mtime: int | None = None,
        progress: Callable[[int, int], object] | None = None,
    ) -> tuple[int, list[tuple[str, str, int, list[bytes]]]]:
        """Writes a compressed erofs image, from any store; returns its size and the losses.

        Args:
            path: where the image goes; does not exist yet.
            uuid: 16 bytes.
            created: seconds since 1970, as for `write_erofs`.
            compression: "lz4", which has no levels, or "zstd".
            level: 1 to 22; None for 3.
            cluster: most bytes of a physical cluster, a power of two from 4096 to 1048576.
            threads: that compress; they change nothing in the image.
            clamp_mtime: seconds since 1970; later times become this.
            progress: told bytes of contents that are done, and those that there are, at the beginning, every few MiB
                and when all are done; what it raises ends the work and is raised.
        """
    def write_ext4(
        self,
        fd: int,
        /,
        *,
        uuid: bytes,
        created: int,
        free: int | None = None,
        size: int | None = None,
        journal: bool = False,
        clamp_mtime: int | None = None,
    ) -> tuple[int, list[tuple[str, str, int, list[bytes]]]]:
        """Writes an ext4 filesystem to a descriptor of an empty regular file; returns its size and the losses.

        Args:
            fd: an empty regular file.
            uuid: 16 bytes; the seed of the directories' hashes follows from it.
            created: seconds since 1970 that stand for the time of creation.
            free: bytes left free at least; ignored when there is a size.
            size: bytes of the whole image.
            journal: whether it gets a journal.
            clamp_mtime: seconds since 1970; later times become this.
        """

_Row: TypeAlias = tuple[bytes, str, int, int, int, int, int, bytes, int, int]
_LayerRow: TypeAlias = tuple[bytes, str, int, int, int, int, int, bytes, int]

def compare(first: Tree, second: Tree, /, *, times: bool) -> list[tuple[bytes, _Row | None, _Row | None, list[str]]]:
    """What differs between two trees, in the order of `Tree.entries`; `rust/src/compare.rs` names what can differ.

    Each: path, the entry in the first tree and in the second (as in `Tree.entries`; None where it has none), what
    differs where both have it. `times` compares modification times as well. Reads every file at most once, and none
    that both trees have from one layer of one flattener.
    """

def read_image(path: str | PathLike[str], form: str, /, *, limits: Limits | None = None) -> Tree:
    """The tree of a filesystem image or archive, read by readers that share nothing with the writers.

    Contents are read from the file as long as the tree lives. Archives must not be compressed.

    Args:
        path: the file.
        form: `erofs`, `squashfs`, `ext4`, `cpio` or `tar`.
        limits: what it may ask for.
    """

def verify(
    tree: Tree,
    path: str | PathLike[str],
    form: str,
    /,
    *,
    losses: list[tuple[str, int]],
    clamp_mtime: int | None,
    folder: str | PathLike[str],
    threads: int,
) -> None:
    """Reads a finished output back and compares it with the tree; raises `output_mismatch` with what differs.

    Args:
        tree: what it was made of; its contents must still be there.
        path: the output.
        form: as in `read_image`; archives may be compressed.
        losses: kind and count of what the writer could not hold: as much may be missing.
        clamp_mtime: seconds since 1970 that no time in the output passes.
        folder: where a compressed archive is unpacked to, into a file without a name.
        threads: that compare contents.
    """

def usage(
    tree: Tree, path: bytes, /, *, layers: int, top: int
) -> tuple[
    list[tuple[int, int, int, int]],
    list[tuple[bytes, int, int]],
    list[tuple[bytes, int, int]],
    list[tuple[bytes, int, int, int, bool]],
    list[tuple[list[bytes], int, int]],
    int,
]:
    """Where the bytes are at and below a path, which goes through no link. Bytes are those of data, without holes.

    Args:
        tree: of a flattener that kept what layers hide; of another one nothing is known to be hidden.
        path: without a leading slash.
        layers: how many there are.
        top: most items of each list but the first.

    Returns:
        For each layer: files, their bytes, those of them that are hidden, and their bytes. The largest files: path,
        bytes, layer. The largest folders: path, bytes with all below, 0. The largest hidden files: path, bytes, layer,
        the layer that hid it, whether something took its place. Duplicates: the first paths, how many there are, bytes
        of one. Bytes of all duplicates but one of each. Raises PathNotFoundError.
    """

def seal_verity(
    path: PathLike[str] | str,
    /,
    *,
    salt: bytes,
    uuid: bytes,
    threads: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[bytes, int, int]:
    """Appends a superblock and hash tree of dm-verity to an image, as `veritysetup format` makes them.

    SHA-256, hash type 1, blocks of 4096 bytes. A size that is no multiple of a block is filled up with zeros first.

    Args:
        path: the image.
        salt: at most 256 bytes.
        uuid: 16 bytes.
        threads: that hash side by side; changes nothing in the result.
        progress: told bytes done and bytes to do; what it raises ends the work and is raised.

    Returns:
        The root hash of 32 bytes, the offset of the superblock in bytes, the number of blocks of data. Raises
        OutputUnsupportedError for an empty image or a long salt, FileError.
    """

def layers_in_use(tree: Tree, /) -> list[tuple[int, int, int]]:
    """The layers that files of the tree have data in, ascending.

    Contents must wait in "spool", and every such layer must have been kept or adopted, into a file of its own.

    Returns:
        For each: its number; bytes of its file up to the end of the data; bytes of blocks that the tree has not.
    """

def write_private_layers(tree: Tree, files: list[tuple[int, int]], /) -> None:
    """Writes to empty files the data of layers that the tree has, at their places; the rest are holes.

    Args:
        tree: as for `layers_in_use`.
        files: layers, and a descriptor for each. Raises FileError.
    """

def write_layered_erofs(
    tree: Tree,
    fd: int,
    /,
    *,
    devices: list[tuple[list[int], str]],
    uuid: bytes,
    created: int,
    single: bool = False,
    clamp_mtime: int | None = None,
) -> tuple[int, list[tuple[str, str, int, list[bytes]]], list[int]]:
    """Writes an erofs image of metadata to an empty file; its data are in the files of layers, which are its devices.

    Args:
        tree: as for `layers_in_use`.
        fd: open for reading and writing.
        devices: numbers of layers and a tag of at most 64 bytes, in the order of the devices. Each layer of
            `layers_in_use` is in one; those in one are the same.
        uuid: 16 bytes.
        created: time of the filesystem, in seconds since 1970.
        single: the layers' data, without what the tree has not, follow the metadata in the same file, which has no
            devices.
        clamp_mtime: as for the other writers.

    Returns:
        Bytes written, what was lost (as the other writers have it), and the block at which each device begins
        where all are one disk. Raises OutputUnsupportedError for more than 16 TiB, FileError.
    """
