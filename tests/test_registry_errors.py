"""What people see when something is wrong: one line that says what to do next, exit status 1, nothing written."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from ocifast.cli import main
from ocifast.errors import RegistryError
from ocifast.reference import Reference
from ocifast.sources.registry import addresses, list_tags, repository

from tests.support.faulty import Answer, Request, error, serve_faulty
from tests.support.images import write_layout
from tests.support.pulls import Authority, pretend, pull, random_image
from tests.support.registry import free_port, serve_registry
from tests.support.run import try_ocifast
from tests.support.tokens import serve_tokens

Fail = Callable[..., str]


@pytest.fixture
def fail(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fail:
    """Pulls from a reference, which must fail, and returns what was said after `ocifast: error: `."""
    monkeypatch.setattr("ocifast.sources.registry.client.backoff", lambda first, attempt: 0.001)

    def pull(reference: str, *options: str) -> str:
        assert main(["pull", reference, f"oci:{tmp_path}/out", *options]) == 1
        seen = capsys.readouterr()
        assert seen.out == ""
        assert seen.err.startswith("ocifast: error: ")
        assert seen.err.count("\n") == 1
        assert not (tmp_path / "out").exists()
        return seen.err.removeprefix("ocifast: error: ").rstrip("\n")

    return pull


def test_unknown_host(fail: Fail, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def resolve(host: str, port: int) -> list[tuple[int, str]]:
        asked.append(host)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(addresses, "resolve", resolve)
    assert fail("registry.exmaple/a:1") == (
        "registry.exmaple/a:1: cannot reach the registry: the name is unknown; check its spelling and the network"
    )
    assert asked == ["registry.exmaple"]


def test_a_host_that_can_have_no_address(fail: Fail) -> None:
    host = f"{'a' * 64}.example"
    assert fail(f"{host}/a:1") == (
        f"{host}/a:1: cannot reach the registry: the name is unknown; check its spelling and the network"
    )


def test_refused_connection(fail: Fail) -> None:
    host = f"127.0.0.1:{free_port()}"
    assert fail(f"{host}/a:1") == (
        f"{host}/a:1: cannot reach the registry: the connection was refused; is the registry running there?"
    )


def test_no_connection_in_time(fail: Fail, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float | None] = []

    def connect(address: str, port: int, timeout: float | None) -> socket.socket:
        asked.append(timeout)
        raise TimeoutError("timed out")

    monkeypatch.setattr(addresses, "connect", connect)
    assert fail("127.0.0.1:5000/a:1") == (
        "127.0.0.1:5000/a:1: cannot reach the registry: no connection in time; is it up, and is a proxy needed?"
    )
    # The first try and two more: a host that never answered is likelier a typing error than a fault.
    assert asked == [15.0] * 3


def test_untrusted_certificate(fail: Fail, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, {"registry.example": ("11.22.33.44", "127.0.0.1")})
    authority = Authority(tmp_path / "authority")
    with serve_faulty(tls=authority.server("registry.example")) as server:
        host = server.host.replace("127.0.0.1", "registry.example")
        assert fail(f"{host}/a:1") == (
            f"{host}/a:1: cannot reach the registry: its certificate is not trusted (unable to get local issuer"
            f" certificate); put the authority's certificate into /etc/docker/certs.d/{host}/ca.crt or name it in"
            " SSL_CERT_FILE; --insecure does not look at it"
        )
        assert server.connections == 1


def test_plain_http_where_https_is_spoken(fail: Fail, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, {"registry.example": ("11.22.33.44", "127.0.0.1")})
    with serve_faulty() as server:
        name = server.put(random_image(), "a:1").replace("127.0.0.1", "registry.example")
        said = f"{name}: cannot reach the registry: it does not speak HTTPS; for plain HTTP use --insecure"
        assert fail(name) == said


def test_insecure_is_for_the_named_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, {"registry.example": ("11.22.33.44", "127.0.0.1")})
    with serve_faulty() as server:
        name = server.put(random_image(), "a:1").replace("127.0.0.1", "registry.example")
        assert main(["pull", name, f"oci:{tmp_path}/out", "--insecure", "-q"]) == 0


@pytest.mark.tools
def test_wrong_password(fail: Fail, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve_registry(tmp_path / "registry", user=("someone", "right")) as registry:
        name = registry.put(random_image(*[1000] * 5), "a:1")
        before = len(registry.requests())
        auth = tmp_path / "auth.json"
        auth.write_text(json.dumps({"auths": {registry.host: {"username": "someone", "password": "wrong"}}}))
        assert fail(name, "--auth-file", str(auth)) == (
            f"{registry.host}: the user name and password are refused: it answered 401;"
            f" log in anew with `ocifast login {registry.host}`"
        )
        # One question without, one attempt with it.
        assert registry.requests()[before:] == ["GET /v2/a/manifests/1 401"] * 2
        assert fail(name) == f"{registry.host} asks for a password; use `ocifast login {registry.host}`"


def test_missing_scope(fail: Fail, tmp_path: Path) -> None:
    with serve_tokens(tmp_path / "roots.pem") as tokens, serve_faulty() as server:
        denied = error(401, "UNAUTHORIZED", "authentication required", WWW_Authenticate=tokens.challenge())
        server.script = lambda request: denied
        assert fail(f"{server.host}/private/a:1") == (
            f"{server.host}/private/a:1: cannot read the manifest: the registry answered 401: UNAUTHORIZED:"
            f" authentication required; log in with `ocifast login {server.host}`"
        )
        assert len(tokens.requests) == 1
        assert len(server.requests) == 2
        server.script = lambda request: error(403, "DENIED", "requested access to the resource is denied")
        assert fail(f"{server.host}/private/a:1") == (
            f"{server.host}/private/a:1: cannot read the manifest: the registry answered 403: DENIED: requested access"
            f" to the resource is denied; log in as a user who may (`ocifast login {server.host}`), or ask the"
            " repository's owner for permission"
        )


@pytest.mark.tools
def test_no_such_tag_or_repository(fail: Fail, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serve_registry(tmp_path / "registry") as registry:
        registry.put(random_image(), "a:1")
        for name in ("a", "b"):
            assert fail(f"{registry.host}/{name}:2") == (
                f"{registry.host}/{name}:2: not found; check the name and the tag"
                f" (`ocifast tags {registry.host}/{name}` lists them)"
            )
        assert main(["tags", f"{registry.host}/b"]) == 1
        assert capsys.readouterr() == (
            "",
            f"ocifast: error: {registry.host}/b: no such repository; check its name, and log in if it is private\n",
        )


@pytest.mark.parametrize("status", [200, 404, 500])
def test_a_server_that_is_no_registry(fail: Fail, status: int) -> None:
    page = Answer(status, {"Content-Type": "text/html; charset=utf-8"}, b"<html><title>Welcome</title></html>")
    with serve_faulty(lambda request: page) as server:
        said = fail(f"{server.host}/a:1")
        assert "is no registry: it answers with a page" in said
        assert said.endswith("; check the host's name and port")
        assert said.startswith(f"{server.host}/a:1: ")


@pytest.mark.parametrize(
    "raw", [b"SSH-2.0-OpenSSH_9.2p1\r\n\r\n", b"220 mail\r\n\r\n", b"\x15\x03\x01\x00\x02\x02", b"HTTP/1.1 abc\r\n\r\n"]
)
def test_a_server_that_does_not_speak_http(fail: Fail, raw: bytes) -> None:
    with serve_faulty(lambda request: Answer(raw=raw)) as server:
        said = fail(f"{server.host}/a:1")
        assert said.startswith(f"{server.host}/a:1: cannot reach the registry: it is no registry, or broken: ")


def test_too_large(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layout = write_layout(tmp_path / "layout", random_image(50_000))

    def script(request: Request) -> Answer | None:
        page = Answer(413, {"Content-Type": "text/html"}, b"<html><center>nginx</center></html>")
        return page if request.method == "PUT" else None

    with serve_faulty(script) as server:
        assert main(["push", f"oci:{layout}:app", f"{server.host}/a:1"]) == 1
        assert capsys.readouterr().err == (
            f"ocifast: error: {server.host}/a:1: cannot complete an upload: the registry answered 413; raise the limit"
            " for bodies of the registry or"
            " its proxy\n"
        )
        assert server.uploads == {}


def test_errors_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serve_faulty() as server:
        assert main(["pull", f"{server.host}/a:1", f"oci:{tmp_path}/out", "--json"]) == 1
        told = json.loads(capsys.readouterr().out)["error"]
        assert told["code"] == "image_not_found"
        assert told["reference"] == f"{server.host}/a:1"


def test_tags_in_pages(capsys: pytest.CaptureFixture[str]) -> None:
    """Pages of any form of link: relative, absolute, with other links beside."""

    def script(request: Request) -> Answer:
        last = (request.values("last") or ["0"])[0]
        links = {
            "0": '</v2/a/tags/list?last=1&n=1000>; rel="next"',
            "1": "<?last=2&n=1000>; rel=next",
            "2": f'<{server.url}/v2/a/tags/list?last=0>; rel="prev", <{server.url}/v2/a/tags/list?last=3>; rel="next"',
        }
        body = json.dumps({"name": "a", "tags": [f"t{last}", "same"]}).encode()
        return Answer(200, {"Link": links[last]} if last in links else {}, body)

    with serve_faulty(script) as server:
        assert main(["tags", f"{server.host}/a"]) == 0
        assert capsys.readouterr().out == "t0\nsame\nt1\nt2\nt3\n"
        assert len(server.requests) == 4
        assert server.requests[0].query == (("n", "1000"),)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (
            Answer(200, {"Link": '</v2/a/tags/list?n=1000>; rel="next"'}, b'{"tags":[]}'),
            "the list of tags does not end",
        ),
        (Answer(200, {}, b"[]"), "what the registry sends is no list of tags"),
        (Answer(200, {}, b'{"x":' + b"[" * 100_000), "what the registry sends is no list of tags"),
        (Answer(200, {}, b'{"tags":["' + b"x" * (4 << 20)), "a page of its tags is longer than 4 MiB"),
    ],
)
def test_tags_that_are_none(answer: Answer, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with serve_faulty(lambda request: answer) as server:
        assert main(["tags", f"{server.host}/a"]) == 1
        assert capsys.readouterr().err == f"ocifast: error: {server.host}/a: {message}\n"
        assert len(server.requests) <= 2


def test_tags_that_never_end(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Always another page, with other tags on it: what is kept of them is bounded."""
    monkeypatch.setattr(repository, "_LIST_LIMIT", 1 << 20)

    def script(request: Request) -> Answer:
        page = int((request.values("last") or ["0"])[0])
        body = json.dumps({"tags": [f"{page}-{number}" + "x" * 100 for number in range(1000)]}).encode()
        return Answer(200, {"Link": f'</v2/a/tags/list?last={page + 1}&n=1000>; rel="next"'}, body)

    with serve_faulty(script) as server:
        assert main(["tags", f"{server.host}/a"]) == 1
        told = capsys.readouterr()
        message = f"{server.host}/a: the list of tags is longer than 1 MiB, after 9000 tags"
        assert (told.out, told.err) == ("", f"ocifast: error: {message}\n")
        assert len(server.requests) == 10


def test_a_registry_with_no_tags_at_all(capsys: pytest.CaptureFixture[str]) -> None:
    with serve_faulty(lambda request: Answer(200, {}, b'{"name":"a","tags":null}')) as server:
        assert main(["tags", f"{server.host}/a"]) == 0
        assert capsys.readouterr().out == ""


def test_tags_that_would_steer_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with serve_faulty(lambda request: Answer(200, {}, b'{"tags":["1","\\u001b[2Jx\\ny"]}')) as server:
        assert main(["tags", f"{server.host}/a"]) == 0
        assert capsys.readouterr().out == "1\n\\x1b[2Jx\\ny\n"


def test_an_error_that_would_steer_a_terminal(fail: Fail) -> None:
    denied = error(400, "X\x1b[2J", "first\nsecond\u202e\x07" + "y" * 1000)
    with serve_faulty(lambda request: denied) as server:
        shown = f"X [2J: first second  {'y' * 1000}"[:300] + "…"
        with pytest.raises(RegistryError) as caught:
            list_tags(Reference.parse(f"{server.host}/a"))
        assert str(caught.value) == f"{server.host}/a: cannot list tags: the registry answered 400: {shown}"
        said = fail(f"{server.host}/a:1")
        shown = shown.replace("  ", " ")
        assert said == f"{server.host}/a:1: cannot read the manifest: the registry answered 400: {shown}"


def test_a_registry_that_does_not_delete(capsys: pytest.CaptureFixture[str]) -> None:
    name = "a@sha256:" + "a" * 64
    with serve_faulty(lambda request: error(405, "UNSUPPORTED")) as server:
        assert main(["delete", f"{server.host}/{name}"]) == 1
        assert capsys.readouterr().err == (
            f"ocifast: error: {server.host}/{name}: the registry does not allow deletion\n"
        )
        assert server.lines == [f"DELETE /v2/{name.replace('@', '/manifests/')}"]


def test_inspecting_a_remote_image_fetches_no_layer(capsys: pytest.CaptureFixture[str]) -> None:
    with serve_faulty() as server:
        image = random_image(1000, 2000)
        name = server.put(image, "a:1")
        assert main(["inspect", name, "--json"]) == 0
        assert image.digest in capsys.readouterr().out
        layers = {layer.digest for layer in image.layers}
        assert not [line for line in server.lines if line.rpartition("/")[2] in layers]


@pytest.mark.parametrize(
    "arguments",
    [["pull", "{name}", "oci:{out}"], ["compile", "{name}", "{out}", "--no-cache"]],
    ids=["pull", "compile"],
)
def test_an_interrupt_ends_a_download_that_waits_and_leaves_nothing(tmp_path: Path, arguments: list[str]) -> None:
    """The server is silent in the middle of a blob; nothing but the interrupt ends this within half a minute."""
    stalling, over = threading.Event(), threading.Event()

    def script(request: Request) -> Answer | None:
        if any(digest in request.path for digest in layers):
            stalling.set()
            over.wait(120)
        return None

    image = random_image(1000)
    layers = [layer.digest for layer in image.layers]
    with serve_faulty(script) as server:
        name = server.put(image, "a:1")
        code = "import sys; from ocifast.cli import main; sys.exit(main())"
        words = [sys.executable, "-c", code]
        words += [word.format(name=name, out=tmp_path / "out") for word in arguments]
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            assert stalling.wait(60)
            process.send_signal(signal.SIGINT)
            out, told = process.communicate(timeout=20)
        finally:
            over.set()
            process.kill()
            process.communicate()
    assert (process.returncode, out, told) == (130, b"", b"ocifast: interrupted; nothing was written\n")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"details": "incorrect username or password"}', ": incorrect username or password"),
        (b'{"error": "invalid_grant", "error_description": "the token is old"}', ": the token is old"),
        (b'{"errors": [{"code": "DENIED", "message": null}, 7]}', ": DENIED"),
        (b"quota exceeded\nsee the manual\n", ": quota exceeded"),
        (b"\x1b[2Jup and \x07away", ":  [2Jup and  away"),
        (b"token=hunter2 is wrong", ": token=… is wrong"),
        (b"x" * 70_000, ": " + "x" * 300 + "…"),
        (b"<html>no</html>", ""),
        (b"\xff\xfe", ""),
        (b"[1, 2]", ""),
        (b"", ""),
    ],
)
def test_the_registrys_own_words(body: bytes, said: str) -> None:
    with serve_faulty(lambda request: Answer(451, {}, body)) as server, pytest.raises(RegistryError) as caught:
        pull(f"{server.host}/a:1")
    assert str(caught.value) == f"{server.host}/a:1: cannot read the manifest: the registry answered 451{said}"


def test_requests_mirrors_and_retries_are_shown(tmp_path: Path) -> None:
    answers = [Answer(503)]
    with serve_tokens(tmp_path / "roots.pem") as tokens, serve_faulty() as server:
        name = server.put(random_image(), "a:1")
        signature = "X-Signature=hunter2"

        def script(request: Request) -> Answer | None:
            if answers:
                return answers.pop()
            if "/blobs/" in request.path and not request.query:
                return Answer(307, {"Location": f"{server.url}{request.path}?{signature}"})
            return tokens.guard(request)

        server.script = script
        done = try_ocifast("copy", name, f"oci:{tmp_path}/layout:a", "-v", "--progress", "none")
        assert done.returncode == 0
        lines = done.stderr.decode().splitlines()
        assert all(line.startswith("ocifast: ") for line in lines)
        said = "\n".join(re.sub(r"\d+ ms$|[\d.]+ s$", "…", line) for line in lines)
        manifest = f"GET http://{server.host}/v2/a/manifests/1"
        assert f"ocifast: {manifest} answered 503 in …" in said
        assert f"ocifast: {name}: cannot read the manifest: the registry answered 503; trying again in …" in said
        assert f"ocifast: {manifest} answered 401 in …" in said
        assert f"ocifast: GET http://{tokens.host}/token answered 200 in …" in said
        assert f"ocifast: {manifest} answered 200 in …" in said
        assert "answered 307 in" in said
        assert "hunter2" not in said
        assert not re.search(r"Bearer|eyJ", said)


def test_what_is_tried_again_is_told_without_being_asked(tmp_path: Path) -> None:
    answers = [Answer(503)]
    with serve_faulty(lambda request: answers.pop() if answers else None) as server:
        name = server.put(random_image(), "a:1")
        done = try_ocifast("pull", name, f"oci:{tmp_path}/layout:a", "--progress", "plain")
        assert done.returncode == 0
        said = f"ocifast: {name}: cannot read the manifest: the registry answered 503; trying again in "
        assert said in done.stderr.decode()
        assert "GET" not in done.stderr.decode()
