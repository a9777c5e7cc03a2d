"""`ocifast inspect`: what an image is, without its layers."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any

import click

from ocifast.cli.display import format_size, printable, report
from ocifast.cli.help import Command
from ocifast.cli.options import as_json, cache_for, cached, follow_links, image_argument, platform
from ocifast.cli.registry import options_for, registry_options

if TYPE_CHECKING:
    from ocifast.image import Image, Index

__all__ = ["command"]


@click.command(cls=Command)
@image_argument
@platform
@click.option("--raw", is_flag=True, help="Write the manifest or index as it is, byte for byte.")
@click.option("--config", is_flag=True, help="Write the image's config as it is, byte for byte.")
@click.option(
    "--format",
    "template",
    metavar="TEMPLATE",
    help="Write this text, with {FIELD} for fields of --json, as '{image.digest}' or '{image.labels.maintainer}'.",
)
@follow_links
@cached
@registry_options
@as_json
def command(
    image: str,
    *,
    platform: str | None,
    raw: bool,
    config: bool,
    template: str | None,
    follow_links: bool,
    no_cache: bool,
    offline: bool | None,
    refresh: bool,
    as_json: bool,
    **registry: Any,
) -> None:
    """Show what IMAGE is: digest, platforms, layers, config. Nothing but manifests and the config is fetched.

    IMAGE is {anywhere}. Of an index the image for --platform is shown, by default this machine's if there is one; --raw
    without --platform writes the index itself.
    """
    from ocifast import platforms
    from ocifast.image import Index, resolve
    from ocifast.opening import asking, open_cached
    from ocifast.sources.open import parse_location

    if sum((raw, config, as_json, template is not None)) > 1:
        raise click.UsageError("choose one of --raw, --config, --format and --json")
    location = parse_location(image)
    wanted = platforms.parse(platform) if platform is not None else None
    opened = open_cached(
        location,
        cache_for(no_cache, offline, refresh),
        how=asking(offline, refresh),
        platform="all" if raw and wanted is None else wanted,
        options=options_for(image, registry),
        follow_links=follow_links,
    )
    with closing(opened) as source:
        root = source.root()
        if raw and wanted is None:
            click.echo(root.raw, nl=False)
            return
        index = Index(source, root) if root.is_index else None
        if index is None:
            found: Image | None = resolve(source, wanted)
        else:
            found = _image(index, wanted, needed=config or raw or wanted is not None)
        if (raw or config) and found is not None:
            click.echo(found.document.raw if raw else found.config_raw, nl=False)
            return
        data = _describe(source.name, root.digest, root.media_type, index, found)
    if template is not None:
        if "image" not in data and "{image" in template:
            raise click.UsageError("the index has no image for this machine; choose one with --platform")
        from ocifast.cli.template import rendered

        report({}, as_json=False, text=rendered(template, data))
        return
    report(data, as_json=as_json, text=lambda: _show(data))


def _image(index: Index, wanted: Any, *, needed: bool) -> Image | None:
    """The image of the index; None when nobody asked for one and there is none for this machine."""
    from ocifast.errors import PlatformError

    try:
        return index.image(wanted)
    except PlatformError:
        if needed:
            raise
        return None


def _describe(name: str, digest: str, media_type: str, index: Index | None, image: Image | None) -> dict[str, Any]:
    """What is shown, in JSON's types and the specification's words."""
    from ocifast import platforms

    data: dict[str, Any] = {"reference": name, "digest": digest, "media_type": media_type}
    if index is not None:
        data["manifests"] = [
            {
                "platform": platforms.describe(entry.platform),
                "digest": entry.digest,
                "media_type": entry.media_type,
                "size": entry.size,
            }
            for entry in index.entries
        ]
    if image is not None:
        runtime = image.config.config
        data["image"] = {
            "digest": image.digest,
            "platform": platforms.describe(image.platform),
            "created": image.config.created,
            "size": image.size,
            "layers": [
                {"digest": layer.digest, "diff_id": diff_id, "media_type": layer.media_type, "size": layer.size}
                for layer, diff_id in zip(image.layers, image.diff_ids, strict=True)
            ],
            "user": (runtime and runtime.user) or None,
            "entrypoint": list((runtime and runtime.entrypoint) or ()),
            "cmd": list((runtime and runtime.cmd) or ()),
            "env": list((runtime and runtime.env) or ()),
            "working_dir": (runtime and runtime.working_dir) or None,
            "exposed_ports": sorted((runtime and runtime.exposed_ports) or ()),
            "volumes": sorted((runtime and runtime.volumes) or ()),
            "stop_signal": (runtime and runtime.stop_signal) or None,
            "labels": dict(sorted(((runtime and runtime.labels) or {}).items())),
            "annotations": dict(sorted((image.manifest.annotations or {}).items())),
        }
    return data


def _show(data: dict[str, Any]) -> str:
    """The same for people: one fact a line, nothing that is empty."""
    rows: list[tuple[str, str]] = [("reference", data["reference"]), ("digest", data["digest"])]
    manifests = data.get("manifests")
    if manifests is not None:
        shown = manifests[:_ROWS]
        rows += [("platforms" if not number else "", _line(entry)) for number, entry in enumerate(shown)]
        if len(manifests) > len(shown):
            rows.append(("", f"and {len(manifests) - len(shown)} more, which --json lists"))
    image = data.get("image")
    if image is not None:
        if manifests is not None:
            rows.append(("image", image["digest"]))
        rows += [("platform", image["platform"]), ("created", image["created"]), ("size", format_size(image["size"]))]
        rows += [
            ("layers" if not number else "", f"{layer['digest']}  {format_size(layer['size'])}")
            for number, layer in enumerate(image["layers"])
        ]
        for title in ("user", "working_dir", "stop_signal"):
            rows.append((title, image[title]))
        for title in ("entrypoint", "cmd"):
            rows.append((title, " ".join(_quoted(word) for word in image[title])))
        for title in ("env", "exposed_ports", "volumes"):
            rows += [(title if not number else "", value) for number, value in enumerate(image[title])]
        for title in ("labels", "annotations"):
            rows += [
                (title if not number else "", f"{key}={value}")
                for number, (key, value) in enumerate(image[title].items())
            ]
    return "\n".join(f"{_TITLES.get(title, title):<14}{printable(value)}" for title, value in rows if value)


_ROWS = 100
"""Most images of an index that are shown to people."""
_TITLES = {"working_dir": "working dir", "stop_signal": "stop signal", "exposed_ports": "ports"}


def _line(entry: dict[str, Any]) -> str:
    return f"{entry['platform']:<20}{entry['digest']}"


def _quoted(word: str) -> str:
    import shlex

    return shlex.quote(word)
