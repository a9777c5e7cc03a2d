"""Users without a home, and homes that are of no use: nothing needs one but what keeps something there."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from ocifast import home

from tests.support.documents import listing
from tests.support.images import build_image, write_layout
from tests.support.layers import TarBuilder
from tests.support.registry import Registry
from tests.support.run import run

ENVIRONMENTS: dict[str, dict[str, str]] = {
    "nothing": {},
    "HOME is not there": {"HOME": "/nonexistent"},
    "HOME is the root": {"HOME": "/"},
    "HOME is empty": {"HOME": ""},
    "HOME is relative": {"HOME": "home"},
    "HOME is somebody else's": {"HOME": "{folder}/closed"},
    "HOME is in somebody else's": {"HOME": "{folder}/closed/inner"},
    "the configuration is in somebody else's": {"XDG_CONFIG_HOME": "{folder}/closed/inner"},
    "HOME is read-only": {"HOME": "{folder}/read-only"},
    "HOME is a file": {"HOME": "{folder}/layout/index.json"},
    "XDG folders are relative": {"XDG_CACHE_HOME": "cache", "XDG_CONFIG_HOME": "config"},
    "no folder for temporary files": {"TMPDIR": "/nonexistent"},
    "an unknown locale": {"LANG": "xx_YY.UTF-8", "LC_ALL": "no_NO"},
}

SCRIPT = """
# 54321 is a user whom the user database does not know, as OpenShift makes them up.
import json, os, sys
sys.path.insert(0, sys.argv[1])
from refused_run import run
warm, folder, environment, commands = json.load(sys.stdin)
for words in warm:
    run(words)  # loads all that is needed: the user may not read it
os.chdir(folder)
os.environ.clear()
os.environ.update(environment)
os.setgroups([]); os.setresgid(54321, 54321, 54321); os.setresuid(54321, 54321, 54321)
json.dump([run(words) for words in commands], sys.stdout)
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that every user may reach."""
    with tempfile.TemporaryDirectory(prefix="ocifast-home-") as made:
        path = Path(made)
        path.chmod(0o755)
        for name, mode in (("closed", 0o700), ("read-only", 0o555), ("out", 0o777), ("warm", 0o700)):
            (path / name).mkdir()
            (path / name).chmod(mode)
        yield path


def commands(layout: str, remote: str, out: Path) -> list[list[str]]:
    """What a user does who keeps nothing at home."""
    return [
        ["compile", layout, f"{out}/file.tar"],
        ["compile", remote, f"{out}/folder"],
        ["cat", remote, "/hello"],
        ["ls", layout],
        ["inspect", remote],
        ["tags", remote.rpartition(":")[0]],
        ["pull", remote, f"oci:{out}/pulled:1"],
    ]


@pytest.mark.root
@pytest.mark.parametrize("name", list(ENVIRONMENTS))
def test_a_user_without_a_home(name: str, folder: Path, registry: Registry) -> None:
    image = build_image([TarBuilder().file("hello", b"hello\n")])
    layout, remote = f"oci:{write_layout(folder / 'layout', image)}:app", registry.put(image, "home/image:1")
    environment = {key: value.format(folder=folder) for key, value in ENVIRONMENTS[name].items()}
    asked = (
        [*commands(layout, remote, folder / "warm"), ["cache", "info"], ["logout", registry.host]],
        str(folder / "out"),
        {"PATH": os.environ["PATH"], **environment},
        commands(layout, remote, folder / "out"),
    )
    support = Path(__file__).parent / "support"
    told = json.loads(run(sys.executable, "-c", SCRIPT, support, stdin=json.dumps(asked).encode()))
    assert [result["status"] for result in told] == [0] * len(told), told
    assert told[2]["out"] == "hello\n"
    assert {path.name for path in (folder / "out").iterdir()} == {"file.tar", "folder", "pulled"}
    assert listing(folder / "out/folder") == ["hello"]
    assert "nothing is cached: " in told[1]["err"]


@pytest.mark.root
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["cache", "info"],
            "there is no folder for the cache: neither HOME nor the user database names one; name it in "
            "OCIFAST_CACHE_DIR, or do without (--no-cache)",
        ),
        (
            ["logout", "localhost"],
            "there is no home to keep credentials in: name a file (--auth-file, or REGISTRY_AUTH_FILE)",
        ),
    ],
)
def test_what_keeps_something_at_home_says_that_there_is_none(words: list[str], message: str, folder: Path) -> None:
    asked = json.dumps([[words], str(folder / "out"), {}, [words]]).encode()
    (told,) = json.loads(run(sys.executable, "-c", SCRIPT, Path(__file__).parent / "support", stdin=asked))
    assert (told["status"], told["err"]) == (1, f"ocifast: error: {message}\n")


@pytest.mark.parametrize("stated", ["/home/me", "relative", "", None])
def test_where_a_home_is(stated: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    import pwd

    recorded = Path(pwd.getpwuid(os.getuid()).pw_dir)
    monkeypatch.delenv("HOME")
    for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, "relative/too")
    if stated is not None:
        monkeypatch.setenv("HOME", stated)
    expected = Path("/home/me") if stated == "/home/me" else recorded
    assert home.home_folder() == expected
    assert home.cache_folder() == expected / ".cache"
    assert home.config_folder() == expected / ".config"
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert home.cache_folder() == Path("/caches")
