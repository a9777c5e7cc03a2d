"""Every field of every class of options says whether it changes bytes; those that do are in the key of the cache."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import Any

import pytest
from ocifast import _core
from ocifast.compiler import CompileOptions
from ocifast.edits import Addition, Edits, prepare
from ocifast.errors import UsageError
from ocifast.flatten import FlattenOptions, flatten
from ocifast.image import open_image
from ocifast.marks import byte_values, changes_bytes_of
from ocifast.packers import (
    FORMATS,
    DirOptions,
    PackOptions,
    TarOptions,
    load_format,
    options_of,
)
from ocifast.packers.options import RANGES
from ocifast.planned import plan_outputs
from ocifast.seals import Seal
from ocifast.sources.registry.options import RegistryOptions

from tests.support.images import build_image, write_layout
from tests.support.layers import TarBuilder

CLASSES = [
    CompileOptions,
    PackOptions,
    *(load_format(name).options for name in FORMATS),
    Edits,
    FlattenOptions,
    RegistryOptions,
]
OTHERS: dict[tuple[type, str], Any] = {
    (Edits, "exclude"): ["a"],
    (Edits, "layers"): ["layer.tar"],
    (Edits, "add"): [("a", "/a")],
    (Edits, "subtree"): "/a",
    (Edits, "mount_points"): True,
    (Edits, "owner"): (1, 2),
    (Edits, "id_offset"): 3,
    (PackOptions, "backend"): "mkfs.erofs",
    (PackOptions, "compression"): "zstd",
    (PackOptions, "level"): 5,
    (PackOptions, "block_size"): 8192,
    (PackOptions, "free_space"): 1 << 20,
    (PackOptions, "size"): 1 << 30,
    (PackOptions, "journal"): True,
    (PackOptions, "owners"): True,
    (PackOptions, "ownership"): "record",
    (PackOptions, "tails"): "block",
    (PackOptions, "fragments"): False,
    (PackOptions, "single"): True,
    (PackOptions, "name"): "app",
    (PackOptions, "root_format"): "ext4",
    (PackOptions, "data_size"): 16 << 20,
    (PackOptions, "align"): 1 << 21,
    (PackOptions, "esp"): True,
    (PackOptions, "esp_size"): 64 << 20,
    (PackOptions, "kernel"): "image",
    (PackOptions, "initrd"): "none",
    (PackOptions, "boot_loader"): "none",
    (PackOptions, "cmdline"): "quiet",
}
"""Another value than the default for each field that changes bytes."""
WITH: dict[str, tuple[str, PackOptions]] = {
    "backend": ("erofs", PackOptions()),
    "compression": ("tar", PackOptions()),
    "level": ("tar", PackOptions(compression="gzip")),
    "block_size": ("erofs", PackOptions(compression="lz4")),
    "free_space": ("ext4", PackOptions()),
    "size": ("ext4", PackOptions()),
    "journal": ("ext4", PackOptions()),
    "owners": ("dir", PackOptions()),
    "ownership": ("dir", PackOptions()),
    "tails": ("erofs", PackOptions()),
    "fragments": ("squashfs", PackOptions()),
    "single": ("layers", PackOptions()),
    "name": ("layers", PackOptions()),
    "root_format": ("disk", PackOptions()),
    "data_size": ("disk", PackOptions()),
    "align": ("erofs", PackOptions()),
    "esp": ("disk", PackOptions()),
    "esp_size": ("disk", PackOptions()),
    "kernel": ("disk", PackOptions()),
    "initrd": ("disk", PackOptions()),
    "boot_loader": ("disk", PackOptions()),
    "cmdline": ("disk", PackOptions()),
}
"""A format that has the option, and what must be chosen besides."""
MANIFEST = "sha256:" + "0" * 64


def pack_key(form: str, pack: PackOptions) -> str:
    (output,) = plan_outputs([f"out.{form}" if form != "dir" else "out"], form, pack)
    return output.key(MANIFEST, CompileOptions(pack=pack), clamp_mtime=None, edits=None)


def sealed_key(version: str) -> str:
    seal = Seal("wax", version, frozenset({"tar"}), lambda request: {})
    (output,) = plan_outputs(["out.tar"], None, PackOptions(), [seal])
    return output.key(MANIFEST, CompileOptions(), clamp_mtime=None, edits=None)


@pytest.mark.parametrize("kind", CLASSES)
def test_every_field_says_whether_it_changes_bytes(kind: type) -> None:
    assert set(changes_bytes_of(kind)) == {each.name for each in fields(kind)}


def test_a_field_that_says_nothing_is_found() -> None:
    @dataclass(frozen=True)
    class Forgetful(TarOptions):
        sparse: bool = True

    with pytest.raises(KeyError):
        changes_bytes_of(Forgetful)


@pytest.mark.tools
@pytest.mark.parametrize("name", [each.name for each in fields(PackOptions)])
def test_every_option_of_an_output_is_in_its_key(name: str) -> None:
    form, besides = WITH[name]
    assert pack_key(form, replace(besides, **{name: OTHERS[PackOptions, name]})) != pack_key(form, besides)


def test_the_fields_of_all_formats_are_those_of_the_command_line() -> None:
    own = [load_format(name).options for name in FORMATS]
    assert {each.name for kind in own for each in fields(kind)} | {"backend"} == {
        each.name for each in fields(PackOptions)
    }
    assert [kind.format for kind in own] == list(FORMATS)
    # A format without numbers has no ranges.
    assert [name for name in FORMATS if name in RANGES] == list(RANGES)


def test_every_option_of_a_compilation_that_changes_bytes_is_in_the_key() -> None:
    """Those that there are go by other ways than their own values; one more must be added here."""
    assert [name for name, changes in changes_bytes_of(CompileOptions).items() if changes] == [
        "pack",
        "seals",
        "clamp_mtime",
    ]
    base = pack_key("tar", PackOptions())
    (output,) = plan_outputs(["out.tar"], None, PackOptions())
    assert len({base, *(sealed_key(version) for version in "12")}) == 3
    assert output.key(MANIFEST, CompileOptions(), clamp_mtime=1, edits=None) != base
    assert output.key(MANIFEST, CompileOptions(), clamp_mtime=None, edits=MANIFEST) != base
    assert output.key(MANIFEST, CompileOptions(threads=1, strict=True), clamp_mtime=None, edits=None) == base


def test_an_option_that_keeps_its_own_value_in_the_key_is_in_it() -> None:
    from ocifast.marks import changes_bytes

    @dataclass(frozen=True)
    class More(CompileOptions):
        salt: int = changes_bytes(0)

    (output,) = plan_outputs(["out.tar"], None, PackOptions())
    keys = {output.key(MANIFEST, More(salt=salt), clamp_mtime=None, edits=None) for salt in (0, 1)}
    assert len(keys) == 2


@pytest.mark.parametrize("name", [each.name for each in fields(Edits)])
def test_every_edit_is_in_the_digest_of_the_edits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a").write_text("a")
    Path("layer.tar").write_bytes(TarBuilder().file("b", b"1").build())
    digests = set()
    for number, edits in enumerate((Edits(), Edits(**{name: OTHERS[Edits, name]}))):
        folder = tmp_path / str(number)
        folder.mkdir()
        digests.add(prepare(edits, folder, time=5).digest)
    assert len(digests) == 2


@pytest.mark.parametrize("change", [{"mode": 0o600}, {"owner": (3, 4)}, {"keep_mtime": True}, {"target": "/b"}])
def test_every_part_of_an_addition_is_in_the_digest_of_the_edits(tmp_path: Path, change: dict[str, Any]) -> None:
    (tmp_path / "a").write_text("a")
    digests = set()
    for number, addition in enumerate(({}, change)):
        folder = tmp_path / str(number)
        folder.mkdir()
        edits = Edits(add=[Addition(**{"source": str(tmp_path / "a"), "target": "/a", **addition})])
        digests.add(prepare(edits, folder, time=5).digest)
    assert len(digests) == 2
    assert set(change) <= {each.name for each in fields(Addition)} - {"source"}


def test_the_merge_has_the_version_that_belongs_to_what_it_makes(tmp_path: Path) -> None:
    """Who changes what is merged out of the same layers raises `merge::VERSION`, and pins the new digest here."""
    lower = TarBuilder().directory("d/", mode=0o1777, mtime=9).file("d/a", b"1").file("d/b", b"2").symlink("l", "d")
    lower.file("x/y", b"3").hard_link("h", "d/b").file("gone", b"4")
    upper = TarBuilder().file("d/.wh.a", b"").file("l/c", b"5", mode=0o4755).file(".wh.gone", b"")
    upper.file("x/.wh..wh..opq", b"").file("x/z", b"6").file("d/b", b"7").file(".wh..wh.plnk", b"")
    location = f"oci:{write_layout(tmp_path / 'layout', build_image([lower, upper]))}:app"
    with open_image(location) as image, flatten(image) as rootfs:
        assert (_core.MERGE_VERSION, rootfs.digest) == (1, PINNED)
    assert byte_values(TarOptions()) == {"compression": None, "level": None}


PINNED = "sha256:0b625e8882088b93f4e25e10154f9f4a762af9f52d53a59ff104561263d60b22"


def wrong() -> Iterator[tuple[str, dict[str, Any], str]]:
    """For every range of the table a value on either side of it."""
    for name, ranges in RANGES.items():
        for compression, levels in ranges.compressions.items():
            if levels is None:
                yield name, {"compression": compression, "level": 1}, "level"
                continue
            for level in (levels.first - 1, levels.last + 1):
                yield name, {"compression": compression, "level": level}, f"not {level}"
        if ranges.compressions:
            yield name, {"compression": "lzma"}, "has no compression 'lzma'"
        if ranges.blocks.most:
            for size in (ranges.blocks.least // 2, ranges.blocks.most * 2, ranges.blocks.least + 1):
                yield name, {"compression": "zstd", "block_size": size}, f"not {size}"
        if ranges.tails:
            yield name, {"tails": "short"}, "not 'short'"


@pytest.mark.parametrize(("name", "chosen", "says"), list(wrong()))
def test_what_is_out_of_range_is_refused_when_it_is_said(name: str, chosen: dict[str, Any], says: str) -> None:
    kind: Any = load_format(name).options
    with pytest.raises(UsageError, match=says):
        kind(**chosen)


@pytest.mark.parametrize("name", [name for name, ranges in RANGES.items() if ranges.compressions])
def test_both_ends_of_every_range_are_taken(name: str) -> None:
    kind: Any = load_format(name).options
    for compression, levels in RANGES[name].compressions.items():
        for level in () if levels is None else (levels.first, levels.last, levels.default):
            assert kind(compression=compression, level=level).level == level
    blocks = RANGES[name].blocks
    for size in (blocks.least, blocks.most, blocks.default) if blocks.most else ():
        assert kind(compression="zstd", block_size=size).block_bytes == size


def test_options_that_a_format_lacks_are_refused_by_name() -> None:
    for each in fields(PackOptions):
        assert each.default is not MISSING
    with pytest.raises(UsageError, match="dir has no option --free"):
        options_of(DirOptions, PackOptions(free_space=1))
