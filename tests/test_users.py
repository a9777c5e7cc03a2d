"""Users of an image: what its own /etc/passwd makes of the config's user."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support.images import build_image, write_layout
from tests.support.layers import TarBuilder
from tests.support.run import ocifast, try_ocifast


def image_with(folder: Path, *, user: str, passwd: bytes) -> str:
    """A layout with an image of one layer, which has this /etc/passwd."""
    image = build_image([TarBuilder().file("etc/passwd", passwd)], config={"User": user})
    return f"oci:{write_layout(folder / 'layout', image)}:app"


def test_a_home_that_is_no_utf8(tmp_path: Path) -> None:
    layout = image_with(tmp_path, user="app", passwd=b"app:x:7:8::/home/\xff\xfe:/bin/sh\n")
    told = ocifast("compile", layout, tmp_path / "out.tar", "--config", tmp_path / "boot.json", "--json")
    user = {"name": "app", "uid": 7, "gid": 8, "groups": [], "home": "/home/\\xff\\xfe"}
    assert json.loads((tmp_path / "boot.json").read_bytes())["user"] == user
    assert json.loads(told)["boot"]["user"] == user


def test_a_user_that_the_image_does_not_have_is_a_warning(tmp_path: Path) -> None:
    layout = image_with(tmp_path, user="ghost", passwd=b"app:x:7:8::/:/bin/sh\n")
    done = try_ocifast("compile", layout, tmp_path / "out.tar", "--json")
    assert json.loads(done.stdout)["boot"]["user"]["uid"] is None
    message = f"{layout}: the config's user 'ghost' is not in the image's /etc/passwd\n"
    assert (done.returncode, done.stderr.decode()) == (0, f"ocifast: warning: {message}")
    failed = try_ocifast("compile", layout, tmp_path / "no.tar", "--config", tmp_path / "boot.json")
    assert (failed.returncode, failed.stderr.decode()) == (1, f"ocifast: error: {message}")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["layout", "out.tar"]
