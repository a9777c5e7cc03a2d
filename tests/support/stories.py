"""Pages that tell one piece of work from beginning to end: their files and commands, as one script.

A fence that has a title is a file of that name; a `console` fence has commands, each after a `$`. What commands
print is not in the page, but for what the page looks for itself.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

FENCE = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)

NOT_RUN = {
    "apptainer": "in no Debian 12 package; runs squashfs files as they are",
    "apt-get": "the kernel is downloaded once for all tests, and put where this puts it",
    "cloud-hypervisor": "in no Debian package, and needs /dev/kvm",
    "enroot": "in no Debian package; the same image is unpacked by unsquashfs",
    "firecracker": "in no Debian package, and needs /dev/kvm",
    "pip": "installs a release from the package index; the wheel is tried by make wheels",
}
"""Commands of the pages that no test runs, and why."""


@dataclass(frozen=True)
class Story:
    """A page, taken apart.

    Attributes:
        files: text of each file that the page shows, by name.
        commands: what runs, in order.
        left_out: commands that no test runs.
    """

    files: dict[str, str]
    commands: list[str]
    left_out: list[str]

    def script(self) -> str:
        """All commands, for bash; each is shown before it runs."""
        return "set -euo pipefail\n" + "\n".join(self.commands) + "\n"


def story(page: Path) -> Story:
    """Reads a page."""
    files: dict[str, str] = {}
    commands: list[str] = []
    left_out: list[str] = []
    for language, title, text in FENCE.findall(page.read_text()):
        if title:
            files[title] = text
        elif language == "console":
            for command in re.findall(r"^\$ ((?:.*\\\n)*.*)$", text, re.MULTILINE):
                (left_out if command.startswith(tuple(NOT_RUN)) else commands).append(command)
    return Story(files, commands, left_out)
