"""What a machine needs to boot an image: the process to start, as numbers and lists, with nothing left to look up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Protocol

from ocifast.errors import DocumentError, PathNotFoundError
from ocifast.records import dataclass
from ocifast.seals.verity import Verity
from ocifast.spec import ImageConfig

__all__ = ["BootConfig", "ReadableFiles", "User", "boot_config"]

_DATABASE_LIMIT = 16 << 20
"""Most bytes of `/etc/passwd` or `/etc/group` that are read."""
_ID_MAX = (1 << 32) - 2
"""The largest id; -1 as 32 bits means "no change" to chown(2)."""


class ReadableFiles(Protocol):
    """A tree whose files can be read, with links followed inside it: `Rootfs`."""

    def chunks(self, path: str | bytes) -> Iterator[bytes]:
        """The content of a regular file. Raises PathNotFoundError."""
        ...


@dataclass(frozen=True)
class User:
    """Who the process runs as.

    Attributes:
        name: as the config has it: "" when it has none, else `USER[:GROUP]`, names or numbers.
        uid: numeric user; None when the name is not in the image's passwd.
        gid: numeric group; None when the group, or the user that it would come from, is not in the image.
        groups: supplementary groups, sorted, without `gid`.
        home: home directory from the image's passwd; "/" when the user is not in it.
    """

    name: str
    uid: int | None
    gid: int | None
    groups: tuple[int, ...]
    home: str

    @property
    def missing(self) -> str | None:
        """What the image lacks, for a message, or None: such an image can be compiled, but not booted as it says."""
        user, _, group = self.name.partition(":")
        if self.uid is None:
            return f"the config's user {user!r} is not in the image's /etc/passwd"
        if self.gid is None:
            return f"the config's group {group!r} is not in the image's /etc/group"
        return None


@dataclass(frozen=True)
class BootConfig:
    """The image's config, made ready for an init (image-spec, config.md, "Properties").

    Attributes:
        entrypoint: what comes first of the process' arguments.
        cmd: what follows.
        env: `NAME=VALUE` in the config's order.
        user: who runs it.
        working_dir: absolute path.
        stop_signal: name or number of the signal that asks it to end; None when the config has none.
        verity: what opens the output that this was written beside; None where it is not sealed.
        kernel_command_line: the words by which a kernel finds its root on the disk that this was written beside; None
            where it is none.
    """

    entrypoint: tuple[str, ...]
    cmd: tuple[str, ...]
    env: tuple[str, ...]
    user: User
    working_dir: str
    stop_signal: str | None
    verity: Verity | None = None
    kernel_command_line: str | None = None

    @property
    def arguments(self) -> tuple[str, ...]:
        """The process' arguments: entrypoint and cmd."""
        return self.entrypoint + self.cmd

    def beside(self, properties: Mapping[str, str]) -> BootConfig:
        """The same for an output, of whose properties it takes what is needed to boot."""
        return replace(self, verity=Verity.of(properties), kernel_command_line=properties.get("cmdline"))

    def to_json(self) -> dict[str, Any]:
        """The same as JSON-able data, for `--config` and `--json`."""
        return {
            "entrypoint": list(self.entrypoint),
            "cmd": list(self.cmd),
            "env": list(self.env),
            "user": {
                "name": self.user.name,
                "uid": self.user.uid,
                "gid": self.user.gid,
                "groups": list(self.user.groups),
                "home": self.user.home,
            },
            "working_dir": self.working_dir,
            "stop_signal": self.stop_signal,
            "verity": None if self.verity is None else self.verity.to_json(),
            "kernel_command_line": self.kernel_command_line,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> BootConfig:
        """From what `to_json` gave."""
        user = data["user"]
        return cls(
            tuple(data["entrypoint"]),
            tuple(data["cmd"]),
            tuple(data["env"]),
            User(user["name"], user["uid"], user["gid"], tuple(user["groups"]), user["home"]),
            data["working_dir"],
            data["stop_signal"],
            None if data.get("verity") is None else Verity.from_json(data["verity"]),
            data.get("kernel_command_line"),
        )


def boot_config(config: ImageConfig, files: ReadableFiles) -> BootConfig:
    """Resolves an image's config against the image's own files, and nothing else.

    Args:
        config: the image config.
        files: the image's tree.

    Returns:
        The config; ids of a user or group that the image does not have are None (see `User.missing`).

    Raises:
        DocumentError: `/etc/passwd` or `/etc/group` is too long.
    """
    runtime = config.config
    if runtime is None:
        return BootConfig((), (), (), User("", 0, 0, (), "/root"), "/", None)
    directory = runtime.working_dir or "/"
    return BootConfig(
        tuple(runtime.entrypoint or ()),
        tuple(runtime.cmd or ()),
        tuple(runtime.env or ()),
        _resolve_user(runtime.user or "", files),
        directory if directory.startswith("/") else f"/{directory}",
        runtime.stop_signal or None,
    )


def _resolve_user(text: str, files: ReadableFiles) -> User:
    user, _, group = text.partition(":")
    passwd = _database(files, "/etc/passwd", 7)
    # Names win over numbers, as in all runtimes: a user may be called "1000".
    entry = next((fields for fields in passwd if fields[0] == user), None) if user else None
    uid = _number(entry[2]) if entry else _number(user or "0")
    if entry is None and uid is not None:
        entry = next((fields for fields in passwd if _number(fields[2]) == uid), None)
    home = entry[5] if entry and entry[5] else "/"
    groups = _database(files, "/etc/group", 4)
    if group:
        found = next((fields for fields in groups if fields[0] == group), None)
        return User(text, uid, _number(found[2]) if found else _number(group), (), home)
    if uid is None:
        return User(text, None, None, (), home)
    gid = (_number(entry[3]) if entry else None) or 0
    members = (fields for fields in groups if entry and entry[0] in fields[3].split(","))
    others = {number for fields in members if (number := _number(fields[2])) is not None and number != gid}
    return User(text, uid, gid, tuple(sorted(others)), home)


def _database(files: ReadableFiles, path: str, columns: int) -> list[list[str]]:
    """The lines of a passwd(5) or group(5) file that have all columns; none when there is no such regular file."""
    data = bytearray()
    try:
        for chunk in files.chunks(path):
            data += chunk
            if len(data) > _DATABASE_LIMIT:
                raise DocumentError(f"{path} of the image is longer than {_DATABASE_LIMIT} bytes")
    except PathNotFoundError:
        return []
    lines = data.decode(errors="backslashreplace").split("\n")
    return [fields for line in lines if len(fields := line.split(":")) >= columns and not line.startswith("#")]


def _number(text: str) -> int | None:
    if not text.isascii() or not text.isdigit():
        return None
    return number if (number := int(text)) <= _ID_MAX else None
