"""Templates of `--format`: text in which `{image.digest}` stands for a field of what `--json` writes.

Paths of fields and nothing else: no expression is evaluated and no attribute of an object is reached, so that a
stranger's template can do nothing but print; and what it prints is documented with `--json`.
"""

from __future__ import annotations

import re
from typing import Any

import click

from ocifast.patterns import pattern
from ocifast.shown import printable

__all__ = ["rendered"]

_PIECE = pattern(r"\{\{|\}\}|\\[nt\\]|\{([^{}]*)\}|[{}]")
_LITERALS = {"{{": "{", "}}": "}", "\\n": "\n", "\\t": "\t", "\\\\": "\\"}


def rendered(template: str, data: Any) -> str:
    r"""The template with its fields filled in.

    Args:
        template: text; `{a.b.0}` is a field by names and positions, `{{` and `}}` are braces, `\n` and `\t` a line
            end and a tab.
        data: of JSON's types.

    Returns:
        Text; what a field is that is neither text, number nor truth value stands as JSON, and null as nothing.

    Raises:
        click.UsageError: there is no such field, or a brace is alone.
    """

    def piece(match: re.Match[str]) -> str:
        if match[0] in _LITERALS:
            return _LITERALS[match[0]]
        if match[1] is None:
            raise click.UsageError(f"--format: a {match[0]!r} is alone; write it twice for the character itself")
        return _text(_field(data, match[1].strip()))

    return _PIECE.sub(piece, template)


def _field(data: Any, path: str) -> Any:
    at, rest = data, path
    while rest:
        if isinstance(at, dict):
            # Names of labels have dots: the longest name that is there counts.
            words = rest.split(".")
            for length in range(len(words), 0, -1):
                name = ".".join(words[:length])
                if name in at:
                    break
            else:
                there = ", ".join(map(printable, list(at)[:40])) or "nothing"
                raise click.UsageError(f"--format: there is no {words[0]!r} in {{{path}}}; there is {there}")
            at, rest = at[name], ".".join(words[length:])
        elif isinstance(at, list):
            word, _, rest = rest.partition(".")
            if not word.isdecimal() or int(word) >= len(at):
                raise click.UsageError(f"--format: {{{path}}}: {word!r} is no position in a list of {len(at)}, from 0")
            at = at[int(word)]
        else:
            raise click.UsageError(f"--format: {{{path}}}: nothing is below {_text(at)!r}")
    return at


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return printable(value)
    import json

    return printable(json.dumps(value, ensure_ascii=False))
