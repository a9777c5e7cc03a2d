"""What is around the code: workflows that run nothing unpinned, licences that are allowed, one version."""

from __future__ import annotations

import json
import os
import re
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.support.run import run
from tools import links, wheels

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))


def toml(name: str) -> dict[str, Any]:
    """A TOML file of the project."""
    found: dict[str, Any] = tomllib.loads((ROOT / name).read_text())
    return found


def holds(expression: str, allowed: set[str]) -> bool:
    """Whether a licence expression (SPDX 2.3, annex D) can be met by allowed licences alone.

    `WITH` belongs to the name before it; the slash that old crates have means `OR`.
    """
    words = re.findall(r"[()]|[\w.+-]+(?: WITH [\w.-]+)?", expression.replace("/", " OR "))
    signs = {"AND": "and", "OR": "or", "(": "(", ")": ")"}
    terms = [signs.get(word, str(word in allowed)) for word in words]
    return bool(eval(" ".join(terms), {"__builtins__": {}}))  # made of True, False, and, or and parentheses alone


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("MIT", True),
        ("GPL-3.0-only", False),
        ("GPL-3.0-only OR MIT", True),
        ("MIT AND GPL-3.0-only", False),
        ("Unlicense/MIT", True),
        ("(MIT OR GPL-3.0-only) AND ISC", True),
        ("Apache-2.0 WITH LLVM-exception", False),
    ],
)
def test_licences_are_read(expression: str, expected: bool) -> None:
    assert holds(expression, {"MIT", "ISC", "Apache-2.0"}) is expected


def test_all_crates_have_a_licence_that_is_allowed() -> None:
    """What `cargo deny` looks at, from its own list."""
    allowed = set(toml("deny.toml")["licenses"]["allow"])
    words = ["metadata", "--format-version", "1", "--locked", "--all-features"]
    packages = json.loads(run("cargo", *words, cwd=ROOT, env=home()))["packages"]
    assert len(packages) > 50
    found = {package["name"]: package["license"] or "none" for package in packages}
    assert {name: licence for name, licence in found.items() if not holds(licence, allowed)} == {}


def home() -> dict[str, str]:
    """Where cargo keeps what it has; the tests have another home folder."""
    return {name: os.environ.get(name, str(folder)) for name, folder in TOOLCHAIN.items()}


TOOLCHAIN = {"CARGO_HOME": Path.home() / ".cargo", "RUSTUP_HOME": Path.home() / ".rustup"}
"""Read before a test gets a home of its own."""


def test_all_crates_come_from_the_index() -> None:
    sources = {package.get("source") for package in toml("Cargo.lock")["package"]}
    assert sources == {None, "registry+https://github.com/rust-lang/crates.io-index"}
    assert [package["name"] for package in toml("Cargo.lock")["package"] if "source" not in package] == ["ocifast-core"]


def test_workflows_run_what_is_pinned_by_its_hash() -> None:
    assert WORKFLOWS
    for workflow in WORKFLOWS:
        text = workflow.read_text()
        used = re.findall(r"uses: (\S+)(.*)", text)
        for name, comment in used:
            local = name.startswith("./") and (ROOT / name).exists()
            pinned = re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}", name) and re.fullmatch(r" # v\d+(\.\d+)*", comment)
            assert local or pinned, f"{workflow.name}: {name}"
        for image in re.findall(r"^\s+image: (\S+)$", text, re.MULTILINE):
            assert re.search(r"@sha256:[0-9a-f]{64}$", image), f"{workflow.name}: {image}"


def test_workflows_run_targets_that_there_are() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for workflow in WORKFLOWS:
        called = re.findall(r"\bmake ((?:[a-z-]+ ?)+)", "\n".join(re.findall(r"run: (.*)", workflow.read_text())))
        assert {target for line in called for target in line.split()} <= targets, workflow.name


def test_help_tells_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):(?!=)", makefile, re.MULTILINE))
    told = set(re.findall(r"^make ([a-z-]+)", makefile, re.MULTILINE))
    assert targets - {"help"} == told


def test_one_version() -> None:
    assert "version" in toml("pyproject.toml")["project"]["dynamic"]
    assert toml("rust/Cargo.toml")["package"]["version"] == {"workspace": True}
    (locked,) = [package for package in toml("Cargo.lock")["package"] if package["name"] == "ocifast-core"]
    assert locked["version"] == toml("Cargo.toml")["workspace"]["package"]["version"]


def test_the_pythons_that_are_declared_are_tested() -> None:
    project = toml("pyproject.toml")["project"]
    declared = {name.rpartition(" ")[2] for name in project["classifiers"] if re.search(r":: 3\.\d+$", name)}
    (matrix,) = re.findall(r"python: \[.*\]", (ROOT / ".github/workflows/check.yml").read_text())
    tested = set(re.findall(r'"(3\.\d+)"', matrix))
    assert declared == tested
    assert project["requires-python"] == f">={min(declared, key=lambda version: int(version.partition('.')[2]))}"


def test_what_the_index_shows_leads_to_the_repository() -> None:
    home = "https://git.example/org/ocifast"
    readme, shown = (ROOT / "README.md").read_text(), links.absolute((ROOT / "README.md").read_text(), home, "abc")
    led = re.findall(rf"\({home}/(?:blob|raw)/abc/([^)#]+)", shown)
    assert len(led) > 30
    assert [path for path in led if not (ROOT / path).is_file()] == []
    # Nothing is left that leads nowhere, and nothing else has changed.
    assert re.findall(r"\]\((?!https?:|#)[^)]*\)", shown) == []
    assert shown.replace(f"{home}/blob/abc/", "").replace(f"{home}/raw/abc/", "") == readme
    assert f"]({home}/raw/abc/docs/chart.svg)" in shown
    assert f"]({home}/blob/abc/docs/cli.md#ocifast-report)" in shown
    text = links.with_urls((ROOT / "pyproject.toml").read_text(), home)
    project = tomllib.loads(text)
    assert project["project"]["urls"]["Repository"] == home
    assert {**toml("pyproject.toml")["project"]["urls"]}.items() <= project["project"]["urls"].items()
    # A second run changes nothing, and another repository takes the place of the first.
    assert links.absolute(shown, home, "abc") == shown
    assert links.with_urls(text, home) == text
    assert links.with_urls(text, "https://git.example/fork") == text.replace(home, "https://git.example/fork")


@pytest.mark.parametrize(
    ("name", "size", "says"),
    [
        ("ocifast-0.1.0-cp311-cp311-manylinux_2_28_x86_64.whl", 1, "not the name of an abi3 wheel"),
        ("ocifast-0.1.0-cp310-abi3-linux_x86_64.whl", 1, "not the name of an abi3 wheel"),
        ("ocifast-0.1.0-cp310-abi3-manylinux_2_34_x86_64.whl", 1, "(2, 28) is the newest"),
        ("ocifast-0.1.0-cp310-abi3-musllinux_1_3_aarch64.whl", 1, "(1, 2) is the newest"),
        ("ocifast-0.1.0-cp310-abi3-manylinux_2_28_x86_64.whl", 8 << 20, "no more than 8388608"),
    ],
)
def test_a_wheel_that_must_not_be_released_is_refused(
    name: str, size: int, says: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with (tmp_path / name).open("wb") as file:
        file.truncate(size)
    assert wheels.main(["check", str(tmp_path / name)]) == 1
    assert says in capfd.readouterr().err


@pytest.mark.parametrize("home", ["/root", "/home/some.body", "/Users/somebody"])
def test_a_wheel_names_no_home_of_who_built_it(home: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    wheel = tmp_path / "ocifast-0.1.0-cp310-abi3-manylinux_2_28_x86_64.whl"
    with zipfile.ZipFile(wheel, "w") as made:
        made.writestr("ocifast/home.py", f"{home}/.config")
        made.writestr("ocifast/_core.abi3.so", f"\0/usr/lib\0cargo/registry/a.rs{home}/.cargo/registry/src/a/lib.rs\0")
    assert wheels.main(["check", str(wheel)]) == 1
    assert f"_core.abi3.so names a file of who built it: {home}/.cargo/registry/src/a/lib.rs" in capfd.readouterr().err


def test_wheels_wants_a_job_and_a_file(capfd: pytest.CaptureFixture[str]) -> None:
    assert wheels.main(["check"]) == wheels.main(["publish", "x.whl"]) == 2
    assert "try FILE" in capfd.readouterr().err


def test_a_source_package_can_be_built(tmp_path: Path) -> None:
    """All that the build asks for is in it, with the manual pages; what is built of it `make wheels` tries."""
    maturin = str(Path(sys.executable).with_name("maturin"))
    environment = {**os.environ, **home(), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    run(maturin, "sdist", "--out", tmp_path, cwd=ROOT, env=environment)
    (package,) = tmp_path.glob("*.tar.gz")
    run("tar", "-xzf", package, "-C", tmp_path)
    folder = tmp_path / package.name.removesuffix(".tar.gz")
    words: list[str | Path] = ["pep517", "write-dist-info", "--metadata-directory", tmp_path / "metadata"]
    run(maturin, *words, "--interpreter", sys.executable, cwd=folder, env=environment)
    assert [path.name for path in (tmp_path / "metadata").iterdir()] == [
        f"{package.name.removesuffix('.tar.gz')}.dist-info"
    ]
    for part in ("ocifast.data/data/share/man/man1/ocifast.1", "rust/Cargo.toml", "Cargo.lock", "LICENSE-MIT"):
        assert (folder / part).is_file(), part
