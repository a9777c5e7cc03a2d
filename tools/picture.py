"""Draws `docs/progress.svg`: the progress of a real run, as tmux shows it. `make picture` runs it.

A registry on loopback serves an image of made-up layers, slowly; the command runs in a terminal of 80 columns, and what
stands there after a few seconds is drawn, character by character, in the colours that it was given.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import html
import io
import json
import random
import re
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
IMAGE = "127.0.0.1:5080/library/app:1"
LAYERS, LAYER_BYTES, RATE, SECONDS = 12, 3_000_000, 4_000_000, 3.5
COLUMNS, ROWS = 80, 16
COLOURS = {"2": "#8b949e", "36": "#39c5cf", "33": "#d29922"}
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


class SlowImage:
    """An image in memory, served at `RATE` bytes a second for all its blobs together."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        chosen = random.Random(1)
        layers, diff_ids = [], []
        for number in range(LAYERS):
            tar = io.BytesIO()
            with tarfile.open(fileobj=tar, mode="w") as archive:
                entry = tarfile.TarInfo(f"file{number}")
                entry.size = int(LAYER_BYTES * chosen.uniform(0.2, 1.8))
                archive.addfile(entry, io.BytesIO(chosen.randbytes(entry.size)))
            diff_ids.append(self.digest(tar.getvalue()))
            blob = gzip.compress(tar.getvalue(), 1, mtime=0)
            layers.append({"mediaType": LAYER, "digest": self.put(blob), "size": len(blob)})
        rootfs = {"type": "layers", "diff_ids": diff_ids}
        config = json.dumps({"architecture": "amd64", "os": "linux", "config": {}, "rootfs": rootfs}).encode()
        described = {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": self.put(config),
            "size": len(config),
        }
        document = {"schemaVersion": 2, "mediaType": MANIFEST, "config": described, "layers": layers}
        self.manifest = json.dumps(document).encode()
        self._lock = threading.Lock()
        self._next = 0.0

    @staticmethod
    def digest(data: bytes) -> str:
        """SHA-256 of the bytes."""
        return "sha256:" + hashlib.sha256(data).hexdigest()

    def put(self, blob: bytes) -> str:
        """Keeps a blob; returns its digest."""
        digest = self.digest(blob)
        self.blobs[digest] = blob
        return digest

    def pieces(self, blob: bytes) -> Iterator[bytes]:
        """The bytes, as slowly as they shall go."""
        for at in range(0, len(blob), 16384):
            piece = blob[at : at + 16384]
            with self._lock:
                begin = max(time.monotonic(), self._next)
                self._next = begin + len(piece) / RATE
            time.sleep(max(0.0, begin - time.monotonic()))
            yield piece


def serve(image: SlowImage) -> ThreadingHTTPServer:
    """A registry that has this image alone, under every name."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            is_manifest = "/manifests/" in self.path
            body = image.manifest if is_manifest else image.blobs.get(self.path.rpartition("/")[2], b"{}")
            self.send_response(200)
            self.send_header("Content-Type", MANIFEST if is_manifest else "application/octet-stream")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            # The picture is taken before the end: whoever fetches has gone by then.
            with contextlib.suppress(ConnectionError):
                for piece in image.pieces(body):
                    self.wfile.write(piece)

        def log_message(self, *args: Any, **named: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 5080), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def screen(command: str) -> list[str]:
    """The lines of a terminal some seconds after a command began in it, with their escapes for colours."""
    socket = f"ocifast-picture-{time.monotonic_ns()}"
    tmux = ["tmux", "-L", socket, "-f", "/dev/null"]
    size = ["-x", str(COLUMNS), "-y", str(ROWS)]
    subprocess.run(
        [*tmux, "new-session", "-d", *size, f"echo '$ ocifast compile {IMAGE} app.erofs'; {command}"], check=True
    )
    try:
        time.sleep(SECONDS)
        shown = subprocess.run([*tmux, "capture-pane", "-p", "-e"], check=True, capture_output=True, text=True).stdout
    finally:
        subprocess.run([*tmux, "kill-server"], check=False)
    return shown.rstrip("\n").splitlines()


def painted(lines: list[str]) -> Iterator[list[tuple[str, str | None]]]:
    """For each line the runs of its characters, each with its colour. A colour lasts until it is changed."""
    dim, colour = False, None
    for line in lines:
        runs = []
        for part in re.split(r"(\x1b\[[\d;]*m)", line):
            if not part.startswith("\x1b"):
                runs.append((part, COLOURS["2"] if dim else colour))
                continue
            for code in part[2:-1].split(";"):
                match code:
                    case "2":
                        dim = True
                    case "" | "0":
                        dim, colour = False, None
                    case "39":
                        colour = None
                    case _ if code in COLOURS:
                        colour = COLOURS[code]
        yield runs


def svg(lines: list[str]) -> str:
    """The lines as a picture."""
    width, height, left = 8.4, 19, 14
    rows = []
    for number, runs in enumerate(painted(lines)):
        column = 0
        for text, colour in runs:
            paint = f' fill="{colour}"' if colour else ""
            length = f'textLength="{len(text) * width:.1f}" lengthAdjust="spacingAndGlyphs"'
            place = f'x="{left + column * width:.1f}" y="{28 + number * height}"'
            if text.strip():
                rows.append(f'  <text {place} {length}{paint} xml:space="preserve">{html.escape(text)}</text>')
            column += len(text)
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{COLUMNS * width + 2 * left:.0f}" '
            f'height="{len(lines) * height + 24}" font-family="ui-monospace, monospace" font-size="14" fill="#c9d1d9">',
            '  <rect width="100%" height="100%" rx="8" fill="#0d1117"/>',
            *rows,
            "</svg>",
            "",
        )
    )


def main() -> None:
    """Runs it."""
    server = serve(SlowImage())
    with tempfile.TemporaryDirectory(prefix="ocifast-picture-") as folder:
        python = f"{sys.executable} -m ocifast"
        lines = screen(f"{python} compile {IMAGE} {folder}/app.erofs --no-cache")
    server.shutdown()
    (ROOT / "docs/progress.svg").write_text(svg(lines))


if __name__ == "__main__":
    main()
