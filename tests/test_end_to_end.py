"""The main job on a real image: from a registry to every format, read back by foreign tools into umoci's tree."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.oracle import dump_cpio, dump_directory, dump_mounted, dump_tar, dump_unsquashfs, without_mtime
from tests.support.real import RealImage
from tests.support.run import ocifast, run

pytestmark = pytest.mark.root

Reader = Callable[[Path, Path], str]


def whole(dump: str) -> str:
    """What a format holds that holds everything."""
    return dump


def without_fractions(dump: str) -> str:
    """Times as unsigned 32-bit seconds, as squashfs and cpio hold them; earlier ones become 0."""

    def field(found: re.Match[str]) -> str:
        return f" {max(int(found[1]), 0)}.000000000 "

    return re.sub(r" (-?\d+)\.\d{9} ", field, dump)


def as_cpio(dump: str) -> str:
    """What newc holds: no fractions of seconds, no attributes."""
    return re.sub(r"(?m)^((?:\S+ ){8})\S+", r"\1-", without_fractions(dump))


def as_sqfstar(dump: str) -> str:
    """What sqfstar makes: it gives the root a time of its own, which is reported as a loss."""
    return without_mtime(without_fractions(dump), "/")


def mounted(kind: str) -> Reader:
    """A reader that lets the kernel mount the image."""
    skip = [b"lost+found"] if kind == "ext4" else []
    return lambda image, folder: dump_mounted(image, kind, folder, skip=skip)


FORMATS: list[tuple[str, str, Reader, Callable[[str], str]]] = [
    ("dir", "", lambda path, _: dump_directory(path), whole),
    ("tar", "", dump_tar, whole),
    ("cpio", "", dump_cpio, as_cpio),
    ("erofs", "", mounted("erofs"), whole),
    ("ext4", "", mounted("ext4"), whole),
    *(
        ("squashfs", backend, reader, holds)
        for backend, holds in (
            ("sqfstar", as_sqfstar),
            ("tar2sqfs", without_fractions),
            ("mksquashfs", without_fractions),
        )
        for reader in (mounted("squashfs"), dump_unsquashfs)
    ),
]


@pytest.mark.parametrize(
    ("form", "backend", "reader", "holds"),
    [
        pytest.param(*row, id=f"{row[0]}-{row[1] or 'own'}-{getattr(row[2], '__name__', 'mounted').strip('<>')}")
        for row in FORMATS
    ],
)
def test_every_format_holds_umocis_tree(
    real_image: RealImage,
    real_reference: str,
    tmp_path: Path,
    form: str,
    backend: str,
    reader: Reader,
    holds: Callable[[str], str],
) -> None:
    chosen = ["--backend", backend] if backend else []
    ocifast("compile", real_reference, tmp_path / "out", "-f", form, *chosen)
    seen = reader(tmp_path / "out", tmp_path / "read")
    assert (without_mtime(seen, "/") if holds is as_sqfstar else seen) == holds(real_image.dump)
    assert [path.name for path in tmp_path.iterdir() if path.name != "read"] == ["out"]


def test_every_source_gives_the_same_bytes(real_image: RealImage, real_reference: str, tmp_path: Path) -> None:
    oci, docker = tmp_path / "oci.tar", tmp_path / "docker.tar"
    run("skopeo", "--insecure-policy", "copy", "-q", real_image.location, f"oci-archive:{oci}:app")
    run("skopeo", "--insecure-policy", "copy", "-q", real_image.location, f"docker-archive:{docker}:real/image:1")
    seen = {}
    for number, source in enumerate(
        [real_reference, real_image.location, f"oci-archive:{oci}:app", f"docker-archive:{docker}:real/image:1"]
    ):
        out = tmp_path / f"{number}.out"
        ocifast("compile", source, out, "-f", "tar")
        seen[source] = hashlib.sha256(out.read_bytes()).hexdigest()
    assert len(set(seen.values())) == 1, seen


@pytest.mark.parametrize("form", ["tar", "cpio", "erofs", "ext4", "squashfs"])
def test_the_number_of_threads_changes_nothing(real_reference: str, tmp_path: Path, form: str) -> None:
    for jobs in ("1", "2", "5"):
        ocifast("compile", real_reference, tmp_path / jobs, "-f", form, "--no-cache", "--jobs", jobs)
    first = (tmp_path / "1").read_bytes()
    assert (tmp_path / "2").read_bytes() == first
    assert (tmp_path / "5").read_bytes() == first


def test_a_stream_is_the_file(real_reference: str, tmp_path: Path) -> None:
    ocifast("compile", real_reference, tmp_path / "file.tar")
    assert ocifast("compile", real_reference, "-", "-f", "tar") == (tmp_path / "file.tar").read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["file.tar"]


def test_a_second_compilation_asks_for_the_manifest_alone(
    real_image: RealImage, real_reference: str, tmp_path: Path, registry_requests: Callable[[], list[str]]
) -> None:
    ocifast("compile", real_reference, tmp_path / "first.tar")
    before = len(registry_requests())
    answer = json.loads(ocifast("compile", real_reference, tmp_path / "second.tar", "--json"))
    assert answer["from_cache"]
    assert not [request for request in registry_requests()[before:] if "/blobs/" in request]
    assert (tmp_path / "first.tar").read_bytes() == (tmp_path / "second.tar").read_bytes()


def test_a_seed_is_looked_at_before_the_registry(real_image: RealImage, tmp_path: Path) -> None:
    digest = json.loads((real_image.layout / "index.json").read_text())["manifests"][0]["digest"]
    nowhere = f"127.0.0.1:9/real/image@{digest}"
    ocifast("compile", nowhere, tmp_path / "out.tar", "--seed", real_image.layout)
    assert dump_tar(tmp_path / "out.tar", tmp_path / "read") == real_image.dump


def test_inspect_ls_and_cat_tell_what_is_in_the_image(real_image: RealImage, real_reference: str) -> None:
    config = json.loads(ocifast("inspect", real_reference, "--config"))
    assert config["config"]["Entrypoint"] == ["/bin/sh"]
    manifest = ocifast("inspect", real_reference, "--raw")
    assert manifest == run("skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{real_reference}")
    listed = {line.rsplit("/", 1)[-1] for line in ocifast("ls", real_reference, "/opt").decode().splitlines()}
    assert {"replaced", "file"} <= {name.split(" ")[0] for name in listed}
    assert ocifast("cat", real_reference, "/usr/bin/through-the-link") == b"#!/bin/sh\n"
