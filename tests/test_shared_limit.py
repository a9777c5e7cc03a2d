"""One limit for each registry across the processes of a machine."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from ocifast.batch import compile_many
from ocifast.sources.registry.limiter import Slots, limiter_for
from ocifast.sources.registry.shared_limit import SharedLimit

from tests.support.faulty import Answer, FaultyRegistry, Request, error, serve_faulty
from tests.support.pulls import quick
from tests.test_batch import remote_plans


@pytest.fixture(autouse=True)
def _runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


@pytest.fixture
def server() -> Iterator[FaultyRegistry]:
    with serve_faulty() as running:
        yield running


def test_slots_are_counted_over_all_who_share_them(tmp_path: Path) -> None:
    one, other = SharedLimit("host:1"), SharedLimit("host:1")
    taken = [one.try_slot("requests", 3), other.try_slot("requests", 3), one.try_slot("requests", 3)]
    assert all(each is not None and each >= 0 for each in taken)
    assert other.try_slot("requests", 3) is None
    assert SharedLimit("host:2").try_slot("requests", 3) is not None
    assert other.try_slot("uploads", 3) is not None
    os.close(taken[1])  # type: ignore[arg-type]
    assert other.try_slot("requests", 3) is not None
    assert sorted(path.name for path in tmp_path.rglob("*.lock") if path.name.startswith("requests"))[:3]


def test_a_pause_holds_for_all_and_ends() -> None:
    one, other = SharedLimit("host:1"), SharedLimit("host:1")
    assert other.pause_left() <= 0
    one.pause(30)
    one.pause(5)
    assert 20 < other.pause_left() <= 30
    one.pause(10**9)
    assert other.pause_left() <= 600


def test_a_folder_that_others_may_write_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "ocifast").mkdir()
    (tmp_path / "ocifast").chmod(0o777)
    limit = SharedLimit("host:1")
    assert [limit.try_slot("requests", 1) for _ in range(3)] == [-1, -1, -1]
    limit.pause(30)
    assert limit.pause_left() == 0


def test_a_stalled_reader_gives_its_shared_slot_to_who_waits() -> None:
    slots = Slots("downloads", SharedLimit("host:1"))
    slots.widen(1)
    stalled = slots.slot()
    stalled.hand_over()
    begun = time.monotonic()
    with slots.slot():
        assert time.monotonic() - begun > 0.9
    stalled.take_back()
    stalled.release()


def test_without_sharing_nothing_is_written(tmp_path: Path) -> None:
    limiter = limiter_for("host:3", 2)
    with limiter.requests.slot(), limiter.downloads.slot():
        assert list(tmp_path.iterdir()) == []


def test_two_processes_keep_to_one_limit(server: FaultyRegistry, tmp_path: Path) -> None:
    """The registry counts how many requests are with it at a time."""
    at_once: list[int] = []
    now = 0
    lock = threading.Lock()

    def script(request: Request) -> Answer | None:
        nonlocal now
        if "/blobs/" not in request.path:
            return None
        with lock:
            now += 1
            at_once.append(now)
        time.sleep(0.05)
        with lock:
            now -= 1
        return None

    server.script = script
    plans = [
        replace(plan, options=replace(plan.options, registry=quick(parallel=2), downloads=4))
        for plan in remote_plans(server, tmp_path, 12)
    ]
    results = list(compile_many(plans, workers=3))
    assert [result.error for result in results if result.error is not None] == []
    assert max(at_once) == 2


def test_who_is_told_to_wait_tells_the_others(server: FaultyRegistry, tmp_path: Path) -> None:
    told: list[float] = []
    came: list[float] = []

    def script(request: Request) -> Answer | None:
        if "/blobs/" not in request.path:
            return None
        if not told:
            told.append(time.monotonic())
            return error(429, "TOOMANYREQUESTS", Retry_After="2")
        came.append(time.monotonic())
        return None

    server.script = script
    results = list(compile_many(remote_plans(server, tmp_path, 8), workers=4))
    assert [result.error for result in results if result.error is not None] == []
    # What was on its way already is answered; everybody else waits.
    assert sum(moment < told[0] + 1.5 for moment in came) <= 6
    assert len([moment for moment in came if moment >= told[0] + 1.9]) >= 8
