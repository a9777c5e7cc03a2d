"""The main job on a real image: from a registry to root filesystems. `make demo` runs it.

With a way to a public registry the image is Docker Hub's `alpine`. Without one it is built from this machine: a shell
and Python with the libraries that they need, in three layers, served by a small registry on loopback.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import sysconfig
import tarfile
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
PUBLIC = "docker.io/library/alpine:3.22"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def public_registry_answers() -> bool:
    """Whether Docker Hub can be reached."""
    try:
        with socket.create_connection(("registry-1.docker.io", 443), timeout=5):
            return True
    except OSError:
        return False


def libraries(programs: Iterable[Path]) -> set[Path]:
    """The dynamic loader and the shared libraries of programs of this machine."""
    said = subprocess.run(["ldd", *programs], capture_output=True, text=True, check=False).stdout
    return {Path(word) for line in said.splitlines() for word in line.split() if line[0].isspace() and word[0] == "/"}


def layer(paths: Iterable[Path], more: dict[str, bytes]) -> bytes:
    """A tar of files of this machine under their own paths, and of files with given content."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path in sorted(set(paths)):
            entry = tarfile.TarInfo(str(path)[1:])
            status = path.stat()
            entry.size, entry.mode, entry.mtime = status.st_size, status.st_mode & 0o7777, int(status.st_mtime)
            with path.open("rb") as content:
                archive.addfile(entry, content)
        for name, data in more.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), 0o644
            archive.addfile(entry, io.BytesIO(data))
    return out.getvalue()


class LocalImage:
    """An image of what is on this machine.

    Attributes:
        blobs: config and layers by digest.
        manifest: the bytes of the manifest.
    """

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        python, shell = Path(sys.executable).resolve(), Path("/bin/sh")
        stdlib = Path(sysconfig.get_path("stdlib"))
        modules = [path for path in stdlib.rglob("*") if path.is_file() and self._wanted(path.relative_to(stdlib))]
        native = [path for path in modules if path.suffix == ".so"]
        layers = [
            layer([shell, *libraries([shell])], {"etc/os-release": b'NAME="ocifast demo"\nID=demo\n'}),
            layer([python, *modules, *libraries([python, *native])], {"srv/old": b"replaced in the next layer"}),
            # Whiteouts: the tests of Python's library go, and so does the file of the layer below.
            layer([], {f"{str(stdlib)[1:]}/.wh.unittest": b"", "srv/.wh.old": b"", "srv/new": b"hello\n"}),
        ]
        packed = [gzip.compress(data, 1, mtime=0) for data in layers]
        config = {
            "architecture": ARCHITECTURES.get(platform.machine(), platform.machine()),
            "os": "linux",
            "config": {"Entrypoint": [str(python)], "Env": [f"PYTHONHOME={sys.base_prefix}"], "WorkingDir": "/srv"},
            "rootfs": {"type": "layers", "diff_ids": [self._digest(data) for data in layers]},
        }
        self.manifest = self._json(
            {
                "schemaVersion": 2,
                "mediaType": MANIFEST,
                "config": self._keep("application/vnd.oci.image.config.v1+json", self._json(config)),
                "layers": [self._keep("application/vnd.oci.image.layer.v1.tar+gzip", data) for data in packed],
            }
        )

    @staticmethod
    def _wanted(path: Path) -> bool:
        return not {"__pycache__", "site-packages", "test", "idlelib", "ensurepip"} & set(path.parts) and (
            path.suffix in (".py", ".so")
        )

    @staticmethod
    def _digest(data: bytes) -> str:
        return "sha256:" + hashlib.sha256(data).hexdigest()

    @staticmethod
    def _json(document: Any) -> bytes:
        return json.dumps(document).encode()

    def _keep(self, media_type: str, data: bytes) -> dict[str, Any]:
        self.blobs[self._digest(data)] = data
        return {"mediaType": media_type, "digest": self._digest(data), "size": len(data)}


@contextmanager
def serve(image: LocalImage) -> Iterator[str]:
    """A registry on loopback that holds one image (distribution-spec, "Pull"); gives the image's reference."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            kind, _, name = self.path.rpartition("/")
            body, media_type = None, "application/octet-stream"
            if kind.endswith("/blobs"):
                body = image.blobs.get(name)
            elif kind.endswith("/manifests"):
                body, media_type = image.manifest, MANIFEST
            elif self.path == "/v2/":
                body = b"{}"
            self.send_response(404 if body is None else 200)
            self.send_header("Content-Type", media_type)
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body or b"")

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}/demo:1"
    finally:
        server.shutdown()
        server.server_close()


def show(*words: str) -> None:
    """Runs `ocifast` as a user would and shows the command, what it printed and how long it took."""
    print(f"\n$ ocifast {' '.join(words)}", flush=True)
    started = time.monotonic()
    done = subprocess.run([Path(sys.executable).with_name("ocifast"), *words], check=False)
    if done.returncode:
        sys.exit(f"demo: the command ended with status {done.returncode}")
    print(f"({time.monotonic() - started:.2f} s)", flush=True)


def run(reference: str) -> None:
    """Compiles the image to every kind of root filesystem that needs no other tool."""
    folder = ROOT / "target/demo"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    os.environ["OCIFAST_CACHE_DIR"] = str(folder / "cache")
    os.chdir(folder)
    show("inspect", reference)
    show("compile", reference, "rootfs")
    for format_ in ("tar", "cpio", "erofs", "ext4"):
        show("compile", reference, f"rootfs.{format_}")
    show("ls", reference, "/etc")
    print(f"\nAll of it is in {folder}:", flush=True)
    for path in sorted(folder.glob("rootfs*")):
        size = "a directory" if path.is_dir() else f"{path.stat().st_blocks * 512 / 1e6:.1f} MB on disk"
        print(f"  {path.name:14} {size}")


def main() -> None:
    """Runs the demo."""
    if public_registry_answers():
        run(PUBLIC)
        return
    print("No public registry can be reached: building an image from what is on this machine.", flush=True)
    with serve(LocalImage()) as reference:
        run(reference)


if __name__ == "__main__":
    main()
