"""The file of a batch: one image an entry, in YAML or in lines of JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from ocifast.cli.edits import make_edits
from ocifast.compiler import CompileOptions, CompilePlan
from ocifast.errors import FileError, UsageError, reason
from ocifast.packers import PackOptions

__all__ = ["read_entries", "read_plans"]

_LIMIT = 256 << 20
"""Most bytes of a file."""
_PLAN = ("image", "output", "format", "platform", "edits", "options")
_LISTS = {"add": "add", "layers": "layer", "exclude": "exclude"}
_OTHERS = {"subtree": str, "mount_points": bool, "chown": str, "id_offset": int}


def read_plans(name: str, text: str, options: CompileOptions) -> list[CompilePlan]:
    """The plans of a file.

    Args:
        name: how messages call it; `.yaml` and `.yml` say that it is YAML.
        text: what is in it.
        options: of all plans; what an entry says of its output is added.

    Raises:
        UsageError: it says something that makes no sense; the message names the entry.
    """
    return [_plan(entry, where, options) for where, entry in read_entries(name, text)]


def read_file(name: str) -> str:
    """The text of a file; `-` is standard input. Raises FileError."""
    try:
        if name == "-":
            import sys

            data = sys.stdin.buffer.read(_LIMIT + 1)
        else:
            with Path(name).open("rb") as file:
                data = file.read(_LIMIT + 1)
        if len(data) > _LIMIT:
            raise FileError(f"{name} is longer than {_LIMIT >> 20} MiB")
        return data.decode()
    except FileError:
        raise
    except OSError as error:
        raise FileError(f"cannot read {name}: {error.strerror}", errno=error.errno) from error
    except UnicodeDecodeError:
        raise FileError(f"{name} is no text in UTF-8") from None


def read_entries(name: str, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The entries of a file, each with how messages call it.

    A file that is neither called YAML nor begins with an object is YAML as well, of which JSON is a part.

    Raises:
        UsageError: it is neither.
    """
    if not name.endswith((".yaml", ".yml")) and text.lstrip()[:1] in ("{", ""):
        for number, line in enumerate(text.splitlines(), 1):
            if line.strip():
                yield f"{name}, line {number}", _object(_json(line, f"{name}, line {number}"), f"{name}, line {number}")
        return
    whole = _yaml(text, name)
    defaults: dict[str, Any] = {}
    if isinstance(whole, dict):
        unknown = set(whole) - {"images", "defaults"}
        if unknown or "images" not in whole:
            raise UsageError(f"{name} must be a list of images, or have the fields images and defaults")
        whole, defaults = whole["images"], _object(whole.get("defaults") or {}, f"{name}, defaults")
    if not isinstance(whole, list):
        raise UsageError(f"{name} must be a list of images, or have the fields images and defaults")
    for number, entry in enumerate(whole, 1):
        where = f"{name}, entry {number}"
        yield where, {**defaults, **_object(entry, where)}


def _plan(entry: Mapping[str, Any], where: str, options: CompileOptions) -> CompilePlan:
    for field in entry:
        if field not in _PLAN:
            raise UsageError(f"{where} has the unknown field {str(field)[:100]!r}; known are {', '.join(_PLAN)}")
    for field in ("image", "output"):
        if field not in entry or entry[field] == []:
            raise UsageError(f"{where} has no {field}")
    outputs = entry["output"] if isinstance(entry["output"], list) else [entry["output"]]
    pack = options.pack
    try:
        if entry.get("options"):
            given = _object(entry["options"], f"{where}: options")
            unknown = set(given) - {each.name for each in fields(PackOptions)}
            if unknown:
                raise UsageError(f"there is no option {min(map(str, unknown))!r}")
            pack = replace(pack, **given)
        return CompilePlan(
            _text(entry["image"], "image"),
            tuple(_text(output, "output") for output in outputs),
            None if entry.get("format") is None else _text(entry["format"], "format"),
            None if entry.get("platform") is None else _text(entry["platform"], "platform"),
            replace(options, pack=pack),
            _edits(entry.get("edits") or {}, where),
        )
    except UsageError as error:
        if error.message.startswith(where):
            raise
        raise UsageError(f"{where}: {error.message}", **error.context) from None


def _edits(value: Any, where: str) -> Any:
    given = _object(value, f"{where}: edits")
    words: dict[str, Any] = {"add": (), "layer": (), "exclude": (), "subtree": None, "mount_points": False}
    words |= {"chown": None, "id_offset": 0}
    for field, said in given.items():
        if field in _LISTS:
            several = said if isinstance(said, list) else [said]
            words[_LISTS[field]] = tuple(_text(each, field) for each in several)
        elif field in _OTHERS:
            if not isinstance(said, _OTHERS[field]) or (_OTHERS[field] is int and isinstance(said, bool)):
                hint = "; in YAML it is written in quotes" if field == "chown" else ""
                raise UsageError(f"{field} cannot be {said!r}{hint}")
            words[field] = said
        else:
            known = ", ".join((*_LISTS, *_OTHERS))
            raise UsageError(f"there is no edit {str(field)[:100]!r}; there are {known}")
    if "-" in words["layer"]:
        raise UsageError("a layer of a batch is a file, not standard input")
    return make_edits(**words)


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{where} is no JSON: {reason(error)}") from None


def _yaml(text: str, name: str) -> Any:
    if text.lstrip()[:1] == "[":
        # A list in JSON needs nothing that has to be installed.
        return _json(text, name)
    try:
        import yaml
    except ImportError:
        raise UsageError(
            f"{name} is YAML, which needs the package PyYAML: pip install 'ocifast[batch]'; or write lines of JSON"
        ) from None
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UsageError(f"{name} is no YAML: {' '.join(reason(error).split())[:300]}") from None


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UsageError(f"{where} is no object with fields")
    return value


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str) or not value:
        raise UsageError(f"{what} must be a text, not {str(value)[:100]!r}")
    return value
