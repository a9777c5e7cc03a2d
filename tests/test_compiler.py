"""From an image to an output: what comes out, and that nothing half-made ever appears."""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
from ocifast import aio
from ocifast.compiler import CompileOptions, CompilePlan, compile_image
from ocifast.errors import (
    CancelledError,
    DigestMismatchError,
    FileError,
    LossError,
    OcifastError,
    UsageError,
)
from ocifast.packers import PackOptions
from ocifast.progress import Event, LayerState, Phase

from tests.support.images import Layer, build_image, write_layout
from tests.support.layers import TarBuilder
from tests.support.oracle import dump_directory, dump_tar
from tests.support.real import RealImage
from tests.support.registry import Registry

UNCACHED = CompileOptions(cache=False)


def small(folder: Path, *, user: str = "app", **config: object) -> str:
    """A layout with an image of two layers."""
    lower = TarBuilder().directory("./", mode=0o755, mtime=7).directory("etc/", mtime=8)
    lower.file("etc/passwd", b"root:x:0:0::/root:/bin/sh\napp:x:1000:50::/home/app:/bin/sh\n", mtime=9)
    lower.file("etc/group", b"staff:x:50:\nextra:x:7:app\nmore:x:3:x,app\n", mtime=9)
    upper = TarBuilder().file("data", b"x" * 100_000, uid=3, gid=4, mtime=10).hard_link("name", "data")
    image = build_image([lower, upper], config={"User": user, "Entrypoint": ["/init"], **config})
    return f"oci:{write_layout(folder / 'layout', image)}:app"


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.root
def test_directory_equals_umoci(real_image: RealImage, tmp_path: Path) -> None:
    done = compile_image(real_image.location, tmp_path / "out", options=UNCACHED)
    assert dump_directory(tmp_path / "out") == real_image.dump
    assert (done.format, done.losses, done.from_cache, done.size) == ("dir", (), False, None)
    assert listing(tmp_path) == ["out"]


@pytest.mark.root
def test_tar_equals_umoci_and_registry_equals_layout(
    real_image: RealImage, real_reference: str, tmp_path: Path
) -> None:
    compile_image(real_image.location, tmp_path / "a.tar", options=UNCACHED)
    assert dump_tar(tmp_path / "a.tar", tmp_path / "extracted") == real_image.dump
    compile_image(real_reference, tmp_path / "b.tar")
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()


def test_result_says_what_was_made(tmp_path: Path) -> None:
    layout = small(tmp_path, Env=["A=1"], WorkingDir="/srv", Cmd=["run"], StopSignal="SIGINT")
    done = compile_image(layout, tmp_path / "out.tar", options=CompileOptions(cache=False, tree_digest=True))
    told = done.to_json()
    assert told.pop("digest").startswith("sha256:")
    assert told.pop("tree_digest").startswith("sha256:")
    assert told.pop("verified") is False
    assert told.pop("seconds") > 0
    assert (told.pop("key"), told.pop("decoded_layers"), told.pop("from_remote")) == (done.key, 2, False)
    assert list(told.pop("phases")) == ["resolve", "inflate", "merge", "pack", "publish"]
    assert told.pop("entries") == done.entries
    assert (done.entries or 0) > 5
    assert json.loads(json.dumps(told)) == {
        "path": str(tmp_path / "out.tar"),
        "format": "tar",
        "backend": "tar",
        "reference": layout,
        "platform": "linux/amd64",
        "boot": {
            "entrypoint": ["/init"],
            "cmd": ["run"],
            "env": ["A=1"],
            "user": {"name": "app", "uid": 1000, "gid": 50, "groups": [3, 7], "home": "/home/app"},
            "working_dir": "/srv",
            "stop_signal": "SIGINT",
            "verity": None,
            "kernel_command_line": None,
        },
        "size": (tmp_path / "out.tar").stat().st_size,
        "data_size": (tmp_path / "out.tar").stat().st_size,
        "fetched_bytes": 0,
        "cached_bytes": 0,
        "losses": [],
        "notices": {},
        "from_cache": False,
        "unmatched_patterns": [],
        "properties": {},
    }
    assert (tmp_path / "out.tar").stat().st_mode & 0o7777 == 0o600


def test_plan_can_be_pickled_and_run_later(tmp_path: Path) -> None:
    plan = CompilePlan(small(tmp_path), (str(tmp_path / "out.tar"),), options=UNCACHED)
    again = pickle.loads(pickle.dumps(plan))
    assert again == plan
    assert [done.path for done in again.run()] == [tmp_path / "out.tar"]


def test_events_come_in_the_order_of_the_work(tmp_path: Path) -> None:
    events: list[Event] = []
    compile_image(small(tmp_path), tmp_path / "out.tar", options=UNCACHED, progress=events.append)
    phases = list(dict.fromkeys(event.phase for event in events))
    assert phases == list(Phase)
    layers = {event.layer for event in events if event.layer is not None}
    assert len(layers) == 2
    for layer in layers:
        states = list(dict.fromkeys(event.state for event in events if event.layer == layer))
        assert states[0] is LayerState.WAITING
        assert states[-1] is LayerState.EXTRACTED
    assert all((event.state is None) == (event.layer is None) for event in events)


@pytest.mark.parametrize("output", ["out.tar", "out"])
def test_a_layer_that_is_not_what_it_says_leaves_nothing(tmp_path: Path, output: str) -> None:
    good = Layer(TarBuilder().file("a", b"1"))
    bad = Layer(TarBuilder().file("b", b"2"))
    flipped = bytearray(bad.blob)
    flipped[-1] ^= 1
    bad.blob = bytes(flipped)
    layout = write_layout(tmp_path / "layout", build_image([good, bad]))
    with pytest.raises(DigestMismatchError) as caught:
        compile_image(f"oci:{layout}:app", tmp_path / output, options=UNCACHED)
    assert bad.digest in str(caught.value)
    assert listing(tmp_path) == ["layout"]


def test_a_failed_run_leaves_the_file_that_was_there(tmp_path: Path) -> None:
    (tmp_path / "out.tar").write_text("precious")
    layout = write_layout(tmp_path / "layout", build_image([Layer(b"no tar at all" * 100)]))
    with pytest.raises(OcifastError):
        compile_image(f"oci:{layout}:app", tmp_path / "out.tar", options=UNCACHED)
    assert (tmp_path / "out.tar").read_text() == "precious"
    assert listing(tmp_path) == ["layout", "out.tar"]


def test_a_file_is_replaced_and_an_empty_directory_filled(tmp_path: Path) -> None:
    layout = small(tmp_path)
    (tmp_path / "out.tar").write_text("old")
    (tmp_path / "link.tar").symlink_to("out.tar")
    compile_image(layout, tmp_path / "link.tar", options=UNCACHED)
    assert (tmp_path / "link.tar").is_symlink()
    assert (tmp_path / "out.tar").stat().st_size > 100_000
    (tmp_path / "empty").mkdir()
    compile_image(layout, tmp_path / "empty", options=UNCACHED)
    assert listing(tmp_path / "empty") == ["data", "etc", "name"]


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("full", "is there and not empty"),
        ("file", "is there and is no directory"),
        ("full.tar", "is a directory; name a file"),
        ("fifo.tar", "is no regular file, and is not replaced"),
        ("nowhere/out.tar", "there is no folder .*nowhere; make it first"),
        ("out.xyz", "the suffix .xyz is of no known format"),
    ],
)
def test_destinations_that_are_refused(tmp_path: Path, output: str, message: str) -> None:
    layout = small(tmp_path)
    for name in ("full", "full.tar"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").touch()
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "fifo.tar")
    before = listing(tmp_path)
    with pytest.raises((UsageError, FileError), match=message):
        compile_image(layout, tmp_path / output, options=UNCACHED)
    assert listing(tmp_path) == before
    assert listing(tmp_path / "full") == ["x"]


def test_options_that_a_format_does_not_have_are_refused(tmp_path: Path) -> None:
    layout = small(tmp_path)
    with pytest.raises(UsageError, match="tar without compression has no option --level"):
        compile_image(layout, tmp_path / "out.tar", options=CompileOptions(pack=PackOptions(level=3)))
    with pytest.raises(UsageError, match="tar has no backend 'mktar'; there are tar"):
        compile_image(layout, tmp_path / "out.tar", options=CompileOptions(pack=PackOptions(backend="mktar")))
    with pytest.raises(UsageError, match="there is no format 'zip'"):
        compile_image(layout, tmp_path / "out.tar", format="zip")


def test_source_date_epoch_clamps_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = small(tmp_path)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "9")
    compile_image(layout, tmp_path / "out", options=UNCACHED)
    times = {path.name: path.stat().st_mtime for path in (tmp_path / "out").rglob("*")}
    assert times == {"etc": 8, "passwd": 9, "group": 9, "data": 9, "name": 9}
    for text in ("yesterday", "99999999999999999999"):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", text)
        with pytest.raises(UsageError, match=f"SOURCE_DATE_EPOCH is '{text}'"):
            compile_image(layout, tmp_path / "again", options=UNCACHED)


@pytest.mark.parametrize(
    ("user", "ids", "message"),
    [
        ("nobody", (None, None), "user 'nobody' is not in the image's /etc/passwd"),
        ("nobody:staff", (None, 50), "user 'nobody' is not in the image's /etc/passwd"),
        ("app:nogroup", (1000, None), "group 'nogroup' is not in the image's /etc/group"),
    ],
)
def test_user_that_the_image_does_not_have(
    tmp_path: Path, user: str, ids: tuple[int | None, int | None], message: str
) -> None:
    layout = small(tmp_path, user=user)
    for options in (CompileOptions(cache=False, strict=True), CompileOptions(cache=False, boot=True)):
        with pytest.raises(OcifastError, match=message):
            compile_image(layout, tmp_path / "out.tar", options=options)
    assert listing(tmp_path) == ["layout"]
    done = compile_image(layout, tmp_path / "out.tar", options=UNCACHED)
    assert (done.boot.user.uid, done.boot.user.gid) == ids


def test_an_output_that_cannot_be_cached_is_there_nevertheless(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def put(*_: object, **__: object) -> None:
        raise FileError("no room")

    monkeypatch.setattr("ocifast.cache.OutputStore._put", put)
    done = compile_image(small(tmp_path), tmp_path / "out.tar")
    assert (tmp_path / "out.tar").stat().st_size == done.size
    assert caplog.messages == ["the output is not cached: no room"]


def test_a_home_that_cannot_be_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("OCIFAST_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    compile_image(small(tmp_path), tmp_path / "out.tar")
    assert listing(tmp_path) == ["layout", "out.tar"]
    assert "nothing is cached: cannot make the cache folder /proc/nowhere/ocifast" in caplog.text


def test_second_run_comes_from_the_cache(tmp_path: Path, registry: Registry) -> None:
    image = build_image([TarBuilder().file("a", b"1" * 5000)], config={"Cmd": ["x"]})
    reference = registry.put(image, "compiler/cached:1")
    first = compile_image(reference, tmp_path / "a.tar")
    asked = len(registry.requests())
    second = compile_image(reference, tmp_path / "b.tar")
    assert (first.from_cache, second.from_cache) == (False, True)
    assert [line for line in registry.requests()[asked:] if "/blobs/" in line] == []
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    assert (tmp_path / "b.tar").stat().st_mode & 0o7777 == 0o600
    ours = {"path": "", "from_cache": False, "seconds": 0, "fetched_bytes": 0, "phases": {}, "decoded_layers": 0}
    assert {**second.to_json(), **ours} == {**first.to_json(), **ours}
    # Another time for files is another output; a directory takes the cached blobs.
    asked = len(registry.requests())
    assert not compile_image(reference, tmp_path / "c.tar", options=CompileOptions(clamp_mtime=5)).from_cache
    assert not compile_image(reference, tmp_path / "dir").from_cache
    assert [line for line in registry.requests()[asked:] if "/blobs/" in line] == []


def test_no_cache_touches_no_cache(tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OCIFAST_CACHE_DIR", str(tmp_path / "cache"))
    reference = registry.put(build_image([TarBuilder().file("a", b"1")]), "compiler/uncached:1")
    compile_image(reference, tmp_path / "a.tar", options=UNCACHED)
    assert listing(tmp_path) == ["a.tar"]


def test_callers_who_want_the_same_share_one_run(tmp_path: Path, registry: Registry) -> None:
    reference = registry.put(build_image([TarBuilder().file("a", os.urandom(2_000_000))]), "compiler/shared:1")
    done = []
    threads = [
        threading.Thread(target=lambda n=number: done.append(compile_image(reference, tmp_path / f"{n}.tar")))
        for number in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(result.from_cache for result in done) == [False, True, True, True]
    assert len({(tmp_path / f"{number}.tar").read_bytes() for number in range(4)}) == 1


def test_tmp_dir_holds_what_waits(tmp_path: Path) -> None:
    layout = small(tmp_path)
    (tmp_path / "tmp").mkdir()
    seen: list[list[str]] = []

    def look(event: Event) -> None:
        if event.phase is Phase.PACKING:
            seen.append([path.name for path in (tmp_path / "tmp").rglob("layers")])

    options = CompileOptions(cache=False, tmp_dir=str(tmp_path / "tmp"))
    compile_image(layout, tmp_path / "out.tar", options=options, progress=look)
    assert seen
    assert all(names == ["layers"] for names in seen)
    assert listing(tmp_path / "tmp") == []


def test_too_little_room_is_said_before_anything_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = small(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda _: (100, 90, 10))
    events: list[Event] = []
    with pytest.raises(
        FileError, match=r"no room for the layers of .*: at least 0\.0 MB are needed in .*, and 0\.0 MB"
    ):
        compile_image(layout, tmp_path / "out.tar", options=UNCACHED, progress=events.append)
    assert not [event for event in events if event.layer is not None]
    assert listing(tmp_path) == ["layout"]


def test_strict_makes_a_loss_an_error(tmp_path: Path) -> None:
    layer = TarBuilder().file("a", b"1", mtime=5).pax({"mtime": "7.25"}).file("b", b"2")
    layout = write_layout(tmp_path / "layout", build_image([layer]))
    lost = compile_image(f"oci:{layout}:app", tmp_path / "out.squashfs", options=UNCACHED)
    assert [(loss.kind, loss.count, loss.paths) for loss in lost.losses] == [("mtime", 1, (b"b",))]
    (tmp_path / "out.squashfs").unlink()
    with pytest.raises(LossError, match=r"squashfs cannot hold all of .*whole seconds, 1 times \(first: /b\)"):
        compile_image(f"oci:{layout}:app", tmp_path / "out.squashfs", options=CompileOptions(cache=False, strict=True))
    assert listing(tmp_path) == ["layout"]


PROGRAM = textwrap.dedent(
    """
    import sys, time
    from ocifast.compiler import CompileOptions, compile_image
    from ocifast.progress import Phase
    def hang(event):
        if event.phase is Phase[sys.argv[3]]:
            print("there", flush=True)
            time.sleep(1000)
    compile_image(sys.argv[1], sys.argv[2], options=CompileOptions(cache=False), progress=hang)
    """
)


@pytest.mark.parametrize("phase", ["RESOLVED", "LAYER_ACQUIRE", "PACKING"])
@pytest.mark.parametrize("output", ["out", "out.tar", "out.squashfs"])
def test_a_kill_at_any_moment_leaves_nothing_at_the_destination(tmp_path: Path, phase: str, output: str) -> None:
    layout = small(tmp_path)
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, layout, tmp_path / output, phase],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"there\n"
    process.kill()
    process.communicate()
    assert not (tmp_path / output).exists()
    left = [name for name in listing(tmp_path) if name != "layout"]
    assert len(left) == 1
    assert left[0].startswith(".ocifast-")
    # The next run beside it clears up.
    compile_image(layout, tmp_path / output, options=UNCACHED)
    assert listing(tmp_path) == ["layout", output]


def test_an_interrupt_takes_everything_back(tmp_path: Path) -> None:
    layout = small(tmp_path)
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, layout, tmp_path / "out.tar", "PACKING"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"there\n"
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert listing(tmp_path) == ["layout"]


def test_cancelled_takes_everything_back(tmp_path: Path) -> None:
    layout = small(tmp_path)
    stop = threading.Event()

    def press(event: Event) -> None:
        if event.phase is Phase.LAYER_ACQUIRE:
            stop.set()

    with pytest.raises(CancelledError):
        compile_image(layout, tmp_path / "out.tar", options=UNCACHED, progress=press, cancelled=stop.is_set)
    assert listing(tmp_path) == ["layout"]


def test_async_compiles_side_by_side(tmp_path: Path) -> None:
    layout = small(tmp_path)

    async def both() -> list[str]:
        work = (aio.compile(layout, tmp_path / name, options=UNCACHED) for name in ("a.tar", "b.tar"))
        return [done.digest for done in await asyncio.gather(*work)]

    first, second = asyncio.run(both())
    assert first == second
    assert listing(tmp_path) == ["a.tar", "b.tar", "layout"]


def test_async_cancelled_writes_nothing_afterwards(tmp_path: Path) -> None:
    layout = small(tmp_path)
    begun = threading.Event()

    def slow(event: Event) -> None:
        if event.phase is Phase.LAYER_ACQUIRE:
            begun.set()
            time.sleep(0.3)

    async def cancel() -> None:
        task = asyncio.create_task(aio.compile(layout, tmp_path / "out.tar", options=UNCACHED, progress=slow))
        await asyncio.to_thread(begun.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert listing(tmp_path) == ["layout"]

    asyncio.run(cancel())


def test_the_time_is_that_of_the_whole_work(tmp_path: Path) -> None:
    def linger(event: Event) -> None:
        if event.phase is Phase.COMPLETE:
            time.sleep(0.2)

    assert compile_image(small(tmp_path), tmp_path / "out.tar", options=UNCACHED, progress=linger).seconds >= 0.2


def test_async_a_published_output_is_never_told_as_cancelled(tmp_path: Path) -> None:
    layout = small(tmp_path)
    arrived, go_on = threading.Event(), threading.Event()

    def wait_at_the_end(event: Event) -> None:
        if event.phase is Phase.COMPLETE:
            arrived.set()
            assert go_on.wait(30)

    async def cancel() -> str:
        compiling = aio.compile(layout, tmp_path / "out.tar", options=UNCACHED, progress=wait_at_the_end)
        task = asyncio.create_task(compiling)
        await asyncio.to_thread(arrived.wait)
        for _ in range(2):
            task.cancel()
            await asyncio.sleep(0.05)
        go_on.set()
        return (await task).digest

    digest = asyncio.run(cancel())
    assert listing(tmp_path) == ["layout", "out.tar"]
    assert digest == compile_image(layout, tmp_path / "again.tar", options=UNCACHED).digest


def test_async_cancelled_twice_waits_for_the_end_all_the_same(tmp_path: Path) -> None:
    layout = small(tmp_path)
    begun, go_on = threading.Event(), threading.Event()

    def wait(event: Event) -> None:
        if event.phase is Phase.RESOLVED:
            begun.set()
            assert go_on.wait(30)

    async def cancel() -> None:
        task = asyncio.create_task(aio.compile(layout, tmp_path / "out.tar", options=UNCACHED, progress=wait))
        await asyncio.to_thread(begun.wait)
        for _ in range(3):
            task.cancel()
            await asyncio.sleep(0.05)
            assert not task.done()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel())
    assert listing(tmp_path) == ["layout"]
