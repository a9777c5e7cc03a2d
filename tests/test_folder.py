"""`dir:`: a folder as a root filesystem, whatever is in it and whoever changes it meanwhile."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path

import ocifast
import pytest
from ocifast import _core
from ocifast.errors import ImageNotFoundError, OcifastError
from ocifast.sources import folder as module

from tests.support.oracle import dump_directory, dump_mounted
from tests.support.refusal import refusing
from tests.support.run import COMMAND, run, try_ocifast

UNCACHED = ocifast.CompileOptions(cache=False)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / "etc").mkdir(parents=True)
    (root / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\n")
    (root / "etc/alias").hardlink_to(root / "etc/passwd")
    (root / "abs").symlink_to("/etc/shadow")
    return root


def make(tree: Path, output: Path) -> None:
    ocifast.compile(f"dir:{tree}", output, options=UNCACHED)


@pytest.mark.tools
@pytest.mark.root
def test_the_tools_of_filesystems_make_the_same(tree: Path, tmp_path: Path) -> None:
    with (tree / "hole").open("wb") as file:
        file.truncate(9 << 20)
        file.seek(5 << 20)
        file.write(b"x" * 5000)
    os.utime(tree / "etc/passwd", ns=(1, -1_500_000_000))
    make(tree, tmp_path / "ours.erofs")
    run("mkfs.erofs", "-T0", "--ignore-mtime", tmp_path / "theirs.erofs", tree)
    theirs = dump_mounted(tmp_path / "theirs.erofs", "erofs", tmp_path / "mount")
    ours = dump_mounted(tmp_path / "ours.erofs", "erofs", tmp_path / "mount")

    def bare(dump: str) -> list[list[str]]:
        # Without times, which mkfs.erofs cannot hold before 1970.
        return [[*line.split()[:5], *line.split()[6:]] for line in dump.splitlines()]

    assert bare(ours) == bare(theirs)
    assert ours == dump_directory(tree)
    assert (tmp_path / "ours.erofs").stat().st_size < 1 << 20
    made = tmp_path / "made"
    make(tree, made)
    assert (made / "hole").stat().st_blocks * 512 < 100_000
    assert (made / "etc/alias").samefile(made / "etc/passwd")


@pytest.mark.root
def test_sockets_are_left_out_and_told(tree: Path, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.path.relpath(tree / "etc/sock"))
        done = try_ocifast("compile", f"dir:{tree}", tmp_path / "out", "--no-cache", "--progress", "none")
    assert done.returncode == 0
    assert f"dir:{tree}: sockets are left out (1): an image has none\n" in done.stderr.decode()
    assert dump_directory(tmp_path / "out") == dump_directory(tree, skip=[b"etc/sock"])


def swap(tree: Path) -> None:
    secret = tree.parent / "secret"
    secret.write_bytes((tree / "etc/alias").read_bytes())
    (tree / "etc/alias").unlink()
    (tree / "etc/alias").symlink_to(secret)


def swap_above(tree: Path) -> None:
    (tree / "etc").rename(tree.parent / "elsewhere")
    (tree / "etc").symlink_to(tree.parent / "elsewhere")


def replace_by_a_pipe(tree: Path) -> None:
    (tree / "etc/alias").unlink()
    os.mkfifo(tree / "etc/alias")


def remove(tree: Path) -> None:
    (tree / "etc/alias").unlink()


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a link in the place of a file": (swap, "etc/alias"),
    "a link in the place of its folder": (swap_above, "cannot read etc/alias"),
    "a pipe in the place of a file": (replace_by_a_pipe, "etc/alias"),
    "shorter": (lambda tree: os.truncate(tree / "etc/passwd", 3), "etc/alias was changed while it was read"),
    "longer": (lambda tree: os.truncate(tree / "etc/passwd", 300), "etc/alias was changed while it was read"),
    "gone": (remove, "cannot read etc/alias"),
}


@pytest.mark.parametrize("without", [False, True], ids=["", "without openat2"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_folder_that_changes_meanwhile(
    tree: Path, change: str, without: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changing, why = CHANGES[change]
    if without:
        script = tmp_path / "script.py"
        script.write_text(
            "import sys\n"
            "from pathlib import Path\n"
            "import ocifast\n"
            "from ocifast.errors import OcifastError\n"
            "from ocifast.sources import folder\n"
            "from tests import test_folder\n"
            "kept = folder._core.write_folder\n"
            "class Core:\n"
            "    @staticmethod\n"
            "    def write_folder(*rest):\n"
            "        test_folder.CHANGES[sys.argv[2]][0](Path(sys.argv[1]))\n"
            "        return kept(*rest)\n"
            "folder._core = Core\n"
            "try:\n"
            "    ocifast.compile(f'dir:{sys.argv[1]}', sys.argv[3], options=ocifast.CompileOptions(cache=False))\n"
            "except OcifastError as error:\n"
            "    print(error)\n"
        )
        root = Path(__file__).parent.parent
        env = {**refusing(openat2="ENOSYS"), "PYTHONPATH": str(root)}
        python = Path(COMMAND).with_name("python")
        said = run(python, script, tree, change, tmp_path / "out", env=env).decode()
    else:
        kept = _core.write_folder

        class Core:
            @staticmethod
            def write_folder(*rest: object) -> object:
                changing(tree)
                return kept(*rest)  # type: ignore[arg-type]

        monkeypatch.setattr(module, "_core", Core)
        with pytest.raises(OcifastError) as caught:
            make(tree, tmp_path / "out")
        said = str(caught.value)
    assert said.startswith(f"dir:{tree}: ")
    assert why in said
    assert not (tmp_path / "out").exists()


def test_what_is_no_root_filesystem(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(ImageNotFoundError, match=r"there is no folder .*none"):
        make(tmp_path / "none", tmp_path / "out")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ImageNotFoundError, match=r"is a file; a root filesystem in a tar is written tar:"):
        make(tmp_path / "file", tmp_path / "out")
    (tree / "etc/.wh.passwd").write_bytes(b"")
    with pytest.raises(
        OcifastError, match=r"etc/\.wh\.passwd: a name that starts with \.wh\. deletes files in an image"
    ):
        make(tree, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.root
def test_what_may_not_be_read_is_named() -> None:
    script = """
import os, sys
import ocifast.compiler, ocifast.sources.folder, ocifast.packers.tar, ocifast.sources.transports
# Modules are imported by now: their place may be closed to other users.
os.setuid(54321)
try:
    ocifast.compile(sys.argv[1], sys.argv[2], options=ocifast.CompileOptions(cache=False))
except ocifast.OcifastError as error:
    print(error)
"""
    with tempfile.TemporaryDirectory(prefix="ocifast-tests-") as name:
        folder = Path(name)
        folder.chmod(0o777)
        (folder / "tree").mkdir()
        (folder / "tree/secret").write_bytes(b"x")
        (folder / "tree/secret").chmod(0)
        python = Path(COMMAND).with_name("python")
        said = run(python, "-c", script, f"dir:{folder}/tree", folder / "x.tar", env={"TMPDIR": name}).decode()
        assert said == f"dir:{folder}/tree: cannot read secret: Permission denied (os error 13)\n"
        assert [path.name for path in folder.iterdir()] == ["tree"]


def test_deep_folders_and_the_folder_itself_through_a_link(tree: Path, tmp_path: Path) -> None:
    deep = tree / "/".join(["d"] * 200)
    deep.mkdir(parents=True)
    (deep / "file").write_bytes(b"x")
    (tmp_path / "link").symlink_to(tree)
    for name in ("tree", "link"):
        with ocifast.open(f"dir:{tmp_path}/{name}") as image, image.flatten() as found:
            assert found.read_bytes("/" + "d/" * 200 + "file") == b"x"
            assert found.stat("/abs", follow=False).target == "/etc/shadow"
