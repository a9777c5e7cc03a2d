"""The page itself. What an image says goes through `_text`, or as JSON into a script that makes text of it alone."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from importlib.resources import files as resources
from typing import Any

from ocifast import _core
from ocifast.boot import BootConfig
from ocifast.footprint import Usage
from ocifast.history import History
from ocifast.image import Image
from ocifast.platforms import describe
from ocifast.reporting.tree import rows
from ocifast.shown import format_size, printable, shortened

__all__ = ["page"]

_LONG = 2000
"""Characters of one text: a path, a command, a value of the config."""
_ROWS = 200
"""Most rows of a table, but that of the layers."""
_TEXT_MAX = 4 << 20
"""Characters of all paths that can be searched."""
_COLOURS = 12


def page(image: Image, usage: Usage, boot: BootConfig, *, names: int) -> bytes:
    """The document, in UTF-8.

    Args:
        image: the image.
        usage: where its bytes are, at the root.
        boot: what a machine needs to boot it.
        names: how many names the tree has.
    """
    style, script = (
        resources("ocifast.reporting").joinpath(name).read_text("utf-8") for name in ("page.css", "page.js")
    )
    policy = f"default-src 'none'; style-src '{_sha256(style)}'; script-src '{_sha256(script)}'; base-uri 'none'"
    title = shortened(image.name, _LONG)
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">',
        f'<meta name="generator" content="ocifast {_core.__version__}">',
        f"<title>{escape(title)}</title>",
        f"<style>{style}</style>",
        "</head>",
        "<body>",
        '<a class="skip" href="#main">Skip to the content</a>',
        *_head(image, title),
        '<main id="main">',
        *_tiles(image, usage, names),
        *_layers(image.history, usage),
        *_map(),
        *_files(usage),
        *_wasted(usage),
        *_duplicates(usage),
        *_boot(boot),
        *_config(image),
        "</main>",
        f"<footer>Made by ocifast {_core.__version__}. Bytes are those of files as they are decompressed, "
        "without holes; layers are numbered from 0, the lowest.</footer>",
        f'<script type="application/json" id="data">{_json(_data(usage))}</script>',
        f"<script>{script}</script>",
        "</body>",
        "</html>",
        "",
    ]
    return "\n".join(parts).encode("utf-8")


def _sha256(text: str) -> str:
    """A hash as a policy names what may run (CSP level 3, 2.3.1)."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _text(text: object) -> str:
    """Text of an image in HTML: printable, bounded, escaped."""
    return escape(shortened(str(text), _LONG))


def _json(data: Any) -> str:
    """JSON that stays within its script element (HTML, 4.12.1.3)."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _data(usage: Usage) -> dict[str, Any]:
    """What the script works on."""
    there = ((file.path, file.bytes, file.layer, None) for file in usage.files)
    gone = ((file.path, file.bytes, file.layer, file.by) for file in usage.hidden)
    found, left = [], _TEXT_MAX
    for path, *rest in sorted([*there, *gone], key=lambda file: -file[1]):
        text = shortened(path, _LONG)
        left -= len(text)
        if left < 0:
            break
        found.append([text, *rest])
    return {"tree": rows(usage), "files": found}


def _head(image: Image, title: str) -> Iterator[str]:
    facts = [describe(image.platform) if image.platform else "", (image.config.created or "")[:19].replace("T", " ")]
    yield '<header class="top"><div>'
    yield f"<h1>{escape(title)}</h1>"
    yield f'<p class="faint">{" · ".join(_text(fact) for fact in facts if fact)}</p>'
    yield f'<p class="faint mono">{_text(image.digest)}</p>'
    yield '</div><button type="button" id="theme" class="screen" hidden title="Light or dark">◐ Theme</button></header>'
    places = ["layers", "sizes", "files", "wasted", "duplicates", "boot", "config"]
    links = (f'<a href="#{"all-files" if place == "files" else place}">{place.capitalize()}</a>' for place in places)
    yield f'<nav aria-label="Sections">{"".join(links)}</nav>'


def _tiles(image: Image, usage: Usage, names: int) -> Iterator[str]:
    whole = usage.bytes + usage.hidden_bytes
    tiles = [
        (format_size(usage.bytes), "in files", ""),
        (format_size(image.size), "compressed", ""),
        (f"{len(usage.layers)}", "layers" if len(usage.layers) != 1 else "layer", ""),
        (f"{names:,}", "files, folders and links", ""),
        (
            format_size(usage.hidden_bytes),
            f"wasted ({_share(usage.hidden_bytes, whole)})",
            "waste" if usage.hidden_bytes else "",
        ),
        (format_size(usage.duplicate_bytes), f"there twice ({_share(usage.duplicate_bytes, usage.bytes)})", ""),
    ]
    yield '<div class="tiles">'
    yield from (f'<div class="tile {kind}"><b>{value}</b><span>{what}</span></div>' for value, what, kind in tiles)
    yield "</div>"


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole if whole else 0:.1f} %"


def _colour(layer: int) -> str:
    return f"c{layer % _COLOURS}"


def _swatch(layer: int) -> str:
    return f'<i class="swatch {_colour(layer)}"></i>{layer}'


def _layers(history: History, usage: Usage) -> Iterator[str]:
    whole = sum(layer.bytes for layer in usage.layers) or 1
    most = max([layer.bytes for layer in usage.layers], default=0) or 1
    yield '<section aria-labelledby="layers"><h2 id="layers">Layers</h2>'
    yield '<svg class="stack" role="img" aria-label="How the bytes are divided among the layers">'
    at = 0.0
    for number, layer in enumerate(usage.layers):
        width = 100 * layer.bytes / whole
        label = f"layer {number}: {format_size(layer.bytes)}, {_share(layer.bytes, whole)}"
        yield f'<rect class="{_colour(number)}" x="{at:.3f}%" width="{width:.3f}%" height="100%">'
        yield f"<title>{label}</title></rect>"
        at += width
    yield "</svg>"
    head = '<th class="n">Layer</th><th class="n">Blob</th><th class="n">Files</th><th class="n bytes">Bytes</th>'
    head += '<th class="n">Wasted</th><th class="made">Made by</th>'
    yield f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>'
    made = [entry for entry in history.entries if entry.layer is not None]
    for number, layer in enumerate(usage.layers):
        record = made[number].record if number < len(made) else None
        done = (record and (record.created_by or record.comment)) or "(no step of the history names this layer)"
        kept, lost = ((layer.bytes - layer.hidden_bytes) / most, layer.hidden_bytes / most)
        bar = '<svg class="bar" aria-hidden="true">'
        bar += f'<rect class="{_colour(number)}" width="{100 * kept:.2f}%" height="100%"/>'
        bar += f'<rect class="waste" x="{100 * kept:.2f}%" width="{100 * lost:.2f}%" height="100%"/></svg>'
        cells = [
            f'<td class="n">{_swatch(number)}</td>',
            f'<td class="n">{format_size(layer.layer.size)}</td>',
            f'<td class="n">{layer.files:,}</td>',
            f'<td class="n">{format_size(layer.bytes)}{bar}</td>',
            f'<td class="n{" w" if layer.hidden_bytes else ""}">{format_size(layer.hidden_bytes)}</td>',
            f'<td><span class="what">{_text(done)}</span>',
            f'<span class="faint mono" title="diff ID">{_text(layer.diff_id[:19])}</span></td>',
        ]
        yield f"<tr>{''.join(cells)}</tr>"
    yield "</tbody></table></div>"
    if empty := sum(entry.is_empty for entry in history.entries):
        yield f'<p class="faint">{empty} {"steps" if empty > 1 else "step"} of the history made no layer.</p>'
    yield "</section>"


def _map() -> Iterator[str]:
    yield '<section aria-labelledby="sizes"><h2 id="sizes">Sizes</h2>'
    yield '<div class="crumbs" id="crumbs"></div>'
    yield '<div id="map" role="group" aria-label="Treemap of folders and files by size"></div>'
    yield '<p id="told" aria-live="polite"></p>'
    keys = "<kbd>←</kbd> <kbd>→</kbd> go from one to the next, <kbd>Enter</kbd> opens a folder, <kbd>Esc</kbd> goes up"
    yield f'<p class="faint screen">Colours are those of the layers. A click opens a folder; {keys}.</p>'
    yield "<noscript><p>The map and the search need JavaScript; nothing else here does.</p></noscript></section>"


def _files(usage: Usage) -> Iterator[str]:
    yield '<section aria-labelledby="all-files"><h2 id="all-files">Files</h2>'
    yield '<div class="find" id="find" hidden><input id="search" type="search" autocomplete="off" spellcheck="false"'
    yield ' placeholder="Find files: words of their paths" aria-label="Find files by words of their paths">'
    yield '<span class="faint" id="found" aria-live="polite"></span>'
    yield '<span class="faint"><kbd>/</kbd> goes here</span></div>'
    yield '<div class="scroll"><table><caption class="skip">The largest files</caption>'
    yield '<thead><tr><th class="n">Bytes</th><th class="n">Layer</th><th>Path</th><th></th></tr></thead>'
    yield '<tbody id="files">'
    for file in usage.files[:50]:
        cells = f'<td class="n">{format_size(file.bytes)}</td><td class="n">{_swatch(file.layer)}</td>'
        yield f'<tr>{cells}<td class="path">{_text(file.path)}</td><td></td></tr>'
    yield "</tbody></table></div></section>"


def _table(heads: Sequence[tuple[str, str]], lines: Iterable[Sequence[str]]) -> Iterator[str]:
    """A table of cells that are HTML already; a head is its class and its text."""
    head = "".join(f'<th class="{kind}">{text}</th>' for kind, text in heads)
    yield f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody class="listed">'
    for line in lines:
        cells = (f'<td class="{kind}">{cell}</td>' for (kind, _), cell in zip(heads, line, strict=True))
        yield f"<tr>{''.join(cells)}</tr>"
    yield "</tbody></table></div>"


def _more(count: int) -> Iterator[str]:
    if count >= _ROWS:
        yield f'<p class="faint screen">The first {_ROWS} are shown.</p>'


def _wasted(usage: Usage) -> Iterator[str]:
    yield '<section aria-labelledby="wasted"><h2 id="wasted">Wasted</h2>'
    if usage.hidden:
        yield "<p>What a layer brings and a later one hides or replaces: it is fetched, and nobody sees it.</p>"
        heads = [("n w", "Bytes"), ("n", "Layer"), ("n", "Gone in"), ("path", "Path")]
        lines = (
            (
                format_size(file.bytes),
                _swatch(file.layer),
                f"{file.by}, {'replaced' if file.replaced else 'hidden'}",
                _text(file.path),
            )
            for file in usage.hidden[:_ROWS]
        )
        yield from _table(heads, lines)
        yield from _more(len(usage.hidden))
    else:
        yield "<p>Nothing: every file of every layer is there in the end.</p>"
    yield "</section>"


def _duplicates(usage: Usage) -> Iterator[str]:
    yield '<section aria-labelledby="duplicates"><h2 id="duplicates">Duplicates</h2>'
    if usage.duplicates:
        yield "<p>Files with the same content that are no hard links of each other.</p>"
        heads = [("n", "Spare"), ("n", "Times"), ("path", "Paths")]
        lines = []
        for one in usage.duplicates[:_ROWS]:
            paths = [_text(path) for path in one.paths]
            if one.count > len(paths):
                paths.append(f"and {one.count - len(paths):,} more")
            lines.append((format_size(one.spare_bytes), f"{one.count:,}", "<br>".join(paths)))
        yield from _table(heads, lines)
        yield from _more(len(usage.duplicates))
    else:
        yield "<p>None.</p>"
    yield "</section>"


def _facts(pairs: Iterable[tuple[str, Iterable[str]]]) -> Iterator[str]:
    """A list of what is said of the image; what is empty is left out."""
    yield "<dl>"
    for name, values in pairs:
        shown = [f'<dd class="mono">{_text(value)}</dd>' for value in list(values)[:_ROWS] if value]
        if shown:
            yield f"<dt>{_text(name)}</dt>" + "<dt></dt>".join(shown)
    yield "</dl>"


def _boot(boot: BootConfig) -> Iterator[str]:
    user = boot.user
    ids = f"{user.name or 'root'} (uid {_id(user.uid)}, gid {_id(user.gid)})"
    yield '<section aria-labelledby="boot"><h2 id="boot">Boot</h2>'
    yield "<p>What a machine needs to start the image, with names looked up in the image itself.</p>"
    pairs = [
        ("arguments", [" ".join(json.dumps(word, ensure_ascii=False) for word in boot.arguments)]),
        ("environment", boot.env),
        ("user", [ids, user.missing or ""]),
        ("groups", [" ".join(map(str, user.groups))]),
        ("home", [user.home]),
        ("working directory", [boot.working_dir]),
        ("stop signal", [boot.stop_signal or ""]),
    ]
    yield from _facts(pairs)
    yield "</section>"


def _id(number: int | None) -> str:
    return "unknown" if number is None else str(number)


def _config(image: Image) -> Iterator[str]:
    runtime = image.config.config
    yield '<section aria-labelledby="config"><h2 id="config">Config</h2>'
    pairs: list[tuple[str, Iterable[str]]] = [
        ("manifest", [image.digest]),
        ("config", [image.manifest.config.digest]),
        ("entrypoint", (runtime and runtime.entrypoint) or ()),
        ("cmd", (runtime and runtime.cmd) or ()),
        ("user", [(runtime and runtime.user) or ""]),
        ("ports", sorted((runtime and runtime.exposed_ports) or ())),
        ("volumes", sorted((runtime and runtime.volumes) or ())),
    ]
    yield from _facts(pairs)
    annotations = sorted((image.manifest.annotations or {}).items())
    for name, items in [
        ("Labels", sorted(((runtime and runtime.labels) or {}).items())),
        ("Annotations", annotations),
    ]:
        if items:
            yield f"<h3>{name}</h3>"
            yield from _facts((printable(key[:_LONG]), [value]) for key, value in items[:_ROWS])
            yield from _more(len(items))
    yield "</section>"
