"""Fixtures that every test can ask for."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator

import pytest

from tests.support.real import TAG, RealImage
from tests.support.real import real_image as build
from tests.support.registry import Registry, serve_registry


def pytest_configure() -> None:
    """A runner in the background may ignore SIGINT, and all that the tests start would inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked `root` fail, rather than skip, for who is not root: a green run means that all was tested."""
    if os.geteuid() != 0:
        for item in items:
            if item.get_closest_marker("root"):
                item.add_marker(pytest.mark.usefixtures("_needs_root"))


@pytest.fixture
def _needs_root() -> None:
    pytest.fail("this test mounts images or makes devices; run it as root")


@pytest.fixture(autouse=True)
def _own_environment(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees or changes the caches and credentials of who runs it."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "cache"))
    monkeypatch.setenv("OCIFAST_CACHE_DIR", str(home / "cache/ocifast"))
    monkeypatch.setenv("DOCKER_CONFIG", str(home / "docker"))
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("OCIFAST_PROGRESS", "none")
    for name in ("REGISTRY_AUTH_FILE", "SSL_CERT_FILE", "SSL_CERT_DIR", "SOURCE_DATE_EPOCH", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """One docker-registry for the whole run, without authentication; use a repository name of your own."""
    with serve_registry(tmp_path_factory.mktemp("registry") / "registry") as running:
        yield running


@pytest.fixture(scope="session")
def real_image(tmp_path_factory: pytest.TempPathFactory) -> RealImage:
    """A small real image with all that images hold, built once a run; see `tests.support.real`. Needs root."""
    return build(tmp_path_factory.mktemp("real"))


@pytest.fixture(scope="session")
def real_reference(real_image: RealImage, registry: Registry) -> str:
    """The real image in the registry: `127.0.0.1:PORT/real/image:1`."""
    return registry.push(f"oci:{real_image.layout}:{TAG}", "real/image:1")


@pytest.fixture
def registry_requests(registry: Registry) -> Callable[[], list[str]]:
    """Every request that the registry has answered, as `METHOD PATH STATUS`."""
    return registry.requests
