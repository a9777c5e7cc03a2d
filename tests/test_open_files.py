"""How many files may be open: far fewer than an image has layers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.documents import listing
from tests.support.images import build_image, write_layout
from tests.support.layers import TarBuilder
from tests.support.registry import Registry
from tests.support.run import COMMAND, attempt, run

LAYERS = 300
FEW = 48

FORMATS = {name: ("-f", name) for name in ("dir", "tar", "cpio", "erofs", "squashfs", "ext4")} | {
    "erofs-zstd": ("-f", "erofs", "--compression", "zstd")
}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, registry: Registry) -> dict[str, str]:
    """An image of many layers, some of them large, each with a file that fills no block."""
    layers = [
        TarBuilder()
        .file(f"{number % 7}/large{number}", bytes([number % 256]) * (1_500_000 if number % 10 == 0 else 5000))
        .file(f"{number % 7}/small{number}", b"%d" % number)
        for number in range(LAYERS)
    ]
    image = build_image(layers)
    layout = write_layout(tmp_path_factory.mktemp("open-files") / "layout", image)
    return {"layout": f"oci:{layout}:app", "registry": registry.put(image, "open-files/image:1")}


@pytest.mark.root
@pytest.mark.parametrize("name", list(FORMATS))
@pytest.mark.parametrize("place", ["layout", "registry"])
def test_many_layers_with_few_open_files(place: str, name: str, tmp_path: Path, images: dict[str, str]) -> None:
    limit = f"--nofile={FEW}:{FEW}"
    run("prlimit", limit, COMMAND, "compile", images[place], tmp_path / "few", *FORMATS[name], "--no-cache")
    run(COMMAND, "compile", images[place], tmp_path / "many", *FORMATS[name], "--no-cache")
    assert listing(tmp_path / "few") == listing(tmp_path / "many")
    if name != "dir":
        assert (tmp_path / "few").read_bytes() == (tmp_path / "many").read_bytes()


def test_a_tree_that_needs_more_than_there_may_be(tmp_path: Path) -> None:
    layout = write_layout(tmp_path / "layout", build_image([TarBuilder().directory("d/" * (FEW + 10))]))
    compile_it = (COMMAND, "compile", f"oci:{layout}:app", tmp_path / "out", "--no-cache")
    # A limit that may be raised is raised.
    run("prlimit", f"--nofile={FEW}:{FEW * 4}", *compile_it)
    assert (tmp_path / "out" / ("d/" * (FEW + 10))).is_dir()
    failed = attempt("prlimit", f"--nofile={FEW}:{FEW}", *compile_it[:3], tmp_path / "no", "--no-cache")
    assert failed.returncode == 1
    said = failed.stderr.decode()
    assert said.count("\n") == 1
    assert said.startswith("ocifast: error: ")
    assert said.endswith("; allow the process more open files (ulimit -n)\n")
    assert not (tmp_path / "no").exists()
