"""Fixtures that every test can ask for."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable, Generator, Iterator

import pytest
from ocifast.sources.registry import limiter

from tests.support import run as support
from tests.support.machine import Kernel, debian_kernel
from tests.support.real import TAG, RealImage
from tests.support.real import real_image as build
from tests.support.registry import Registry, serve_registry

WITH_PACKAGES = {"kernel", "public_names", "real_image", "real_reference", "registry", "registry_requests"}
"""Fixtures that run programs of Debian packages."""


MARKS = (
    "root: needs root (mounts, device nodes, owners)",
    "slow: takes seconds where others take milliseconds",
    "tools: runs programs of Debian packages (tests/apt-packages.txt)",
)
"""What `make test` leaves out."""


CLONE_NEWNS = 0x00020000
MS_REC, MS_SLAVE = 0x4000, 0x80000


def own_mounts() -> None:
    """Moves this process to a mount namespace of its own (unshare(2), mount_namespaces(7)).

    A run that is killed would leave its mounts behind, and no later run could remove the folders below them. A
    namespace ends with its last process. A root that may not unshare, as in most containers, may not mount either.
    """
    libc = ctypes.CDLL(None)
    if libc.unshare(CLONE_NEWNS) == 0:
        libc.mount(b"none", b"/", None, MS_REC | MS_SLAVE, None)


def pytest_configure(config: pytest.Config) -> None:
    """Mounts are the run's own, and signals that a runner in the background may ignore reach what tests start."""
    if os.geteuid() == 0:
        own_mounts()
    for mark in MARKS:
        config.addinivalue_line("markers", mark)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What asks for a registry, an image made by other tools, or a kernel runs programs of Debian packages."""
    for item in items:
        if WITH_PACKAGES.intersection(getattr(item, "fixturenames", ())):
            item.add_marker("tools")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Says whether this test may run what `make test` goes without."""
    support.packages_allowed = any(item.get_closest_marker(name) for name in ("root", "tools"))
    try:
        return (yield)
    finally:
        support.packages_allowed = True


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests marked `root` fail, rather than skip, for who is not root: a green run means that all was tested."""
    if item.get_closest_marker("root") and os.geteuid() != 0:
        pytest.fail("this test mounts images, makes devices or gives files away; run it as root")


@pytest.fixture(autouse=True)
def _own_limiters() -> None:
    """No test waits for what a registry asked of an earlier one: ports of servers that ended are given out again."""
    limiter._limiters.clear()


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
    for name in (
        "REGISTRY_AUTH_FILE",
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
        "SOURCE_DATE_EPOCH",
        "XDG_RUNTIME_DIR",
        "OCIFAST_OFFLINE",
    ):
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


@pytest.fixture(scope="session")
def kernel(pytestconfig: pytest.Config) -> Kernel:
    """Debian's kernel, kept between runs."""
    assert pytestconfig.cache is not None
    return debian_kernel(pytestconfig.cache.mkdir("debian-kernel"))


@pytest.fixture
def registry_requests(registry: Registry) -> Callable[[], list[str]]:
    """Every request that the registry has answered, as `METHOD PATH STATUS`."""
    return registry.requests
