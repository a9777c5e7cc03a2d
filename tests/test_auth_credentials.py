"""Whose credential is whose: files of Docker and of containers, helpers, login and logout."""

from __future__ import annotations

import base64
import json
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from ocifast.cli import main
from ocifast.errors import AuthenticationError, FileError
from ocifast.sources.registry import Credential
from ocifast.sources.registry.credentials import CredentialKeeper, forget, remember

from tests.support.faulty import Answer, serve_faulty
from tests.support.pulls import pull, quick, random_image, write_helper
from tests.support.registry import serve_registry


def entry(name: str) -> dict[str, str]:
    """An entry of `auths` for user NAME with password NAME-secret."""
    return {"auth": base64.b64encode(f"{name}:{name}-secret".encode()).decode()}


def found(path: Path, host: str, repository: str | None = None, **changes: Any) -> str | None:
    """The user name that is found; the password must be its own."""
    credential = CredentialKeeper(host, repository, quick(auth_file=path, **changes)).get()
    if credential is None:
        return None
    assert credential.password == f"{credential.username}-secret"
    return credential.username


HUB = "https://index.docker.io/v1/"


@pytest.mark.parametrize(
    ("keys", "host", "repository", "expected"),
    [
        (["registry.example"], "registry.example", None, "registry.example"),
        (["registry.example"], "REGISTRY.example", "a/b", "registry.example"),
        # Ports make another registry.
        (["registry.example:5000"], "registry.example", None, None),
        (["registry.example"], "registry.example:5000", None, None),
        (["registry.example", "registry.example:5000"], "registry.example:5000", None, "registry.example:5000"),
        # Hosts are equal or they are not.
        (["example"], "registry.example", None, None),
        (["registry.example"], "registry.example.org", None, None),
        (["registry.example"], "my-registry.example", None, None),
        # URLs, as old files have them.
        (["https://registry.example"], "registry.example", None, "https://registry.example"),
        (["https://registry.example/v1/"], "registry.example", "a", "https://registry.example/v1/"),
        (["http://registry.example/v2/"], "registry.example", "a", "http://registry.example/v2/"),
        (["https://registry.example:5000/v2"], "registry.example", "a", None),
        # Docker Hub has many names.
        ([HUB], "docker.io", "library/a", HUB),
        (["index.docker.io"], "docker.io", None, "index.docker.io"),
        (["docker.io"], "docker.io", None, "docker.io"),
        (["registry-1.docker.io"], "docker.io", None, "registry-1.docker.io"),
        ([HUB], "registry.example", "library/a", None),
        (["registry.example"], "docker.io", None, None),
        (["hub.docker.io"], "docker.io", None, None),
        # Paths: the longest that fits, and never for what it does not cover.
        (["r.io", "r.io/a", "r.io/a/b"], "r.io", "a/b", "r.io/a/b"),
        (["r.io", "r.io/a", "r.io/a/b"], "r.io", "a/b/c", "r.io/a/b"),
        (["r.io", "r.io/a", "r.io/a/b"], "r.io", "a/x", "r.io/a"),
        (["r.io", "r.io/a", "r.io/a/b"], "r.io", "ab", "r.io"),
        (["r.io", "r.io/a", "r.io/a/b"], "r.io", None, "r.io"),
        (["r.io/a/b"], "r.io", "a", None),
        (["r.io/a/b"], "r.io", "a/bc", None),
        (["r.io/a/b"], "r.io", "x", None),
        (["r.io/a/b"], "r.io", None, None),
        (["docker.io/library"], "docker.io", "library/a", "docker.io/library"),
        (["docker.io/library"], "docker.io", "other/a", None),
    ],
)
def test_threat_30_whose_key_is_whose(
    tmp_path: Path, keys: list[str], host: str, repository: str | None, expected: str | None
) -> None:
    path = tmp_path / "auth.json"
    # The user is called as the key, so that it shows which entry was taken.
    auths = {key: {"username": key, "password": f"{key}-secret"} for key in keys}
    path.write_text(json.dumps({"auths": auths}))
    assert found(path, host, repository) == expected


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({}, None),
        ({"auths": {}}, None),
        ({"auths": {"r.io": {}}}, None),
        ({"auths": None, "credsStore": "", "credHelpers": None}, None),
        (
            {"auths": {"r.io": {"auth": base64.b64encode(b"u:p:with:colons").decode()}}},
            Credential("u", "p:with:colons"),
        ),
        ({"auths": {"r.io": {"auth": base64.b64encode("ü:pässwörd".encode()).decode()}}}, Credential("ü", "pässwörd")),
        # Without padding, and in the alphabet of URLs.
        ({"auths": {"r.io": {"auth": base64.b64encode(b"u:pw12").decode().rstrip("=")}}}, Credential("u", "pw12")),
        (
            {"auths": {"r.io": {"auth": base64.urlsafe_b64encode("u:\xff\xfe~?".encode()).decode()}}},
            Credential("u", "\xff\xfe~?"),
        ),
        ({"auths": {"r.io": {"auth": base64.b64encode(b"u:p\0\0").decode()}}}, Credential("u", "p")),
        ({"auths": {"r.io": {"username": "u", "password": "p"}}}, Credential("u", "p")),
        (
            {"auths": {"r.io": {"auth": base64.b64encode(b"<token>:").decode(), "identitytoken": "t"}}},
            Credential("<token>", "", "t"),
        ),
        ({"auths": {"r.io": {"auth": base64.b64encode(b"u:" + b"p" * 5000).decode()}}}, Credential("u", "p" * 5000)),
    ],
)
def test_entries(tmp_path: Path, content: Any, expected: Credential | None) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(content))
    assert CredentialKeeper("r.io", None, quick(auth_file=path)).get() == expected


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"{", "it is not JSON"),
        (b'{"auths":' + b"[" * 100_000, "it is not JSON"),
        (b"[]", "it is not a JSON object"),
        (b'{"auths":{"r.io":{"auth":"!"}}}', "the entry r.io of .* cannot be decoded; log in again"),
        (b'{"auths":{"r.io":{"auth":"c2VjcmV0"}}}', "the entry r.io of .* holds no password; log in again"),
        (b'{"auths":{"r.io":{"auth":5}}}', "the entry r.io of .* cannot be decoded; log in again"),
    ],
)
def test_damaged_files(tmp_path: Path, raw: bytes, message: str) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(raw)
    with pytest.raises(FileError, match=message) as caught:
        CredentialKeeper("r.io", None, quick(auth_file=path)).get()
    assert str(path) in str(caught.value)
    assert "secret" not in str(caught.value)
    # It stands in nobody else's way.
    if b"r.io" in raw:
        assert CredentialKeeper("other.io", None, quick(auth_file=path)).get() is None


def test_the_places_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, docker, runtime, config = (tmp_path / name for name in ("home", "docker", "run", "config"))
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("DOCKER_CONFIG", str(docker))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(config))
    places = {
        "auth-file": tmp_path / "auth.json",
        "docker": docker / "config.json",
        "runtime": runtime / "containers/auth.json",
        "config": config / "containers/auth.json",
        "home": home / ".docker/config.json",
    }
    for name, path in places.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"auths": {"r.io": entry(name)}}))

    def looked_up() -> str | None:
        credential = CredentialKeeper("r.io", None, quick()).get()
        return credential.username if credential else None

    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(places["auth-file"]))
    assert looked_up() == "auth-file"
    # It alone counts when it is set.
    places["auth-file"].write_text("{}")
    assert looked_up() is None
    monkeypatch.delenv("REGISTRY_AUTH_FILE")
    for name in ("docker", "runtime", "config", "home"):
        assert looked_up() == name
        places[name].unlink()
    assert looked_up() is None
    # The caller's word wins over all.
    given = quick(credentials={"r.io": Credential("given")})
    assert CredentialKeeper("r.io", None, given).get() == Credential("given")
    assert CredentialKeeper("r.io", None, quick(credentials=given.credentials, anonymous=True)).get() is None


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], dict[str, str]]:
    """A helper `docker-credential-folder` that keeps secrets in a folder; returns what it keeps."""
    kept = tmp_path / "kept"
    kept.mkdir()
    script = f"""
        name() {{ printf %s "$1" | sed 's/[^a-z0-9.]/_/g'; }}
        case $1 in
        store)
            cat >{kept}/new
            mv {kept}/new {kept}/$(name "$(sed 's/.*"ServerURL": "\\([^"]*\\)".*/\\1/' {kept}/new)") ;;
        get) file={kept}/$(name "$(cat)")
            [ -f "$file" ] && cat "$file" || {{ echo "credentials not found in native keychain"; exit 1; }} ;;
        erase) rm {kept}/$(name "$(cat)") ;;
        esac
    """
    write_helper(tmp_path / "bin", "folder", script, monkeypatch)
    return lambda: {file.name: file.read_text() for file in sorted(kept.iterdir())}


@pytest.mark.parametrize(
    ("config", "host", "key"),
    [
        ({"credsStore": "folder"}, "r.io:5000", "r.io_5000"),
        ({"credsStore": "folder"}, "docker.io", "https___index.docker.io_v1_"),
        ({"credHelpers": {"r.io": "folder"}}, "r.io", "r.io"),
        ({"credHelpers": {HUB: "folder"}}, "docker.io", "https___index.docker.io_v1_"),
        ({"credHelpers": {"docker.io": "folder"}}, "docker.io", "https___index.docker.io_v1_"),
    ],
)
def test_helpers_keep_what_they_are_given(
    tmp_path: Path, helper: Callable[[], dict[str, str]], config: Any, host: str, key: str
) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    options = quick(auth_file=path)
    assert CredentialKeeper(host, None, options).get() is None
    assert remember(host, Credential("u", 'p"w\\'), options) == "docker-credential-folder"
    assert list(helper()) == [key]
    assert CredentialKeeper(host, "any/repository", options).get() == Credential("u", 'p"w\\')
    assert CredentialKeeper("other.io", None, options).get() is None
    assert json.loads(path.read_text()) == config
    assert forget(host, options) == ["docker-credential-folder"]
    assert helper() == {}
    assert forget(host, options) == []


def test_a_helper_for_the_host_comes_before_the_one_for_all_and_both_before_the_file(
    tmp_path: Path, helper: Callable[[], dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "config.json"
    answer = '{"ServerURL":"x","Username":"special","Secret":"special-secret"}'
    write_helper(tmp_path / "bin", "special", f"echo '{answer}'", monkeypatch)
    auths = {"r.io": entry("file"), "other.io": entry("file")}
    path.write_text(json.dumps({"credsStore": "folder", "credHelpers": {"r.io": "special"}, "auths": auths}))
    assert found(path, "r.io") == "special"
    # The helper for all knows nothing: the file does.
    assert found(path, "other.io") == "file"
    remember("other.io", Credential("store", "store-secret"), quick(auth_file=path))
    assert found(path, "other.io") == "store"
    (tmp_path / "kept/r.io").write_text('{"Username": "store", "Secret": "store-secret"}')
    assert found(path, "r.io") == "special"
    assert list(helper()) == ["other.io", "r.io"]


def test_a_helper_for_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = tmp_path / "asked"
    for name in ("host", "team"):
        answer = json.dumps({"Username": name, "Secret": f"{name}-secret"})
        write_helper(tmp_path / "bin", name, f"cat >>{asked}; echo >>{asked}; echo '{answer}'", monkeypatch)
    path = tmp_path / "auth.json"
    path.write_text(json.dumps({"credHelpers": {"r.io": "host", "r.io/team": "team"}}))
    repositories = ["team/a", "team", "teamwork/a", None]
    assert [found(path, "r.io", repository) for repository in repositories] == ["team", "team", "host", "host"]
    assert asked.read_text() == "r.io/team\nr.io/team\nr.io\nr.io\n"


def test_identity_tokens_of_helpers(tmp_path: Path, helper: Callable[[], dict[str, str]]) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"credsStore": "folder"}')
    options = quick(auth_file=path)
    remember("r.io", Credential(identity_token="refresh"), options)
    assert json.loads(helper()["r.io"]) == {"ServerURL": "r.io", "Username": "<token>", "Secret": "refresh"}
    assert CredentialKeeper("r.io", None, options).get() == Credential(identity_token="refresh")


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo hunter2; exit 3", "docker-credential-bad failed: exit status 3; it was asked to get a credential"),
        ("echo hunter2", "the answer of docker-credential-bad is not a credential"),
        ("head -c 60000 /dev/zero | tr '\\0' '['", "the answer of docker-credential-bad is not a credential"),
        ('echo \'{"Username": "hunter2"}\'', "the answer of docker-credential-bad is not a credential"),
        ("yes hunter2", "docker-credential-bad answered with more than 65536 bytes"),
        ("kill -9 $$", "docker-credential-bad failed: killed by SIGKILL"),
    ],
)
def test_helpers_that_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, message: str) -> None:
    write_helper(tmp_path / "bin", "bad", script, monkeypatch)
    path = tmp_path / "config.json"
    path.write_text('{"credsStore": "bad"}')
    with pytest.raises(AuthenticationError, match=message) as caught:
        CredentialKeeper("r.io", None, quick(auth_file=path)).get()
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("key", ["credsStore", "credHelpers"])
def test_a_helper_that_is_not_installed(tmp_path: Path, caplog: pytest.LogCaptureFixture, key: str) -> None:
    """What is public is pulled; who is asked for a password learns which helper is missing."""
    caplog.set_level("INFO")
    with serve_faulty() as server:
        path = tmp_path / "config.json"
        helper: Any = "absent" if key == "credsStore" else {server.host: "absent"}
        path.write_text(json.dumps({key: helper}))
        options = quick(auth_file=path)
        assert CredentialKeeper(server.host, None, options).get() is None
        assert "docker-credential-absent is not installed" in caplog.text
        image = random_image(10)
        name = server.put(image, "a:1")
        assert pull(name, options) == [image.layers[0].blob]
        server.script = lambda request: Answer(401, {"WWW-Authenticate": "Basic"})
        with pytest.raises(AuthenticationError, match="asks for a password; install docker-credential-absent"):
            pull(name, options)
        with pytest.raises(AuthenticationError, match="not installed"):
            remember(server.host, Credential("me", "secret"), options)


def run(
    arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, stdin: str = ""
) -> tuple[int, str, str]:
    """Runs the command line; exit status, standard output, standard error."""
    import io

    monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
    status = main(arguments)
    seen = capsys.readouterr()
    return status, seen.out, seen.err


@pytest.mark.tools
def test_login_and_logout(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "docker/config.json"
    config.parent.mkdir()
    config.write_text('{"auths": {"other.io": {"auth": "dTpw"}}, "proxies": {"default": {}}}')
    config.chmod(0o644)
    monkeypatch.setenv("DOCKER_CONFIG", str(config.parent))
    with serve_registry(tmp_path / "registry", user=("someone", "pass word")) as registry:
        host = registry.host
        name = registry.put(random_image(), "login:1")

        status, _, told = run(["login", host, "-u", "someone", "--password-stdin"], capsys, monkeypatch, "wrong\n")
        assert (status, told.count("\n")) == (1, 1)
        assert told.startswith(
            f"ocifast: error: {host}: the user name and password are refused: it answered 401; check"
        )
        assert "wrong" not in told
        assert json.loads(config.read_text())["auths"].keys() == {"other.io"}

        status, out, _ = run(["login", host, "-u", "someone", "--password-stdin"], capsys, monkeypatch, "pass word\r\n")
        assert (status, out) == (0, f"logged in to {host} as someone; kept in {config}\n")
        assert json.loads(config.read_text()) == {
            "auths": {
                "other.io": {"auth": "dTpw"},
                host: {"auth": base64.b64encode(b"someone:pass word").decode()},
            },
            "proxies": {"default": {}},
        }
        assert stat.S_IMODE(config.stat().st_mode) == 0o600
        assert [path.name for path in config.parent.iterdir()] == ["config.json"]
        assert len(pull(name)) == 1
        # skopeo reads the same file.
        from tests.support.run import run as run_tool

        run_tool(
            "skopeo", "inspect", "--tls-verify=false", f"docker://{name}", env={"DOCKER_CONFIG": str(config.parent)}
        )

        status, out, _ = run(["logout", host], capsys, monkeypatch)
        assert (status, out) == (0, f"logged out of {host}: {config}\n")
        assert json.loads(config.read_text())["auths"].keys() == {"other.io"}
        status, _, told = run(["logout", host], capsys, monkeypatch)
        assert (status, told) == (1, f"ocifast: error: not logged in to {host}\n")


def test_login_without_a_file_yet_and_as_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "new/folder/auth.json"
    with serve_faulty() as server:
        server.script = lambda request: (
            None if "authorization" in request.headers else Answer(401, {"WWW-Authenticate": "Basic"})
        )
        arguments = [
            "login",
            f"https://{server.host}/v2/",
            "-u",
            "u",
            "--password-stdin",
            "--auth-file",
            str(path),
            "--json",
        ]
        status, out, _ = run(arguments, capsys, monkeypatch, "p")
    assert (status, json.loads(out)) == (
        0,
        {"host": server.host, "username": "u", "stored": str(path), "checked": True},
    )
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert server.lines == ["GET /v2/"] * 2


def test_a_login_that_nobody_checks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "auth.json"
    with serve_faulty() as server:
        words = ["login", server.host, "-u", "me", "--password-stdin", "--auth-file", str(path)]
        told = f"kept in {path} for {server.host}, but not checked: it let us in without a password\n"
        assert run(words, capsys, monkeypatch, "any\n") == (0, told, "")
        status, out, _ = run([*words, "--json"], capsys, monkeypatch, "any\n")
    assert (status, json.loads(out)) == (
        0,
        {"host": server.host, "username": "me", "stored": str(path), "checked": False},
    )


def test_a_login_to_what_is_no_registry(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "auth.json"
    page = Answer(200, {"Content-Type": "text/html; charset=utf-8"}, b"<html>Welcome</html>")
    with serve_faulty(lambda request: page) as server:
        words = ["login", server.host, "-u", "me", "--password-stdin", "--auth-file", str(path)]
        told = f"ocifast: error: {server.host} is no registry: it answers with a page; check its name and port\n"
        assert run(words, capsys, monkeypatch, "any\n") == (1, "", told)
        assert server.lines == ["GET /v2/"]
    assert not path.exists()


def test_login_keeps_a_link(tmp_path: Path) -> None:
    """Dotfiles are often links; what they name is replaced and not the link."""
    real, link = tmp_path / "dotfiles/config.json", tmp_path / "config.json"
    real.parent.mkdir()
    real.write_text("{}")
    link.symlink_to(real)
    remember("r.io", Credential("u", "p"), quick(auth_file=link))
    assert link.is_symlink()
    assert json.loads(real.read_text()) == {"auths": {"r.io": {"auth": "dTpw"}}}


def test_logins_at_the_same_time(tmp_path: Path) -> None:
    options = quick(auth_file=tmp_path / "new" / "auth.json")
    hosts = sorted(f"r{number}.io" for number in range(40))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda host: remember(host, Credential("u", "p"), options), hosts))
    assert options.auth_file is not None
    assert sorted(json.loads(options.auth_file.read_bytes())["auths"]) == hosts
    assert [path.name for path in options.auth_file.parent.iterdir()] == ["auth.json"]


def test_an_identity_token_in_a_file(tmp_path: Path) -> None:
    options = quick(auth_file=tmp_path / "config.json")
    remember("r.io", Credential("u", "", "refresh"), options)
    assert json.loads((tmp_path / "config.json").read_text()) == {
        "auths": {"r.io": {"auth": "dTo=", "identitytoken": "refresh"}}
    }
    assert CredentialKeeper("r.io", None, options).get() == Credential("u", "", "refresh")


def test_login_to_docker_hub_uses_the_key_of_docker(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"auths": {"docker.io": entry("old"), "index.docker.io": entry("older")}}))
    remember("docker.io", Credential("u", "p"), quick(auth_file=path))
    assert json.loads(path.read_text()) == {"auths": {HUB: {"auth": "dTpw"}}}


@pytest.mark.parametrize(
    ("arguments", "stdin", "message"),
    [
        (["login", "r.io"], "", "name the user with --username"),
        (["login", "r.io", "-u", "u"], "", "standard input holds no password; write it there, or log in first"),
        (["login", "r.io", "-u", "u"], "x" * 70_000, "standard input holds no password but something else; log in"),
        (["login", "r.io", "-u", "u"], "x\0y", "standard input holds no password but something else; log in"),
        (["login", "r.io", "-u", "u", "--password-stdin"], "\n", "standard input holds no password"),
        (["login", "r.io/a/b", "-u", "u", "--password-stdin"], "p", "'r.io/a/b' is not a registry's host"),
        (["login", "no host", "-u", "u", "--password-stdin"], "p", "'no host' is not a registry's host"),
        (["logout", ""], "", "'' is not a registry's host"),
        (["tags", "r.io/a", "--password-stdin"], "p", "--password-stdin needs --username"),
    ],
)
def test_what_login_needs(
    arguments: list[str], stdin: str, message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    status, out, told = run(arguments, capsys, monkeypatch, stdin)
    assert (status, out) == (1, "")
    assert told.startswith(f"ocifast: error: {message}")
    assert told.count("\n") == 1
