"""`ocifast batch`: many images become filesystems, by processes of this machine or by the workers of a cluster."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ocifast.cli import options
from ocifast.cli.batchfile import read_file, read_plans
from ocifast.cli.display import encodable, format_size, printable, redirected, say, standard_output
from ocifast.cli.help import Command
from ocifast.cli.registry import make_options, registry_options
from ocifast.cli.remote import remote_choices, remote_options
from ocifast.cli.screen import Screen
from ocifast.cli.verify import verify_options
from ocifast.compiler import CompileOptions
from ocifast.errors import NetworkError, UsageError

if TYPE_CHECKING:
    from ocifast.batch import BatchResult, BatchStand
    from ocifast.signatures import Verification

__all__ = ["command"]

_NAMED = 3
"""Running images that the display names."""


@click.command(
    cls=Command,
    short_help="Turn many images into filesystems.",
)
@click.argument("file", metavar="FILE", type=click.Path(allow_dash=True))
@click.option(
    "--workers",
    metavar="N",
    type=click.IntRange(1, 1024),
    help="Processes of this machine.  [default: none, one image after the other on all cores]",
)
@click.option("--dask", metavar="ADDRESS", help="Send the images to the workers of this Dask scheduler.")
@click.option("--resume", is_flag=True, help="Skip images whose outputs are there and right.")
@click.option(
    "--journal",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where it is written down what was made, for --resume.  [default: FILE.journal]",
)
@options.seed
@options.follow_links
@verify_options
@remote_options
@options.cached
@options.keep_layers
@options.jobs
@options.tmp_dir
@options.no_sync
@options.quiet
@options.progress
@options.as_json
@registry_options
def command(
    file: str,
    workers: int | None,
    dask: str | None,
    resume: bool,
    journal: Path | None,
    seeds: tuple[Path, ...],
    follow_links: bool,
    verify: Verification | None,
    no_cache: bool,
    offline: bool | None,
    refresh: bool,
    keep_layers: bool | None,
    jobs: int | None,
    tmp_dir: Path | None,
    sync: bool,
    quiet: bool,
    progress: str,
    as_json: bool,
    **registry: Any,
) -> int:
    """Compile all images of FILE: a list in YAML, or one JSON object a line; "-" is standard input.

    An entry has an image and an output (or a list of outputs), and may have format, platform, edits and options.
    Results are told as they finish, and a summary at the end; the exit status is 1 when an image failed, which stops
    no other one.
    """
    from ocifast.batch import compile_many

    if dask is not None and workers is not None:
        raise click.UsageError("--workers are for this machine, and --dask has its own; give one of them")
    if journal is None and file != "-":
        journal = Path(f"{file}.journal")
    if resume and journal is None:
        raise click.UsageError("--resume needs --journal where the batch comes from standard input")
    shared = remote_choices(registry)
    text = read_file(file)
    plans = read_plans(
        file,
        text,
        CompileOptions(
            registry=_registry(text, registry),
            seeds=tuple(str(seed) for seed in seeds),
            follow_links=follow_links,
            verify=verify,
            **shared,
            cache=not no_cache,
            offline=offline,
            refresh=refresh,
            keep_layers=keep_layers,
            threads=jobs,
            sync=sync,
            tmp_dir=None if tmp_dir is None else str(tmp_dir),
        ),
    )
    failed: list[BatchResult] = []
    begun = time.monotonic()
    with _executor(dask) as executor, _display(mode=progress, quiet=quiet) as show:
        stands: list[BatchStand] = []

        def progress_of(stand: BatchStand) -> None:
            stands[:] = [stand]
            show(stand)

        results = compile_many(plans, executor, workers=workers, journal=journal, resume=resume, progress=progress_of)
        for result in results:
            if result.error is not None:
                failed.append(result)
            _tell(result, as_json=as_json)
    return _sum_up(stands[0], failed, time.monotonic() - begun, as_json=as_json)


def _tell(result: BatchResult, *, as_json: bool) -> None:
    if as_json:
        text = encodable(json.dumps(result.to_json(), default=str, ensure_ascii=False))
    else:
        outputs = ", ".join(result.plan.outputs)
        if result.error is not None:
            say(f"ocifast: {printable(result.plan.image)} failed: {printable(' '.join(str(result.error).split()))}")
            return
        done = "there already" if result.skipped else f"{result.seconds:.1f} s"
        digest = "" if result.skipped else f"{result.images[0].digest}  "
        text = f"{digest}{printable(result.plan.image)} -> {printable(outputs)}: {done}"
    with standard_output():
        click.echo(text)
        sys.stdout.flush()


def _sum_up(stand: BatchStand, failed: list[BatchResult], seconds: float, *, as_json: bool) -> int:
    """Tells the summary; the exit status."""
    if as_json:
        summary = {
            "total": stand.total,
            "compiled": stand.compiled,
            "skipped": stand.skipped,
            "failed": stand.failed,
            "seconds": round(seconds, 3),
            "fetched_bytes": stand.fetched_bytes,
        }
        with standard_output():
            click.echo(json.dumps({"summary": summary}))
    else:
        fetched = f", {format_size(stand.fetched_bytes)} fetched" if stand.fetched_bytes else ""
        skipped = f", {stand.skipped} there already" if stand.skipped else ""
        say(
            f"ocifast: {stand.compiled} of {stand.total} compiled{skipped}, {stand.failed} failed in {seconds:.1f} s"
            f"{fetched}"
        )
    for result in failed if as_json else ():
        say(f"ocifast: {printable(result.plan.image)} failed: {printable(' '.join(str(result.error).split()))}")
    return 1 if failed else 0


def _registry(text: str, registry: dict[str, Any]) -> Any:
    """How registries are spoken to. A credential on the command line would be for one of many: log in instead."""
    if registry.get("username") or registry.get("insecure"):
        raise UsageError("--username and --insecure are for one registry; log in, or name hosts in --registries-conf")
    return make_options(**registry) if text.strip() else None


@contextmanager
def _executor(dask: str | None) -> Iterator[Any]:
    """The executor of a Dask scheduler, for the time of the block."""
    if dask is None:
        yield None
        return
    try:
        from distributed import Client
    except ImportError:
        raise UsageError("--dask needs the package distributed: pip install 'ocifast[dask]'") from None
    connect: Any = Client
    try:
        client = connect(dask, timeout=30)
    except (OSError, ValueError) as error:
        text = " ".join(str(error).split())[:200]
        raise NetworkError(f"the Dask scheduler at {dask} does not answer: {text}") from None
    with client, client.get_executor(pure=False) as executor:
        yield executor


@contextmanager
def _display(*, mode: str, quiet: bool) -> Iterator[Callable[[BatchStand], None]]:
    """One display for all plans: lines at the bottom of a terminal, or objects of JSON, or nothing."""
    if quiet or mode == "none":
        yield lambda stand: None
        return
    if mode == "json":
        yield lambda stand: say(json.dumps(_stand_json(stand)))
        return
    if mode == "plain" or not sys.stderr.isatty() or os.environ.get("TERM", "dumb") == "dumb":
        yield _PlainStand()
        return
    latest: list[BatchStand] = []
    begun = time.monotonic()
    lock = threading.Lock()

    def lines(width: int, height: int) -> list[str]:
        with lock:
            shown = latest[-1:]
        return [line[: width - 1] for stand in shown for line in _frame(stand, time.monotonic() - begun)][:height]

    screen = Screen(sys.stderr.fileno(), lines)

    def take(stand: BatchStand) -> None:
        with lock:
            latest[:] = [stand]
        screen.poke()

    screen.start()
    try:
        with redirected(screen.above):
            yield take
    finally:
        screen.close()


class _PlainStand:
    """A line for each tenth of the batch."""

    def __init__(self) -> None:
        self._told = -1

    def __call__(self, stand: BatchStand) -> None:
        tenth = 10 * stand.done // max(stand.total, 1)
        if tenth > self._told and stand.done < stand.total:
            self._told = tenth
            say(f"ocifast: {stand.done} of {stand.total} images, {stand.failed} failed")


def _frame(stand: BatchStand, seconds: float) -> list[str]:
    left = ""
    if 0 < stand.done < stand.total:
        left = f", about {seconds / stand.done * (stand.total - stand.done):.0f} s left"
    failed = f", {stand.failed} failed" if stand.failed else ""
    fetched = f", {format_size(stand.fetched_bytes)} fetched" if stand.fetched_bytes else ""
    named = [f"  {printable(image)}" for image in stand.running[:_NAMED]]
    more = len(stand.running) - len(named)
    return [
        *named,
        *([f"  and {more} more"] if more > 0 else []),
        f"{stand.done} of {stand.total} images{failed}{fetched}{left}",
    ]


def _stand_json(stand: BatchStand) -> dict[str, Any]:
    return {
        "total": stand.total,
        "compiled": stand.compiled,
        "skipped": stand.skipped,
        "failed": stand.failed,
        "running": list(stand.running),
        "fetched_bytes": stand.fetched_bytes,
    }
