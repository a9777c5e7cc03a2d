"""Mirrors of many images: shared blobs move once, what is there stays, a failure stops nobody."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ocifast
import pytest
from ocifast import aio
from ocifast.cli import main
from ocifast.errors import CancelledError, UsageError
from ocifast.mirroring import MirrorEntry, MirrorResult, copy_many

from tests.support.faulty import Answer, FaultyRegistry, Request, error, serve_faulty
from tests.support.images import BuiltImage, Layer, build_image, digest_of
from tests.support.layers import TarBuilder
from tests.support.pulls import QUICK
from tests.support.registry import Registry
from tests.support.signing import Signer, bundle


@pytest.fixture
def servers() -> Iterator[tuple[FaultyRegistry, FaultyRegistry]]:
    with serve_faulty() as origin, serve_faulty() as mirror:
        yield origin, mirror


BASE = Layer(TarBuilder().file("base", b"b" * 5000))


def app(number: int) -> BuiltImage:
    return build_image([BASE, Layer(TarBuilder().file("own", b"%d" % number))])


def mirrored(*entries: MirrorEntry, **options: Any) -> list[MirrorResult]:
    return list(copy_many(entries, options=QUICK, **options))


def uploads(server: FaultyRegistry, digest: str) -> int:
    """How often a blob's bytes were sent."""
    return sum(request.method == "PUT" and request.values("digest") == [digest] for request in server.requests)


def downloads(server: FaultyRegistry, digest: str) -> int:
    """How often a blob was asked for."""
    return sum(request.method == "GET" and request.path.endswith(f"/blobs/{digest}") for request in server.requests)


def test_a_blob_that_images_share_is_sent_once_and_mounted(servers: tuple[FaultyRegistry, FaultyRegistry]) -> None:
    origin, mirror = servers
    images = {f"org/app{number}": app(number) for number in range(4)}
    entries = [
        MirrorEntry(origin.put(image, f"{name}:1"), f"{mirror.host}/copy/{name}:1") for name, image in images.items()
    ]
    results = mirrored(*entries)
    assert {result.digest for result in results} == {image.digest for image in images.values()}
    assert uploads(mirror, BASE.digest) == 1
    assert downloads(origin, BASE.digest) == 1
    assert all(BASE.digest in mirror.blobs[f"copy/{name}"] for name in images)
    assert not mirror.uploads


def test_where_mounts_are_refused_the_blob_is_sent_again(servers: tuple[FaultyRegistry, FaultyRegistry]) -> None:
    origin, mirror = servers
    mirror.script = lambda request: error(405, "UNSUPPORTED") if request.values("mount") else None
    entries = [
        MirrorEntry(origin.put(app(number), f"org/app{number}:1"), f"{mirror.host}/copy/app{number}:1")
        for number in range(2)
    ]
    assert [result.error for result in mirrored(*entries)] == [None, None]
    assert uploads(mirror, BASE.digest) == 2


def test_what_is_there_is_left_alone(servers: tuple[FaultyRegistry, FaultyRegistry]) -> None:
    origin, mirror = servers
    entry = MirrorEntry(origin.put(app(1), "org/app:1"), f"{mirror.host}/copy/app:1")
    assert [result.existing for result in mirrored(entry)] == [False]
    mirror.requests.clear()
    (again,) = mirrored(entry)
    assert (again.existing, again.copied, again.digest) == (True, None, app(1).digest)
    assert mirror.lines == ["HEAD /v2/copy/app/manifests/1"]
    # The tag has moved: what is new is copied, what it shares is there.
    origin.put(app(2), "org/app:1")
    (moved,) = mirrored(entry)
    assert moved.copied is not None
    assert (moved.digest, moved.copied.existing, moved.copied.copied) == (app(2).digest, 1, 2)


def test_a_copy_that_broke_goes_on_where_it_was(servers: tuple[FaultyRegistry, FaultyRegistry]) -> None:
    origin, mirror = servers
    entries = [
        MirrorEntry(origin.put(app(number), f"org/app{number}:1"), f"{mirror.host}/copy/app{number}:1")
        for number in range(3)
    ]
    over: list[bool] = []
    results = copy_many(entries, images=1, options=QUICK, cancelled=lambda: bool(over))
    assert [next(results).existing, next(results).existing] == [False, False]
    over.append(True)
    with pytest.raises(CancelledError):
        next(results)
    assert [result.existing for result in mirrored(*entries)] == [True, True, False]


def test_a_failure_stops_no_other(servers: tuple[FaultyRegistry, FaultyRegistry]) -> None:
    origin, mirror = servers
    good = MirrorEntry(origin.put(app(1), "org/app:1"), f"{mirror.host}/copy/app:1")
    entries = [
        MirrorEntry(f"{origin.host}/org/none:1", f"{mirror.host}/copy/none:1"),
        MirrorEntry(f"{origin.host}/org/none", f"{mirror.host}/copy/none", all_tags=True),
        MirrorEntry("UPPER CASE", f"{mirror.host}/copy/upper:1"),
        MirrorEntry(f"{origin.host}/org/app:1", f"{mirror.host}/copy/app", all_tags=True),
        good,
    ]
    results = mirrored(*entries, images=1)
    codes = [result.error and result.error.code for result in results]
    assert codes == ["image_not_found", "image_not_found", "reference_invalid", "usage_invalid", None]
    assert json.loads(json.dumps(results[0].to_json(), default=str))["status"] == "failed"


def test_all_tags_and_patterns(servers: tuple[FaultyRegistry, FaultyRegistry], tmp_path: Path) -> None:
    origin, mirror = servers
    for number, tag in enumerate(("1.0", "1.1", "1.1-rc1", "2.0", "latest")):
        origin.put(app(number), f"org/app:{tag}")
    source, target = f"{origin.host}/org/app", f"{mirror.host}/copy/app"
    results = mirrored(MirrorEntry(source, target, all_tags=True, include=("1.*", "2.*"), exclude=("*-rc?",)), images=1)
    assert [result.destination for result in results] == [f"{target}:{tag}" for tag in ("1.0", "1.1", "2.0")]
    assert uploads(mirror, BASE.digest) == 1
    # Through a layout, as for a place without a network.
    layout = f"oci:{tmp_path}/layout"
    assert len(mirrored(MirrorEntry(source, layout, all_tags=True))) == 5
    results = mirrored(MirrorEntry(layout, f"{mirror.host}/third/app", all_tags=True))
    assert sorted(result.destination.rpartition(":")[2] for result in results) == sorted(
        ("1.0", "1.1", "1.1-rc1", "2.0", "latest")
    )
    assert all(result.error is None for result in results)
    with pytest.raises(UsageError, match="patterns choose of all tags"):
        MirrorEntry(source, target, include=("1.*",))


def test_signatures_are_asked_for_and_referrers_copied(
    servers: tuple[FaultyRegistry, FaultyRegistry], tmp_path: Path
) -> None:
    origin, mirror = servers
    signer = Signer.make(tmp_path)
    entries = [
        MirrorEntry(origin.put(app(number), f"org/app{number}:1"), f"{mirror.host}/copy/app{number}:1")
        for number in range(2)
    ]
    signature = bundle(signer, app(1))
    origin.put(signature, "org/app1:any")
    verify = ocifast.Verification(signer.file)
    results = mirrored(*entries, verify=verify, referrers=True, images=1)
    assert [result.error and result.error.code for result in results] == ["policy_refused", None]
    assert signature.digest in mirror.manifests["copy/app1"]


def numbered(servers: tuple[FaultyRegistry, FaultyRegistry], count: int, target: str = "") -> list[MirrorEntry]:
    """Entries of images that share their base, for the second registry or for a layout."""
    origin, mirror = servers
    names = [origin.put(app(number), f"org/app{number}:1") for number in range(count)]
    places = [f"{target}:{number}" if target else f"{mirror.host}/copy/app{number}:1" for number in range(count)]
    return [MirrorEntry(name, place) for name, place in zip(names, places, strict=True)]


def test_several_images_are_on_their_way_at_a_time(servers: tuple[FaultyRegistry, FaultyRegistry]) -> None:
    origin, _ = servers
    entries = numbered(servers, 6)
    # Nobody gets a manifest before three have asked for one.
    together = threading.Barrier(3)

    def script(request: Request) -> Answer | None:
        if request.method == "GET" and "/manifests/" in request.path:
            together.wait(timeout=60)
        return None

    origin.script = script
    results = mirrored(*entries, images=3)
    assert {(result.source, result.error) for result in results} == {(entry.source, None) for entry in entries}


def test_results_come_as_images_are_done_with(servers: tuple[FaultyRegistry, FaultyRegistry]) -> None:
    origin, _ = servers
    entries = numbered(servers, 2)
    second_is_told = threading.Event()

    def script(request: Request) -> Answer | None:
        if request.path.startswith("/v2/org/app0/manifests/") and request.method == "GET":
            assert second_is_told.wait(timeout=60)
        return None

    origin.script = script
    results = copy_many(entries, images=2, options=QUICK)
    assert next(results).source == entries[1].source
    second_is_told.set()
    assert [result.source for result in results] == [entries[0].source]


def test_a_registry_has_one_limit_for_all_images(servers: tuple[FaultyRegistry, FaultyRegistry]) -> None:
    origin, _ = servers
    entries = numbered(servers, 8)
    lock, running, most = threading.Lock(), [0], [0]

    def script(request: Request) -> Answer | None:
        if request.method == "GET" and "/blobs/" in request.path:
            with lock:
                running[0] += 1
                most[0] = max(most[0], running[0])
            time.sleep(0.05)
            with lock:
                running[0] -= 1
        return None

    origin.script = script
    assert all(result.error is None for result in mirrored(*entries, images=8, parallel=2))
    assert most[0] == 2


def test_images_beside_each_other_in_one_layout(servers: tuple[FaultyRegistry, FaultyRegistry], tmp_path: Path) -> None:
    """Each blob comes once, and one that fails takes nothing away from the others."""
    origin, _ = servers
    entries = numbered(servers, 8, f"oci:{tmp_path}/layout")
    broken = app(3).layers[1].digest
    origin.script = lambda request: error(404, "BLOB_UNKNOWN") if request.path.endswith(broken) else None
    results = {result.source: result for result in mirrored(*entries, images=8)}
    failed = [entry.source for entry in entries if results[entry.source].error is not None]
    assert failed == [entries[3].source]
    for number in set(range(8)) - {3}:
        with ocifast.open(f"oci:{tmp_path}/layout:{number}") as image:
            for layer in image.layers:
                with image.blob(layer) as blob:
                    assert digest_of(b"".join(blob)) == layer.digest
    assert len(json.loads((tmp_path / "layout/index.json").read_text())["manifests"]) == 7
    origin.script = lambda request: None
    assert downloads(origin, BASE.digest) <= 2
    assert [result.error for result in mirrored(entries[3])] == [None]


def test_of_two_images_for_one_name_the_later_one_stays(servers: tuple[FaultyRegistry, FaultyRegistry]) -> None:
    origin, mirror = servers
    names = [origin.put(app(number), f"org/app{number}:1") for number in range(4)]

    def script(request: Request) -> Answer | None:
        # The earlier an image stands in the list, the longer it takes.
        if request.method == "GET" and "/manifests/" in request.path:
            time.sleep(0.2 * next(3 - number for number in range(4) if f"/app{number}/" in request.path))
        return None

    origin.script = script
    results = mirrored(*(MirrorEntry(name, f"{mirror.host}/copy/app:1") for name in names), images=4)
    assert [(result.source, result.error) for result in results] == [(name, None) for name in names]
    assert mirror.manifests["copy/app"]["1"][1] == app(3).raw


def test_who_wants_no_more_results_takes_back_what_is_on_its_way(
    servers: tuple[FaultyRegistry, FaultyRegistry], tmp_path: Path
) -> None:
    entries = numbered(servers, 6, f"oci:{tmp_path}/layout")
    results = copy_many(entries, images=2, options=QUICK)
    next(results)
    results.close()  # type: ignore[attr-defined]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ocifast-mirror")]
    assert not [path for path in (tmp_path / "layout").iterdir() if path.name.startswith(".")]
    with pytest.raises(UsageError, match="0 images at a time"):
        mirrored(*entries, images=0)


def test_debians_registry(registry: Registry, tmp_path: Path) -> None:
    for number in range(3):
        registry.put(app(number), f"mirror/from:{number}")
    source, target = f"{registry.host}/mirror/from", f"{registry.host}/mirror/to"
    results = list(copy_many([MirrorEntry(source, target, all_tags=True)]))
    assert [result.error for result in results] == [None] * 3
    assert sorted(ocifast.tags(target)) == ["0", "1", "2"]
    assert all(result.existing for result in copy_many([MirrorEntry(source, target, all_tags=True)]))


def test_asyncio_has_it(servers: tuple[FaultyRegistry, FaultyRegistry]) -> None:
    origin, mirror = servers
    entry = MirrorEntry(origin.put(app(1), "org/app:1"), f"{mirror.host}/copy/app:1")

    async def run() -> list[MirrorResult]:
        return [result async for result in aio.copy_many([entry], options=QUICK)]

    assert [result.digest for result in asyncio.run(run())] == [app(1).digest]


def test_a_list_on_the_command_line(
    servers: tuple[FaultyRegistry, FaultyRegistry], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    origin, mirror = servers
    for number in range(3):
        origin.put(app(number), f"org/app{number}:1")
    lines = [
        {"source": f"{origin.host}/org/app0:1"},
        {"source": f"{origin.host}/org/app1", "all_tags": True, "include": "1*"},
        {"source": f"{origin.host}/org/app2@{app(2).digest}", "destination": f"{mirror.host}/other:2"},
        {"source": f"{origin.host}/org/none:1"},
    ]
    file = tmp_path / "list.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)))
    assert main(["copy", "--from-file", str(file), f"{mirror.host}/hub", "--json", "--images", "1"]) == 1
    *results, last = map(json.loads, capfd.readouterr().out.splitlines())
    assert [(each["status"], each["destination"]) for each in results] == [
        ("copied", f"{mirror.host}/hub/org/app0:1"),
        ("copied", f"{mirror.host}/hub/org/app1:1"),
        ("copied", f"{mirror.host}/other:2"),
        ("failed", f"{mirror.host}/hub/org/none:1"),
    ]
    assert last["summary"]["copied"] == 3
    assert main(["copy", "--from-file", str(file), f"{mirror.host}/hub", "-q"]) == 1
    told = capfd.readouterr()
    assert told.out.count("there already") == 3
    assert told.err.splitlines()[-1] == "ocifast: 0 copied (0 B), 3 there already, 1 failed"


def test_all_tags_on_the_command_line(
    servers: tuple[FaultyRegistry, FaultyRegistry], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    origin, _ = servers
    for tag in ("1", "2", "3"):
        origin.put(app(int(tag)), f"org/app:{tag}")
    words = ["copy", "--all-tags", f"{origin.host}/org/app", f"oci:{tmp_path}/layout", "--exclude", "2"]
    assert main(words) == 0
    assert len(capfd.readouterr().out.splitlines()) == 2
    index = json.loads((tmp_path / "layout/index.json").read_text())
    assert len(index["manifests"]) == 2


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["a", "b", "--include", "x"], "choose of --all-tags"),
        (["--all-tags", "a"], "--all-tags needs SOURCE and DEST"),
        (["a"], "Missing argument 'DEST'"),
        ([], "Missing argument 'SOURCE'"),
        (["a", "b", "--images", "2"], "--images is for a list, or for --all-tags"),
        (["a", "b", "--from-file", "-"], "DEST alone can be given"),
    ],
)
def test_command_lines_that_make_no_sense(words: list[str], says: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["copy", *words]) == 2
    assert says in capfd.readouterr().err


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"source":"a/b:1"}', "line 1: there is no destination"),
        ('{"source":"oci:x:1"}', "line 1: there is no destination"),
        ('{"source":7}', "line 1 has no source"),
        ('{"source":"a","from":"b"}', "unknown field 'from'"),
        ('{"source":"a","destination":"b","include":[1]}', "include is no list of patterns"),
        ('{"source":"a","destination":"b","include":"x"}', "patterns choose of all tags"),
    ],
)
def test_lists_that_make_no_sense(tmp_path: Path, line: str, says: str, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "list.jsonl").write_text(line)
    assert main(["copy", "--from-file", str(tmp_path / "list.jsonl")]) == 1
    assert says in capfd.readouterr().err


def test_images_in_one_layout_keep_their_names(
    servers: tuple[FaultyRegistry, FaultyRegistry], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    origin, _ = servers
    names = [origin.put(app(number), f"org/app{number}:1") for number in range(2)]
    (tmp_path / "list.yaml").write_text("".join(f"- source: {name}\n" for name in names))
    assert main(["copy", "--from-file", str(tmp_path / "list.yaml"), f"oci:{tmp_path}/layout"]) == 0
    for name in names:
        with ocifast.open(f"oci:{tmp_path}/layout:{name}") as image:
            assert len(image.layers) == 2
