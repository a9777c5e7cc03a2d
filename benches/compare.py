"""The same work by us and by other tools, in one run, in alternation, on one image.

    python -m benches.compare oci:DIR:TAG [--runs 5] [--folder /dev/shm] [--only tar,erofs,...]
        [--write-baseline FILE] [--baseline FILE]

The image is pushed into Debian's docker-registry on loopback; every result is written below `--folder`, a tmpfs, so
that no disk is measured. No tool finds anything in a cache but the page cache. The registry's own time is in all wall
times alike, its memory in none. Prints tables in Markdown, of what was measured and of the aims; needs root, as umoci
does. With `--baseline` it ends with status 1 when one of our ratios is more than 15% worse than in that file.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

from benches.aims import INFLATE, UMOCI, losses, medians, read_baseline, verdicts, write_baseline
from benches.measure import Command, Contestant, measure, table
from tests.support.registry import Registry, serve_registry
from tests.support.run import Argument, attempt, tool

OCIFAST = Path(sys.executable).with_name("ocifast")
GROUPS = ("tar", "dir", "cpio", "ext4", "erofs", "squashfs", "pull", "push", "runnable")
EXECUTABLE_BYTES = 200_000_000


class Bench:
    """One image in one registry, and the ways to work on it."""

    def __init__(self, layout: Path, tag: str, folder: Path, stack: ExitStack) -> None:
        self.layout, self.tag, self.folder, self.stack = layout, tag, folder, stack
        self.registry = self.fresh_registry("registry")
        self.reference = self.registry.push(f"oci:{layout}:{tag}", "app:1")
        self.pushed = 0

    def fresh_registry(self, name: str) -> Registry:
        """A registry with nothing in it, on a port that no tool has met before."""
        return self.stack.enter_context(serve_registry(self.folder / name))

    def layers(self) -> list[Path]:
        """The blobs of the image's layers, bottom layer first."""
        found = json.loads(
            subprocess.check_output([tool("skopeo"), "inspect", "--raw", f"oci:{self.layout}:{self.tag}"])
        )
        return [self.layout / "blobs" / layer["digest"].replace(":", "/") for layer in found["layers"]]

    def inflate(self, _: Path) -> Sequence[Command]:
        """`igzip -dc` of all layers to nowhere: what no reader of gzip layers can do without."""
        words = " && ".join(f"igzip -dc {shlex.quote(str(path))}" for path in self.layers())
        return [["sh", "-c", f"({words}) >/dev/null"]]

    def copy_and_unpack(self, at: Path) -> Sequence[Command]:
        """The tools of the distributions: skopeo to a layout, umoci to a directory."""
        unpack: Command = ["umoci", "unpack", "--image", f"{at}/layout:app", at / "bundle"]
        return [*self.copy(at), unpack]

    def copy(self, at: Path) -> Sequence[Command]:
        """Registry to layout by skopeo."""
        words = ["skopeo", "--insecure-policy", "copy", "-q", "--src-tls-verify=false"]
        return [[*words, f"docker://{self.reference}", f"oci:{at}/layout:app"]]

    def compile(self, form: str, at: Path) -> Sequence[Command]:
        """Registry to one format by us."""
        return [[OCIFAST, "compile", "--quiet", "--no-cache", "-f", form, self.reference, at / "result"]]

    def mkfs_erofs(self, at: Path) -> Sequence[Command]:
        """erofs-utils' own reader of OCI images."""
        host, _, name = self.reference.partition("/")
        return [["mkfs.erofs", "--quiet", "--oci=f,platform=linux/amd64,insecure", at / "result", f"{host}/{name}"]]

    def pull(self, at: Path) -> Sequence[Command]:
        """Registry to layout by us."""
        return [[OCIFAST, "pull", "--quiet", "--no-cache", self.reference, f"oci:{at}/layout:app"]]

    def push(self, ours: bool, at: Path) -> Sequence[Command]:
        """Layout to an empty registry."""
        host = (at / "host").read_text()
        source = f"oci:{self.layout}:{self.tag}"
        if ours:
            return [[OCIFAST, "push", "--quiet", source, f"{host}/app:1"]]
        words = ["skopeo", "--insecure-policy", "copy", "-q", "--dest-tls-verify=false"]
        return [[*words, source, f"docker://{host}/app:1"]]

    def prepare_push(self, at: Path) -> None:
        """An empty registry for one run; skopeo remembers where it has seen a blob, so a new port each time."""
        self.pushed += 1
        (at / "host").write_text(self.fresh_registry(f"push-{self.pushed}").host)

    def executable(self) -> Path:
        """A static executable of 200 MB: busybox and what a linker would have put after it."""
        path = self.folder / "executable"
        if not path.exists():
            shutil.copy(tool("busybox"), path)
            with path.open("ab") as file, Path("/dev/urandom").open("rb") as noise:
                while file.tell() < EXECUTABLE_BYTES:
                    file.write(noise.read(1 << 20))
        return path

    def tar_and_hash(self, _: Path) -> Sequence[Command]:
        """`tar c FILE | sha256sum`: a layer's bytes and their digest, and nothing else."""
        return [["sh", "-c", f"tar c -C {self.folder} executable | sha256sum"]]

    def runnable(self, at: Path) -> Sequence[Command]:
        """The same executable as an OCI archive by us."""
        return [[OCIFAST, "runnable", "--quiet", self.executable(), "-o", at / "result"]]

    def contestants(self) -> Iterator[Contestant]:
        """All groups; the first of each is what the others are measured against."""
        peers = partial(Contestant, name=UMOCI, commands=self.copy_and_unpack)
        inflate = partial(Contestant, name=INFLATE, commands=self.inflate)
        for form in ("tar", "dir", "cpio", "ext4", "erofs", "squashfs"):
            yield inflate(form)
            yield Contestant(form, f"ocifast compile -f {form}", partial(self.compile, form), "result")
            if form in ("tar", "dir"):
                yield peers(form)
            if form == "erofs" and b"--oci" in attempt("mkfs.erofs", "--help").stdout:
                yield Contestant(form, "mkfs.erofs --oci=f", self.mkfs_erofs, "result")
        yield Contestant("pull", "skopeo copy", self.copy)
        yield Contestant("pull", "ocifast pull", self.pull)
        yield Contestant("push", "skopeo copy", partial(self.push, False), prepare=self.prepare_push)
        yield Contestant("push", "ocifast push", partial(self.push, True), prepare=self.prepare_push)
        self.executable()
        yield Contestant("runnable", "tar c FILE \\| sha256sum", self.tar_and_hash)
        yield Contestant("runnable", "ocifast runnable -o FILE", self.runnable, "result")

    def run(self, contestant: Contestant, number: int) -> None:
        """Measures one run in an empty folder, and removes the folder."""
        at = self.folder / f"run-{number}"
        at.mkdir()
        if contestant.prepare:
            contestant.prepare(at)
        sample = measure(
            contestant.commands(at), at / "log", {"OCIFAST_CACHE_DIR": str(at / "cache"), "TMPDIR": str(at)}
        )
        result = at / contestant.result if contestant.result else at
        size = result.stat().st_blocks * 512 if result.is_file() else 0
        contestant.samples.append(replace(sample, size=size))
        shutil.rmtree(at)
        print(f"{contestant.group:9} {contestant.name:40} {sample.seconds:7.2f} s", file=sys.stderr, flush=True)


def versions() -> str:
    """What was compared, on what machine."""
    questions: list[list[Argument]] = [
        [OCIFAST, "--version"],
        ["skopeo", "--version"],
        ["umoci", "--version"],
        ["igzip", "--version"],
    ]
    questions += [["mkfs.erofs", "-V"], ["docker-registry", "--version"]]
    lines = []
    for question in questions:
        answer = attempt(*question)
        lines.append(f"- {(answer.stdout + answer.stderr).decode().splitlines()[0]}")
    model = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if "model name" in line
    ]
    lines.append(f"- {os.cpu_count()} cores, {model[0] if model else platform.machine()}, Linux {platform.release()}")
    return "\n".join(lines)


def main() -> None:
    """Compares and prints."""
    parser = argparse.ArgumentParser(description="The same work by ocifast and by other tools.")
    parser.add_argument("image", help="oci:DIR:TAG")
    parser.add_argument("--runs", type=int, default=5, help="runs of each contestant (default 5)")
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm"), help="where all is written (default /dev/shm)")
    parser.add_argument("--only", default=",".join(GROUPS), help=f"groups to run, of {','.join(GROUPS)}")
    parser.add_argument("--baseline", type=Path, help="medians of an earlier run to check against")
    parser.add_argument("--write-baseline", type=Path, help="where to write this run's medians")
    options = parser.parse_args()
    baseline = read_baseline(options.baseline) if options.baseline else {}
    kind, layout, tag = options.image.split(":")
    if kind != "oci" or not set(options.only.split(",")) <= set(GROUPS):
        parser.error("the image must be oci:DIR:TAG, and the groups known ones")
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="ocifast-bench-") as folder, ExitStack() as stack:
        bench = Bench(Path(layout).resolve(), tag, Path(folder), stack)
        contestants = [one for one in bench.contestants() if one.group in options.only.split(",")]
        for number in range(options.runs):
            for index, contestant in enumerate(contestants):
                bench.run(contestant, number * len(contestants) + index)
    print(f"Medians of {options.runs} runs in alternation, image {options.image}:\n")
    measured = medians(contestants)
    print(f"{table(contestants)}\n\n{verdicts(measured)}\n\n{versions()}")
    if options.write_baseline:
        write_baseline(options.write_baseline, measured)
    if lost := losses(measured, baseline):
        sys.exit("\n".join(lost))


if __name__ == "__main__":
    main()
