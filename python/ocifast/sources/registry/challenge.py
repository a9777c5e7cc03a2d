"""`WWW-Authenticate` (RFC 9110, section 11.6.1): what a server asks for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import field

from ocifast.patterns import pattern
from ocifast.records import dataclass

__all__ = ["Challenge", "parse_challenges"]

_NAME = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_SCHEME = pattern(rf"({_NAME})(?=[ \t,]|$)")
_PARAMETER = pattern(rf'({_NAME})[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|([^\s",]+))')
_TOKEN68 = pattern(r"[A-Za-z0-9\-._~+/]+=*(?=[ \t]*(?:,|$))")
_SEPARATORS = pattern(r"[ \t,]*")
_ESCAPED = pattern(r"\\(.)")


@dataclass(frozen=True)
class Challenge:
    """One challenge.

    Attributes:
        scheme: in lower case: `bearer`, `basic`, ...
        parameters: by name in lower case, without quotes and escapes; the first of equal names counts.
    """

    scheme: str
    parameters: dict[str, str] = field(default_factory=dict)


def parse_challenges(lines: Iterable[str]) -> list[Challenge]:
    """Reads all challenges of the header's lines, in order.

    Several challenges may stand on one line and a comma inside of quotes is no separator. What follows a part that
    cannot be read is dropped, of that line only.

    Args:
        lines: the values of all `WWW-Authenticate` fields of one answer.
    """
    return [challenge for line in lines for challenge in _parse_line(line)]


def _parse_line(line: str) -> list[Challenge]:
    found: list[Challenge] = []
    position = 0
    while position < len(line):
        position = _skip(line, position)
        parameter = _PARAMETER.match(line, position)
        if parameter and found:
            name, quoted, plain = parameter.groups()
            value = plain if quoted is None else _ESCAPED.sub(r"\1", quoted)
            found[-1].parameters.setdefault(name.lower(), value)
            position = parameter.end()
            continue
        scheme = _SCHEME.match(line, position)
        if scheme is None:
            break
        found.append(Challenge(scheme[1].lower()))
        position = scheme.end()
        opaque = _TOKEN68.match(line, _blanks(line, position))
        if opaque:
            position = opaque.end()
    return found


def _skip(line: str, position: int) -> int:
    matched = _SEPARATORS.match(line, position)
    return matched.end() if matched else position


def _blanks(line: str, position: int) -> int:
    while position < len(line) and line[position] in " \t":
        position += 1
    return position
