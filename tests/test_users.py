"""Users of an image: what its own /etc/passwd makes of the config's user."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support.images import build_image, write_layout
from tests.support.layers import TarBuilder
from tests.support.run import ocifast


def image_with(folder: Path, *, user: str, passwd: bytes) -> str:
    """A layout with an image of one layer, which has this /etc/passwd."""
    image = build_image([TarBuilder().file("etc/passwd", passwd)], config={"User": user})
    return f"oci:{write_layout(folder / 'layout', image)}:app"


def test_a_home_that_is_no_utf8(tmp_path: Path) -> None:
    layout = image_with(tmp_path, user="app", passwd=b"app:x:7:8::/home/\xff\xfe:/bin/sh\n")
    told = ocifast("compile", layout, tmp_path / "out.tar", "--config", tmp_path / "boot.json", "--json")
    user = {"name": "app", "uid": 7, "gid": 8, "groups": [], "home": "/home/\\xff\\xfe"}
    assert json.loads((tmp_path / "boot.json").read_bytes())["user"] == user
    assert json.loads(told)["config"]["user"] == user
