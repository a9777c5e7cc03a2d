"""The verbs of the library on the names that users write, and the same for asyncio."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import ocifast
import pytest
from ocifast import aio
from ocifast.errors import CancelledError, ImageNotFoundError, ImageReferenceError, NotAnImageError, UsageError
from ocifast.progress import Event, Phase

from tests.support.documents import listing
from tests.support.faulty import FaultyRegistry, Request, serve_faulty
from tests.support.images import Layer, build_image, build_index, write_layout
from tests.support.layers import TarBuilder
from tests.support.registry import Registry

AMD64 = build_image([TarBuilder().file("one", b"1")], platform="linux/amd64")
S390X = build_image([b"two"], platform="linux/s390x")
INDEX = build_index([AMD64, S390X])


@pytest.fixture
def layout(tmp_path: Path) -> str:
    return f"oci:{write_layout(tmp_path / 'layout', INDEX)}:app"


def test_verbs(layout: str, registry: Registry, tmp_path: Path) -> None:
    name = f"{registry.host}/verbs/app"
    pushed = ocifast.push(layout, f"{name}:1")
    assert (pushed.digest, pushed.documents, pushed.platform) == (INDEX.digest, 3, None)
    pulled = ocifast.pull(f"{name}:1", f"oci:{tmp_path}/one:app", platform="linux/s390x")
    assert (pulled.digest, pulled.platform, pulled.platforms) == (S390X.digest, "linux/s390x", 2)
    assert ocifast.pull(f"{name}:1", f"oci:{tmp_path}/all:app", all_platforms=True).digest == INDEX.digest
    copied = ocifast.copy(f"{name}:1", f"{name}:2", options=ocifast.RegistryOptions(retries=0), parallel=2)
    assert (copied.copied, copied.existing) == (0, 4)
    assert sorted(ocifast.tags(name)) == ["1", "2"]
    with ocifast.open_index(f"{name}:2") as index:
        assert index.digest == INDEX.digest
        assert [platform.architecture for platform in index.platforms] == ["amd64", "s390x"]
        assert index.image("linux/s390x").digest == S390X.digest
    ocifast.delete(f"{name}@{INDEX.digest}")
    with pytest.raises(ImageNotFoundError):
        ocifast.open(f"{name}:1")


def test_what_is_asked_of_the_wrong_place(layout: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="pull fetches from a registry"):
        ocifast.pull(layout, f"oci:{tmp_path}/out:1")
    with pytest.raises(UsageError, match="pull writes to a place on disk"):
        ocifast.pull("r.io/a", "out")
    with pytest.raises(UsageError, match="push sends to a registry"):
        ocifast.push(layout, f"oci:{tmp_path}/out:1")
    with pytest.raises(ImageReferenceError, match="names one image; write"):
        ocifast.tags("r.io/a:1")
    with pytest.raises(UsageError, match="only a digest can be deleted"):
        ocifast.delete("r.io/a:1")
    one = f"oci:{write_layout(tmp_path / 'single', AMD64)}:app"
    with pytest.raises(NotAnImageError, match="one image and no index"):
        ocifast.open_index(one)
    assert not (tmp_path / "out").exists()


def test_a_copy_is_taken_back_when_it_is_cancelled(tmp_path: Path) -> None:
    image = build_image([Layer(b"", blob=bytes(3_000_000))])
    asked = threading.Event()

    def wait(request: Request) -> None:
        if "/blobs/" in request.path:
            asked.set()
            # Silence: the client must not wait for its end.
            threading.Event().wait(1)

    with serve_faulty() as server:
        name = server.put(image, "a:1")
        server.script = wait
        with pytest.raises(CancelledError):
            ocifast.pull(name, f"oci:{tmp_path}/out:1", cancelled=asked.is_set)
    assert listing(tmp_path) == []


def test_asyncio_has_every_verb(layout: str, registry: Registry, tmp_path: Path) -> None:
    name = f"{registry.host}/verbs/async"

    async def work() -> None:
        assert (await aio.push(layout, f"{name}:1")).digest == INDEX.digest
        pulls = (aio.pull(f"{name}:1", f"oci:{tmp_path}/{number}:app") for number in range(3))
        assert [each.digest for each in await asyncio.gather(*pulls)] == [AMD64.digest] * 3
        assert (await aio.copy(f"{name}:1", f"{name}:2")).digest == INDEX.digest
        assert sorted(await aio.tags(name)) == ["1", "2"]
        image = await aio.open(f"{name}:2")
        with image, await aio.flatten(image) as tree:
            assert len(tree) > 0
        with await aio.open_index(f"{name}:2") as index:
            assert index.digest == INDEX.digest
        await aio.delete(f"{name}@{INDEX.digest}")

    asyncio.run(work())
    assert set(aio.__all__) >= {verb for verb in ocifast.__all__ if callable(getattr(ocifast, verb)) and verb.islower()}


def slow(server: FaultyRegistry, begun: threading.Event, go_on: threading.Event) -> None:
    def script(request: Request) -> None:
        if "/blobs/" in request.path:
            begun.set()
            go_on.wait(5)

    server.script = script


def test_a_cancelled_task_takes_a_copy_back(tmp_path: Path) -> None:
    begun, go_on = threading.Event(), threading.Event()

    async def cancel(name: str) -> None:
        task = asyncio.create_task(aio.pull(name, f"oci:{tmp_path}/out:1"))
        await asyncio.to_thread(begun.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert listing(tmp_path) == []
        go_on.set()

    with serve_faulty() as server:
        name = server.put(AMD64, "a:1")
        slow(server, begun, go_on)
        asyncio.run(cancel(name))


def test_a_copy_that_is_done_is_never_told_as_cancelled(tmp_path: Path) -> None:
    arrived, go_on = threading.Event(), threading.Event()

    def wait_at_the_end(event: Event) -> None:
        if event.phase is Phase.COMPLETE:
            arrived.set()
            assert go_on.wait(30)

    async def cancel(name: str) -> str:
        task = asyncio.create_task(aio.pull(name, f"oci:{tmp_path}/out:1", progress=wait_at_the_end))
        await asyncio.to_thread(arrived.wait)
        task.cancel()
        await asyncio.sleep(0.05)
        go_on.set()
        return (await task).digest

    with serve_faulty() as server:
        assert asyncio.run(cancel(server.put(AMD64, "a:1"))) == AMD64.digest
