"""Inside an overlay, as in every container: what stands in a lower layer is replaced and removed like all else."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.documents import listing
from tests.support.images import build_image, write_layout
from tests.support.layers import TarBuilder
from tests.support.registry import Registry
from tests.support.run import ocifast, run


@contextmanager
def overlay(lower: Path, folder: Path, options: str) -> Iterator[Path]:
    """A mounted overlay over a folder."""
    for name in ("upper", "work", "merged"):
        (folder / name).mkdir(parents=True)
    places = f"lowerdir={lower},upperdir={folder}/upper,workdir={folder}/work"
    run("mount", "-t", "overlay", "overlay", "-o", f"{places},{options}", folder / "merged")
    try:
        yield folder / "merged"
    finally:
        run("umount", folder / "merged")


@pytest.mark.root
@pytest.mark.parametrize("options", ["redirect_dir=off", "redirect_dir=on", "index=off,redirect_dir=nofollow"])
def test_what_stands_in_a_lower_layer(options: str, tmp_path: Path, registry: Registry) -> None:
    image = build_image([TarBuilder().file("hello", b"hello\n")])
    remote = registry.put(image, "overlay/image:1")
    lower = tmp_path / "lower"
    write_layout(lower / "layout", image)
    (lower / "folder").mkdir()
    (lower / "old.tar").write_bytes(b"old")
    ocifast("compile", remote, tmp_path / "warm.erofs", env={"OCIFAST_CACHE_DIR": str(lower / "cache")})
    with overlay(lower, tmp_path / "mounted", options) as merged:
        env = {"OCIFAST_CACHE_DIR": str(merged / "cache")}
        for name in ("folder", "old.tar", "new", "new.erofs"):
            ocifast("compile", remote, merged / name, env=env)
        assert (merged / "new.erofs").read_bytes() == (tmp_path / "warm.erofs").read_bytes()
        assert listing(merged / "folder") == listing(merged / "new") == ["hello"]
        assert (merged / "old.tar").read_bytes() != b"old"
        ocifast("copy", remote, f"oci:{merged}/layout:second", env=env)
        assert ocifast("ls", f"oci:{merged}/layout:second", env=env)
        ocifast("cache", "prune", "--max-size", "0", env=env)
        left = {path.name for path in (merged / "cache").rglob("*") if path.is_file()}
        assert left <= {"CACHEDIR.TAG", "use.json", "prune.lock"}
        assert {path.name for path in merged.iterdir()} == {"cache", "folder", "layout", "old.tar", "new", "new.erofs"}
    shutil.rmtree(tmp_path / "mounted")
