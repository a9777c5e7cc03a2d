"""The wire between our client and a registry with its token server, as text: every request with its headers and body.

A header that is the same in all requests (`Host`, `User-Agent`, `Connection`, `Accept-Encoding`, an `Accept` of
everything) is left out; any other one is shown, expected or not.
"""

from __future__ import annotations

import textwrap

from tests.support.faulty import Answer, FaultyRegistry, Request, Script
from tests.support.tokens import TokenServer

SAME = {
    "host": None,
    "user-agent": "ocifast",
    "connection": "keep-alive",
    "accept-encoding": "identity",
    "accept": "*/*",
}


class Wire:
    """A registry and its token server, and all that both were asked.

    Attributes:
        registry: serves everybody until `lock` is called.
        tokens: the server.
        names: what the log calls a text that is long or another one in every run.
    """

    def __init__(self, registry: FaultyRegistry, tokens: TokenServer) -> None:
        self.registry = registry
        self.tokens = tokens
        self.names = {registry.host: "registry", tokens.host: "tokens"}
        self._log: list[tuple[str, Request, str]] = []
        self.answer(lambda request: None)
        self.tokens.override = self._note_token
        self.registry.broken = _Broken(self)

    def answer(self, script: Script) -> None:
        """The registry answers what the script says, else as the spec says."""
        self.registry.script = lambda request: self._note(request, script(request) or self.registry.obey(request))

    def lock(self) -> None:
        """From now on the registry wants tokens."""
        self.answer(self.tokens.guard)

    def text(self) -> str:
        """Everything since the last call, in order."""
        log, self._log = self._log, []
        names = {**self.names, **{token: f"token-{n}" for n, token in enumerate(self.tokens.issued, start=1)}}
        shown = "".join(_shown(*entry) for entry in log)
        # A manifest holds digests.
        for long in sorted(names, key=len, reverse=True):
            shown = shown.replace(long, names[long])
        return shown

    def _note(self, request: Request, answer: Answer) -> Answer:
        self._log.append(("registry", request, f" -> {answer.status}"))
        return answer

    def _note_token(self, request: Request) -> None:
        self._log.append(("tokens", request, ""))

    def note_broken(self, line: str) -> None:
        """An upload that was broken, of which the server knows this line."""
        method, target, *rest = line.split()
        self._log.append(("registry", Request(method, "", target=target), f" -> {' '.join(rest)}"))


class _Broken(list[str]):
    """The uploads that were broken, which the server never read whole."""

    def __init__(self, wire: Wire) -> None:
        super().__init__()
        self._wire = wire

    def append(self, line: str, /) -> None:
        self._wire.note_broken(line)
        super().append(line)


def _shown(server: str, request: Request, outcome: str) -> str:
    lines = [f"{request.method} {server} {request.target}{outcome}"]
    for name, value in sorted(request.headers.items()):
        if name not in SAME or SAME[name] not in (None, value):
            lines.append(f"    {name}: {value}")
    if request.body:
        lines.append(f"    | {request.body.decode()}")
    return "\n".join(lines) + "\n"


def text(block: str) -> str:
    """The expected log, as it is indented here."""
    return textwrap.dedent(block).lstrip("\n")
