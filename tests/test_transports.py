"""The table of transports, held to its contract, and root filesystems that are no images.

What a tar becomes is compared with the folder that GNU tar made it of.
"""

from __future__ import annotations

import ast
import os
import re
import stat
from contextlib import closing
from pathlib import Path

import ocifast
import pytest
from ocifast.errors import ImageNotFoundError, UsageError
from ocifast.sources.open import is_location, open_destination, open_source, parse_location, syntax
from ocifast.sources.transports import TRANSPORTS

from tests.support.images import compress
from tests.support.oracle import dump_cpio, dump_directory, dump_mounted, dump_tar
from tests.support.run import COMMAND, run, try_ocifast
from tests.support.run import ocifast as command
from tests.support.samples import everything

REFERENCES = Path(__file__).parent.parent / "docs/references.md"

EXAMPLES = {
    "docker": "docker://localhost:1/a:b",
    "oci": "oci:{}/dir:tag",
    "oci-archive": "oci-archive:{}/file:tag",
    "docker-archive": "docker-archive:{}/file:a:b",
    "docker-daemon": "docker-daemon:no/such:image",
    "containers-storage": "containers-storage:no/such:image",
    "tar": "tar:{}/file",
    "dir": "dir:{}/dir",
}


def test_each_transport_has_an_example_here() -> None:
    assert list(EXAMPLES) == list(TRANSPORTS)


@pytest.mark.parametrize("prefix", TRANSPORTS)
def test_a_transport_keeps_its_contract(prefix: str, tmp_path: Path) -> None:
    transport = TRANSPORTS[prefix]
    text = EXAMPLES[prefix].format(tmp_path)
    location = parse_location(text)
    assert is_location(text)
    assert (str(location), location.transport, location.is_remote) == (text, prefix, transport.is_remote)
    assert (location.path is not None) == (transport.on_disk is not None)
    assert (location.remote is not None) == transport.is_remote
    assert f"{prefix}:" in transport.syntax
    assert transport.syntax in syntax()
    assert f"`{transport.syntax}`" in REFERENCES.read_text().replace("[docker://][HOST/]", "[docker://]HOST/")
    # Help breaks lines, also at hyphens.
    told = "".join(command("--help").decode().split())
    assert "".join(transport.about.split()) in told
    assert "".join(transport.syntax.split()) in told
    if transport.is_remote:
        with closing(open_source(location)) as source:
            assert source.name
    else:
        with pytest.raises(ImageNotFoundError):
            open_source(location)
    if transport.destination is None:
        with pytest.raises(UsageError, match=f"read from {prefix}: and not written to it"):
            open_destination(location)
    else:
        open_destination(location).abort()
    assert list(tmp_path.iterdir()) in ([], [tmp_path / "dir"])


def test_no_list_of_prefixes_stands_elsewhere() -> None:
    """Texts that name two prefixes or more, other than docstrings, come from the table."""
    package = Path(ocifast.__file__).parent
    found = []
    for path in sorted(package.rglob("*.py")):
        if path.is_relative_to(package / "sources/transports"):
            continue
        nodes = list(ast.walk(ast.parse(path.read_text())))
        documentation = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
        for node in nodes:
            text = ast.unparse(node) if isinstance(node, ast.JoinedStr) else getattr(node, "value", None)
            if isinstance(text, str) and id(node) not in documentation:
                named = {prefix for prefix in TRANSPORTS if re.search(rf"(?<![\w-]){prefix}:(?=[\w{{])", text)}
                found += [f"{path.name}: {text}"] * (len(named) > 1)
    assert found == []


@pytest.fixture
def rootfs(tmp_path: Path) -> Path:
    """A tar with one of everything."""
    path = tmp_path / "root:fs.tar"
    path.write_bytes(everything().build())
    return path


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A real folder: owners, modes, set-id bits, attributes, hard links, a device, a FIFO, a dangling link."""
    root = tmp_path / "tree"
    (root / "etc/deep").mkdir(parents=True)
    (root / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\n")
    (root / "etc/passwd-").hardlink_to(root / "etc/passwd")
    (root / "etc/link").symlink_to("../nowhere")
    (root / "odd \\ \u00e9:name").write_bytes(bytes(range(256)) * 5000)
    os.mkfifo(root / "fifo", 0o600)
    os.mknod(root / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    os.setxattr(root / "etc/passwd", "user.note", b"\0\xff")
    os.chown(root / "etc/deep", 70_000, 4_000_000_000)
    (root / "etc/deep").chmod(0o2750)
    os.chown(root / "etc/passwd", 5, 6)
    (root / "etc/passwd").chmod(0o6755)
    for number, path in enumerate(sorted(root.rglob("*"), reverse=True)):
        os.utime(path, (number, number), follow_symlinks=False)
    os.utime(root, (1_600_000_000, 1_600_000_000))
    return root


@pytest.mark.root
@pytest.mark.parametrize("form", ["dir", "tar", "cpio", "erofs", "ext4", "squashfs"])
@pytest.mark.parametrize("place", ["tar", "dir"])
def test_a_real_tree_is_that_tree(tree: Path, place: str, form: str, tmp_path: Path) -> None:
    rootfs = tmp_path / "rootfs.tar" if place == "tar" else tree
    if place == "tar":
        run("tar", "--format=posix", "--xattrs", "--xattrs-include=*", "-C", tree, "-cf", rootfs, ".")
    output = tmp_path / "output"
    command("compile", f"{place}:{rootfs}", output, "-f", form)
    if form == "dir":
        seen = dump_directory(output)
    elif form == "tar":
        seen = dump_tar(output, tmp_path / "seen")
    elif form == "cpio":
        seen = dump_cpio(output, tmp_path / "seen")
    else:
        seen = dump_mounted(output, form, tmp_path / "seen")
    expected = dump_directory(tree)
    if form == "cpio":
        expected = expected.replace("user.note=00ff", "-")
    assert seen == expected


@pytest.mark.tools
@pytest.mark.slow
@pytest.mark.parametrize("compression", ["plain", "gzip", "zstd", "xz", "bzip2", "pipe"])
def test_however_a_tar_comes_the_tree_is_the_same(rootfs: Path, compression: str, tmp_path: Path) -> None:
    ocifast.compile(f"tar:{rootfs}", tmp_path / "expected.tar", options=ocifast.CompileOptions(cache=False))
    data = rootfs.read_bytes()
    if compression in ("xz", "bzip2"):
        data = run(compression, "-c", stdin=data)
    elif compression in ("gzip", "zstd"):
        data = compress(data, compression)  # type: ignore[arg-type]
    place, stdin = (tmp_path / "input", b"") if compression != "pipe" else ("-", data)
    (tmp_path / "input").write_bytes(data)
    run(COMMAND, "compile", f"tar:{place}", tmp_path / "seen.tar", "--no-cache", stdin=stdin)
    assert (tmp_path / "seen.tar").read_bytes() == (tmp_path / "expected.tar").read_bytes()


@pytest.mark.slow
def test_an_image_of_a_tar_tells_nothing_of_this_machine(rootfs: Path, tmp_path: Path) -> None:
    found = command("inspect", "--config", f"tar:{rootfs}") + command("inspect", "--raw", f"tar:{rootfs}")
    assert str(tmp_path).encode() not in found
    (tmp_path / "other").write_bytes(rootfs.read_bytes())
    assert command("inspect", "--raw", f"tar:{tmp_path}/other") == command("inspect", "--raw", f"tar:{rootfs}")
    command("copy", f"tar:{rootfs}", f"oci:{tmp_path}/layout:app", "--quiet")
    assert command("ls", "-R", f"oci:{tmp_path}/layout:app") == command("ls", "-R", f"tar:{rootfs}")


BAD = {
    "nothing": "there is no file",
    "folder": "is a folder; a root filesystem in a folder is written dir:",
    "text": "the layer is neither gzip, zs",
    "cut.gz": "ends early",
}


@pytest.mark.parametrize("name", BAD)
def test_a_tar_that_is_none(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "text").write_text("This is no archive.\n" * 100)
    (tmp_path / "cut.gz").write_bytes(compress(everything().build(), "gzip")[:-50])
    done = try_ocifast("compile", f"tar:{tmp_path}/{name}", tmp_path / "out.tar", "--quiet")
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert f"{tmp_path}/{name}" in done.stderr.decode()
    assert BAD[name] in done.stderr.decode()
    assert not (tmp_path / "out.tar").exists()
