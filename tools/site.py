"""What the site has beyond the documents: a page of the API and a page of all commands, made when it is built.

`mkdocs.yml` names it as a hook. Both pages come from the package itself, so that they cannot say anything else.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import ocifast
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from ocifast.cli import COMMANDS, Commands

ROOT = Path(__file__).parent.parent


def homes() -> dict[str, str]:
    """The full name of each public name, as the package imports it for type checkers."""
    tree = ast.parse((ROOT / "python/ocifast/__init__.py").read_text())
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("ocifast"):
            found |= {name.asname or name.name: f"{node.module}.{name.name}" for name in node.names}
    return {name: found[name] for name in ocifast.__all__ if name in found}


def api() -> str:
    """A page with every public name and all errors, from their docstrings."""
    lines = ["# API", "", "All that `import ocifast` gives. [A tour with examples](../python.md) is shorter.", ""]
    for home in homes().values():
        lines += [f"::: {home}", ""]
    return "\n".join([*lines, "::: ocifast.errors", ""])


def commands(command: click.Command, words: tuple[str, ...]) -> Iterator[str]:
    """Each command with what it says with `--help`, subcommands after their group."""
    context = click.Context(command, info_name=" ".join(words), terminal_width=100, max_content_width=100)
    yield f"{'#' * (len(words) or 1)} {' '.join(words)}"
    yield f"\n```text\n{command.get_help(context)}\n```\n"
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            if found is not None and not found.hidden:
                yield from commands(found, (*words, name))


def command_page() -> str:
    """A page with the help of all commands."""
    group = Commands("ocifast", help="Container images to root filesystems, and executables to images.")
    head = ["# All commands", "", "What `--help` says of each. [The command line](../cli.md) says more.", ""]
    for name in COMMANDS:
        found = group.get_command(click.Context(group), name)
        assert found is not None, name
        head += commands(found, ("ocifast", name))
    return "\n".join(head)


def on_config(config: MkDocsConfig, **_: Any) -> MkDocsConfig:
    """Adds what `nav` does not name: the decisions, and pages that somebody has written since."""
    named = set(re.findall(r"[\w/.-]+\.md", str(config.nav)))
    docs = Path(config.docs_dir)
    decisions = [str(page.relative_to(docs)) for page in sorted((docs / "decisions").glob("*.md"))]
    new = [page.name for page in sorted(docs.glob("*.md")) if page.name not in named]
    assert config.nav is not None
    explanation: list[Any] = config.nav[-1]["Explanation"]
    explanation += [*new, {"Decisions": decisions}]
    return config


def on_files(files: Files, config: MkDocsConfig, **_: Any) -> Files:
    """Adds the pages; mkdocs calls it when it has found all files."""
    for path, text in (("reference/api.md", api()), ("reference/commands.md", command_page())):
        files.append(File.generated(config, path, content=text))
    return files
