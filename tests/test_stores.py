"""Images in a daemon and in the store of podman and buildah: podman's own service and store, for real."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.oracle import dump_tar
from tests.support.run import ocifast as command
from tests.support.run import run, try_ocifast

NAME = "localhost/app:1"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A store of podman's with one image; what the environment says of it."""
    folder = tmp_path_factory.mktemp("store")
    (folder / "storage.conf").write_text(
        f'[storage]\ndriver = "vfs"\ngraphroot = "{folder}/root"\nrunroot = "{folder}/run"\n'
    )
    env = {"CONTAINERS_STORAGE_CONF": f"{folder}/storage.conf", "TMPDIR": str(tmp_path_factory.mktemp("spool"))}
    run("tar", "-C", Path(__file__).parent, "-cf", folder / "rootfs.tar", "support")
    run("podman", "import", "--quiet", folder / "rootfs.tar", NAME, env=env)
    return env


@pytest.fixture(scope="module")
def daemon(store: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Podman's service over the store."""
    socket = tmp_path_factory.mktemp("socket") / "sock"
    words = ["podman", "system", "service", "--time", "0", f"unix://{socket}"]
    service = subprocess.Popen(words, env={**os.environ, **store}, stderr=subprocess.DEVNULL)
    try:
        while not socket.exists():
            assert service.poll() is None
            time.sleep(0.05)
        yield {**store, "DOCKER_HOST": f"unix://{socket}"}
    finally:
        service.terminate()
        service.wait()


@pytest.mark.tools
@pytest.mark.parametrize("prefix", ["docker-daemon", "containers-storage"])
@pytest.mark.parametrize("name", [NAME, "app:1"])
def test_an_image_of_a_store(prefix: str, name: str, daemon: dict[str, str], tmp_path: Path) -> None:
    command("compile", f"{prefix}:{name}", tmp_path / "out.tar", "--quiet", env=daemon)
    run("podman", "save", "--quiet", "-o", tmp_path / "saved.tar", NAME, env=daemon)
    command("compile", f"docker-archive:{tmp_path}/saved.tar", tmp_path / "expected.tar", "--quiet")
    assert dump_tar(tmp_path / "out.tar", tmp_path / "a") == dump_tar(tmp_path / "expected.tar", tmp_path / "b")
    assert (
        command("cat", f"{prefix}:{name}", "support/run.py", env=daemon)
        == (Path(__file__).parent / "support/run.py").read_bytes()
    )
    assert list(Path(daemon["TMPDIR"]).iterdir()) == []


@pytest.mark.tools
@pytest.mark.parametrize(("prefix", "owner"), [("docker-daemon", "the daemon"), ("containers-storage", "the store")])
def test_an_image_that_is_not_there(prefix: str, owner: str, daemon: dict[str, str]) -> None:
    done = try_ocifast("inspect", f"{prefix}:none", env=daemon)
    expected = f"ocifast: error: {prefix}:none: {owner} has no image none:latest; it has {NAME}\n"
    assert (done.returncode, done.stderr.decode()) == (1, expected)
    assert list(Path(daemon["TMPDIR"]).iterdir()) == []


def test_a_daemon_that_is_not_there(tmp_path: Path) -> None:
    done = try_ocifast("inspect", "docker-daemon:app", env={"DOCKER_HOST": f"unix://{tmp_path}/none"})
    assert done.stderr.decode() == (
        f"ocifast: error: docker-daemon:app: no daemon listens at {tmp_path}/none; start docker, or podman with "
        "`podman system service`, or set DOCKER_HOST\n"
    )
    done = try_ocifast("inspect", "docker-daemon:app", env={"DOCKER_HOST": "tcp://localhost:1"})
    assert done.stderr.decode() == (
        "ocifast: error: docker-daemon:app: DOCKER_HOST is 'tcp://localhost:1'; only unix://PATH is taken\n"
    )
