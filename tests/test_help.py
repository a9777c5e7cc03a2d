"""Help: groups of options, two examples for each command; and what is said of what was mistyped."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from ocifast.cli import COMMANDS, cli
from ocifast.cli.help import EXAMPLES, Command
from ocifast.cli.registry import OPTION_NAMES

from tests.support.commands import inner_commands
from tests.support.faulty import Answer, Request, serve_faulty
from tests.support.images import build_image, build_index, write_layout
from tests.support.registry import Registry
from tests.support.run import try_ocifast


def commands() -> dict[str, click.Command]:
    """All commands by what is typed after `ocifast`."""
    found: dict[str, click.Command] = {}
    context = click.Context(cli)
    for name in COMMANDS:
        command = cli.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            found |= {f"{name} {inner.name}": inner for inner in inner_commands(command)}
        else:
            found[name] = command
    return found


ALL = commands()


def test_every_command_has_two_examples() -> None:
    assert sorted(EXAMPLES) == sorted(ALL)
    assert all(len(examples) >= 2 and len(set(examples)) == len(examples) for examples in EXAMPLES.values())


@pytest.mark.parametrize("path", ALL)
def test_examples_are_commands_that_are_taken(path: str) -> None:
    for example in EXAMPLES[path]:
        typed = example.partition(" | ")[0].partition(" < ")[0].partition(" > ")[0]
        words = shlex.split(re.sub(r"\$\(.*?\)", "DIGEST", typed))
        assert words[: 1 + len(path.split())] == ["ocifast", *path.split()]
        given = words[1 + len(path.split()) :]
        context = click.Context(ALL[path], info_name=path)
        # Parsed, and every option and argument is there; whether files are, is another question.
        values, rest, _ = ALL[path].make_parser(context).parse_args(given)
        assert rest == []
        assert all(values.get(one.name or "") is not None for one in ALL[path].params if one.required)


@pytest.mark.parametrize("path", ALL)
def test_help_has_every_option_once_and_ends_in_examples(path: str) -> None:
    command = ALL[path]
    assert isinstance(command, Command)
    context = click.Context(command, info_name=path)
    shown = [name for _, records in command.grouped(context) for name, _ in records]
    options = [one.name for one in command.get_params(context) if isinstance(one, click.Option) and not one.hidden]
    assert sorted(shown) == sorted(map(str, options))
    out = CliRunner().invoke(cli, [*path.split(), "--help"], prog_name="ocifast", obj={}).output
    assert out.rstrip().endswith(EXAMPLES[path][-1])
    assert [line.strip() for line in out.partition("Examples:\n")[2].splitlines()] == list(EXAMPLES[path])


def test_options_of_registries_stand_together() -> None:
    context = click.Context(ALL["compile"], info_name="compile")
    command = ALL["compile"]
    assert isinstance(command, Command)
    groups = {title: [name for name, _ in records] for title, records in command.grouped(context)}
    assert set(groups["Registries"]) == set(OPTION_NAMES)
    assert next(iter(groups)) == "Options"
    assert "strict" in groups["Options"]


def test_a_mistyped_tag(registry: Registry) -> None:
    for tag in ("1.2.3", "1.2.4", "latest"):
        registry.put(build_image([]), f"help/app:{tag}")
    done = try_ocifast("inspect", f"{registry.host}/help/app:1.2.33")
    assert done.returncode == 1
    assert done.stderr.decode().endswith("; did you mean 1.2.3 or 1.2.4?\n")
    assert done.stderr.count(b"\n") == 1
    done = try_ocifast("ls", f"{registry.host}/help/app:lastest")
    assert done.stderr.decode().endswith("; did you mean latest?\n")
    # Nothing is much like it; there is no such repository; a digest is not spelt.
    for name in ("help/app:zzz", "help/none:1", f"help/app@sha256:{'0' * 64}"):
        done = try_ocifast("digest", f"{registry.host}/{name}")
        assert done.returncode == 1
        assert b"did you mean" not in done.stderr


def test_a_list_of_tags_that_does_not_end() -> None:
    asked = []

    def tags(request: Request) -> Answer | None:
        if not request.path.endswith("/tags/list"):
            return None
        asked.append(request)
        body = json.dumps({"tags": [f"1.0.{len(asked)}", "\x1b[31m", "1.0" * 100]}).encode()
        return Answer(200, {"Link": f'</v2/a/tags/list?n=1&last={len(asked)}>; rel="next"'}, body)

    with serve_faulty(tags) as server:
        done = try_ocifast("digest", f"{server.host}/a:1.0.22")
    assert done.stderr.decode().partition("did you mean ")[2].startswith("1.0.2 or ")
    assert (done.returncode, done.stderr.count(b"\n"), b"\x1b" in done.stderr, len(asked)) == (1, 1, False, 5)
    # What is wrong with the list is nothing of what was asked.
    with serve_faulty(lambda request: Answer(500) if "tags" in request.path else None) as server:
        done = try_ocifast("digest", f"{server.host}/a:1.0.22")
    assert (done.returncode, done.stderr.count(b"\n")) == (1, 1)
    assert b"not found" in done.stderr


def test_a_mistyped_platform(tmp_path: Path) -> None:
    images = [build_image([], platform=name) for name in ("linux/amd64", "linux/arm64")]
    write_layout(tmp_path, build_index(images))
    done = try_ocifast("inspect", "--platform", "linux/amr64", f"oci:{tmp_path}:app")
    assert done.returncode == 1
    assert done.stderr.decode().endswith("; did you mean linux/arm64?\n")
    # Such machines there are: it is not mistyped.
    done = try_ocifast("inspect", "--platform", "linux/arm", f"oci:{tmp_path}:app")
    assert b"did you mean" not in done.stderr
