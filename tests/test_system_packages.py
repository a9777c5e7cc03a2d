"""What is packed for others than pip: a Debian package that is made and run, a recipe for conda."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.support.images import build_image, write_layout
from tests.support.layers import TarBuilder
from tests.support.run import run
from tests.test_packaging import ROOT, home, toml
from tools import deb

CLEAN = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent"}
"""Nothing of the environment in which the tests run."""


def names(wanted: list[str]) -> dict[str, str]:
    """Requirements by name: what of it is taken, without markers and spaces."""
    found = {}
    for one in wanted:
        name, versions = re.fullmatch(r"([\w-]+)\s*([^;]*)(?:;.*)?", one).groups()  # type: ignore[union-attr]
        found[name] = versions.strip()
    return found


def test_the_recipe_says_what_the_project_says() -> None:
    """What a build would make of it is looked at by `make check`."""
    recipe, project = yaml.safe_load((ROOT / "packaging/recipe.yaml").read_text()), toml("pyproject.toml")
    wanted = names(project["project"]["dependencies"]) | {"python": project["project"]["requires-python"]}
    assert names(recipe["requirements"]["run"]) == wanted
    host = names(recipe["requirements"]["host"])
    assert host == {"pip": "", "python": wanted["python"], **names(project["build-system"]["requires"])}
    assert recipe["about"]["license"] == project["project"]["license"]
    assert recipe["about"]["license_file"] == project["project"]["license-files"]
    assert all((ROOT / name).is_file() for name in recipe["about"]["license_file"])
    assert (ROOT / "packaging" / recipe["source"]["path"] / "pyproject.toml").is_file()


def test_the_debian_package_says_what_the_project_says() -> None:
    package = yaml.safe_load((ROOT / "packaging/nfpm.yaml").read_text())
    project = toml("pyproject.toml")["project"]
    assert (package["name"], package["license"]) == (project["name"], project["license"])
    assert package["homepage"] == project["urls"]["Homepage"]
    assert all((ROOT / one["src"]).is_file() for one in package["contents"] if not one["src"].startswith("dist/"))


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package of this checkout, as `make deb` makes it, but for the profile that the tests have compiled."""
    folder = tmp_path_factory.mktemp("deb")
    words: list[str | Path] = ["build", "--quiet", "--profile", "dev-fast", "--out", folder / "wheel"]
    # The interpreter of `maturin develop`: with another one all of it would be compiled again.
    words += ["--interpreter", sys.executable]
    run(Path(sys.executable).parent / "maturin", *words, cwd=ROOT, env={**home(), "VIRTUAL_ENV": sys.prefix})
    (wheel,) = (folder / "wheel").iterdir()
    return deb.package(wheel, folder)


@pytest.mark.tools
@pytest.mark.slow
def test_the_debian_package_works_alone(package: Path, tmp_path: Path) -> None:
    said = run("dpkg-deb", "--field", package).decode()
    minor = int(run("/usr/bin/python3", "-c", "import sys; print(sys.version_info[1])"))
    assert f"Depends: python3 (>= 3.{minor}), python3 (<< 3.{minor + 1})" in said
    run("dpkg-deb", "--extract", package, tmp_path)
    command = tmp_path / "usr/bin/ocifast"
    assert {path.name for path in (tmp_path / "usr").iterdir()} == {"bin", "lib", "share"}
    layout = write_layout(tmp_path / "layout", build_image([TarBuilder().file("hello", b"hello\n")]))
    # A module of that name where it is run is not what it takes.
    (tmp_path / "ocifast.py").write_text("raise SystemExit('not this one')")
    for words in (["compile", "-q", f"oci:{layout}:app", "out.tar", "out.erofs"], ["cat", "tar:out.tar", "/hello"]):
        done = subprocess.run([command, *words], cwd=tmp_path, env=CLEAN, capture_output=True, check=True)
    assert done.stdout == b"hello\n"
    for name in ("man/man1/ocifast-compile.1", "bash-completion/completions/ocifast", "doc/ocifast/copyright"):
        assert (tmp_path / "usr/share" / name).is_file()
    listing = run("dpkg-deb", "--contents", package).decode()
    assert {line.split()[1] for line in listing.splitlines()} == {"root/root"}


@pytest.mark.tools
@pytest.mark.slow
def test_the_debian_package_is_the_same_every_time(package: Path, tmp_path: Path) -> None:
    (wheel,) = (package.parent / "wheel").iterdir()
    mask = os.umask(0o077)
    try:
        again = deb.package(wheel, tmp_path)
    finally:
        os.umask(mask)
    assert again.name == package.name
    assert hashlib.sha256(again.read_bytes()).digest() == hashlib.sha256(package.read_bytes()).digest()


def test_owners_are_of_places_that_there_are() -> None:
    lines = [
        line.split() for line in (ROOT / ".github/CODEOWNERS").read_text().splitlines() if line[:1] not in ("", "#")
    ]
    assert lines[0][0] == "*"
    for pattern, *owners in lines:
        assert owners
        assert all(re.fullmatch(r"@[\w-]+/[\w-]+", owner) for owner in owners)
        assert pattern == "*" or (ROOT / pattern.lstrip("/")).exists(), pattern


def test_the_tool_wants_a_wheel_and_a_folder(capfd: pytest.CaptureFixture[str]) -> None:
    assert deb.main(["one"]) == 2
    assert "FILE.whl FOLDER" in capfd.readouterr().err
