"""What `--help` shows: places filled in, options in groups, two examples at the end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import click

from ocifast.cli.registry import OPTION_NAMES

__all__ = ["EXAMPLES", "Command", "PlacesOption", "filled"]

EXAMPLES: Mapping[str, tuple[str, ...]] = {
    "compile": (
        "ocifast compile python:3.13-slim rootfs.erofs",
        "ocifast compile oci:layout:app rootfs",
        "ocifast compile oci:layout:app root.disk --esp",
        "ocifast compile alpine - | tar t",
    ),
    "pull": ("ocifast pull alpine oci:layout:alpine", "ocifast pull --all alpine:3.22 oci-archive:alpine.tar"),
    "push": (
        "ocifast push oci:layout:app ghcr.io/org/app:1.2",
        "ocifast push docker-archive:app.tar localhost:5000/app",
    ),
    "copy": (
        "ocifast copy ghcr.io/org/app:1.2 registry.example.com/app:1.2",
        "ocifast copy --referrers ghcr.io/org/app:1.2 oci:mirror:app",
    ),
    "delete": (
        "ocifast delete localhost:5000/app@$(ocifast digest localhost:5000/app:old)",
        "ocifast delete --json registry.example.com/app@sha256:DIGEST",
    ),
    "runnable": (
        "ocifast runnable ./hello -o hello.tar",
        "ocifast runnable ./hello-amd64 ./hello-arm64 -t ghcr.io/org/hello:1 --push",
    ),
    "inspect": (
        "ocifast inspect python:3.13-slim",
        "ocifast inspect --format '{image.platform} {image.size}' oci:layout:app",
    ),
    "digest": ("ocifast digest python:3.13-slim", "ocifast digest --platform linux/arm64 oci:layout:app"),
    "history": ("ocifast history oci:layout:app", "ocifast history --no-trunc ghcr.io/org/app:1.2"),
    "ls": ("ocifast ls -lh python:3.13-slim /etc", "ocifast ls --layer 2 oci:layout:app"),
    "diff": (
        "ocifast diff python:3.13-slim python:3.13",
        "ocifast diff --stat --exit-code oci:one oci:two",
        "ocifast diff --by-layer oci:layout:app ghcr.io/org/app:1.2",
    ),
    "du": ("ocifast du python:3.13-slim", "ocifast du --top 3 oci:layout:app /usr"),
    "report": (
        "ocifast report python:3.13-slim -o report.html",
        "ocifast report oci:layout:app -o - > app.html",
    ),
    "batch": (
        "ocifast batch images.yaml --workers 4",
        "ocifast batch images.jsonl --dask tcp://head:8786 --resume",
    ),
    "cat": ("ocifast cat python:3.13-slim /etc/os-release", "ocifast cat oci:layout:app /usr/bin/env > env"),
    "tags": ("ocifast tags python", "ocifast tags --json ghcr.io/org/app"),
    "login": ("ocifast login ghcr.io", "ocifast login -u me --password-stdin localhost:5000 < password"),
    "logout": ("ocifast logout ghcr.io", "ocifast logout --auth-file auth.json localhost:5000"),
    "cache export": (
        "ocifast cache export --containerd /var/lib/erofs-layers python:3.13-slim",
        "ocifast cache export --containerd layers/ --verity oci:layout:app",
    ),
    "cache info": ("ocifast cache info", "ocifast cache info --json"),
    "cache ls": ("ocifast cache ls", "ocifast cache ls --json"),
    "cache prune": ("ocifast cache prune --max-size 4G", "ocifast cache prune --older-than 30d"),
    "cache clear": ("ocifast cache clear", "ocifast cache clear --json"),
    "cache verify": ("ocifast cache verify", "ocifast cache verify --json"),
}
"""Of each command, two at least."""

_GROUPS: Mapping[str, frozenset[str]] = {
    "Edits": frozenset({"add", "layer", "exclude", "subtree", "mount_points", "chown", "id_offset"}),
    "Seals": frozenset({"seal_verity", "verity_file", "sign_verity"}),
    "Which image": frozenset({"platform", "all_platforms", "seeds", "follow_links", "verify_keys", "policy"}),
    "Cache, threads and bounds": frozenset(
        {
            "no_cache",
            "offline",
            "refresh",
            "keep_layers",
            "verify_cache",
            "jobs",
            "downloads",
            "parallel",
            "max_metadata",
            "max_image_size",
            "tmp_dir",
        }
    ),
    "Progress and results": frozenset({"quiet", "progress", "as_json", "verbose", "help"}),
    "Registries": frozenset(OPTION_NAMES),
}
"""Names of options that stand together, below those that are a command's own."""

_MINGLED = 8
"""Up to so many options stand together."""


class Command(click.Command):
    """A command whose help says where images may be, from the table of transports, and ends in `EXAMPLES`."""

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The help with its places filled in."""
        stated = self.help
        self.help = filled(stated or "")
        try:
            super().format_help_text(ctx, formatter)
        finally:
            self.help = stated

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The command's own options first, then those that many share."""
        for title, records in self.grouped(ctx):
            with formatter.section(title):
                formatter.write_dl([record for _, record in records])

    def grouped(self, ctx: click.Context) -> Iterator[tuple[str, list[tuple[str, tuple[str, str]]]]]:
        """The groups that are not empty: title, and of each option its name, how it is written, what it says."""
        shown = [
            (parameter.name or "", record)
            for parameter in self.get_params(ctx)
            if isinstance(parameter, click.Option) and (record := parameter.get_help_record(ctx)) is not None
        ]
        if len(shown) <= _MINGLED:
            yield "Options", shown
            return
        rest = {name for group in _GROUPS.values() for name in group}
        own = [each for each in shown if each[0] not in rest]
        if own:
            yield "Options", own
        for title, names in _GROUPS.items():
            if found := [each for each in shown if each[0] in names]:
                yield title, found

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The examples, as they are typed."""
        examples = EXAMPLES.get(ctx.command_path.partition(" ")[2], ())
        if examples:
            with formatter.section("Examples"):
                for example in examples:
                    formatter.write(f"{'':{formatter.current_indent}}{example}\n")


class PlacesOption(click.Option):
    """An option whose help says where images may be."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """The help with its places filled in."""
        record = super().get_help_record(ctx)
        return None if record is None else (record[0], filled(record[1]))


def filled(text: str) -> str:
    """A help text in which the table of transports has filled in the places.

    `{anywhere}`, `{local}`, `{registry}`, `{writable}` and `{disk}` (writable and no registry) stand for the ways to
    write it.
    """
    from ocifast.sources.open import syntax

    places = {
        "{anywhere}": syntax(),
        "{local}": syntax(remote=False),
        "{registry}": syntax(written=True, remote=True),
        "{writable}": syntax(written=True),
        "{disk}": syntax(written=True, remote=False),
    }
    for place, ways in places.items():
        text = text.replace(place, ways)
    return text
