"""ocifast compile: an image becomes a filesystem."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import click

from ocifast.cli import options
from ocifast.cli.display import check_stdout, format_size, report, streaming, warn
from ocifast.cli.edits import edit_options, make_edits
from ocifast.cli.help import Command
from ocifast.cli.kernels import chosen_kernel, kernel_options
from ocifast.cli.losses import sentences
from ocifast.cli.progress import progress_display
from ocifast.cli.registry import options_for, registry_options, seconds
from ocifast.cli.remote import remote_choices, remote_options
from ocifast.cli.seals import chosen_seals, seal_options
from ocifast.cli.verify import verify_options
from ocifast.compiled import CompiledImage
from ocifast.compiler import STDOUT, CompileOptions, CompilePlan
from ocifast.packers import FORMATS, PackOptions
from ocifast.signatures import Verification
from ocifast.workspace import Workspace

__all__ = ["command"]


@click.command(
    cls=Command,
    short_help="Turn an image into a directory, an archive or a filesystem image.",
)
@options.image_argument
@click.argument(
    "outputs", metavar="OUTPUT...", nargs=-1, required=True, type=click.Path(path_type=str, allow_dash=True)
)
@click.option("-f", "--format", "format_", type=click.Choice(list(FORMATS)), help="What to make.  [default: by suffix]")
@options.platform
@click.option("--backend", metavar="NAME", help="What packs.  [default: the best that is installed]")
@click.option("--compression", metavar="NAME", help="none, gzip, zstd, xz, lz4 or lz4hc, as far as the format has it.")
@click.option("--level", metavar="N", type=int, help="Level of the compression.")
@click.option("--block-size", metavar="SIZE", type=options.SIZE, help="Bytes that are compressed together, as 128K.")
@click.option("--free", "free_space", metavar="SIZE", type=options.SIZE, help="Space left free in ext4, as 512M.")
@click.option("--size", metavar="SIZE", type=options.SIZE, help="Size of the whole ext4 image, as 2G.")
@click.option(
    "--max-image-size",
    metavar="SIZE",
    type=options.SIZE,
    help="Most that all files of all layers may be together, holes included.  [default: 2T]",
)
@click.option("--journal", is_flag=True, default=None, help="Give ext4 a journal.")
@click.option(
    "--tails",
    type=click.Choice(["inline", "block"]),
    help="Where erofs puts the ends of files: behind their inodes, or into blocks of their own, which can be shared "
    "with kept layers.  [default: inline]",
)
@click.option(
    "--fragments/--no-fragments",
    default=None,
    help="Whether squashfs packs the ends of files, and small files, together.  [default: --fragments]",
)
@click.option("--single", is_flag=True, default=None, help="Put metadata and all layers of -f layers into one file.")
@click.option("--name", metavar="NAME", help="What -f layers calls the files of this image.  [default: image]")
@click.option(
    "--root-format", metavar="NAME", help="What the root of a disk is: erofs, squashfs or ext4.  [default: erofs]"
)
@click.option(
    "--data-size", metavar="SIZE", type=options.SIZE, help="Size of an empty ext4 beside a disk's root, as 1G."
)
@click.option(
    "--align", metavar="SIZE", type=options.SIZE, help="What partitions, or an erofs image, are multiples of, as 2M."
)
@kernel_options
@click.option("--owners/--no-owners", default=None, help="Set owners in a directory.  [default: when run as root]")
@click.option(
    "--ownership",
    type=click.Choice(["drop", "record"]),
    help="What becomes of owners, modes and devices that a directory cannot hold: record writes them to the attribute "
    "user.containers.override_stat, where podman and fuse-overlayfs look.  [default: drop]",
)
@click.option("--strict", is_flag=True, help="Fail when something would be lost, or the user is unknown.")
@click.option(
    "--config",
    "config_file",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write there, as JSON, what a machine needs to boot: arguments, environment, user, working directory. "
    "Fails when the image has no such user.",
)
@click.option(
    "--verify-output", is_flag=True, help="Read each output back and compare it with the tree before it is published."
)
@click.option("--tree-digest", is_flag=True, help="Compute the digest of the tree, which is the same for all formats.")
@edit_options
@seal_options
@options.seed
@options.follow_links
@verify_options
@remote_options
@options.cached
@options.keep_layers
@click.option("--verify-cache", is_flag=True, help="Hash what the cache has of layers and outputs before it is used.")
@options.jobs
@click.option(
    "--downloads", metavar="N", type=click.IntRange(min=1), default=4, show_default=True, help="Layers at a time."
)
@click.option(
    "--max-metadata",
    metavar="SIZE",
    type=options.SIZE,
    help="Bytes of all paths, link targets and attributes that the image may have.  [default: 256M]",
)
@options.no_sync
@seconds("--packer-timeout", 300, "Wait so long for a sign of life of a packer that is a program of others")
@options.tmp_dir
@options.quiet
@options.progress
@options.as_json
@registry_options
def command(
    image: str,
    outputs: tuple[str, ...],
    format_: str | None,
    platform: str | None,
    backend: str | None,
    compression: str | None,
    level: int | None,
    block_size: int | None,
    free_space: int | None,
    size: int | None,
    max_image_size: int | None,
    journal: bool | None,
    tails: str | None,
    fragments: bool | None,
    single: bool | None,
    name: str | None,
    root_format: str | None,
    data_size: int | None,
    align: int | None,
    owners: bool | None,
    ownership: str | None,
    strict: bool,
    config_file: Path | None,
    tree_digest: bool,
    verify_output: bool,
    seeds: tuple[Path, ...],
    follow_links: bool,
    verify: Verification | None,
    no_cache: bool,
    offline: bool | None,
    refresh: bool,
    keep_layers: bool | None,
    verify_cache: bool,
    jobs: int | None,
    downloads: int,
    max_metadata: int | None,
    sync: bool,
    packer_timeout: float,
    tmp_dir: Path | None,
    quiet: bool,
    progress: str,
    as_json: bool,
    **others: Any,
) -> None:
    """Turn IMAGE into a root filesystem at OUTPUT.

    The format follows OUTPUT's suffix: .tar or .cpio (with .gz or .zst after it: compressed), .tgz, .erofs, .squashfs,
    .ext4 or .img; without a suffix it is a directory, and "-" writes a tar (with -f cpio a cpio) to standard output.
    OUTPUT appears whole or not at all. Several are written from one decode, and appear when all are complete.
    """
    if STDOUT in outputs:
        check_stdout("OUTPUT", as_json=as_json)
    shared = remote_choices(others)
    edits = make_edits(**{name: others.pop(name) for name in inspect.signature(make_edits).parameters})
    seals = chosen_seals(others)
    boots, extract = chosen_kernel(others)
    plan = CompilePlan(
        image,
        outputs,
        format_,
        platform,
        CompileOptions(
            pack=PackOptions(
                backend=backend,
                compression=compression,
                level=level,
                block_size=block_size,
                free_space=free_space,
                size=size,
                journal=journal,
                owners=owners,
                ownership=ownership,
                tails=tails,
                fragments=fragments,
                single=single,
                name=name,
                root_format=root_format,
                data_size=data_size,
                align=align,
                **boots,
            ),
            **seals,
            extract_kernel=extract,
            registry=options_for(image, others),
            seeds=tuple(str(seed) for seed in seeds),
            follow_links=follow_links,
            verify=verify,
            **shared,
            cache=not no_cache,
            offline=offline,
            refresh=refresh,
            keep_layers=keep_layers,
            verify_cache=verify_cache,
            tmp_dir=None if tmp_dir is None else str(tmp_dir),
            sync=sync,
            packer_timeout=packer_timeout,
            threads=jobs,
            downloads=downloads,
            strict=strict,
            boot=config_file is not None,
            tree_digest=tree_digest,
            verify_output=verify_output,
            max_metadata_bytes=max_metadata,
            max_image_bytes=max_image_size,
        ),
        edits,
    )
    if config_file is None:
        done = _run(plan, progress, quiet)
    else:
        # Made before the work begins, so that a wrong path costs nothing.
        with Workspace(config_file, is_directory=False) as space:
            done = _run(plan, progress, quiet)
            _write_config(space, done[0])
    first = done[0]
    if (missing := first.boot.user.missing) is not None:
        warn(f"{first.reference}: {missing}")
    for pattern in first.unmatched_patterns:
        warn(f"{first.reference}: --exclude {pattern!r} matches nothing in the image")
    for each in done:
        for sentence in sentences(each.format, each.losses):
            warn(sentence)
    if as_json:
        # One output is an object, as it always was; several are a list.
        report(first.to_json() if len(done) == 1 else [each.to_json() for each in done], as_json=True, text="")
        return
    if STDOUT in outputs:
        return
    for each in done:
        report({}, as_json=False, text=_line(each, named=each is first))


def _run(plan: CompilePlan, mode: str, quiet: bool) -> tuple[CompiledImage, ...]:
    to_stdout = STDOUT in plan.outputs
    unfinished = "standard output is not complete" if to_stdout else "nothing was written"
    with (
        streaming(to_stdout),
        progress_display(plan.image, mode=mode, quiet=quiet, unfinished=unfinished) as progress,
    ):
        return plan.run(progress=progress)


def _write_config(space: Workspace, done: CompiledImage) -> None:
    import json

    made = space.path / "config.json"
    made.write_text(json.dumps(done.boot.to_json(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    space.publish(made)


def _line(done: CompiledImage, *, named: bool) -> str:
    """What was made, in the last line; above it, where it is `named`, what names the image for good."""
    size = done.data_size if done.data_size is not None else done.size
    facts = [
        done.format,
        "" if size is None else format_size(size),
        "" if done.entries is None else f"{done.entries:,} {'entry' if done.entries == 1 else 'entries'}",
        done.platform or "",
        f"{done.seconds:.1f} s",
        f"{format_size(done.fetched_bytes)} fetched" if done.fetched_bytes else "",
        f"{format_size(done.cached_bytes)} from the cache" if done.cached_bytes else "",
        "from the cache" if done.from_cache else "",
        f"{len(done.losses)} {'loss' if len(done.losses) == 1 else 'losses'}, told above" if done.losses else "",
    ]
    tree = f"tree {done.tree_digest}\n" if done.tree_digest else ""
    names = f"{done.digest}\n{tree}" if named else ""
    sealed = dict(done.properties)
    where = f", at {sealed['hash_offset']}" if "hash_offset" in sealed else ""
    root = f"\nroot hash {sealed['root_hash']}{where}" if "root_hash" in sealed else ""
    return f"{names}{done.path}: {', '.join(fact for fact in facts if fact)}{root}"
