"""The commands of the command line."""

from __future__ import annotations

import click

__all__ = ["inner_commands"]


def inner_commands(group: click.Group) -> list[click.Command]:
    """The commands of a group, also those that it imports when they are used."""
    context = click.Context(group)
    found = [group.get_command(context, name) for name in group.list_commands(context)]
    assert None not in found
    return [command for command in found if command is not None]
