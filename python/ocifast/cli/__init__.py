"""The command line: parsing and rendering, nothing else.

`main` is what the console script calls. Commands are looked up in one table and imported only when they run, so that
`ocifast --version` and completion load no HTTP client.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from types import FrameType
from typing import Any

import click

from ocifast.errors import FileError, OcifastError

__all__ = ["COMMANDS", "STOPS", "Stopped", "main"]

COMMANDS: dict[str, tuple[str, str]] = {
    "compile": ("ocifast.cli.compile:command", "Turn an image into a directory, an archive or a filesystem image."),
    "batch": ("ocifast.cli.batch:command", "Turn many images into filesystems."),
    "pull": ("ocifast.cli.pull:command", "Fetch an image into a layout or an archive."),
    "push": ("ocifast.cli.push:command", "Send an image from a layout or an archive to a registry."),
    "copy": ("ocifast.cli.copy:command", "Copy an image between any two places."),
    "delete": ("ocifast.cli.delete:command", "Delete a manifest from a registry by its digest."),
    "runnable": ("ocifast.cli.runnable:command", "Turn a statically linked executable into an image."),
    "inspect": ("ocifast.cli.inspect:command", "Show what an image is: manifest, platform, layers, config."),
    "digest": ("ocifast.cli.digest:command", "Print the digest that a name stands for now."),
    "history": ("ocifast.cli.history:command", "Show how an image was made, step beside layer."),
    "ls": ("ocifast.cli.ls:command", "List the files of an image."),
    "diff": ("ocifast.cli.diff:command", "Show which files differ between two images."),
    "du": ("ocifast.cli.du:command", "Show where the bytes of an image are, and what is wasted."),
    "report": ("ocifast.cli.report:command", "Make a page about an image: layers, sizes, waste, files."),
    "cat": ("ocifast.cli.cat:command", "Write a file of an image to standard output."),
    "tags": ("ocifast.cli.tags:command", "List the tags of a repository."),
    "login": ("ocifast.cli.login:command", "Store the credentials of a registry."),
    "logout": ("ocifast.cli.logout:command", "Forget the credentials of a registry."),
    "cache": ("ocifast.cli.cache:command", "Look at the cache, or make it smaller."),
}
"""Name of each command: where it is, and its line in `ocifast --help`."""


STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that ask a command to stop."""


class Stopped(BaseException):
    """A signal asked us to stop: everything is cleaned up on the way out.

    Not a KeyboardInterrupt, which click answers with an empty line.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.status = 128 + number


class Commands(click.Group):
    """The group of all commands, each imported when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of the table, which goes from the common to the rare."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Imports one command."""
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(import_module(module), name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click's, with the table's names to suggest from."""
        try:
            return super().resolve_command(ctx, args)
        except click.exceptions.NoSuchCommand as error:
            raise click.exceptions.NoSuchCommand(error.command_name, possibilities=COMMANDS, ctx=ctx) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list in `ocifast --help`, from the table alone."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, help_line) for name, (_, help_line) in COMMANDS.items()])

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Where images are, from the table alone."""
        from ocifast.sources.transports import TRANSPORTS

        with formatter.section("Where an image is (IMAGE, SOURCE, DEST)"):
            formatter.write_dl([(transport.syntax, transport.about) for transport in TRANSPORTS.values()])
        formatter.write_paragraph()
        formatter.write_text("'ocifast COMMAND --help' tells more.")


def _show_version(ctx: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from ocifast._core import __version__

        click.echo(f"ocifast {__version__}")
        ctx.exit()


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Print the version and exit.",
)
def cli() -> None:
    """Container images from a registry to a root filesystem in one pass, without a daemon and without root."""
    import_module("ocifast.cli.warnings").install()


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command line.

    Args:
        arguments: without the program's name; None takes those of the process.

    Returns:
        0; 1 after an error, told in one line on standard error; 2 for a wrong command line; 130 when interrupted,
        143 when terminated, 129 when hung up.
    """
    _open_what_is_closed()
    try:
        for number in STOPS:
            # One that is ignored stays so (nohup, background jobs of a shell).
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, _stop)
        return _run(arguments)
    except Stopped as stopped:
        # It came before the command began, or while its end was told: nothing is left to clean up.
        return stopped.status


def _run(arguments: Sequence[str] | None) -> int:
    session: dict[str, Any] = {}
    if "_OCIFAST_COMPLETE" in os.environ:
        import_module("ocifast.cli.completion").install()
    try:
        status = cli.main(
            None if arguments is None else list(arguments), prog_name="ocifast", standalone_mode=False, obj=session
        )
        sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return 2
    except click.UsageError as error:
        return _fail_usage(error)
    except click.ClickException as error:
        return _fail(OcifastError(error.format_message()), session)
    except OcifastError as error:
        return _fail(error, session)
    except BrokenPipeError:
        # Whoever read us has gone (`ocifast ls … | head`).
        _drop_what_waits()
        return 1
    except OSError as error:
        return _fail(_lacking(error), session)
    except Stopped as stopped:
        return _tell_stopped(stopped.status, session)
    except (click.Abort, EOFError):
        return _tell_stopped(128 + signal.SIGINT, session)
    except Exception as error:
        if os.environ.get("OCIFAST_DEBUG"):
            raise
        if (behind := _stop_behind(error)) is not None:
            return _tell_stopped(behind.status, session)
        return _fail(_unforeseen(error), session)
    except BaseException as error:
        # A panic of the core is no `Exception` (PyO3, `PanicException`), and has told where it was.
        if type(error).__name__ != "PanicException" or os.environ.get("OCIFAST_DEBUG"):
            raise
        return _fail(_unforeseen(error), session)
    return status if isinstance(status, int) else 0


def _lacking(error: OSError) -> FileError:
    """What the system refused, where nobody said more of it."""
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return FileError("no more files may be open; allow more (ulimit -n, or the container's limit)")
    name = f"{error.filename}: " if error.filename else ""
    return FileError(f"{name}{error.strerror or error}")


def _unforeseen(error: BaseException) -> OcifastError:
    """What the system lacked, or else a fault of ours."""
    if isinstance(error, MemoryError):
        return FileError("there is not enough memory; allow more, or take fewer layers at a time (--downloads, --jobs)")
    if isinstance(error, RuntimeError) and "start new thread" in str(error):
        return FileError("no more threads may be started; allow more processes (ulimit -u, or the container's limit)")
    return OcifastError(f"unexpected: {type(error).__name__}: {error}")


def _open_what_is_closed() -> None:
    """Standard streams that were closed lead nowhere, lest a file of ours get their numbers and a tool's words."""
    null = os.open(os.devnull, os.O_RDWR)
    while null <= 2:
        null = os.dup(null)
    os.close(null)
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 - a descriptor, for the whole process
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115


def _stop(number: int, _frame: FrameType | None) -> None:
    # A second signal during cleanup terminates immediately; the next run removes any leftovers.
    for each in STOPS:
        if signal.getsignal(each) is _stop:
            signal.signal(each, signal.SIG_DFL)
    raise Stopped(number)


def _stop_behind(error: BaseException) -> Stopped | None:
    """The stop that an unforeseen error came of: a signal while Python takes a lock back breaks the lock's block."""
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, Stopped):
        seen = seen.__context__
    return seen


def _tell_stopped(status: int, session: dict[str, Any]) -> int:
    """Says on a terminal and in logs what a run that was stopped leaves behind."""
    words = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated", signal.SIGHUP: "hung up"}
    rest = f"; {session['unfinished']}" if session.get("unfinished") else ""
    with contextlib.suppress(OSError):
        click.echo(f"ocifast: {words[signal.Signals(status - 128)]}{rest}", err=True)
    return status


def _fail_usage(error: click.UsageError) -> int:
    where = error.ctx.command_path if error.ctx is not None else "ocifast"
    click.echo(f"ocifast: error: {_one_line(error.format_message())} (see '{where} --help')", err=True)
    return 2


def _fail(error: OcifastError, session: dict[str, Any]) -> int:
    message = str(error) + _meant(error, session)
    if session.get("json"):
        import json

        told = {"code": error.code, "message": message, **error.context}
        from ocifast.cli.display import encodable

        with contextlib.suppress(OSError):
            click.echo(encodable(json.dumps({"error": told}, default=str, ensure_ascii=False)))
    click.echo(f"ocifast: error: {_one_line(message)}", err=True)
    _drop_what_waits()
    return 1


def _drop_what_waits() -> None:
    """Gives up what standard output does not take, lest Python try again at its exit, complain, and end with 120."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _meant(error: OcifastError, session: dict[str, Any]) -> str:
    """What was meant, where a registry has no such tag but much the same one."""
    options, name = session.get("registry"), error.context.get("reference")
    if error.code != "image_not_found" or options is None or name is None:
        return ""
    found = import_module("ocifast.cli.suggestions").similar_tags(str(name), options)
    return f"; did you mean {' or '.join(found)}?" if found else ""


def _one_line(text: str) -> str:
    from ocifast.cli.display import printable

    return printable(" ".join(text.split()))
