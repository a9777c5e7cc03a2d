"""The same work by us and by other tools, in one run, in alternation, on the same images.

    python -m benches.compare [oci:DIR:TAG] [--workloads corpus,big,...] [--groups dir,erofs,...]
        [--peers igzip,tar,...] [--runs 3] [--folder /dev/shm] [--layouts DIR]
        [--results FILE] [--note TEXT] [--write] [--baseline FILE]

Each workload of `benches.workloads` is built, pushed into Debian's docker-registry on loopback, and worked on by all of
`benches.peers` that are installed; every result is written below `--folder`, a tmpfs, so that no disk is measured, and
the trees of all results are compared. A first round does not count: it fills the page cache, and its results are what
is read. No tool finds anything in a cache but the page cache, where the work is not just
that. The registry's own time is in all wall times alike, its memory in none. Tables in Markdown are printed: what was
measured, and the aims. It needs root, as umoci does.

`--results` keeps what was measured, next to what is in that file already; `--write` puts the tables of it into the
documents, also alone. With `--baseline` the program ends with status 1 when one of our ratios is more than 15% worse
than in that file.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

from benches.aims import losses, ratios, verdicts
from benches.document import table, write_documents
from benches.measure import Command, CommandError, Contestant, end_tidily, take_memory_back, try_measure
from benches.peers import GROUPS, PEERS, Peer
from benches.place import Place
from benches.results import RESULTS, Results, medians, merged, part, read, write
from benches.trees import Trees
from benches.workloads import WORKLOADS, Source, Workload
from tests.support.run import PATH


class Comparison:
    """One workload and all that work on it."""

    def __init__(self, place: Place, folder: Path) -> None:
        self.place, self.folder = place, folder
        self.trees: dict[str, Trees] = {}
        self.runs = 0

    def contestants(self, workload: str, groups: Collection[str], peers: Collection[str]) -> Iterator[Contestant]:
        """Those of some groups, also those that cannot run here; of tools other than ours those that are asked for."""
        for peer in PEERS:
            mine = peer.workload in ("", workload)
            asked = not peers or peer.name.startswith("ocifast ") or set(peer.needs) <= set(peers)
            if peer.group in groups and mine and asked:
                yield self._contestant(peer)

    def _contestant(self, peer: Peer) -> Contestant:
        missing = [name for name in peer.needs if shutil.which(name, path=PATH) is None]
        problem = f"not installed: {', '.join(missing)}" if missing else peer.lacks() if peer.lacks else ""
        return Contestant(
            peer.group,
            peer.name,
            partial(peer.commands, self.place),
            peer.result,
            partial(peer.prepare, self.place) if peer.prepare else None,
            clean=peer.clean,
            daemons=peer.daemons,
            kind=peer.kind,
            family="layout" if peer.kind == "layout" else peer.tag,
            problem=problem,
        )

    def alternate(self, contestants: Sequence[Contestant], runs: int) -> None:
        """Measures all of them in turn, so often, after a round that does not count."""
        for number in range(runs + 1):
            for one in contestants:
                self.run(one, counts=number > 0)

    def run(self, one: Contestant, *, counts: bool) -> None:
        """Measures one run in an empty folder, or reads its result instead, and removes the folder."""
        if one.problem:
            return
        self.runs += 1
        at = self.folder / f"run-{self.runs}"
        at.mkdir()
        try:
            if one.prepare:
                one.prepare(at)
            take_memory_back(self.folder)
            sample = try_measure(
                one.commands(at), at / "log", self.place.environment(at), one.daemons(at) if one.daemons else ()
            )
            result = at / one.result
            size = result.stat().st_blocks * 512 if one.kind != "mounted" and result.is_file() else 0
            if counts:
                one.samples.append(replace(sample, size=size))
            elif one.kind:
                self._read(one, result)
        except (CommandError, TimeoutError) as error:
            one.problem = f"failed: {error.line if isinstance(error, CommandError) else error}"
            one.samples.clear()
        finally:
            if one.clean:
                one.clean(at)
            shutil.rmtree(at)
        told = one.problem or f"{sample.seconds:7.2f} s{'' if counts else ', not counted'}"
        print(f"{one.group:14} {one.name:50} {told}", file=sys.stderr, flush=True)

    def _read(self, one: Contestant, result: Path) -> None:
        trees = self.trees.setdefault(one.family, Trees(self.folder / f"trees-{one.family}"))
        try:
            trees.add(f"{one.group} {one.name}", one.kind, result)
        except ValueError as error:
            one.tree = f"**not readable: {error}**"

    def judge(self, contestants: Sequence[Contestant]) -> None:
        """Gives each its word on its tree."""
        words = {who: word for trees in self.trees.values() for who, word in trees.verdicts()}
        for one in contestants:
            one.tree = words.get(f"{one.group} {one.name}", one.tree)


def compare(workload: Workload, layout: Path, folder: Path, asked: argparse.Namespace) -> tuple[list[Contestant], int]:
    """Measures one workload; returns its contestants, and how many names its tree has."""
    with ExitStack() as stack:
        (folder / "place").mkdir()
        comparison = Comparison(Place(layout, folder / "place", stack, workload.slow), folder)
        groups = [group for group in workload.groups if group in asked.groups] if asked.groups else workload.groups
        contestants = list(comparison.contestants(workload.name, groups, asked.peers))
        comparison.alternate(contestants, asked.runs)
        comparison.judge(contestants)
        trees = comparison.trees.get("app")
        return contestants, trees.entries if trees else 0


def built(workload: Workload, source: Source, layouts: Path) -> Path:
    """Builds a workload in a process of its own: a contestant's peak memory counts from what this one holds."""
    words: Command = [sys.executable, "-m", "benches.workloads", workload.name, layouts, "--scale", str(source.scale)]
    corpus = ["--corpus", f"oci:{source.corpus}:{source.tag}"] if source.corpus else []
    return Path(subprocess.run([*words, *corpus], check=True, stdout=subprocess.PIPE, text=True).stdout.strip())


def names(known: Collection[str], text: str) -> list[str]:
    """A list of known names, separated by commas."""
    found = text.split(",")
    if wrong := [name for name in found if name not in known]:
        raise argparse.ArgumentTypeError(f"{wrong[0]} is none of {','.join(known)}")
    return found


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    known = [workload.name for workload in WORKLOADS]
    parser = argparse.ArgumentParser(prog="python -m benches.compare", description="The same work by us and others.")
    parser.add_argument("image", nargs="?", help="the corpus, oci:DIR:TAG; workloads made of it need it")
    parser.add_argument("--workloads", type=partial(names, known), help=f"of {','.join(known)} (default all)")
    parser.add_argument("--groups", "--only", type=partial(names, GROUPS), help=f"work, of {','.join(GROUPS)}")
    parser.add_argument(
        "--peers", type=lambda text: text.split(","), help="other tools to run (default all)", default=[]
    )
    parser.add_argument("--runs", type=int, default=3, help="runs of each that count (default 3)")
    parser.add_argument("--scale", type=float, default=1.0, help="of made-up workloads, for a quick look (default 1)")
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm"), help="where all is written (default /dev/shm)")
    parser.add_argument("--layouts", type=Path, help="where workloads are built and stay (default: removed at the end)")
    parser.add_argument("--results", type=Path, help="where what is measured is kept, as JSON")
    parser.add_argument(
        "--write", action="store_true", help=f"write the documents from --results (default {RESULTS.name})"
    )
    parser.add_argument("--note", default="", help="a sentence on the circumstances, kept and shown with the results")
    parser.add_argument("--baseline", type=Path, help="results of an earlier run to check against")
    return parser


def source_of(parser: argparse.ArgumentParser, asked: argparse.Namespace) -> Source:
    """What the workloads are built of; ends the program when one lacks its corpus."""
    needy = [workload.name for workload in WORKLOADS if workload.of_corpus and workload.name in asked.workloads]
    if asked.image is None:
        if needy:
            parser.error(f"{needy[0]} is made of a corpus: name an image, oci:DIR:TAG")
        return Source(scale=asked.scale)
    kind, _, place = asked.image.partition(":")
    layout, _, tag = place.rpartition(":")
    if kind != "oci" or not layout or not Path(layout, "index.json").exists():
        parser.error(f"{asked.image} is no oci:DIR:TAG with a layout in DIR")
    return Source(Path(layout).resolve(), tag, asked.scale)


def command_line(asked: argparse.Namespace, workload: Workload) -> str:
    """The command that measures one workload as it was measured, without this machine's paths."""
    words = [*(["oci:DIR:TAG"] if workload.of_corpus else []), "--workloads", workload.name, "--runs", str(asked.runs)]
    words += ["--groups", ",".join(asked.groups)] if asked.groups else []
    words += ["--peers", ",".join(asked.peers)] if asked.peers else []
    words += ["--scale", f"{asked.scale:g}"] if asked.scale != 1 else []
    return f"python -m benches.compare {shlex.join(words)}"


def main(words: Sequence[str] | None = None) -> None:
    """Compares, prints, keeps."""
    parser = arguments()
    asked = parser.parse_args(words)
    if asked.workloads is None:
        only_write = asked.write and asked.image is None
        asked.workloads = [] if only_write else [workload.name for workload in WORKLOADS]
    kept = asked.results or (RESULTS if asked.write else None)
    source = source_of(parser, asked)
    results, now = read(kept) if kept else {}, Results()
    absent = set[tuple[str, str]]()
    for workload in (one for one in WORKLOADS if one.name in asked.workloads):
        with tempfile.TemporaryDirectory(dir=asked.folder, prefix="ocifast-bench-") as name:
            folder = Path(name)
            layouts = asked.layouts or folder / "layouts"
            print(f"{workload.name}: {workload.about}", file=sys.stderr, flush=True)
            contestants, entries = compare(workload, built(workload, source, layouts), folder, asked)
        if not contestants:
            continue
        found = part(contestants, command_line(asked, workload), entries, asked.note)
        now = merged(now, workload.name, found)
        absent |= {(f"{workload.name}/{one.group}", one.name) for one in contestants if one.cannot}
        print(f"\n{workload.title}\n\n{table(found)}\n", flush=True)
        if kept:
            results = merged(results, workload.name, found)
            write(kept, results)
    if now:
        print(verdicts(medians(now), {name: one["entries"] for name, one in now.items()}))
    if asked.write:
        write_documents(results)
    if asked.baseline and not ratios(medians(now)).keys() & ratios(medians(read(asked.baseline))).keys():
        sys.exit(f"{asked.baseline} has nothing of what was measured: there is nothing to compare with")
    if asked.baseline and (lost := losses(medians(now), medians(read(asked.baseline)), absent)):
        sys.exit("\n".join(lost))


if __name__ == "__main__":
    end_tidily()
    main()
