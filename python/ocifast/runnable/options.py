"""What a runnable is made of."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, field
from pathlib import Path
from typing import Union

from ocifast.errors import UsageError
from ocifast.records import dataclass
from ocifast.runnable.checks import COMPRESSIONS, check_name, check_port, check_signal, check_user, creation_time

__all__ = ["AnyPath", "RunnableOptions"]

AnyPath = Union[str, "os.PathLike[str]"]


@dataclass(frozen=True)
class RunnableOptions:
    """What a runnable is made of, and what its config says (image-spec, config.md).

    Everything but the executables has a default. Nothing is read here.

    Attributes:
        executables: path of an ELF executable, or paths of several for different platforms: the image is then an index.
        name: the executable's name in the image; by default that of its file.
        args: arguments that a user may replace when starting a container (`Cmd`).
        env: environment variables.
        user: `NAME[:GROUP]` or `UID[:GID]`. Without a base image a name is entered in `/etc/passwd` and `/etc/group`,
            with the number 65532.
        working_dir: absolute path; by default that of the base image, or `/`.
        labels: in the config.
        annotations: of each manifest, and of the index.
        ports: exposed ports, as "8080", "53/udp" or "6000-6010/tcp".
        volumes: absolute paths.
        stop_signal: as "SIGINT" or "2".
        add: files and folders that go into the image: path here, absolute path there; a path there that ends with "/"
            is the folder to put it in. Modes become 0755 or 0644, owners 0:0, times 1970.
        ca_certs: True for this machine's `/etc/ssl/certs/ca-certificates.crt`, or another file of certificates in PEM.
        time_zones: True for this machine's `/usr/share/zoneinfo`, or another such folder.
        base: an image, as `ocifast.open` takes it, whose layers stay below and whose config is added to.
        follow_links: whether symbolic links that lead out of an image layout are followed, where the base is in one.
        bundle: takes the interpreter and the libraries of a dynamically linked executable along, in a layer of their
            own, so that images with the same libraries share it.
        sysroot: the root of the system that a dynamically linked executable was built for.
        compression: of the layers: "none", "gzip" or "zstd".
        level: of the compression.
        created: seconds since 1970; by default `SOURCE_DATE_EPOCH`, or 0.

    Raises:
        UsageError: an option that is malformed or contradicts another.
    """

    executables: AnyPath | Sequence[AnyPath]
    _: KW_ONLY
    name: str | None = None
    args: Sequence[str] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    user: str | None = None
    working_dir: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    ports: Sequence[str] = ()
    volumes: Sequence[str] = ()
    stop_signal: str | None = None
    add: Sequence[tuple[AnyPath, str]] = ()
    ca_certs: bool | AnyPath = False
    time_zones: bool | AnyPath = False
    base: str | None = None
    follow_links: bool = False
    bundle: bool = False
    sysroot: AnyPath = "/"
    compression: str = "none"
    level: int | None = None
    created: int | None = None

    def __post_init__(self) -> None:
        if not self.paths:
            raise UsageError("no executable was given")
        for variable in self.env:
            if not variable or "=" in variable or "\0" in variable:
                raise UsageError(f"{variable!r} is no name of an environment variable")
        for label in (*self.labels, *self.annotations):
            if not label:
                raise UsageError("a label or annotation has an empty name")
        for port in self.ports:
            check_port(port)
        for path in (*self.volumes, *([self.working_dir] if self.working_dir is not None else [])):
            if not path.startswith("/"):
                raise UsageError(f"{path!r} is no absolute path; volumes and the working directory need one")
        if self.stop_signal is not None:
            check_signal(self.stop_signal)
        if self.user is not None:
            check_user(self.user)
        if self.name is not None:
            check_name(self.name)
        if self.compression not in COMPRESSIONS:
            raise UsageError(f"{self.compression!r} is no compression; there are {', '.join(COMPRESSIONS)}")
        lowest, highest, _ = COMPRESSIONS[self.compression]
        if self.level is not None and not lowest <= self.level <= highest:
            allowed = f"{lowest} to {highest}" if highest else "none"
            raise UsageError(f"level {self.level} is not one of {self.compression}, which has {allowed}")
        if self.created is not None:
            creation_time(self.created)

    @property
    def paths(self) -> tuple[Path, ...]:
        """The executables' paths."""
        if isinstance(self.executables, (str, os.PathLike)):
            return (Path(self.executables),)
        return tuple(Path(path) for path in self.executables)
