"""What the cache keeps is what was made, whatever others do to an output once it has its name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import ocifast
import pytest
from ocifast.compiler import CompileOptions
from ocifast.workspace import Workspace

from tests.support.images import build_image, write_layout
from tests.support.layers import TarBuilder


def changed(out: Path) -> None:
    """A machine writes to its disk."""
    with out.open("r+b") as file:
        file.write(b"EVIL")


def replaced(out: Path) -> None:
    """Another run with the same output puts its own there."""
    out.with_name("other").write_bytes(b"EVIL" * 1000)
    out.with_name("other").replace(out)


MEDDLE: dict[str, Callable[[Path], None]] = {"changed": changed, "replaced": replaced, "removed": Path.unlink}


@pytest.mark.parametrize("kind", MEDDLE)
@pytest.mark.parametrize("form", ["tar", "erofs", "ext4"])
def test_an_output_that_others_touch_at_once(
    kind: str, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    location = f"oci:{write_layout(tmp_path / 'layout', build_image([TarBuilder().file('f', b'data' * 9000)]))}:app"
    options = CompileOptions(cache_folder=str(tmp_path / "cache"))
    ocifast.compile(location, tmp_path / "right", format=form, options=CompileOptions(cache=False))
    publish = Workspace.publish

    def meddling(self: Workspace, made: Path) -> None:
        publish(self, made)
        MEDDLE[kind](self.destination)

    with monkeypatch.context() as patched:
        patched.setattr(Workspace, "publish", meddling)
        ocifast.compile(location, tmp_path / "out", format=form, options=options)
    again = ocifast.compile(location, tmp_path / "again", format=form, options=options)
    assert again.from_cache
    assert (tmp_path / "again").read_bytes() == (tmp_path / "right").read_bytes()
