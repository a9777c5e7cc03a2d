"""Any text and any bytes where users and servers write them: an answer or one error of ours, never anything else.

`FUZZ_EXAMPLES` says how many of each; without it few are tried, the same ones each time.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from ocifast.errors import OcifastError
from ocifast.platforms import parse as parse_platform
from ocifast.reference import Reference
from ocifast.sources.open import parse_location
from ocifast.sources.registry.challenge import parse_challenges
from ocifast.sources.registry.credential_file import CredentialFile
from ocifast.sources.registry.hosts_file import hosts_for
from ocifast.spec import decode_config, decode_history, decode_index, decode_manifest, parse_document

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "0"))
ANY = settings(
    max_examples=EXAMPLES or 150,
    derandomize=not EXAMPLES,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

DIGEST = "sha256:" + "a" * 64
WORDS = st.sampled_from(
    [
        "docker://",
        "oci:",
        "oci-archive:",
        "tar:",
        "dir:",
        "docker.io",
        "localhost:5000",
        "library",
        "a",
        "A",
        "/",
        ":",
        "@",
        DIGEST,
        "sha256:",
        "..",
        "-",
        "_",
        "__",
        ".",
        "[::1]",
        "%2f",
        "\n",
        "\x00",
        "\u00e9",
        "tag",
        "443",
        " ",
    ]
)
NAMES = st.one_of(st.text(max_size=80), st.lists(WORDS, max_size=8).map("".join))

PIECES = st.sampled_from(
    [
        "Bearer ",
        "Basic ",
        "realm=",
        '"',
        "\\",
        ",",
        "=",
        " ",
        "\t",
        "https://a/token",
        "service=",
        "scope=",
        "x",
        "repository:a/b:pull",
        "error=",
        "==",
        "\u00e9",
        "\r\n",
        "Negotiate YWJj",
        "a" * 300,
    ]
)
HEADERS = st.lists(st.one_of(st.text(max_size=80), st.lists(PIECES, max_size=20).map("".join)), max_size=4)

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20) | st.just(DIGEST),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                [
                    "schemaVersion",
                    "mediaType",
                    "config",
                    "layers",
                    "manifests",
                    "digest",
                    "size",
                    "platform",
                    "os",
                    "architecture",
                    "rootfs",
                    "diff_ids",
                    "history",
                    "created",
                    "annotations",
                    "urls",
                    "artifactType",
                    "auths",
                    "auth",
                    "credHelpers",
                    "credsStore",
                    "identitytoken",
                    "docker.io",
                    "a/b",
                ]
            ),
            inner,
            max_size=6,
        )
    ),
    max_leaves=20,
)
DOCUMENTS = st.one_of(st.binary(max_size=200), VALUES.map(lambda value: json.dumps(value).encode()))

TABLES = st.sampled_from(
    [
        "server = ",
        '"https://a"',
        "\n",
        '[host."https://a:5000/v2"]\n',
        "capabilities = ",
        '["pull"]',
        "skip_verify = true\n",
        "ca = ",
        "client = ",
        '[["a", "b"]]',
        "[host]\n",
        "override_path = 1\n",
        "[",
        "]",
        "=",
        '"',
        "\u00e9",
        "#",
        "0",
    ]
)
FILES = st.one_of(st.binary(max_size=200), st.lists(TABLES, max_size=15).map(lambda parts: "".join(parts).encode()))


def answers(ask: Callable[[], object]) -> object:
    """What comes of a call; None for one of our errors, which has one line."""
    try:
        return ask()
    except OcifastError as error:
        said = error.message
    assert said
    assert "\n" not in said
    return None


@ANY
@given(NAMES)
@example("docker.io/library/a@" + DIGEST)
def test_references(text: str) -> None:
    found = answers(lambda: Reference.parse(text))
    if isinstance(found, Reference):
        # What is left out (`latest`) is written out.
        assert str(Reference.parse(str(found))) == str(found)
    answers(lambda: parse_location(text))


@ANY
@given(NAMES)
def test_platforms(text: str) -> None:
    found = answers(lambda: parse_platform(text))
    if found is not None:
        assert answers(lambda: parse_platform(str(found))) == found


@ANY
@given(HEADERS)
@example(['Bearer realm="https://a/token",service="a",scope="repository:a:pull"'])
def test_challenges(lines: list[str]) -> None:
    for challenge in parse_challenges(lines):
        assert challenge.scheme == challenge.scheme.lower()
        assert all(name == name.lower() for name in challenge.parameters)


@ANY
@given(DOCUMENTS, st.sampled_from([None, "application/vnd.oci.image.manifest.v1+json", "text/html"]))
def test_documents(raw: bytes, media_type: str | None) -> None:
    document = answers(lambda: parse_document(raw, media_type, name="a"))
    if document is not None:
        decode = decode_index if document.is_index else decode_manifest  # type: ignore[attr-defined]
        answers(lambda: decode(document, name="a"))  # type: ignore[arg-type]
    answers(lambda: decode_config(raw, name="a"))
    answers(lambda: decode_history(raw, name="a"))


@ANY
@given(DOCUMENTS)
def test_credential_files(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "config.json").write_bytes(raw)
    found = answers(lambda: CredentialFile.read(tmp_path / "config.json"))
    if isinstance(found, CredentialFile):
        for key in ("docker.io", "a/b", ""):
            answers(lambda key=key: found.credential(key))  # type: ignore[misc]
            answers(lambda key=key: found.helper_for(key))  # type: ignore[misc]


@ANY
@given(FILES)
def test_hosts_files(tmp_path: Path, raw: bytes) -> None:
    folder = tmp_path / "docker.io"
    folder.mkdir(exist_ok=True)
    (folder / "hosts.toml").write_bytes(raw)
    answers(lambda: hosts_for("docker.io", [tmp_path]))


def test_a_fault_would_be_seen() -> None:
    def broken() -> None:
        raise KeyError("not ours")

    with pytest.raises(KeyError):
        answers(broken)
