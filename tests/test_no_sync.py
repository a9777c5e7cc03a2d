"""`--no-sync`: what a command makes is not waited for until it is on the disk; the cache never is."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from ocifast.cli import main

from tests.support.elf import build_elf
from tests.support.faulty import FaultyRegistry, serve_faulty
from tests.support.images import build_image, write_layout
from tests.support.layers import TarBuilder


@pytest.fixture
def server() -> Iterator[FaultyRegistry]:
    with serve_faulty() as running:
        yield running


WAYS = {
    "compile": "compile {name} {out}/app.erofs --platform linux/amd64",
    "compile from a layout": "compile {layout} {out}/app.tar --no-cache",
    "pull to a layout": "pull {name} oci:{out}/layout",
    "pull to an archive": "pull {name} oci-archive:{out}/app.tar",
    "copy": "copy {layout} docker-archive:{out}/app.tar:app:1",
    "copy of a list": "copy --from-file {list} oci:{out}/layout",
    "runnable": "runnable {program} -o {out}/app.tar",
    "batch": "batch {batch}",
    "export": "cache export --containerd {out}/layers {layout}",
    "report": "report {layout} -o {out}/report.html",
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("waits", [True, False])
def test_what_is_waited_for(
    way: str, waits: bool, server: FaultyRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = build_image([TarBuilder().directory("etc/").file("etc/text", b"text")])
    name = server.put(image, "app:1")
    out = tmp_path / "out"
    out.mkdir()
    (tmp_path / "program").write_bytes(build_elf())
    (tmp_path / "list.jsonl").write_text(json.dumps({"source": name}))
    entry = {"image": name, "output": str(out / "app.erofs"), "platform": "linux/amd64"}
    (tmp_path / "batch.jsonl").write_text(json.dumps(entry))
    monkeypatch.setenv("OCIFAST_CACHE_DIR", str(tmp_path / "cache"))
    flushed: list[str] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        flushed.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    words = WAYS[way].format(
        name=name,
        out=out,
        layout=f"oci:{write_layout(tmp_path / 'layout', image)}:app",
        program=tmp_path / "program",
        list=tmp_path / "list.jsonl",
        batch=tmp_path / "batch.jsonl",
    )
    assert main([*words.split(), "-q", *([] if waits else ["--no-sync"])]) == 0
    assert list(out.iterdir())
    assert bool([path for path in flushed if path.startswith(str(out))]) is waits
    # The cache is never waited for: its records say in which boot of the system they were written.
    in_cache = [path for path in flushed if path.startswith(str(tmp_path / "cache"))]
    assert all("batch" in path or path.endswith(".jsonl") for path in in_cache), in_cache
