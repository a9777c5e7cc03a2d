"""Runnables: the files that go into an image with the executable."""

from __future__ import annotations

from pathlib import Path

import pytest
from ocifast.errors import UsageError
from ocifast.runnable import Runnable
from ocifast.runnable.users import user_files

from tests.support.archives import Opened, short
from tests.support.elf import build_elf


@pytest.fixture
def hello(tmp_path: Path) -> Path:
    """A small static executable, which nothing runs here."""
    path = tmp_path / "in/hello"
    path.parent.mkdir()
    path.write_bytes(build_elf())
    return path


def built(runnable: Runnable, folder: Path) -> Opened:
    folder.mkdir()
    runnable.write(folder / "image.tar")
    return Opened(folder / "image.tar")


USERS = [
    ("0", {}),
    ("1000:100", {}),
    ("root", {"passwd": ["root:x:0:0:root:/:/sbin/nologin"], "group": ["root:x:0:"]}),
    (
        "app",
        {
            "passwd": ["root:x:0:0:root:/:/sbin/nologin", "app:x:65532:65532::/:/sbin/nologin"],
            "group": ["root:x:0:", "app:x:65532:"],
        },
    ),
    (
        "app:staff",
        {
            "passwd": ["root:x:0:0:root:/:/sbin/nologin", "app:x:65532:65532::/:/sbin/nologin"],
            "group": ["root:x:0:", "staff:x:65532:"],
        },
    ),
    (
        "app:100",
        {
            "passwd": ["root:x:0:0:root:/:/sbin/nologin", "app:x:65532:100::/:/sbin/nologin"],
            "group": ["root:x:0:"],
        },
    ),
    (
        "app:root",
        {
            "passwd": ["root:x:0:0:root:/:/sbin/nologin", "app:x:65532:0::/:/sbin/nologin"],
            "group": ["root:x:0:"],
        },
    ),
    ("1000:staff", {"passwd": ["root:x:0:0:root:/:/sbin/nologin"], "group": ["root:x:0:", "staff:x:65532:"]}),
]


@pytest.mark.parametrize(("user", "expected"), USERS)
def test_users(user: str, expected: dict[str, list[str]]) -> None:
    assert user_files(user) == {
        f"etc/{name}": "".join(f"{line}\n" for line in lines).encode() for name, lines in sorted(expected.items())
    }


def test_a_user_with_a_name_gets_a_passwd_in_a_layer_below(hello: Path, tmp_path: Path) -> None:
    image = built(Runnable(hello, user="app"), tmp_path / "out")
    files = user_files("app")
    assert image.config["config"]["User"] == "app"
    assert image.layers() == [
        [
            "etc folder 755 0:0 0 -",
            f"etc/group file 644 0:0 0 {short(files['etc/group'])}",
            f"etc/passwd file 644 0:0 0 {short(files['etc/passwd'])}",
        ],
        [f"hello file 755 0:0 0 {short(hello.read_bytes())}"],
    ]
    assert [line["comment"] for line in image.config["history"]] == ["files", "executable /hello"]
    assert len(image.config["rootfs"]["diff_ids"]) == 2


def test_a_passwd_of_the_user_takes_the_place_of_ours(hello: Path, tmp_path: Path) -> None:
    (tmp_path / "passwd").write_text("me:x:7:7::/:/\n")
    image = built(Runnable(hello, user="me", add=[(tmp_path / "passwd", "/etc/")]), tmp_path / "out")
    assert f"etc/passwd file 644 0:0 0 {short(b'me:x:7:7::/:/' + bytes([10]))}" in image.layers()[0]


def test_certificates_of_this_machine_or_another_file(hello: Path, tmp_path: Path) -> None:
    bundle = Path("/etc/ssl/certs/ca-certificates.crt").read_bytes()
    expected = [
        "etc folder 755 0:0 0 -",
        "etc/ssl folder 755 0:0 0 -",
        "etc/ssl/certs folder 755 0:0 0 -",
    ]
    image = built(Runnable(hello, ca_certs=True), tmp_path / "own")
    assert image.layers()[0] == [*expected, f"etc/ssl/certs/ca-certificates.crt file 644 0:0 0 {short(bundle)}"]
    other = tmp_path / "other.pem"
    other.write_bytes(b"comment\n-----BEGIN CERTIFICATE-----\n")
    image = built(Runnable(hello, ca_certs=other), tmp_path / "other")
    assert image.layers()[0] == [
        *expected,
        f"etc/ssl/certs/ca-certificates.crt file 644 0:0 0 {short(other.read_bytes())}",
    ]
    other.write_bytes(b"not a certificate")
    with pytest.raises(UsageError, match=r"other\.pem: no certificate in PEM is in there"):
        Runnable(hello, ca_certs=other).write(tmp_path / "x.tar")


def test_time_zones(hello: Path, tmp_path: Path) -> None:
    image = built(Runnable(hello, time_zones=True), tmp_path / "own")
    lines = image.layers()[0]
    assert (
        f"usr/share/zoneinfo/Etc/UTC file 644 0:0 0 {short(Path('/usr/share/zoneinfo/Etc/UTC').read_bytes())}" in lines
    )
    assert any(line.startswith("usr/share/zoneinfo/Europe/Berlin ") for line in lines)
    assert not any(line.startswith(("usr/share/zoneinfo/posix/", "usr/share/zoneinfo/right/")) for line in lines)
    zones = tmp_path / "zones"
    (zones / "Etc").mkdir(parents=True)
    (zones / "posix").mkdir()
    (zones / "Etc/UTC").write_bytes(b"TZif")
    (zones / "UTC").symlink_to("Etc/UTC")
    (zones / "localtime").symlink_to("/etc/localtime")
    (zones / "Etc/out").symlink_to("../../x")
    image = built(Runnable(hello, time_zones=zones), tmp_path / "other")
    assert image.layers()[0] == [
        "usr folder 755 0:0 0 -",
        "usr/share folder 755 0:0 0 -",
        "usr/share/zoneinfo folder 755 0:0 0 -",
        "usr/share/zoneinfo/Etc folder 755 0:0 0 -",
        f"usr/share/zoneinfo/Etc/UTC file 644 0:0 0 {short(b'TZif')}",
        "usr/share/zoneinfo/UTC link 777 0:0 0 Etc/UTC",
    ]
    with pytest.raises(UsageError, match="no time zones are in there"):
        Runnable(hello, time_zones=tmp_path).write(tmp_path / "x.tar")


def test_added_files_and_folders(hello: Path, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "empty").mkdir(parents=True)
    (tree / "run").write_text("run")
    (tree / "run").chmod(0o4711)
    (tree / "data").write_text("data")
    (tree / "data").chmod(0o660)
    (tree / "link").symlink_to("/anywhere")
    one = tmp_path / "in/one"
    one.write_text("one")
    add = [(tree, "/opt/app"), (one, "/etc/renamed"), (one, "/etc/"), (tree / "data", "/opt/app/data")]
    image = built(Runnable(hello, add=add), tmp_path / "out")
    assert image.layers()[0] == [
        "etc folder 755 0:0 0 -",
        f"etc/one file 644 0:0 0 {short(b'one')}",
        f"etc/renamed file 644 0:0 0 {short(b'one')}",
        "opt folder 755 0:0 0 -",
        "opt/app folder 755 0:0 0 -",
        f"opt/app/data file 644 0:0 0 {short(b'data')}",
        "opt/app/empty folder 755 0:0 0 -",
        "opt/app/link link 777 0:0 0 /anywhere",
        f"opt/app/run file 755 0:0 0 {short(b'run')}",
    ]
    # A folder onto the root, without a folder for the root itself.
    assert built(Runnable(hello, add=[(tree / "empty", "/"), (one, "/")]), tmp_path / "b").layers()[0] == [
        "empty folder 755 0:0 0 -",
        f"one file 644 0:0 0 {short(b'one')}",
    ]
