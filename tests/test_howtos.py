"""Every how-to and the tutorial work as they are printed: their own commands, in their own order, in one folder."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.images import BuiltImage, build_image, build_index
from tests.support.layers import TarBuilder
from tests.support.machine import Kernel
from tests.support.registry import Registry, serve_registry
from tests.support.run import attempt, run, tool
from tests.support.stories import NOT_RUN, Story, story

pytestmark = [pytest.mark.root, pytest.mark.tools]

ROOT = Path(__file__).parent.parent
PAGES = [*sorted((ROOT / "docs/howto").glob("*.md")), ROOT / "docs/tutorial.md"]
BOOTS = {"microvm", "initramfs", "verity"}

LOGINS = {
    "ghcr.io": ("octocat", "GITHUB_TOKEN"),
    "123456789012.dkr.ecr.eu-central-1.amazonaws.com": ("AWS", "ECR_TOKEN"),
    "registry.gitlab.com": ("gitlab-ci-token", "CI_REGISTRY_PASSWORD"),
    "harbor.example.com": ("robot$ci", "HARBOR_SECRET"),
}
"""Registries that ask for a password on their page: user, and the variable that the page has the password in."""

RESULTS = {
    "air-gapped": ["app.erofs", "app.ext4", "again.erofs", "python.erofs", "seeded.erofs"],
    "ci": ["made.json", "python.erofs", "again.erofs", "pinned.erofs", "seeded.erofs"],
    "dask": ["python.erofs", "app.erofs", "made.jsonl"],
    "hpc": ["app.squashfs", "app.sqsh", "app/etc/os-release", "boot.json"],
    "index": [],
    "initramfs": ["initramfs.cpio.gz", "console.txt", "both.cpio", "piped.cpio.gz"],
    "library": [],
    "microvm": ["disk.erofs", "disk.ext4", "boot.json", "console.txt"],
    "programs": ["hello-amd64", "hello-arm64", "hello.tar", "root/hello"],
    "registries": ["app.erofs", "ecr.erofs", "gitlab.erofs", "harbor/index.json"],
    "rootless": ["app.erofs", "app.tar", "root/bin/busybox", "shifted.erofs", "here.erofs"],
    "sandbox": ["root/usr/local/bin/agent", "work/result", "root.erofs", "root.ext4"],
    "verity": ["disk.erofs", "disk.erofs.verity", "console.txt", "forged.txt"],
    "containerd": ["erofs-layers/sha256", "layers.json"],
    "tutorial": ["rootfs/etc/os-release", "python.erofs", "mirror/index.json"],
}
"""What is there when the commands of a page have run."""


def busybox() -> BuiltImage:
    """What stands for `busybox`: Debian's static one, with a link for each of its programs."""
    tar = TarBuilder()
    for folder in ("bin", "etc", "usr", "usr/share", "usr/share/doc", "usr/share/doc/busybox"):
        tar.directory(folder)
    tar.file("bin/busybox", Path(tool("busybox")).read_bytes(), mode=0o755)
    for name in run("busybox", "--list").decode().split():
        if name != "busybox":
            tar.symlink(f"bin/{name}", "busybox")
    tar.file("etc/passwd", b"root:x:0:0::/:/bin/sh\n").file("etc/group", b"root:x:0:\n")
    tar.file("etc/os-release", b"ID=example\n").file("usr/share/doc/busybox/copyright", b"GPL-2.0\n")
    return build_image([tar], config={"Cmd": ["sh"], "Env": ["PATH=/bin"]})


@pytest.fixture(scope="module")
def stand_ins(registry: Registry) -> dict[str, str]:
    """The public names that the pages use, and where the tests have something of that name."""
    tar = TarBuilder().directory("etc").file("etc/os-release", b"ID=example\n")
    tar.directory("bin").file("bin/app", b"x" * 5000, mode=0o755)
    index = build_index([build_image([tar], platform=name) for name in ("linux/amd64", "linux/arm64")])
    python = registry.put(index, "howtos/python:3.13-slim")
    return {
        "docker.io/library/busybox:1.37": registry.put(busybox(), "howtos/busybox:1.37"),
        "docker.io/library/python:3.13-slim": python,
        "docker.io/library/python@": f"{python.rpartition(':')[0]}@",
        "ghcr.io/org/app:1.2": registry.put(index, "howtos/app:1.2"),
        "ghcr.io/me/": f"{registry.host}/howtos/me/",
        "ghcr.io/org/": f"{registry.host}/howtos/org/",
        "registry.internal": registry.host,
    }


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A registry with a password for each host of the page about them, with an image in it."""
    image = build_image([TarBuilder().file("app", b"private")])
    with ExitStack() as stack:
        hosts = {}
        for number, (name, (user, _)) in enumerate(LOGINS.items()):
            folder = tmp_path_factory.mktemp("private") / str(number)
            running = stack.enter_context(serve_registry(folder, user=(user, "secret")))
            for repository in ("acme/app:1.2", "app:1.2"):
                running.put(image, repository)
            hosts[name] = running.host
        yield hosts


def localized(text: str, names: dict[str, str]) -> str:
    """Text with public names replaced, the longest first."""
    for name in sorted(names, key=len, reverse=True):
        text = text.replace(name, names[name])
    return text


def prepare(page: str, told: Story, folder: Path, request: pytest.FixtureRequest) -> dict[str, str]:
    """What a reader of the page has: a kernel, passwords. Returns the names that are replaced."""
    names: dict[str, str] = dict(request.getfixturevalue("stand_ins"))
    if page in BOOTS:
        kernel: Kernel = request.getfixturevalue("kernel")
        (package,) = kernel.image.parent.parent.parent.glob("linux-image-*.deb")
        (folder / package.name).symlink_to(package)
    if page == "registries":
        names |= request.getfixturevalue("private")
        (folder / "aws").write_text('#!/bin/sh\necho "$ECR_TOKEN"\n')
        (folder / "aws").chmod(0o755)
    if page == "air-gapped":
        # The prefix stays a public name: the file sends it to the registry on loopback.
        del names["docker.io/library/python:3.13-slim"]
        stand_in = names["ghcr.io/org/app:1.2"].replace("app:1.2", "python:3.13-slim")
        names["ocifast copy docker.io/library/python:3.13-slim"] = f"ocifast copy {stand_in}"
    for name, text in told.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(localized(text, names))
    if page == "air-gapped":
        with (folder / "registries.conf").open("a") as file:
            file.write("insecure = true\n")
    return names


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_commands_of_a_page_work(page: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    told = story(page)
    names = prepare(page.stem, told, tmp_path, request)
    script = localized(told.script(), names).replace("sudo ", "")
    # `make` has a build folder of its own, which a reader has not.
    bash = ["env", "-u", "CARGO_TARGET_DIR", "bash", "-xc", script]
    environment = {variable: "secret" for _, variable in LOGINS.values()} | {"CI_REGISTRY_USER": "gitlab-ci-token"}
    environment |= {"PATH": f"{Path(sys.executable).parent}:{tmp_path}:{os.environ['PATH']}:/usr/sbin", "USER": "root"}
    environment |= {"RUSTUP_HOME": os.environ.get("RUSTUP_HOME", str(HOME / ".rustup"))}
    done = attempt(*bash, cwd=tmp_path, env=environment, timeout=500)
    assert done.returncode == 0, (done.stderr[-3000:] + done.stdout[-3000:]).decode(errors="replace")
    assert [name for name in RESULTS[page.stem] if not (tmp_path / name).exists()] == []
    if page.stem in BOOTS:
        console = (tmp_path / "console.txt").read_text(errors="replace")
        assert "Power down" in console or "reboot" in console, console[-2000:]
        # An init of the page that could not do a step says so and goes on.
        assert "sbin/init: " not in console, console[-2000:]


HOME = Path.home()
"""Of who runs the tests, before a test gets one of its own: the Rust toolchain is there."""


def test_what_is_not_run_is_in_a_page() -> None:
    left_out = [command for page in PAGES for command in story(page).left_out]
    for name in NOT_RUN:
        assert any(command.startswith(name) for command in left_out), name


def test_what_a_page_shows_is_a_fence_of_a_known_kind() -> None:
    """A command in any other fence, or indented, would be run by nobody."""
    for page in PAGES:
        text = page.read_text()
        kinds = set(re.findall(r"^```(\w*)", text, re.MULTILINE)) - {""}
        assert kinds <= {"console", "go", "json", "python", "rust", "sh", "toml", "yaml"}, page
        assert not re.search(r"^    (?:\$ )?ocifast ", text, re.MULTILINE), page
