"""Batches: results as they finish, failures that stop nobody, layers decoded once, what is there skipped."""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import random
import shutil
import signal
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import ocifast
import pytest
from ocifast import aio
from ocifast.batch import BatchResult, BatchStand, compile_many
from ocifast.batch.pools import LocalWorkers
from ocifast.compiler import CompileOptions, CompilePlan
from ocifast.errors import CancelledError, UsageError, WorkerError

from tests.support.faulty import Answer, FaultyRegistry, Request, serve_faulty
from tests.support.images import BuiltImage, Layer, build_image, write_layout
from tests.support.layers import TarBuilder
from tests.support.pulls import QUICK


def layer(number: int) -> Layer:
    return Layer(TarBuilder().file(f"layer{number}", b"%d" % number * 50, mtime=0))


def small_images(count: int, shared: int, *, seed: int = 1) -> dict[str, BuiltImage]:
    """Images by tag, each of up to three layers that others have as well, and one of its own."""
    choose = random.Random(seed)
    common = [layer(number) for number in range(shared)]
    images = {}
    for number in range(count):
        first = number % shared
        others = [each for index, each in enumerate(common) if index != first]
        rest = choose.sample(others, min(2, len(others)))
        images[f"app{number}"] = build_image([common[first], *rest, layer(1000 + number)])
    return images


def plans_of(folder: Path, images: dict[str, BuiltImage], output: Path, **options: Any) -> list[CompilePlan]:
    layout = write_layout(folder / "layout", images)
    output.mkdir(exist_ok=True)
    return [
        CompilePlan(f"oci:{layout}:{tag}", (str(output / f"{tag}.tar"),), options=CompileOptions(**options))
        for tag in images
    ]


def decoded(results: list[BatchResult]) -> Counter[str]:
    """How often each layer was decompressed."""
    return Counter(diff_id for result in results for image in result.images for diff_id in image.decoded)


def test_one_after_the_other_in_this_process(tmp_path: Path) -> None:
    plans = plans_of(tmp_path, small_images(6, 3), tmp_path / "out", threads=1)
    results = list(compile_many(plans))
    assert sorted(result.index for result in results) == list(range(6))
    assert all(result.error is None and result.plan is plans[result.index] for result in results)
    assert set(decoded(results).values()) == {1}
    for result, plan in ((result, plans[result.index]) for result in results):
        alone = ocifast.compile(plan.image, tmp_path / "alone.tar", options=CompileOptions(cache=False))
        assert Path(plan.outputs[0]).read_bytes() == (tmp_path / "alone.tar").read_bytes()
        assert alone.digest == result.images[0].digest


@pytest.mark.slow
def test_two_hundred_images_of_forty_layers_by_two_processes(tmp_path: Path) -> None:
    images = small_images(200, 40)
    plans = plans_of(tmp_path, images, tmp_path / "out")
    stands: list[BatchStand] = []
    results = list(compile_many(plans, workers=2, progress=stands.append))
    assert [result.error for result in results if result.error is not None] == []
    assert len(list((tmp_path / "out").iterdir())) == 200
    counted = decoded(results)
    assert counted == Counter({each.diff_id: 1 for image in images.values() for each in image.layers})
    assert (stands[-1].compiled, stands[-1].done, stands[-1].running) == (200, 200, ())
    assert max(len(stand.running) for stand in stands) == 2


def test_a_plan_that_fails_stops_no_other(tmp_path: Path) -> None:
    plans = plans_of(tmp_path, small_images(4, 2), tmp_path / "out")
    (tmp_path / "out" / "app2.tar").mkdir()
    (tmp_path / "out" / "app2.tar" / "full").touch()
    nowhere = replace(plans[0], image=f"oci:{tmp_path}/layout:nowhere", outputs=(str(tmp_path / "out/none.tar"),))
    results = {result.index: result for result in compile_many([*plans, nowhere], workers=2)}
    codes = {index: result.error.code for index, result in results.items() if result.error is not None}
    assert set(codes) == {2, 4}
    assert codes[4] == "image_not_found"
    assert sorted(path.name for path in (tmp_path / "out").glob("*.tar") if path.is_file()) == [
        "app0.tar",
        "app1.tar",
        "app3.tar",
    ]
    told = results[4].to_json()
    assert (told["status"], told["error"]["code"], told["images"]) == ("failed", "image_not_found", [])
    assert json.dumps(told)


@pytest.mark.parametrize("make", [lambda: ThreadPoolExecutor(2), lambda: ProcessPoolExecutor(2, get_context("spawn"))])
def test_any_executor_runs_it_and_is_left_open(tmp_path: Path, make: Callable[[], Executor]) -> None:
    plans = plans_of(tmp_path, small_images(8, 3), tmp_path / "out")
    with make() as executor:
        results = list(compile_many(plans, executor))
        assert [result.error for result in results if result.error is not None] == []
        assert set(decoded(results).values()) == {1}
        assert executor.submit(abs, -1).result() == 1


def test_what_makes_no_sense_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    plans = plans_of(tmp_path, small_images(2, 1), tmp_path / "out")
    with pytest.raises(UsageError, match=r"is the output of oci:.*app0 and of oci:.*app1"):
        compile_many([plans[0], replace(plans[1], outputs=plans[0].outputs)])
    with pytest.raises(UsageError, match="not standard output"):
        compile_many([plans[0], replace(plans[1], outputs=("-",))])
    with pytest.raises(UsageError, match="give one of them"):
        compile_many(plans, ThreadPoolExecutor(1), workers=2)
    with pytest.raises(UsageError, match="resuming needs a journal"):
        compile_many(plans, resume=True)
    with pytest.raises(UsageError, match="no number of workers"):
        compile_many(plans, workers=0)
    assert list((tmp_path / "out").iterdir()) == []
    assert list(compile_many([])) == []


def test_what_is_there_and_right_is_skipped(tmp_path: Path) -> None:
    images = small_images(7, 2)
    plans = plans_of(tmp_path, images, tmp_path / "out")
    folder = replace(plans[6], outputs=(str(tmp_path / "out/folder"),))
    plans[6] = folder
    journal = tmp_path / "journal"

    def again(**changes: Any) -> dict[int, str]:
        results = list(compile_many(plans, journal=journal, resume=True, **changes))
        assert [result.error for result in results if result.error is not None] == []
        return {result.index: "skipped" if result.skipped else "made" for result in results}

    assert set(again().values()) == {"made"}
    assert set(again().values()) == {"skipped"}
    out = tmp_path / "out"
    (out / "app0.tar").unlink()
    (out / "app1.tar").write_bytes(b"something else")
    data = bytearray((out / "app2.tar").read_bytes())
    data[600] ^= 1
    (out / "app2.tar").write_bytes(data)
    # A copy with the same bytes is right, whatever its inode is.
    (out / "copy").write_bytes((out / "app3.tar").read_bytes())
    (out / "copy").rename(out / "app3.tar")
    plans[4] = replace(plans[4], edits=ocifast.Edits(exclude=["layer0"]))
    # Another image under the same tag.
    images["app5"] = build_image([layer(5000)])
    write_layout(tmp_path / "layout", images)
    with journal.open("ab") as file:
        file.write(b'{"path": "half a li')
    expected = {0: "made", 1: "made", 2: "made", 3: "skipped", 4: "made", 5: "made", 6: "made"}
    shutil.rmtree(out / "folder")
    assert again(workers=2) == expected
    assert set(again().values()) == {"skipped"}
    # Without resuming all is made anew, and the journal begins anew.
    assert all(not result.skipped for result in compile_many(plans[:1], journal=journal))
    assert len(journal.read_text().splitlines()) == 1


def test_after_a_start_of_the_system_an_output_is_hashed_before_it_is_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power failure may have left its name and size, and not its bytes."""
    plans = plans_of(tmp_path, small_images(2, 1), tmp_path / "out")
    journal = tmp_path / "journal"
    assert [result.error for result in compile_many(plans, journal=journal)] == [None, None]
    path = Path(plans[0].outputs[0])
    path.write_bytes(bytes(path.stat().st_size))
    status = path.stat()
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    for line in lines:
        if line["path"] == str(path):
            line |= {"mtime": status.st_mtime_ns, "ctime": status.st_ctime_ns}
    journal.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert all(result.skipped for result in compile_many(plans, journal=journal, resume=True))
    monkeypatch.setattr("ocifast.batch.journal.this_boot", lambda: "the next one")
    again = {result.index: result.skipped for result in compile_many(plans, journal=journal, resume=True)}
    assert again == {0: False, 1: True}
    assert any(path.read_bytes())


@pytest.fixture
def stalled() -> Any:
    with serve_faulty() as server:
        yield server


def remote_plans(server: FaultyRegistry, output: Path, count: int) -> list[CompilePlan]:
    options = CompileOptions(registry=QUICK, cache=False)
    return [
        CompilePlan(
            server.put(build_image([layer(number)]), f"org/app{number}:1"),
            (str(output / f"{number}.tar"),),
            options=options,
        )
        for number in range(count)
    ]


class Recorded:
    """Makes pools of processes, and kills their workers on demand."""

    def __init__(self) -> None:
        self.workers = LocalWorkers(2)
        self.pools: list[ProcessPoolExecutor] = []

    def __call__(self) -> ProcessPoolExecutor:
        self.pools.append(self.workers())
        return self.pools[-1]

    def kill(self) -> None:
        for process in list(self.pools[-1]._processes):
            os.kill(process, signal.SIGKILL)

    def close(self) -> None:
        for pool in self.pools:
            pool.shutdown(wait=True, cancel_futures=True)


def test_a_worker_that_is_killed_costs_nobody_but_the_plan_that_kills(stalled: FaultyRegistry, tmp_path: Path) -> None:
    plans = remote_plans(stalled, tmp_path, 6)
    pools = Recorded()
    once: list[str] = []

    def script(request: Request) -> Answer | None:
        poison = request.path.startswith("/v2/org/app3/blobs")
        if poison or (request.path.startswith("/v2/org/app1/blobs") and not once):
            once.append(request.path)
            pools.kill()
        return None

    stalled.script = script
    try:
        results = {result.index: result for result in compile_many(plans, pools)}
    finally:
        pools.close()
    assert len(results) == 6
    assert [index for index, result in results.items() if result.error is not None] == [3]
    assert isinstance(results[3].error, WorkerError)
    assert "org/app3:1: the worker that compiled it was lost" in str(results[3].error)
    assert sorted(path.name for path in tmp_path.glob("*.tar")) == ["0.tar", "1.tar", "2.tar", "4.tar", "5.tar"]


def test_an_executor_that_broke_and_cannot_be_replaced_fails_its_plans(stalled: FaultyRegistry, tmp_path: Path) -> None:
    plans = remote_plans(stalled, tmp_path, 5)
    pools = Recorded()
    executor = pools()
    stalled.script = lambda request: pools.kill() if request.path.startswith("/v2/org/app0/blobs") else None
    try:
        results = list(compile_many(plans, executor))
    finally:
        pools.close()
    assert sorted(result.index for result in results) == list(range(5))
    assert isinstance(next(result.error for result in results if result.index == 0), WorkerError)


def test_a_batch_that_is_called_off_takes_back_what_runs(stalled: FaultyRegistry, tmp_path: Path) -> None:
    plans = remote_plans(stalled, tmp_path, 4)
    slow = {layer(2).digest, layer(3).digest}
    waiting: set[str] = set()

    def script(request: Request) -> Answer | None:
        digest = request.path.rpartition("/")[2]
        if digest not in slow:
            return None
        waiting.add(digest)
        return Answer(200, {}, b"", stall=20)

    stalled.script = script
    with pytest.raises(CancelledError):
        list(compile_many(plans, workers=2, cancelled=lambda: waiting == slow))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.tar", "1.tar"]


def test_closing_early_ends_the_pool(tmp_path: Path) -> None:
    plans = plans_of(tmp_path, small_images(30, 3), tmp_path / "out")
    results = compile_many(plans, workers=2)
    assert next(results).error is None
    results.close()  # type: ignore[attr-defined]
    assert 0 < len(list((tmp_path / "out").glob("*.tar"))) < 30
    assert [path.name for path in (tmp_path / "out").iterdir() if path.name.startswith(".ocifast")] == []


def test_results_can_be_pickled_and_asyncio_has_them(tmp_path: Path) -> None:
    plans = plans_of(tmp_path, small_images(3, 1), tmp_path / "out")

    async def run() -> list[BatchResult]:
        return [result async for result in aio.compile_many(plans)]

    results = asyncio.run(run())
    assert sorted(result.index for result in results) == [0, 1, 2]
    assert pickle.loads(pickle.dumps(results)) == results
    assert ocifast.compile_many is compile_many
