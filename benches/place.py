"""Where an image stands while it is worked on: a layout, and registries on loopback: plain, TLS, or far away."""

from __future__ import annotations

import shlex
import shutil
import sys
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import trustme

from benches.throttle import throttled
from benches.workloads.layouts import read_layers
from tests.support.registry import Registry, Tls, serve_registry
from tests.support.run import PATH, tool

OCIFAST = Path(sys.executable).with_name("ocifast")
EXECUTABLE_BYTES = 200_000_000
TAGS = ("app", "second", "four")
"""Tags that an image of a workload may have."""


@dataclass
class Place:
    """The layout of one workload in registries of its own.

    Attributes:
        layout: the layout.
        folder: an empty folder for registries and what else is made once.
        stack: ends what is started here.
        slow: the registry is behind 20 ms and 50 MB/s.
        pushed: registries that were made to push into.
    """

    layout: Path
    folder: Path
    stack: ExitStack
    slow: bool = False
    pushed: int = field(default=0, init=False)

    @cached_property
    def registry(self) -> Registry:
        """A registry that has all tags of the layout, and nothing else."""
        registry = self.fresh_registry("registry")
        for tag in self.tags:
            registry.push(f"oci:{self.layout}:{tag}", f"app:{tag}")
        return registry

    @cached_property
    def secure(self) -> Registry:
        """The same over TLS, with a certificate of an authority of its own."""
        authority = trustme.CA()
        server = authority.issue_cert("localhost", "127.0.0.1")
        keys = self.folder / "keys"
        keys.mkdir()
        server.private_key_pem.write_to_path(keys / "server.key")
        server.cert_chain_pems[0].write_to_path(keys / "server.crt")
        authority.cert_pem.write_to_path(keys / "authority.crt")
        tls = Tls(keys / "server.crt", keys / "server.key", keys / "authority.crt")
        registry = self.stack.enter_context(serve_registry(self.folder / "secure", tls=tls))
        registry.push(f"oci:{self.layout}:app", "app:app")
        return registry

    def certificates(self, *, by_host: bool) -> Path:
        """The folder that has the authority of `secure` as `ca.crt`, or has such folders by host."""
        assert self.secure.tls is not None
        base = self.folder / "certificates"
        folder = base / self.secure.host
        if not folder.exists():
            folder.mkdir(parents=True)
            shutil.copy(self.secure.tls.authority, folder / "ca.crt")
        return base if by_host else folder

    @cached_property
    def tags(self) -> list[str]:
        """The tags of the layout."""
        found = []
        for tag in TAGS:
            try:
                read_layers(self.layout, tag)
            except LookupError:
                continue
            found.append(tag)
        return found

    def environment(self, at: Path) -> dict[str, str]:
        """Of one run in a folder: it has its own cache, and nobody's credentials."""
        nobody = self.folder / "auth.json"
        nobody.write_text("{}")
        own = {"OCIFAST_CACHE_DIR": str(at / "cache"), "TMPDIR": str(at), "REGISTRY_AUTH_FILE": str(nobody)}
        return {**own, "PATH": PATH}

    @cached_property
    def host(self) -> str:
        """What the registry is called: its own address, or that of what makes it slow."""
        return self.stack.enter_context(throttled(self.registry.host)) if self.slow else self.registry.host

    def reference(self, tag: str = "app") -> str:
        """The image in the registry."""
        return f"{self.host}/app:{tag}"

    def source(self, tag: str = "app") -> str:
        """The image in the layout."""
        return f"oci:{self.layout}:{tag}"

    def fresh_registry(self, name: str) -> Registry:
        """A registry with nothing in it, on a port that no tool has met before."""
        return self.stack.enter_context(serve_registry(self.folder / name))

    def blobs(self, tag: str = "app") -> list[tuple[Path, str]]:
        """The blobs of the image's layers with what inflates them, bottom layer first."""
        layers, _ = read_layers(self.layout, tag)
        return [
            (
                self.layout / "blobs" / descriptor["digest"].replace(":", "/"),
                "zstd -dc" if descriptor["mediaType"].endswith("zstd") else "igzip -dc",
            )
            for descriptor, _ in layers
        ]

    def inflate(self, tag: str = "app") -> list[str]:
        """For each layer the command that writes its archive to standard output."""
        return [f"{by} {shlex.quote(str(path))}" for path, by in self.blobs(tag)]

    def prepare_push(self, at: Path) -> None:
        """An empty registry for one run; skopeo remembers where it has seen a blob, so a new port each time."""
        self.pushed += 1
        (at / "host").write_text(self.fresh_registry(f"push-{self.pushed}").host)

    @cached_property
    def executable(self) -> Path:
        """A static executable of 200 MB: busybox and what a linker would have put after it."""
        path = self.folder / "executable"
        shutil.copy(tool("busybox"), path)
        with path.open("ab") as file, Path("/dev/urandom").open("rb") as noise:
            while file.tell() < EXECUTABLE_BYTES:
                file.write(noise.read(1 << 20))
        return path
