"""What shells complete beyond commands and options: where images are. Loaded only when a shell asks.

Bash breaks words at colons, so that `oci:lay` comes as three; they are put together again, and what bash gets back is
the part that it has in hand.
"""

from __future__ import annotations

import os
from pathlib import Path

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    FishComplete,
    ShellComplete,
    ZshComplete,
    add_completion_class,
    split_arg_string,
)

from ocifast.sources.transports import TRANSPORTS

__all__ = ["install", "places", "scripts"]


def places(incomplete: str) -> list[CompletionItem[str]]:
    """Locations that begin so: the transports, and behind one of them the files that are there."""
    transport, colon, path = incomplete.partition(":")
    if colon and transport in TRANSPORTS and TRANSPORTS[transport].on_disk is not None:
        folder, slash, start = path.rpartition("/")
        try:
            found = sorted(entry for entry in Path(folder + slash).iterdir() if entry.name.startswith(start))
        except OSError:
            return []
        return [
            CompletionItem(f"{transport}:{folder}{slash}{entry.name}{'/' if entry.is_dir() else ''}")
            for entry in found
            if start or not entry.name.startswith(".")
        ]
    return [CompletionItem(lead) for lead in _leads() if lead.startswith(incomplete)]


def _leads() -> list[str]:
    """What locations of this machine begin with."""
    return [transport.lead for transport in TRANSPORTS.values() if not transport.is_remote]


_SOURCE = """\
%(complete_func)s() {
    local IFS=$'\\n'
    local response type value
    response=$(env COMP_WORDS="${COMP_WORDS[*]}" COMP_CWORD=$COMP_CWORD %(complete_var)s=bash_complete $1)
    for completion in $response; do
        IFS=',' read type value <<< "$completion"
        case $type in
            dir) COMPREPLY=(); compopt -o dirnames ;;
            file) COMPREPLY=(); compopt -o default ;;
            open) COMPREPLY+=($value); compopt -o nospace ;;
            plain) COMPREPLY+=($value) ;;
        esac
    done
    return 0
}

complete -o nosort -F %(complete_func)s %(prog_name)s
"""


class _Bash(BashComplete):
    """Bash, with words that have colons."""

    source_template = _SOURCE

    def get_completion_args(self) -> tuple[list[str], str]:
        """The words before the one in hand, and that one, as they were typed."""
        words = split_arg_string(os.environ["COMP_WORDS"])
        count = int(os.environ["COMP_CWORD"])
        joined: list[str] = []
        glue = False
        for word in words[1 : count + 1]:
            # A colon belongs to what stands before and behind it. (A lone "=" is what `--name=value` is broken at.)
            if joined and (glue or word in (":", "=")):
                joined[-1] += word
            else:
                joined.append(word)
            glue = word in (":", "=")
        incomplete = joined.pop() if joined and count < len(words) else ""
        return joined, incomplete

    def format_completion(self, item: CompletionItem[str]) -> str:
        """One line for the script: what is completed further gets no blank."""
        value = str(item.value)
        kind = "open" if item.type == "plain" and value.endswith((":", "/")) else item.type
        transport, colon, path = value.partition(":")
        # What stands before the colon is a word of its own in bash.
        inner = colon and path and f"{transport}:" in _leads()
        return f"{kind},{path if inner else value}"


_ADDED = """\
    if [ -n "$completions" ]; then
        compadd -U -V unsorted -a completions
"""
_ADDED_OPEN = """\
    local -a open
    open=(${(M)completions:#*[:/]})
    completions=(${completions:#*[:/]})
    if [ -n "$open" ]; then
        compadd -U -S '' -V unsorted -a open
    fi
    if [ -n "$completions" ]; then
        compadd -U -V unsorted -a completions
"""


def _whole(item: CompletionItem[str], word: str) -> CompletionItem[str]:
    """Of `--name=value` the whole, for shells that take it for one word."""
    name, equals, _ = word.partition("=")
    if not equals or not name.startswith("--") or item.type != "plain":
        return item
    return CompletionItem(f"{name}={item.value}", type=item.type, help=item.help)


class _Zsh(ZshComplete):
    """Zsh, with no blank behind what is completed further."""

    def get_completion_args(self) -> tuple[list[str], str]:
        """The words before the one in hand, and that one."""
        words, self._word = super().get_completion_args()
        return words, self._word

    def format_completion(self, item: CompletionItem[str]) -> str:
        """Lines for the script."""
        return super().format_completion(_whole(item, self._word))

    source_template = ZshComplete.source_template.replace(_ADDED, _ADDED_OPEN)


class _Fish(FishComplete):
    """Fish, with options that have their value behind an equals sign."""

    def get_completion_args(self) -> tuple[list[str], str]:
        """The words before the one in hand, and that one."""
        words, self._word = super().get_completion_args()
        return words, self._word

    def format_completion(self, item: CompletionItem[str]) -> str:
        """One line for the script."""
        return super().format_completion(_whole(item, self._word))


def install() -> None:
    """Makes click use them."""
    for shell in (_Bash, _Zsh, _Fish):
        add_completion_class(shell)


def scripts(command: click.Command) -> dict[str, str]:
    """What shells load to complete `ocifast`: the text by the name of the file that they look for."""
    made: dict[str, type[ShellComplete]] = {
        "bash-completion/completions/ocifast": _Bash,
        "zsh/site-functions/_ocifast": _Zsh,
        "fish/vendor_completions.d/ocifast.fish": _Fish,
    }
    return {name: shell(command, {}, "ocifast", "_OCIFAST_COMPLETE").source() for name, shell in made.items()}
