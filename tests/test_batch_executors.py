"""Batches on executors of others: Dask, in a cluster of the test's own and from outside, and loky."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from ocifast.batch import compile_many
from ocifast.cli import main

from tests.support.faulty import Answer, FaultyRegistry, Request, serve_faulty
from tests.support.registry import free_port
from tests.test_batch import decoded, plans_of, remote_plans, small_images

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.slow]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two worker processes, each with a nanny that starts another one in the place of one that dies."""
    distributed: Any = import_module("distributed")
    settings = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
    with distributed.LocalCluster(**settings) as running, distributed.Client(running) as client:
        yield client


def test_a_dask_cluster(cluster: Any, tmp_path: Path) -> None:
    # The workers are older than this test's environment, and would take the cache of who runs it.
    plans = plans_of(tmp_path, small_images(20, 5), tmp_path / "out", cache_folder=str(tmp_path / "cache"))
    with cluster.get_executor(pure=False) as executor:
        results = list(compile_many(plans, executor))
    assert [result.error for result in results if result.error is not None] == []
    assert len(list((tmp_path / "out").iterdir())) == 20
    assert set(decoded(results).values()) == {1}
    assert {result.machine for result in results} == {os.uname().nodename}


def test_a_dask_worker_that_is_killed(cluster: Any, tmp_path: Path) -> None:
    """Dask runs what it had again, by another worker."""
    killed: list[int] = []

    def script(request: Request) -> Answer | None:
        if request.path.startswith("/v2/org/app1/blobs") and not killed:
            busy = [worker for worker, tasks in cluster.processing().items() if tasks]
            killed.append(pids[busy[0]])
            os.kill(killed[0], signal.SIGKILL)
        return None

    with serve_faulty() as server:
        plans = remote_plans(server, tmp_path, 5)
        pids = cluster.run(os.getpid)
        server.script = script
        with cluster.get_executor(pure=False) as executor:
            results = list(compile_many(plans, executor, parallel=1))
    assert killed
    assert [result.error for result in results if result.error is not None] == []
    assert len(list(tmp_path.glob("*.tar"))) == 5


def test_an_external_scheduler_and_worker_by_the_command_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    address = f"tcp://127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", address, "--no-dashboard"]
    worker = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--nthreads", "1", "--no-dashboard"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": tmp_path}
    running = [subprocess.Popen(each, **quiet) for each in (command, worker)]  # type: ignore[call-overload]
    try:
        plans = plans_of(tmp_path, small_images(5, 2), tmp_path / "out")
        file = tmp_path / "batch.jsonl"
        file.write_text("".join(f'{{"image":"{plan.image}","output":"{plan.outputs[0]}"}}\n' for plan in plans))
        capfd.readouterr()
        assert main(["batch", str(file), "--dask", address]) == 0
        told = capfd.readouterr()
        assert len(told.out.splitlines()) == 5
        assert "5 of 5 compiled, 0 failed" in told.err
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait(timeout=30)


@pytest.fixture
def server() -> Iterator[FaultyRegistry]:
    with serve_faulty() as running:
        yield running


def test_loky(tmp_path: Path) -> None:
    import loky

    plans = plans_of(tmp_path, small_images(10, 3), tmp_path / "out")
    executor = loky.get_reusable_executor(max_workers=2)
    try:
        results = list(compile_many(plans, executor))
    finally:
        executor.shutdown(wait=True, kill_workers=True)
    assert [result.error for result in results if result.error is not None] == []
    assert set(decoded(results).values()) == {1}


def test_a_loky_worker_that_is_killed(server: FaultyRegistry, tmp_path: Path) -> None:
    import loky

    plans = remote_plans(server, tmp_path, 5)
    killed: list[float] = []

    def maker() -> Any:
        return loky.get_reusable_executor(max_workers=2)

    def script(request: Request) -> Answer | None:
        if request.path.startswith("/v2/org/app1/blobs") and not killed:
            killed.append(time.monotonic())
            for process in list(maker()._processes):
                os.kill(process, signal.SIGKILL)
        return None

    server.script = script
    try:
        results = list(compile_many(plans, maker))
    finally:
        maker().shutdown(wait=True, kill_workers=True)
    assert killed
    assert [result.error for result in results if result.error is not None] == []
    assert len(list(tmp_path.glob("*.tar"))) == 5
