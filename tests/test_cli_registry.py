"""Options of the commands that speak to registries: each one is seen at the server, or in what is written."""

from __future__ import annotations

import base64
import io
import json
import os
import pty
import subprocess
import threading
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from ocifast.cli import main
from ocifast.copying import copy
from ocifast.sources.open import open_destination, open_source, parse_location
from ocifast.sources.registry import Credential
from ocifast.sources.registry.credentials import CredentialKeeper

from tests.support.faulty import Answer, Request, serve_faulty
from tests.support.images import Layer, build_image, build_index, write_layout
from tests.support.pulls import Authority, quick, random_image
from tests.support.registry import serve_registry
from tests.support.run import COMMAND
from tests.support.tokens import serve_tokens

Said = Callable[..., str]


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Said:
    """Runs a command line that must succeed, and returns its standard output."""

    def run(*words: object) -> str:
        assert main([str(word) for word in words]) == 0, capsys.readouterr().err
        seen = capsys.readouterr()
        assert seen.err == ""
        return seen.out

    return run


def tags_of(layout: Path) -> dict[str, str]:
    """Digests by tag of an image layout."""
    index = json.loads((layout / "index.json").read_bytes())
    return {each["annotations"]["org.opencontainers.image.ref.name"]: each["digest"] for each in index["manifests"]}


AMD64 = build_image([b"here"], platform="linux/amd64")
IMAGES = [build_image([Layer(b"", blob=name)], platform=f"linux/{name.decode()}") for name in (b"s390x", b"riscv64")]


@pytest.mark.parametrize("command", ["pull", "copy"])
def test_one_platform_or_all(said: Said, tmp_path: Path, command: str) -> None:
    index = build_index(IMAGES)
    with serve_faulty() as server:
        name = server.put(index, "a:1")
        out = f"oci:{tmp_path}/out"
        assert said(command, name, f"{out}:one", "--platform", "linux/riscv64", "-q") == f"{IMAGES[1].digest}\n"
        assert said(command, name, f"{out}:all", "--all", "-q") == f"{index.digest}\n"
        blobs = [line for line in server.lines if "/blobs/" in line]
        assert sorted(blobs) == sorted(f"GET /v2/a/blobs/{digest}" for digest in index.all_blobs())
    assert tags_of(tmp_path / "out") == {"one": IMAGES[1].digest, "all": index.digest}


def test_an_index_is_sent_whole_and_one_image_of_it_fetched(said: Said, tmp_path: Path) -> None:
    index = build_index([AMD64, *IMAGES])
    layout = f"oci:{write_layout(tmp_path / 'layout', index)}:app"
    with serve_faulty() as server:
        name = f"{server.host}/a:1"
        assert said("push", layout, name).startswith(f"{index.digest}  6 blobs copied (")
        told = said("pull", name, f"oci:{tmp_path}/one:app", "--platform", "linux/s390x")
        assert told.startswith(f"{IMAGES[0].digest}  2 blobs copied (")
        assert told.endswith("; linux/s390x, one of 3 platforms (--all takes every one)\n")
        assert said("copy", name, f"oci:{tmp_path}/two:app").startswith(f"{index.digest}  6 blobs")
        # A Docker archive holds one image.
        told = said("copy", name, f"docker-archive:{tmp_path}/docker.tar:x:1")
        assert told.startswith(f"{AMD64.digest}  ")
        assert told.endswith("; linux/amd64, one of 3 platforms (--all takes every one)\n")


def test_all_platforms_are_pushed_and_each_index_after_its_children(said: Said, tmp_path: Path) -> None:
    nested = build_index([build_image([Layer(b"", blob=b"deep")], platform="linux/arm64")])
    index = build_index([IMAGES[0], nested, IMAGES[1]])
    layout = write_layout(tmp_path / "layout", index)
    with serve_faulty() as server:
        told = json.loads(said("push", f"oci:{layout}:app", f"{server.host}/a:1", "--all", "--json"))
        assert told == {
            "source": f"oci:{layout}:app",
            "destination": f"{server.host}/a:1",
            "digest": index.digest,
            "media_type": index.media_type,
            "documents": 5,
            "copied": 6,
            "existing": 0,
            "skipped": 0,
            "bytes": sum(map(len, index.all_blobs().values())),
            "platform": None,
            "platforms": 0,
        }
        order = [IMAGES[0].digest, nested.children[0].digest, nested.digest, IMAGES[1].digest, "1"]
        assert server.lines[-5:] == [f"PUT /v2/a/manifests/{each}" for each in order]


def test_referrers(said: Said) -> None:
    image = random_image(100)
    signed = build_image(
        [Layer(b"", blob=b"s")], edit_manifest=lambda fields: fields.update(subject=image.descriptor())
    )
    with serve_faulty() as source, serve_faulty() as target:
        name = source.put(image, "a:1")
        source.put(signed, "a:signature")
        said("copy", name, f"{target.host}/b:1")
        assert set(target.manifests["b"]) == {"1", image.digest}
        said("copy", name, f"{target.host}/b:1", "--referrers")
        assert set(target.manifests["b"]) == {"1", image.digest, signed.digest}


class Together:
    """Holds requests for blobs back until so many of them are there, and counts how many were at most."""

    def __init__(self, expected: int) -> None:
        self._expected = expected
        self._changed = threading.Condition()
        self._there = 0
        self.most = 0

    def __call__(self, request: Request) -> Answer | None:
        if request.method not in ("GET", "PUT") or "/blobs/" not in request.path:
            return None
        with self._changed:
            self._there += 1
            self.most = max(self.most, self._there)
            self._changed.notify_all()
            # One more would be there soon.
            self._changed.wait_for(lambda: self.most > self._expected, 0.1)
            self._changed.wait_for(lambda: self.most >= self._expected, 30)
            self._there -= 1
        return None


@pytest.mark.parametrize(("options", "expected"), [([], 4), (["--parallel", "1"], 1), (["--parallel", "6"], 6)])
def test_as_many_blobs_at_a_time_as_are_allowed(said: Said, tmp_path: Path, options: list[str], expected: int) -> None:
    image = random_image(*[1000] * 11)
    layout = write_layout(tmp_path / "layout", image)
    with serve_faulty() as server:
        name = server.put(image, "a:1")
        server.script = pulled = Together(expected)
        said("pull", name, f"oci:{tmp_path}/out", *options)
        server.script = pushed = Together(expected)
        said("push", f"oci:{layout}:app", f"{server.host}/b:1", *options)
        assert (pulled.most, pushed.most) == (expected, expected)
        assert server.blobs["b"] == image.all_blobs()


def test_four_blobs_at_a_time_unless_told_otherwise(tmp_path: Path) -> None:
    image = random_image(*[1000] * 11)
    with serve_faulty() as server:
        name = server.put(image, "a:1")
        server.script = pulled = Together(4)
        with closing(open_source(parse_location(f"docker://{name}"))) as source:
            copy(source, open_destination(parse_location(f"oci:{tmp_path}/out:app")))
        assert pulled.most == 4


def test_a_folder_of_certificates_a_password_and_a_realm(
    said: Said, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The token server stands on another host: it gets the password only when the user says so."""
    authority = Authority(tmp_path / "authority")
    tls = authority.server("127.0.0.1", "127.0.0.2")
    users = {"me": "secret"}
    with (
        serve_tokens(tmp_path / "roots.pem", address="127.0.0.2", users=users, tls=tls) as tokens,
        serve_faulty(tokens.guard, tls=tls) as server,
    ):
        authority.trust(server.host)
        authority.trust(tokens.host)
        server.put(random_image(10), "a:1")
        words = ["tags", f"{server.host}/a", "--cert-dir", str(authority.folder), "-u", "me", "--password-stdin"]
        monkeypatch.setattr("sys.stdin", io.StringIO("secret\n"))
        assert main(words) == 1
        assert capsys.readouterr().err == (
            f"ocifast: error: {server.host} wants its password sent to 127.0.0.2; if that is its token server, allow it"
            " with --trust-realm 127.0.0.2\n"
        )
        assert tokens.requests == []
        monkeypatch.setattr("sys.stdin", io.StringIO("secret\n"))
        assert said(*words, "--trust-realm", "127.0.0.2") == "1\n"
        assert [request.values("account") for request in tokens.requests] == [["me"]]


def test_mirrors_of_a_file(said: Said, tmp_path: Path) -> None:
    image = random_image(100)
    with serve_faulty() as mirror, serve_faulty(address="127.0.0.2") as origin:
        name = origin.put(image, "a:1")
        mirror.put(image, "cache/a:1")
        file = tmp_path / "registries.conf"
        file.write_text(
            f'[[registry]]\nlocation = "{origin.host}"\n[[registry.mirror]]\nlocation = "{mirror.host}/cache"\n'
        )
        said("pull", name, f"oci:{tmp_path}/out", "--registries-conf", file)
        assert len(mirror.requests) == 3
        assert origin.requests == []


def test_deletion_and_logout_as_json(said: Said, tmp_path: Path) -> None:
    image = random_image(10)
    auth = tmp_path / "auth.json"
    with serve_faulty() as server:
        name = f"{server.put(image, 'a:1')[:-2]}@{image.digest}"
        assert json.loads(said("delete", name, "--json")) == {"deleted": name}
        assert server.manifests["a"] == {}
        auth.write_text(json.dumps({"auths": {server.host: {"auth": "dTpw"}}}))
        told: Any = json.loads(said("logout", server.host, "--auth-file", auth, "--json"))
        assert told == {"host": server.host, "removed": [str(auth)]}
    assert json.loads(auth.read_text()) == {"auths": {}}


@pytest.mark.parametrize("password", ["secret", " blanks at both ends ", "p\u00e4ss\tw\u00f6rd:"])
def test_a_password_is_taken_as_it_is(
    said: Said, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, password: str
) -> None:
    right = f"Basic {base64.b64encode(f'me:{password}'.encode()).decode()}"
    asks = Answer(401, {"WWW-Authenticate": "Basic"})
    with serve_faulty(lambda request: None if request.headers.get("authorization") == right else asks) as server:
        monkeypatch.setattr("sys.stdin", io.StringIO(f"{password}\r\n"))
        auth = tmp_path / "auth.json"
        said("login", server.host, "-u", "me", "--password-stdin", "--auth-file", auth)
        assert CredentialKeeper(server.host, None, quick(auth_file=auth)).get() == Credential("me", password)


@pytest.mark.timeout(60)
def test_a_password_is_asked_for_on_a_terminal_and_not_shown(tmp_path: Path) -> None:
    auth = tmp_path / "auth.json"
    asks = Answer(401, {"WWW-Authenticate": "Basic"})
    with serve_faulty(lambda request: None if "authorization" in request.headers else asks) as server:
        ours, theirs = pty.openpty()
        words = [str(COMMAND), "login", server.host, "-u", "me", "--auth-file", str(auth)]
        # A session of its own has no other terminal to ask on.
        process = subprocess.Popen(
            words, stdin=theirs, stdout=subprocess.PIPE, stderr=theirs, start_new_session=True, text=True
        )
        os.close(theirs)
        shown = b""
        while b"Password: " not in shown:
            shown += os.read(ours, 1000)
        os.write(ours, b"swordfish\n")
        # Linux says EIO when the last process has closed its end (pty(7)).
        with suppress(OSError):
            while chunk := os.read(ours, 1000):
                shown += chunk
        os.close(ours)
        told, _ = process.communicate()
    assert (process.returncode, told) == (0, f"logged in to {server.host} as me; kept in {auth}\n")
    assert shown.decode().split() == ["Password:"]
    assert json.loads(auth.read_text())["auths"][server.host] == {"auth": base64.b64encode(b"me:swordfish").decode()}


@pytest.mark.tools
@pytest.mark.parametrize("stated", [[], ["--password-stdin"]])
def test_a_password_from_a_pipe(said: Said, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stated: list[str]) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("pass word\n"))
    with serve_registry(tmp_path / "registry", user=("me", "pass word")) as registry:
        registry.put(random_image(), "a:1")
        assert said("tags", f"{registry.host}/a", "-u", "me", *stated) == "1\n"


@pytest.mark.tools
def test_login_asks_on_a_terminal(tmp_path: Path) -> None:
    with serve_registry(tmp_path / "registry", user=("me", "pass word")) as registry:
        auth = tmp_path / "auth.json"
        master, terminal = pty.openpty()
        words = [str(COMMAND), "login", registry.host, "--auth-file", str(auth)]
        process = subprocess.Popen(words, stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True)
        os.close(terminal)
        seen = b""
        for question, answer in ((b"Username: ", b"me\n"), (b"Password: ", b"pass word\n")):
            while question not in seen:
                seen += os.read(master, 1000)
            os.write(master, answer)
        assert process.wait(60) == 0
        seen += os.read(master, 1000)
        os.close(master)
        assert f"logged in to {registry.host} as me; kept in {auth}".encode() in seen
        assert b"pass word" not in seen
        assert registry.host in json.loads(auth.read_bytes())["auths"]
