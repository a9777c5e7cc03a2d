"""Published failures of registry clients, by their numbers in the list of threats: credentials, helpers and logs."""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest
from ocifast.errors import AuthenticationError, OcifastError, UsageError
from ocifast.sources.registry import Credential, RegistryOptions, RegistrySource
from ocifast.sources.registry.credentials import CredentialKeeper
from ocifast.sources.registry.redaction import redact

from tests.support.faulty import Answer, FaultyRegistry, Request, error, serve_faulty
from tests.support.pulls import fetch, layers_of, opened, pull, quick, random_image, write_helper
from tests.support.tokens import serve_tokens

SECRET = "swordfish-9f8e7d"
USER = Credential("someone", SECRET)


@pytest.fixture
def server() -> Iterator[FaultyRegistry]:
    with serve_faulty() as running:
        yield running


def keeper_of(config: Path, content: object, **changes: float) -> CredentialKeeper:
    """The credential of registry.example by a file of this content."""
    config.write_text(json.dumps(content))
    return CredentialKeeper("registry.example", None, quick(auth_file=config, **changes))


# 29: configuration that runs commands.


@pytest.mark.parametrize(
    "helper", ["$(touch pwned)", "`touch pwned`", "x; touch pwned", "../bin/evil", "/bin/sh", "a b", "-x"]
)
@pytest.mark.parametrize("place", ["credsStore", "credHelpers"])
def test_threat_29_helpers_are_names_and_nothing_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, helper: str, place: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_helper(tmp_path / "bin", "good", "echo '{}'", monkeypatch)
    keeper = keeper_of(
        tmp_path / "config.json", {place: helper if place == "credsStore" else {"registry.example": helper}}
    )
    with pytest.raises(UsageError, match="is not the name of a credential helper"):
        keeper.get()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bin", "config.json"]


def test_threat_29_values_are_never_evaluated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    answer = '{"Username":"$(touch pwned)","Secret":"`touch pwned`"}'
    write_helper(tmp_path / "bin", "plain", f"cat <<'END'\n{answer}\nEND", monkeypatch)
    found = keeper_of(tmp_path / "config.json", {"credsStore": "plain"}).get()
    assert found == Credential("$(touch pwned)", "`touch pwned`")
    assert not (tmp_path / "pwned").exists()


def test_threat_29_a_helper_in_the_current_folder_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = write_helper(tmp_path / "bin", "here", "touch pwned", monkeypatch)
    monkeypatch.setenv("PATH", f".:bin::{tmp_path / 'none'}")
    monkeypatch.chdir(program.parent)
    keeper = keeper_of(tmp_path / "config.json", {"credsStore": "here"})
    assert keeper.get() is None
    assert keeper.advice == "install docker-credential-here, which is configured for it"
    assert not (program.parent / "pwned").exists()


def test_threat_29_a_helper_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_helper(tmp_path / "bin", "slow", "exec sleep 60", monkeypatch)
    keeper = keeper_of(tmp_path / "config.json", {"credsStore": "slow"}, helper_timeout=0.3)
    with pytest.raises(AuthenticationError, match=r"docker-credential-slow did not answer within 0\.3 s"):
        keeper.get()


# 30, whose credential is whose, is a table in test_auth_credentials.py. Here: nothing goes to others.


def test_threat_30_other_registries_get_nothing(server: FaultyRegistry) -> None:
    name = server.put(random_image(), "a:1")
    asks = Answer(401, {"WWW-Authenticate": "Basic"})
    server.script = lambda request: None if "authorization" in request.headers else asks
    port = server.host.rpartition(":")[2]
    for other in ("127.0.0.1", "127.0.0.1:1", f"127.0.0.1:{port}0", f"127.0.0.2:{port}", f"localhost:{port}"):
        with pytest.raises(AuthenticationError, match="asks for a password"):
            pull(name, quick(credentials={other: USER}))
    assert [request.headers.get("authorization") for request in server.requests] == [None] * 5
    assert len(pull(name, quick(credentials={server.host: USER}))) == 1


# 31: secrets in messages and logs.


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("https://host/x?X-Amz-Signature=abc&y=1 said no", "https://host/x?… said no"),
        ("https://user:pass@host/x", "https://host/x"),
        ("Authorization: Bearer eyJhbGciOi.x.y", "Authorization: Bearer …"),
        ("Basic c29tZW9uZTpzd29yZGZpc2g=", "Basic …"),
        ("[(b'Location', b'/v2/a/blobs/uploads/1?_state=s3cret')]", "[(b'Location', b'/v2/a/blobs/uploads/1?…')]"),
        ('{"token": "abc", "n": 1}', '{"token": …, "n": 1}'),
        ("nothing to hide", "nothing to hide"),
    ],
)
def test_threat_31_what_is_redacted(text: str, redacted: str) -> None:
    assert redact(text) == redacted


def failure_of(source: RegistrySource) -> list[str]:
    """All that can be seen of the failure of a download, or of the manifest's request."""
    try:
        fetch(source, layers_of(source)[0])
    except OcifastError as caught:
        return [*traceback.format_exception(caught), repr(caught), repr(caught.context)]
    pytest.fail("this should fail")


def test_threat_31_no_secret_in_logs_errors_and_reprs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """All logs at their loudest, a password, tokens, a signed redirect, and failures in every place."""
    signature = "S1GNATURE-0123456789"
    caplog.set_level(logging.DEBUG)
    texts: list[str] = []
    with (
        serve_tokens(tmp_path / "roots.pem", users={"someone": SECRET}) as tokens,
        serve_faulty(address="127.0.0.2") as storage,
        serve_faulty(tokens.guard) as server,
    ):
        image = random_image(300_000)
        blob = image.layers[0].blob
        name = server.put(image, "a:1")
        options = quick(credentials={server.host: USER}, retries=1)
        answers = [
            Answer(200, {}, blob),
            # A fresh redirect is asked for once.
            *[Answer(403, {}, f"<Error><Signature>{signature}</Signature></Error>".encode())] * 2,
            error(500, "BROKEN", f"https://storage/x?sig={signature} failed with Bearer {signature}"),
            error(500, "BROKEN", f"https://storage/x?sig={signature}"),
            Answer(200, {}, blob, cut=10),
            Answer(200, {}, blob, cut=10),
        ]
        left = iter(answers)
        storage.script = lambda request: next(left)
        signed = Answer(307, {"Location": f"{storage.url}/x?X-Signature={signature}"})

        def script(request: Request) -> Answer | None:
            return tokens.guard(request) or (signed if "/blobs/" in request.path else None)

        server.script = script
        with opened(name, options) as source:
            texts.extend([repr(source), repr(source.options), str(vars(source))])
            assert fetch(source, layers_of(source)[0]) == blob
            for _ in range(3):
                texts.extend(failure_of(source))
        assert len(storage.requests) == len(answers)
        tokens.users["someone"] = "changed"
        with opened(name, options) as source:
            texts.extend(failure_of(source))
        issued = list(tokens.issued)
    logged = "\n".join(f"{record.getMessage()} {record.args} {record.msg}" for record in caplog.records)
    assert "HTTP Request: GET" in logged
    assert "receive_response_headers.complete" in logged
    told = logged + "\n".join(texts)
    assert issued
    for secret in (SECRET, signature, *issued):
        assert secret not in told


def test_threat_31_options_show_no_password() -> None:
    options = RegistryOptions(credentials={"registry.example": Credential("someone", SECRET, "refresh-" + SECRET)})
    assert SECRET not in f"{options} {options!r} {options.credentials}"
