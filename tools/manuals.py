"""Writes the manual pages and the completion files that the wheel carries, from the commands themselves.

    python tools/manuals.py [FOLDER]

FOLDER is `ocifast.data/data/share` by default: a wheel's `data` goes to where Python is installed, so that man(1) and
shells find them. `tests/test_manuals.py` compares them with what would be made.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click
from ocifast._core import __version__
from ocifast.cli import COMMANDS, cli
from ocifast.cli.completion import scripts
from ocifast.cli.help import EXAMPLES, Command, filled
from ocifast.sources.transports import TRANSPORTS

ROOT = Path(__file__).parent.parent


def main(folder: Path) -> None:
    """Writes all files; those of commands that are no more go."""
    for page in folder.glob("man/man1/*.1"):
        page.unlink()
    for name, text in files().items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def files() -> dict[str, str]:
    """All files, by their paths below `share`."""
    made = {"man/man1/ocifast.1": "\n".join(overview())}
    for path, command in commands():
        made[f"man/man1/ocifast-{path.replace(' ', '-')}.1"] = "\n".join(page(path, command))
    return {**made, **scripts(cli)}


def commands() -> Iterator[tuple[str, click.Command]]:
    """All commands, by what is typed after `ocifast`."""
    context = click.Context(cli)
    for name in COMMANDS:
        command = cli.get_command(context, name)
        if isinstance(command, click.Group):
            for inner in command.list_commands(context):
                one = command.get_command(context, inner)
                assert one is not None
                yield f"{name} {inner}", one
        elif command is not None:
            yield name, command


def escaped(text: str) -> str:
    """Text as roff takes it for text (groff(7))."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return re.sub(r"^([.'])", r"\\&\1", text, flags=re.MULTILINE)


def head(name: str, about: str) -> Iterator[str]:
    """What all pages begin with."""
    yield f'.TH "{name.upper()}" 1 "" "ocifast {__version__}" "ocifast"'
    yield ".SH NAME"
    yield f"{escaped(name)} \\- {escaped(about.rstrip('.'))}"
    yield ".SH SYNOPSIS"


def paragraphs(text: str) -> Iterator[str]:
    """Text with blank lines between its paragraphs."""
    for number, paragraph in enumerate(re.split(r"\n\s*\n", text.strip())):
        if number:
            yield ".PP"
        yield escaped(" ".join(paragraph.split()))


def page(path: str, command: click.Command) -> Iterator[str]:
    """The page of one command."""
    # As the command line has it: the option of help is made once, of the first context that asks for it.
    context = click.Context(command, info_name=f"ocifast {path}", **cli.context_settings)
    about = (command.short_help or filled(command.help or "").partition("\n\n")[0]).replace("\n", " ")
    yield from head(f"ocifast-{path.replace(' ', '-')}", " ".join(about.split()))
    yield f".B ocifast {escaped(path)}"
    yield escaped(" ".join(command.collect_usage_pieces(context)))
    yield ".SH DESCRIPTION"
    yield from paragraphs(filled(command.help or ""))
    yield ".SH OPTIONS"
    assert isinstance(command, Command)
    groups = list(command.grouped(context))
    for title, records in groups:
        if len(groups) > 1:
            yield f".SS {title}"
        for _, (written, meaning) in records:
            yield ".TP"
            yield f".B {escaped(written)}"
            yield escaped(" ".join(meaning.split()))
    yield ".SH EXAMPLES"
    for example in EXAMPLES[path]:
        yield from (".PP", ".nf", ".RS", escaped(example), ".RE", ".fi")
    yield ".SH SEE ALSO"
    yield ".BR ocifast (1)"
    yield ""


def overview() -> Iterator[str]:
    """The page of `ocifast` itself."""
    yield from head("ocifast", " ".join((cli.help or "").split()))
    yield ".B ocifast"
    yield "COMMAND [OPTIONS] ARGUMENTS"
    yield ".SH COMMANDS"
    for path, command in commands():
        yield ".TP"
        yield f".BR ocifast\\-{escaped(path.replace(' ', '-'))} (1)"
        about = command.short_help or (command.help or "").partition("\n\n")[0]
        yield escaped(COMMANDS[path][1] if path in COMMANDS else " ".join(about.split()))
    yield ".SH WHERE AN IMAGE IS"
    for transport in TRANSPORTS.values():
        yield from (".TP", f".B {escaped(transport.syntax)}", escaped(transport.about))
    yield ".SH EXIT STATUS"
    yield from table("exit status")
    yield ".SH ENVIRONMENT"
    yield from table("environment")
    yield ".SH SEE ALSO"
    yield f"The documents of ocifast, {escaped('docs/cli.md')} first."
    yield ""


def table(title: str) -> Iterator[str]:
    """A table of docs/cli.md, as a list."""
    text = (ROOT / "docs/cli.md").read_text(encoding="utf-8")
    rows = re.search(rf"^\| {title} \| meaning \|\n\|[-|]+\|\n((?:\|.*\n)+)", text, re.MULTILINE)
    assert rows is not None
    for row in rows[1].splitlines():
        name, _, meaning = row.strip("| ").partition(" | ")
        plain = [re.sub(r"\[([^\]]*)\]\([^)]*\)|`", r"\1", cell).strip() for cell in (name, meaning)]
        yield from (".TP", f".B {escaped(plain[0])}", escaped(plain[1]))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "ocifast.data/data/share")
