"""Trees at the edge of what formats hold: each made by hand, packed as every format and read back."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from ocifast.errors import OutputUnsupportedError

from tests.support.edge import deep_layer, empty_files, listed, names_below, opened, write_layer
from tests.support.layers import TarBuilder
from tests.support.pack import LayerFile, flattened, pack

pytestmark = pytest.mark.root

FORMATS = ["dir", "tar", "cpio", "erofs", "ext4", "squashfs"]
GIB = 1 << 30

PIECES = [(0, b"begins" + bytes(506)), (3 * GIB + 4096, b"middle" + bytes(506)), (5 * GIB - 512, bytes(508) + b"ends")]
"""Data of a file of 5 GiB; all the rest are holes."""


@pytest.mark.parametrize("form", ["dir", "erofs", "ext4", "squashfs"])
def test_a_file_of_5_gib_with_holes(form: str, tmp_path: Path) -> None:
    tar = TarBuilder().sparse("big", PIECES, 5 * GIB)
    packed = pack([tar], tmp_path / "out", form, with_dump=False)
    assert packed.losses == []
    used = sum(path.stat().st_blocks * 512 for path in ([packed.path / "big"] if form == "dir" else [packed.path]))
    assert used < 32 << 20, f"{used} bytes on disk"
    with opened(packed.path, form, tmp_path / "read") as root, (root / "big").open("rb", buffering=0) as file:
        assert file.seek(0, os.SEEK_END) == 5 * GIB
        for offset, data in PIECES:
            assert os.pread(file.fileno(), len(data), offset) == data
        for offset in (512, GIB, 3 * GIB + 4096 - 512, 3 * GIB + 4096 + 512, 5 * GIB - 4096):
            assert os.pread(file.fileno(), 512, offset) == bytes(512)


@pytest.mark.slow
def test_a_file_of_5_gib_in_a_tar_stream() -> None:
    """Read as it comes, with the holes as zeros: the archive is not kept anywhere."""
    with flattened([TarBuilder().sparse("big", PIECES, 5 * GIB)]) as tree:
        reader, writer = os.pipe()
        written: list[int] = []

        def write() -> None:
            try:
                written.append(tree.write_tar(writer, sparse=False))
            finally:
                os.close(writer)

        thread = threading.Thread(target=write)
        thread.start()
        with os.fdopen(reader, "rb", buffering=0) as stream:
            done = subprocess.run(
                [sys.executable, "-c", TAR_READER], stdin=stream, capture_output=True, check=True, timeout=300
            )
        thread.join()
    assert done.stdout.split() == [b"big", str(5 * GIB).encode(), *[data.strip(b"\0") for _, data in PIECES]]
    assert 5 * GIB < written[0] < 5 * GIB + 65536


TAR_READER = f"""
import sys, tarfile
archive = tarfile.open(fileobj=sys.stdin.buffer, mode="r|", bufsize=1 << 20)
for member in archive:
    if not member.isfile():
        continue
    print(member.name, member.size)
    file = archive.extractfile(member)
    offset, wanted = 0, {[offset for offset, _ in PIECES]}
    while chunk := file.read(1 << 20):
        for at in wanted:
            if offset <= at < offset + len(chunk):
                print(chunk[at - offset : at - offset + 512].strip(b"\\0").decode())
        offset += len(chunk)
"""


def test_a_file_of_5_gib_is_too_big_for_cpio(tmp_path: Path) -> None:
    with pytest.raises(OutputUnsupportedError, match="big"):
        pack([TarBuilder().sparse("big", PIECES, 5 * GIB)], tmp_path / "out", "cpio", with_dump=False)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> tuple[LayerFile, set[bytes]]:
    """200,000 empty files in one folder."""
    names = [b"folder/file-number-%d" % number for number in range(200_000)]
    return write_layer(tmp_path_factory.mktemp("wide") / "layer", empty_files(names)), {b"folder", *names}


@pytest.mark.tools
@pytest.mark.parametrize("form", FORMATS)
def test_200_000_entries_in_one_folder(form: str, wide: tuple[LayerFile, set[bytes]], tmp_path: Path) -> None:
    layer, names = wide
    packed = pack([layer], tmp_path / "out", form, with_dump=False)
    assert packed.losses == []
    if form in ("tar", "cpio"):
        assert listed(packed.path) == names
        return
    # `names_below` asks for each name by itself, so the index is looked at as well as the list.
    with opened(packed.path, form, tmp_path / "read") as root:
        assert names_below(root) == names


@pytest.mark.tools
@pytest.mark.parametrize("form", FORMATS)
def test_names_of_255_bytes(form: str, tmp_path: Path) -> None:
    tar = TarBuilder()
    names = {
        bytes([first]) * 254 + bytes([second]) for first in (0x61, 0xC3, 0xFF, 0x01) for second in range(0x30, 0x7B)
    }
    for name in names:
        tar.file(name, name)
    packed = pack([tar], tmp_path / "out", form)
    assert packed.losses == []
    with opened(packed.path, form, tmp_path / "read") as root:
        assert names_below(root) == names
        for name in names:
            assert (root / os.fsdecode(name)).read_bytes() == name


@pytest.mark.tools
@pytest.mark.parametrize("form", FORMATS)
def test_paths_beyond_4096_bytes(form: str, tmp_path: Path) -> None:
    folders = deep_layer(60, b"d" * 200)
    tar = TarBuilder()
    for path in folders:
        tar.directory(path)
    tar.file(folders[-1] + b"/file", b"deep")
    names = {*folders, folders[-1] + b"/file"}
    packed = pack([tar], tmp_path / "out", form)
    beyond = [path for path in names if len(path) > 4095]
    assert sum(loss.count for loss in packed.losses) == (len(beyond) if form == "cpio" else 0)
    if form in ("tar", "cpio"):
        assert listed(packed.path) == names
    else:
        with opened(packed.path, form, tmp_path / "read") as root:
            assert names_below(root) == names
    if form == "dir":
        # pytest's own clean-up takes whole paths.
        subprocess.run(["rm", "-rf", packed.path], check=True)


@pytest.mark.parametrize("form", ["tar", "erofs", "ext4", "squashfs"])
def test_attributes_of_64_kib(form: str, tmp_path: Path) -> None:
    values = {"user.one": bytes(range(256)) * 255, "user.two": b"2" * 65_000, "trusted.three": b"3" * 4096}
    tar = TarBuilder().file("file", b"f", xattrs=values).directory("d", xattrs=values)
    packed = pack([tar], tmp_path / "out", form)
    assert packed.losses == []
    if form == "tar":
        assert all(value in packed.path.read_bytes() for value in values.values())
        return
    with opened(packed.path, form, tmp_path / "read") as root:
        for path in (root / "file", root / "d"):
            assert {name: os.getxattr(path, name) for name in os.listxattr(path)} == values


@pytest.mark.tools
@pytest.mark.parametrize("layers", [[], [b""], [bytes(1024)]], ids=["no-layers", "no-bytes", "no-members"])
@pytest.mark.parametrize("form", FORMATS)
def test_an_empty_image(form: str, layers: list[bytes], tmp_path: Path) -> None:
    packed = pack(layers, tmp_path / "out", form)
    assert packed.losses == []
    assert packed.dump == "/ directory 0755 0 0 0.000000000 - - - -\n"
    with opened(packed.path, form, tmp_path / "read") as root:
        assert names_below(root) == set()
        assert root.stat().st_mode & 0o7777 == 0o755


MILLION = 1_000_000
SPLITS = {"one": (1.0,), "half and half": (0.5, 0.5), "nearly all above": (0.001, 0.999)}
"""Which part of the entries is in which layer, lowest first."""


@pytest.fixture(scope="module")
def crowds(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int, str], list[LayerFile]]:
    """Layers that have so many empty files together, a thousand in a folder, all of 1969 and somebody else's."""
    folder = tmp_path_factory.mktemp("crowds")

    @cache
    def make(count: int, split: str) -> list[LayerFile]:
        layers, start = [], 0
        for number, part in enumerate(SPLITS[split]):
            end = start + round(count * part)
            names = (b"folder-%d/file-number-%d" % (at // 1000, at) for at in range(start, end))
            files = empty_files(names, mtime=-1, uid=7)
            layers.append(write_layer(folder / f"{count}-{split}-{number}", files))
            start = end
        return layers

    return make


MEASURE = """
import re, sys
from pathlib import Path
from ocifast.packers import PackOptions
from tests.support.pack import LayerFile, pack
form, backend, out, *words = sys.argv[1:]
options = PackOptions(backend=backend or None, owners=False if form == "dir" else None)
layers = [LayerFile(Path(path), digest, diff_id) for path, digest, diff_id in zip(*[iter(words)] * 3)]
pack(layers, Path(out), form, options=options, with_dump=False)
# Of this program alone: the peak that `getrusage` tells begins with that of whoever has started it.
print(int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024)
"""


def peak_memory(form: str, backend: str, out: Path, layers: list[LayerFile]) -> int:
    """Bytes of memory that a process of its own takes at most to pack some layers."""
    words = [word for layer in layers for word in (layer.path, layer.digest, layer.diff_id)]
    command = [sys.executable, "-c", MEASURE, form, backend, out, *words]
    root = Path(__file__).parent.parent
    done = subprocess.run(command, capture_output=True, cwd=root, check=False, timeout=500, text=True)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.tools
@pytest.mark.parametrize("form", ["tar", "erofs", "ext4", "squashfs"])
def test_20_gib_of_holes_take_neither_memory_nor_disk(form: str, tmp_path: Path) -> None:
    pieces = [(0, b"begins" + bytes(506)), (20 * GIB - 512, bytes(508) + b"ends")]
    layer = write_layer(tmp_path / "layer", [TarBuilder().sparse("big", pieces, 20 * GIB).build()])
    assert peak_memory(form, "", tmp_path / "out", [layer]) < 128 << 20
    assert (tmp_path / "out").stat().st_blocks * 512 < 32 << 20


@pytest.mark.tools
@pytest.mark.parametrize(
    ("form", "backend", "count", "split"),
    [
        *((form, "", MILLION, split) for form in ("tar", "cpio", "erofs", "ext4", "squashfs") for split in SPLITS),
        # Fewer, as these take minutes for a million: each file is one of the file system, or the tool is slow.
        ("dir", "", MILLION // 5, "nearly all above"),
        ("squashfs", "tar2sqfs", MILLION // 5, "nearly all above"),
        ("squashfs", "mksquashfs", MILLION // 5, "nearly all above"),
    ],
)
def test_an_entry_takes_at_most_300_bytes_of_memory(
    form: str, backend: str, count: int, split: str, crowds: Callable[[int, str], list[LayerFile]], tmp_path: Path
) -> None:
    peak = {
        entries: peak_memory(form, backend, tmp_path / f"out-{entries}", crowds(entries, split))
        for entries in (1000, count)
    }
    an_entry = (peak[count] - peak[1000]) / count
    assert an_entry <= 300, f"{an_entry:.0f} bytes an entry"
