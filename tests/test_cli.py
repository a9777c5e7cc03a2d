"""The command line: what it prints, how it fails, and how little it loads."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import click
import pytest
from ocifast.cli import COMMANDS, STOPS, cli, main
from ocifast.cli.display import format_size
from ocifast.cli.options import SIZE
from ocifast.errors import RegistryError

from tests.support.commands import inner_commands
from tests.support.images import build_image, write_layout
from tests.support.layers import TarBuilder
from tests.support.registry import Registry
from tests.support.run import COMMAND, attempt, ocifast, run, try_ocifast


@pytest.fixture
def layout(tmp_path: Path) -> str:
    """An image whose names are awkward to show."""
    layer = TarBuilder().directory("etc/", mode=0o755, mtime=0).file("etc/motd", b"hello\n", mode=0o644, mtime=86400)
    layer.symlink("etc/link", "../etc/motd", mtime=0).file("set\x1b[2Juid", b"", mode=0o4755, uid=7, gid=8, mtime=1)
    layer.file(b"latin\xe9", b"x", mode=0o600, mtime=2).fifo("pipe", mode=0o600, mtime=3)
    layer.symlink("out", "/../../../../../../../../etc/hostname", mtime=4)
    passwd = TarBuilder().file("etc/passwd", b"app:x:9:10::/srv:/bin/sh\n", mtime=0)
    image = build_image([layer, passwd], config={"Entrypoint": ["/init"], "User": "app", "Env": ["A=1"]})
    return f"oci:{write_layout(tmp_path / 'layout', image)}:app"


def modules_after(*arguments: str) -> set[str]:
    """What is loaded when a command line has run."""
    program = (
        "import sys\nfrom ocifast.cli import main\nstatus = main(sys.argv[1:])\n"
        "print('MODULES', *sys.modules)\nsys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split()[1:])


HEAVY = {"httpx", "rich", "msgspec", "asyncio", "elftools", "importlib.metadata"}


@pytest.mark.parametrize("arguments", [["--version"], ["--help"]])
def test_version_and_help_load_nothing_heavy(arguments: list[str]) -> None:
    assert modules_after(*arguments) & HEAVY == set()


def test_compiling_a_layout_loads_neither_the_registry_client_nor_the_display(layout: str, tmp_path: Path) -> None:
    loaded = modules_after("compile", layout, str(tmp_path / "out"))
    assert "ocifast.compiler" in loaded
    assert loaded & {"httpx", "rich", "asyncio", "elftools"} == set()


def test_version() -> None:
    assert ocifast("--version").decode() == f"ocifast {import_module('ocifast').__version__}\n"


@pytest.mark.parametrize("arguments", [["--help"], ["compile"], ["--no-such-option"]])
def test_run_as_a_module(arguments: list[str]) -> None:
    command = attempt(COMMAND, *arguments)
    module = attempt(sys.executable, "-m", "ocifast", *arguments)
    assert (module.returncode, module.stdout, module.stderr) == (command.returncode, command.stdout, command.stderr)


def test_every_command_is_there_with_the_help_of_the_table() -> None:
    context = click.Context(cli)
    for name, (_, line) in COMMANDS.items():
        command = cli.get_command(context, name)
        assert command is not None
        assert command.help or command.short_help
        assert f"  {name} " in ocifast("--help").decode() or name in ocifast("--help").decode().split()
        assert line.endswith(".")
        said = ocifast(name, "--help").decode()
        assert said.startswith(f"Usage: ocifast {name} ")
    assert cli.get_command(context, "no-such-command") is None


def test_every_command_and_option_is_documented() -> None:
    page = (Path(__file__).parent.parent / "docs/cli.md").read_text()
    shared = page.partition("## Options that many commands share")[2].partition("\n## ")[0]
    context = click.Context(cli)
    for name in COMMANDS:
        command = cli.get_command(context, name)
        assert command is not None
        commands = inner_commands(command) if isinstance(command, click.Group) else [command]
        for inner in commands:
            path = name if inner is command else f"{name} {inner.name}"
            section = page.partition(f"### `ocifast {path}`")[2].partition("\n### ")[0]
            assert section, f"docs/cli.md has no section on {path}"
            options = [
                option
                for one in inner.params
                if isinstance(one, click.Option) and not one.hidden
                for option in one.opts
            ]
            assert [
                option for option in options if option.startswith("--") and f"`{option}" not in section + shared
            ] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bake"], "ocifast: error: No such command 'bake'. (see 'ocifast --help')"),
        (["inspct"], "No such command 'inspct'. Did you mean 'inspect'?"),
        (["cache", "prun"], "No such command 'prun'. Did you mean 'prune'?"),
        (["ls", "--platfrom", "x"], "No such option '--platfrom'. Did you mean '--platform'?"),
        (["compile"], "ocifast: error: Missing argument 'IMAGE'. (see 'ocifast compile --help')"),
        (["compile", "x", "y", "--level", "a"], "--level': 'a' is not a valid integer"),
        (["compile", "x", "y", "--block-size", "1X"], "'1X' is no size; write bytes, or a number with K, M, G or T"),
        (["compile", "x", "-", "--json"], "--json writes to standard output, which OUTPUT is already"),
        (["cache", "prune", "--older-than", "soon"], "'soon' is no age"),
        (["cache", "prune", "--older-than", "9" * 5000 + "d"], "is too long ago"),
        (["compile", "x", "y.ext4", "--size", "99999999999T"], "'99999999999T' is too much"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_status_2(arguments: list[str], message: str) -> None:
    done = try_ocifast(*arguments)
    assert done.returncode == 2
    assert done.stdout == b""
    assert message in done.stderr.decode()
    assert done.stderr.count(b"\n") == 1


def test_no_command_shows_the_help() -> None:
    done = try_ocifast()
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"Usage: ocifast")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compile", "oci:{tmp}/nowhere:app", "{tmp}/out"], "nowhere"),
        (["compile", "{layout}", "{tmp}/out.zip"], "the suffix .zip is of no known format"),
        (
            ["compile", "{layout}", "{tmp}/out", "-f", "tar", "--level", "3"],
            "tar without compression has no option --level",
        ),
        (["compile", "{layout}", "-", "-f", "ext4"], "ext4 cannot be written to standard output; tar and cpio can"),
        (["compile", "Not/A:reference:", "{tmp}/out"], "Not/A:reference:"),
        (["ls", "{layout}", "/nowhere"], "nowhere"),
        (["ls", "{layout}", "/no\nwhere\x1b[2J"], "no"),
        (["cat", "{layout}", "/etc"], "not a regular file"),
        (["cat", "{layout}", "/pipe"], "not a regular file"),
        (["compile", "{layout}", "{tmp}/out", "--config", "{tmp}/no/where.json"], "there is no folder"),
    ],
)
def test_an_error_is_one_line_and_status_1(layout: str, tmp_path: Path, arguments: list[str], message: str) -> None:
    words = [word.format(layout=layout, tmp=tmp_path) for word in arguments]
    done = try_ocifast(*words)
    assert done.returncode == 1
    assert done.stdout == b""
    line = done.stderr.decode()
    assert line.startswith("ocifast: error: ")
    assert line.rstrip("\n").isprintable()
    assert message in line
    assert line.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["layout"]


def test_no_message_steers_the_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """What a registry says gets into messages."""

    def fail(*_: object, **__: object) -> None:
        raise RegistryError("it said:\n  \x1b]0;title\x07 \udcff\u202e\t!")

    monkeypatch.setattr(cli, "main", fail)
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # the handlers of who runs the tests stay
    assert main([]) == 1
    assert capsys.readouterr().err == "ocifast: error: it said: \\x1b]0;title\\x07 \\xff\\u202e !\n"


def test_what_nobody_expected_is_one_line_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("of\nall things")

    monkeypatch.setattr(cli, "main", fail)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    assert main([]) == 1
    assert capsys.readouterr().err == "ocifast: error: unexpected: ZeroDivisionError: of all things\n"
    monkeypatch.setenv("OCIFAST_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        main([])


def test_losses_at_names_that_are_no_utf8(tmp_path: Path) -> None:
    layer = TarBuilder().pax({"mtime": "7.25"}).file(b"b\xff", b"2")
    image = write_layout(tmp_path / "layout", build_image([layer]))
    done = try_ocifast("compile", f"oci:{image}:app", tmp_path / "out.cpio", "--strict", "--json")
    assert json.loads(done.stdout)["error"]["losses"][0]["paths"] == ["b\\xff"]
    assert (done.returncode, done.stderr.count(b"\n")) == (1, 1)


def test_surrogates_in_json(tmp_path: Path) -> None:
    done = try_ocifast("compile", f"oci:{tmp_path}/no\udcff:app", tmp_path / "out", "--json")
    assert json.loads(done.stdout)["error"]["message"].count("no\udcff") == 1
    assert (done.returncode, done.stderr.count(b"\n")) == (1, 1)


def test_an_error_as_json(tmp_path: Path) -> None:
    done = try_ocifast("compile", f"oci:{tmp_path}/nowhere:app", tmp_path / "out", "--json")
    told = json.loads(done.stdout)["error"]
    assert (done.returncode, told["code"]) == (1, "image_not_found")
    assert done.stderr.decode() == f"ocifast: error: {told['message']}\n"


def test_ls_is_like_ls(layout: str) -> None:
    assert ocifast("ls", layout).decode() == (
        "drwxr-xr-x     0     0            0 1970-01-01 00:00:00 /etc\n"
        "-rw-------     0     0            1 1970-01-01 00:00:02 /latin\\xe9\n"
        "lrwxrwxrwx     0     0           37 1970-01-01 00:00:04 /out -> /../../../../../../../../etc/hostname\n"
        "prw-------     0     0            0 1970-01-01 00:00:03 /pipe\n"
        "-rwsr-xr-x     7     8            0 1970-01-01 00:00:01 /set\\x1b[2Juid\n"
    )
    assert ocifast("ls", layout, "/etc/link").decode().endswith(" /etc/link -> ../etc/motd\n")
    below = ocifast("ls", "-R", layout, "etc").decode().splitlines()
    assert [line.split()[5:] for line in below] == [
        ["00:00:00", "/etc"],
        ["00:00:00", "/etc/link", "->", "../etc/motd"],
        ["00:00:00", "/etc/motd"],
        ["00:00:00", "/etc/passwd"],
    ]


def test_ls_of_a_link_to_a_directory_lists_the_directory(tmp_path: Path) -> None:
    layer = TarBuilder().directory("usr/bin/").file("usr/bin/sh", b"#!").symlink("bin", "usr/bin").symlink("b", "/bin")
    image = write_layout(tmp_path / "layout", build_image([layer]))
    for path in ("/bin", "b/", "/usr/../bin/."):
        assert ocifast("ls", f"oci:{image}:app", path).decode().splitlines()[0].split()[-1] == "/usr/bin/sh"


def test_ls_as_json(layout: str) -> None:
    entries = json.loads(ocifast("ls", "--json", layout))["entries"]
    assert entries[1] == {
        "path": "/latin\\xe9",
        "type": "file",
        "mode": 0o600,
        "uid": 0,
        "gid": 0,
        "size": 1,
        "mtime_ns": 2_000_000_000,
        "target": "",
        "inode": entries[1]["inode"],
    }


def test_cat_follows_links_inside_the_image_only(layout: str) -> None:
    assert ocifast("cat", layout, "/etc/link") == b"hello\n"
    done = try_ocifast("cat", layout, "/out")
    assert (done.returncode, done.stdout) == (1, b"")


def test_a_reader_that_goes_away_is_no_traceback(tmp_path: Path) -> None:
    image = write_layout(tmp_path / "big", build_image([TarBuilder().file("data", bytes(3_000_000))]))
    done = run("sh", "-c", f"{COMMAND} cat oci:{image}:app /data 2>{tmp_path}/said | head -c 5")
    assert done == bytes(5)
    assert (tmp_path / "said").read_bytes() == b""


def test_compile_writes_what_a_machine_needs_to_boot(layout: str, tmp_path: Path) -> None:
    ocifast("compile", layout, tmp_path / "out.tar", "--config", tmp_path / "boot.json")
    assert json.loads((tmp_path / "boot.json").read_text()) == {
        "entrypoint": ["/init"],
        "cmd": [],
        "env": ["A=1"],
        "user": {"name": "app", "uid": 9, "gid": 10, "groups": [], "home": "/srv"},
        "working_dir": "/",
        "stop_signal": None,
        "verity": None,
        "kernel_command_line": None,
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == ["boot.json", "layout", "out.tar"]


def test_compile_tells_what_it_made(layout: str, tmp_path: Path) -> None:
    done = try_ocifast("compile", layout, tmp_path / "out.tar", "--tree-digest")
    lines = done.stdout.decode().splitlines()
    assert (done.returncode, done.stderr) == (0, b"")
    assert lines[0].startswith("sha256:")
    assert lines[1].startswith("tree sha256:")
    size = format_size((tmp_path / "out.tar").stat().st_size)
    assert re.fullmatch(rf"{tmp_path}/out\.tar: tar, {size}, \d entries, linux/amd64, \d+\.\d s", lines[2])
    told = json.loads(ocifast("compile", layout, tmp_path / "out.cpio", "--json", "--tree-digest"))
    assert told["format"] == "cpio"
    assert f"tree {told['tree_digest']}" == lines[1]


def test_losses_are_warnings(tmp_path: Path) -> None:
    layer = TarBuilder().pax({"mtime": "7.25"}).file("b\nc", b"2")
    image = write_layout(tmp_path / "layout", build_image([layer]))
    done = try_ocifast("compile", f"oci:{image}:app", tmp_path / "out.cpio")
    assert done.returncode == 0
    assert done.stderr.decode().startswith("ocifast: warning: times of 1 entry were not kept: cpio: ")
    assert done.stderr.count(b"\n") == 1
    strict = try_ocifast("compile", f"oci:{image}:app", tmp_path / "strict.cpio", "--strict", "--json")
    told = json.loads(strict.stdout)["error"]
    assert (strict.returncode, told["code"], len(told["losses"])) == (1, "output_lossy", 1)
    assert not (tmp_path / "strict.cpio").exists()


def test_stream_to_standard_output(layout: str, tmp_path: Path) -> None:
    ocifast("compile", layout, tmp_path / "out.tar")
    assert ocifast("compile", layout, "-") == (tmp_path / "out.tar").read_bytes()
    ocifast("compile", layout, tmp_path / "out.cpio")
    assert ocifast("compile", layout, "-", "-f", "cpio") == (tmp_path / "out.cpio").read_bytes()


def test_cache_commands(tmp_path: Path, registry: Registry) -> None:
    reference = registry.put(build_image([TarBuilder().file("a", os.urandom(100_000))]), "cli/cached:1")
    ocifast("compile", reference, tmp_path / "out.tar")
    told = json.loads(ocifast("cache", "info", "--json"))
    assert told["folder"] == os.environ["OCIFAST_CACHE_DIR"]
    assert (told["outputs"], told["partial"]) == (1, 0)
    assert told["total_bytes"] > 200_000
    assert b"outputs:  1, " in ocifast("cache", "info")
    assert json.loads(ocifast("cache", "prune", "--older-than", "1h", "--json")) == {"freed_bytes": 0}
    assert json.loads(ocifast("cache", "clear", "--json"))["freed_bytes"] == told["total_bytes"]
    assert json.loads(ocifast("cache", "info", "--json"))["total_bytes"] == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("when", ["_run", "_fail", "_one_line", "_drop_what_waits"])
def test_a_signal_while_nothing_is_under_way_is_a_stop(
    when: str, number: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It comes before the command begins, or while its failure is told."""

    def signalled(*_: object) -> str:
        os.kill(os.getpid(), number)
        time.sleep(10)
        return ""

    before = {each: signal.getsignal(each) for each in STOPS}
    monkeypatch.setattr(f"ocifast.cli.{when}", signalled)
    try:
        assert main(["inspect", f"oci:{tmp_path}/nowhere"]) == 128 + number
        # Another one ends the process at once.
        assert {signal.getsignal(each) for each in STOPS} == {signal.SIG_DFL}
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


@pytest.mark.parametrize(
    ("number", "status", "word"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated"), (signal.SIGHUP, 129, "hung up")],
)
def test_signals_clean_up_and_say_so(tmp_path: Path, number: signal.Signals, status: int, word: str) -> None:
    """While a packer runs: a stand-in that never ends."""
    image = write_layout(tmp_path / "layout", build_image([TarBuilder().file("a", b"1")]))
    slow = tmp_path / "bin/tar2sqfs"
    slow.parent.mkdir()
    slow.write_text(f"#!/bin/sh\n[ $# = 1 ] && exec echo 'tar2sqfs 1' zstd\necho $$ > {tmp_path}/pid; sleep 1000\n")
    slow.chmod(0o755)
    environment = {**os.environ, "PATH": f"{slow.parent}:{os.environ['PATH']}"}
    words: list[str | Path] = [COMMAND, "compile", f"oci:{image}:app", tmp_path / "out.squashfs"]
    words += ["--backend", "tar2sqfs", "--no-cache"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
    deadline = time.monotonic() + 60
    while not (tmp_path / "pid").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(number)
    said = process.communicate(timeout=60)
    assert (process.returncode, *said) == (
        status,
        b"",
        f"ocifast: {word}; nothing was written\n".encode(),
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bin", "layout", "pid"]
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists()


def test_an_interrupt_while_python_imports_shows_no_traceback(tmp_path: Path) -> None:
    """A module of the standard library that takes its time stands in for a slow disk."""
    (tmp_path / "click.py").write_text("import os, time\nos.write(1, b'importing')\ntime.sleep(60)\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    words = [sys.executable, "-m", "ocifast", "--version"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
    assert process.stdout is not None
    assert os.read(process.stdout.fileno(), 100) == b"importing"
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=30)
    assert (process.returncode, *said) == (130, b"", b"")


@pytest.mark.parametrize(
    ("text", "size"), [("0", 0), ("4096", 4096), ("128K", 131072), ("3m", 3 << 20), ("2G", 2 << 30), ("1T", 1 << 40)]
)
def test_sizes(text: str, size: int) -> None:
    assert SIZE.convert(text, None, None) == size


@pytest.mark.parametrize("text", ["", "K", "1.5G", "-1", "1KB", "\u0661"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is no size"):
        SIZE.convert(text, None, None)


def test_shells_can_complete() -> None:
    environment = {"_OCIFAST_COMPLETE": "bash_complete", "COMP_WORDS": "ocifast com", "COMP_CWORD": "1"}
    assert ocifast(env=environment) == b"plain,compile\n"


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("ls oci-", ["oci-archive:"]),
        ("ls oci:{tmp}/lay", ["oci:{tmp}/layout/"]),
        ("ls oci:{tmp}/layout/", ["oci:{tmp}/layout/file "]),
        ("copy oci:a:b oci:{tmp}/lay", ["oci:{tmp}/layout/"]),
        ("compile oci:a {tmp}/lay", ["{tmp}/layout/"]),
        ("compile oci:a b --config {tmp}/layout/f", ["{tmp}/layout/file "]),
        ("runnable a -o {tmp}/layout/f", ["{tmp}/layout/file "]),
        ("compile oci:a b --platform=x -f er", ["erofs "]),
    ],
)
def test_bash_completes_files(tmp_path: Path, typed: str, offered: list[str]) -> None:
    """In a real bash on a terminal, which breaks words at colons."""
    (tmp_path / "layout").mkdir()
    (tmp_path / "layout/file").touch()
    line = "ocifast " + typed.format(tmp=tmp_path)
    setup = tmp_path / "bashrc"
    setup.write_text(
        f'PATH={Path(COMMAND).parent}:$PATH; PS1=; eval "$(_OCIFAST_COMPLETE=bash_source ocifast)"\n'
        "bind 'set enable-bracketed-paste off'; echo ready\n"
    )
    ours, theirs = pty.openpty()
    words: list[str | Path] = ["bash", "--rcfile", setup, "-i"]
    with subprocess.Popen(words, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True) as shell:
        os.close(theirs)
        said = b""
        while not said.endswith(b"ready\r\n"):
            said += os.read(ours, 4096)
        # What stands in the line then is printed instead of run.
        os.write(ours, f"{line}\t\x05' end\x01printf '%s\\n' ran '\n".encode())
        while b"\nend\r\n" not in said:
            said += os.read(ours, 4096)
        shell.kill()
    os.close(ours)
    completed = said.decode().partition("\nran\r\n")[2].partition("\r\nend\r\n")[0]
    expected = line.rpartition(" ")[0] + " " + offered[0].format(tmp=tmp_path)
    assert completed == expected
