"""`--json` in one dialect: the table of docs/json.md says what each command writes, and nothing is in camelCase."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from ocifast.cli import COMMANDS, cli
from ocifast.progress import LayerState, Phase

from tests.support.commands import inner_commands
from tests.support.images import build_image, write_layout
from tests.support.layers import TarBuilder
from tests.support.registry import Registry
from tests.support.run import COMMAND, run, tool, try_ocifast

PAGE = (Path(__file__).parent.parent / "docs/json.md").read_text()
TYPES: dict[str, tuple[type, ...]] = {
    "text": (str,),
    "number": (int, float),
    "bool": (bool,),
    "object": (dict,),
    "list": (list,),
    "null": (type(None),),
}


def described(command: str) -> dict[str, tuple[type, ...]]:
    """The fields of a command with what they may be."""
    rows = re.findall(r"^\| (.*?) \| (`.*?`) \| (.*?) \| .* \|$", PAGE, re.MULTILINE)
    return {
        field: tuple(kind for word in told.split(" or ") for kind in TYPES[word.split()[0]])
        for commands, fields, told in rows
        for field in re.findall("`(.*?)`", fields)
        if f"`{command}`" in commands
    }


def names(data: Any) -> Iterator[str]:
    """All names of fields, at any depth; labels and environments have names of their own."""
    if isinstance(data, dict):
        for name, value in data.items():
            yield name
            if name not in ("labels", "annotations", "notices"):
                yield from names(value)
    elif isinstance(data, list):
        for value in data:
            yield from names(value)


@pytest.fixture
def places(registry: Registry, tmp_path: Path) -> dict[str, str]:
    config = {"Env": ["A=1"], "WorkingDir": "/x", "ExposedPorts": {"80/tcp": {}}, "StopSignal": "SIGINT"}
    image = build_image([TarBuilder().pax({"mtime": "7.25"}).file("a", os.urandom(1000))], config=config)
    registry.put(image, "json/image:1")
    (tmp_path / "kept.json").write_text(json.dumps({"auths": {registry.host: {"auth": "bWU6cGFzc3dvcmQ="}}}))
    return {
        "tmp": str(tmp_path),
        "reference": f"{registry.host}/json/image:1",
        "other": f"{registry.host}/json/other:1",
        "repository": f"{registry.host}/json/image",
        "host": registry.host,
        "digest": image.digest,
        "busybox": tool("busybox"),
        "layout": f"oci:{write_layout(tmp_path / 'layout', image)}:app",
    }


CASES = [
    "compile {reference} {tmp}/out.cpio --tree-digest",
    "compile {layout} {tmp}/out",
    "pull {reference} oci:{tmp}/pulled",
    "push {layout} {other}",
    "copy {layout} oci:{tmp}/copied",
    "inspect {layout}",
    "digest {reference}",
    "history {layout}",
    "ls {layout}",
    "du {layout}",
    "diff {layout} {reference}",
    "tags {repository}",
    "cache info",
    "cache export {layout} --containerd {tmp}/exported",
    "cache ls",
    "cache prune",
    "cache clear",
    "cache verify",
    "delete {repository}@{digest}",
    "login {host} --auth-file {tmp}/auth.json -u me",
    "logout {host} --auth-file {tmp}/kept.json",
    "runnable {busybox} -o {tmp}/runnable",
]


@pytest.mark.parametrize("words", CASES)
def test_every_field_is_described_and_every_described_field_is_there(places: dict[str, str], words: str) -> None:
    command = " ".join(words.split()[: 2 if words.startswith("cache ") else 1])
    told = json.loads(run(COMMAND, *words.format(**places).split(), "--json", stdin=b"password\n"))
    expected = described(command)
    assert sorted(told) == sorted(expected)
    for name, value in told.items():
        assert isinstance(value, expected[name]), f"{name}: {value!r}"
    assert [name for name in names(told) if not re.fullmatch(r"[a-z][a-z0-9_]*", name)] == []


def test_every_command_that_writes_json_is_here() -> None:
    context = click.Context(cli)
    written = set()
    for name in COMMANDS:
        command = cli.get_command(context, name)
        assert command is not None
        for inner in inner_commands(command) if isinstance(command, click.Group) else [command]:
            if any("--json" in parameter.opts for parameter in inner.params):
                written.add(name if inner is command else f"{name} {inner.name}")
    assert {" ".join(words.split()[: 2 if words.startswith("cache ") else 1]) for words in CASES} == written - {"batch"}


def test_every_line_of_a_batch_is_described(places: dict[str, str]) -> None:
    entry = {"image": places["layout"], "output": f"{places['tmp']}/a.tar"}
    done = try_ocifast("batch", "-", "--json", stdin=json.dumps(entry).encode())
    line, last = map(json.loads, done.stdout.splitlines())
    expected = described("batch")
    assert sorted(line) == sorted(expected)
    assert all(isinstance(value, expected[name]) for name, value in line.items())
    assert [name for name in last["summary"] if f"`{name}`" not in PAGE] == []


def test_an_error_is_described(tmp_path: Path) -> None:
    done = try_ocifast("inspect", f"oci:{tmp_path}/nowhere:app", "--json")
    told = json.loads(done.stdout)
    assert list(told) == ["error"]
    assert {"code", "message"} <= set(told["error"])
    assert [name for name in names(told) if not re.fullmatch(r"[a-z][a-z0-9_]*", name)] == []


def test_the_words_of_progress_are_described() -> None:
    section = PAGE.partition("## Lines of")[2]
    assert [word.value for word in (*Phase, *LayerState) if f"`{word.value}`" not in section] == []
