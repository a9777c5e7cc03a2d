"""What a fleet's work costs on one machine: `python -m benches.fleet oci:DIR:TAG [--runs 3] [--images 200]`.

Three tables: one image fetched, compiled, found in each kind of cache; many small images that share layers, compiled by
one and by two Dask workers of one core each; and the model of docs/fleet.md with these figures in it. The image stands
in Debian's registry on loopback, results and caches on a tmpfs, or in `--folder`. CPU seconds are of all processes but
the registry.

An output from a remote cache is held against the fetch of the same blob from the same registry: by `ocifast pull`,
and by `skopeo copy`, of an image whose only layer it is, to a layout in the same folder.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from ocifast import CompileOptions, CompilePlan, compile_many
from ocifast.sources import AttachedSource
from ocifast.sources.open import open_destination, open_source, parse_location
from ocifast.spec import OCI_MANIFEST, Document, decode_manifest

from benches.measure import Command, measure, take_memory_back
from tests.support.images import BuiltImage, Layer, build_image, write_layout
from tests.support.layers import TarBuilder
from tests.support.registry import free_port, serve_registry
from tests.support.run import run

OCIFAST = str(Path(sys.executable).with_name("ocifast"))


FETCH = "fetch of that output, verified, to a layout"
FOUND = "an empty cache, the output from the remote cache"


class Machine:
    """One machine with its cache, as far as costs go."""

    def __init__(self, folder: Path, image: str, runs: int) -> None:
        self.folder, self.image, self.runs = folder, image, runs
        self.out, self.cache = folder / "out.erofs", folder / "cache"
        self.rows: dict[str, tuple[float, float]] = {}
        # Commands write their bytecode even where the caller's environment says no.
        self.env = {"OCIFAST_CACHE_DIR": str(self.cache), "OCIFAST_CACHE_SIZE": "none", "PYTHONDONTWRITEBYTECODE": ""}

    def forget(self) -> None:
        """An empty cache, and no output."""
        shutil.rmtree(self.cache, ignore_errors=True)
        self.clean()

    def clean(self) -> None:
        """No output."""
        for path in self.folder.glob("out.*"):
            path.unlink()
        shutil.rmtree(self.folder / "layout", ignore_errors=True)

    def compile(self, *words: str, suffix: str = ".erofs") -> Command:
        """A compilation, to erofs unless another suffix is given."""
        return [OCIFAST, "compile", "-q", "--no-sync", *words, self.image, str(self.out.with_suffix(suffix))]

    def time(self, name: str, command: Command, prepare: Callable[[], object]) -> None:
        """Medians of wall and CPU seconds; `prepare` comes before each run and does not count."""
        samples = []
        for _ in range(self.runs):
            prepare()
            take_memory_back(self.folder)
            samples.append(measure([command], self.folder / "log", self.env))
        self.rows[name] = (
            statistics.median(sample.seconds for sample in samples),
            statistics.median(sample.cpu for sample in samples),
        )
        print(f"{name}: {self.rows[name][0]:.2f} s, CPU {self.rows[name][1]:.2f} s", file=sys.stderr)


def blob_sizes(storage: Path) -> dict[Path, int]:
    """Bytes of each blob of a registry."""
    return {path: path.stat().st_size for path in storage.rglob("blobs/sha256/*/*/data")}


def offer_blob(remote: str, image: str) -> None:
    """Gives the blob of an image's output in a remote cache a name, `fetch`, under which anybody can pull it."""
    with closing(open_source(parse_location(remote))) as source:
        assert isinstance(source, AttachedSource)
        (found,) = [each for each in source.referring(image) if each.artifact_type]
        (blob,) = decode_manifest(source.document(found), name=remote).layers
    config = json.dumps({"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": []}}).encode()
    described = Document("application/vnd.oci.image.config.v1+json", config).descriptor()
    named = [{"mediaType": each.media_type, "digest": each.digest, "size": each.size} for each in (described, blob)]
    named[1]["mediaType"] = "application/vnd.oci.image.layer.v1.tar+zstd"
    manifest = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": named[0], "layers": named[1:]}
    destination = open_destination(parse_location(f"{remote}:fetch"))
    destination.put_blob(described, [config])
    destination.put_document(Document(OCI_MANIFEST, json.dumps(manifest).encode()), root=True)
    destination.commit()


def one_image(machine: Machine, layers: Sequence[Path], remote: str, storage: Path) -> tuple[int, int]:
    """The first table; returns the bytes of the output in the remote cache, and of all that was pushed there."""
    bytes_ = sum(path.stat().st_size for path in layers)
    inflate: Command = ["sh", "-c", f"for f in {' '.join(map(str, layers))}; do igzip -dc $f; done >/dev/null"]
    machine.time("`igzip -dc` of all layers (F)", inflate, machine.forget)
    pull: Command = [OCIFAST, "pull", "-q", "--no-cache", machine.image, f"oci:{machine.folder}/layout:app"]
    machine.time(f"fetch {bytes_ / 1e6:.0f} MB, verified, to a layout", pull, machine.forget)
    machine.time("compile, nothing kept", machine.compile("--no-cache"), machine.forget)
    machine.time("compile, blobs and output kept", machine.compile(), machine.forget)
    machine.time("compile, layers kept as well", machine.compile("--keep-layers"), machine.forget)

    def only_layers() -> None:
        machine.clean()
        shutil.rmtree(machine.cache / "outputs", ignore_errors=True)

    machine.time("again, from kept layers", machine.compile("--keep-layers"), only_layers)
    machine.time("again, the kept output", machine.compile(), machine.clean)
    machine.forget()
    before = blob_sizes(storage)
    run(*machine.compile("--remote-cache", remote), env=machine.env)
    pushed = [size for path, size in blob_sizes(storage).items() if path not in before]
    offer_blob(remote, run(OCIFAST, "digest", "--platform", "linux/amd64", machine.image).decode().split()[0])
    pull = [OCIFAST, "pull", "-q", "--no-cache", f"{remote}:fetch", f"oci:{machine.folder}/layout:app"]
    machine.time(FETCH, pull, machine.forget)
    if skopeo := shutil.which("skopeo"):
        copy = [skopeo, "copy", "-q", "--src-tls-verify=false", f"docker://{remote}:fetch", pull[-1]]
        machine.time("the same, by `skopeo copy`", copy, machine.forget)
    reading = machine.compile("--remote-cache", remote, "--remote-read-only")
    machine.time(FOUND, reading, machine.forget)
    other = machine.compile("--remote-cache", remote, "--remote-read-only", suffix=".tar")
    machine.time("an empty cache, a tar of layers from the remote cache", other, machine.forget)
    # An output has the bytes of all its layers: it is the largest.
    return max(pushed), sum(pushed)


def small_images(count: int, shared: int) -> dict[str, BuiltImage]:
    """Images of three shared layers each, of some megabytes unpacked, and a small one of their own."""
    source = random.Random(1)

    def layer(name: str, files: int) -> Layer:
        tar = TarBuilder()
        for number in range(files):
            tar.file(f"{name}/{number}", source.randbytes(8000) + b"text " * 4000)
        return Layer(tar.build())

    layers = [layer(f"shared{number}", 100) for number in range(shared)]
    return {
        f"app{number}": build_image([*source.sample(layers, 3), layer(f"own{number}", 4)]) for number in range(count)
    }


@contextmanager
def dask(workers: int, folder: Path) -> Iterator[Any]:
    """A client of a scheduler and of workers of one thread, each held to a core of its own."""
    from distributed import Client

    address = f"tcp://127.0.0.1:{free_port()}"
    python, quiet = [sys.executable, "-m"], ["--no-dashboard"]
    commands = [[*python, "distributed.cli.dask_scheduler", "--host", address, *quiet]]
    for core in range(workers):
        worker = ["distributed.cli.dask_worker", address, "--nthreads", "1", "--no-nanny", *quiet]
        commands.append(["taskset", "-c", str(core), *python, *worker])
    log = (folder / "dask.log").open("ab")
    running = [subprocess.Popen(command, stdout=log, stderr=log, cwd=folder) for command in commands]
    try:
        with Client(address, timeout=60) as client:  # type: ignore[no-untyped-call]
            client.wait_for_workers(workers)
            yield client
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait(timeout=60)
        log.close()


def many_images(folder: Path, count: int, workers: int, layout: Path, names: Sequence[str]) -> tuple[float, int, int]:
    """Seconds, layers that were decoded, and how many of these more than once."""
    place = folder / f"by-{workers}"
    (place / "out").mkdir(parents=True)
    options = CompileOptions(threads=1, downloads=1, sync=False, cache_folder=str(place / "cache"))
    plans = [
        CompilePlan(f"oci:{layout}:{name}", (str(place / "out" / f"{name}.erofs"),), options=options) for name in names
    ]
    with dask(workers, place) as client, client.get_executor(pure=False) as executor:
        begun = time.monotonic()
        results = list(compile_many(plans[:count], executor))
        took = time.monotonic() - begun
    failed = [result.error for result in results if result.error is not None]
    if failed:
        sys.exit(f"{len(failed)} plans failed: {failed[0]}")
    decoded = [diff_id for result in results for image in result.images for diff_id in image.decoded]
    shutil.rmtree(place)
    return took, len(decoded), len(decoded) - len(set(decoded))


def model(
    rows: dict[str, tuple[float, float]], compressed: int, size: int, kept: int, pushed: int, hosts: int, images: int
) -> str:
    """The table of docs/fleet.md: each host gets a tenth of the images once; each is made by every host, or once."""
    fetch, cold, found = (
        next(cpu for name, (_, cpu) in rows.items() if name.startswith(lead))
        for lead in ("fetch", "compile, blobs and output kept", FOUND)
    )
    starts = hosts * images // 10
    traffic = images * (compressed + pushed) + starts * kept
    lines = [
        f"{hosts:,} hosts, {images:,} images, {images // 10:,} of them on each host; "
        f"{compressed / 1e6:.0f} MB compressed, {size / 1e6:.0f} MB as erofs, "
        f"{kept / 1e6:.0f} MB of it in the remote cache, where each image has {pushed / 1e6:.0f} MB with its layers",
        "",
        "| | without a remote cache | with one |",
        "|---|--:|--:|",
        f"| registry traffic, TB | {starts * compressed / 1e12:,.0f} | {traffic / 1e12:,.0f} |",
        f"| CPU hours of all hosts | {starts * cold / 3600:,.0f} | {(images * cold + starts * found) / 3600:,.0f} |",
        f"| of these, fetching and hashing | {starts * fetch / 3600:,.0f} | |",
        f"| disk of the registry, TB | {images * compressed / 1e12:,.1f} | "
        f"{images * (compressed + pushed) / 1e12:,.1f} |",
        f"| disk of a host without pruning, TB | {images // 10 * (size + compressed) / 1e12:,.1f} | "
        f"{images // 10 * size / 1e12:,.1f} |",
    ]
    return "\n".join(lines)


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--only", choices=["one", "many"])
    parser.add_argument("--folder", help="for all that is written; a tmpfs where there is one")
    options = parser.parse_args()
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="ocifast-fleet-", dir=options.folder or memory))
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors, medians of {options.runs} runs\n")
    try:
        if options.only != "many":
            with serve_registry(folder / "registry") as registry:
                name = f"{registry.host}/app:1"
                run(OCIFAST, "push", "-q", options.image, name)
                manifest = json.loads(run(OCIFAST, "inspect", "--raw", "--platform", "linux/amd64", options.image))
                blobs = Path(options.image.removeprefix("oci:").rpartition(":")[0]) / "blobs"
                layers = [blobs / layer["digest"].replace(":", "/") for layer in manifest["layers"]]
                machine = Machine(folder, name, options.runs)
                kept, pushed = one_image(machine, layers, f"{registry.host}/cache", registry.storage)
                print("| work | wall s | CPU s | times F |\n|---|--:|--:|--:|")
                base = next(iter(machine.rows.values()))[0]
                for work, (wall, cpu) in machine.rows.items():
                    print(f"| {work} | {wall:.2f} | {cpu:.2f} | {wall / base:.2f} |")
                took, most = machine.rows[FOUND][0], machine.rows[FETCH][0] + 0.2 * base
                verdict = "met" if took <= most else "missed"
                print(f"\n{FOUND}: {took:.2f} s, at most fetching it and 0.2 F, {most:.2f} s: {verdict}")
                run(*machine.compile("--no-cache"))
                compressed = sum(path.stat().st_size for path in layers)
                size = machine.out.stat().st_blocks * 512
                print("\n" + model(machine.rows, compressed, size, kept, pushed, 1000, 10_000) + "\n")
                machine.forget()
        if options.only != "one":
            images = small_images(options.images, options.images // 5)
            layout = write_layout(folder / "small", images)
            print("| Dask workers of one core | s | images a second | layers decoded | more than once | times one |")
            print("|--:|--:|--:|--:|--:|--:|")
            alone = 0.0
            for workers in (1, 2):
                took, decoded, twice = many_images(folder, options.images, workers, layout, list(images))
                alone = alone or took
                rate, times = options.images / took, alone / took
                print(f"| {workers} | {took:.1f} | {rate:.1f} | {decoded} | {twice} | {times:.2f} |")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
