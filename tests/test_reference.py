"""References and locations: the grammar, and what is said about what breaks it."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ocifast.errors import ImageReferenceError
from ocifast.reference import Location, Reference
from ocifast.sources.open import parse_location

DIGEST = "sha256:" + "0123456789abcdef" * 4
LONG_DIGEST = "sha512:" + "0123456789abcdef" * 8

# text: host, repository, tag, digest, in full
VALID = {
    "alpine": ("docker.io", "library/alpine", None, None, "docker.io/library/alpine:latest"),
    "alpine:3.20": ("docker.io", "library/alpine", "3.20", None, "docker.io/library/alpine:3.20"),
    "docker.io/alpine": ("docker.io", "library/alpine", None, None, "docker.io/library/alpine:latest"),
    "index.docker.io/library/alpine": ("docker.io", "library/alpine", None, None, "docker.io/library/alpine:latest"),
    "me/app": ("docker.io", "me/app", None, None, "docker.io/me/app:latest"),
    "ghcr.io/org/app:1.2": ("ghcr.io", "org/app", "1.2", None, "ghcr.io/org/app:1.2"),
    "localhost/app": ("localhost", "app", None, None, "localhost/app:latest"),
    "localhost:5000/app:v1": ("localhost:5000", "app", "v1", None, "localhost:5000/app:v1"),
    "127.0.0.1:5000/a/b/c/d": ("127.0.0.1:5000", "a/b/c/d", None, None, "127.0.0.1:5000/a/b/c/d:latest"),
    "[::1]:5000/app": ("[::1]:5000", "app", None, None, "[::1]:5000/app:latest"),
    "Registry/app": ("Registry", "app", None, None, "Registry/app:latest"),
    "host-a.b-c.example/x__y/z--w.v_u": (
        "host-a.b-c.example",
        "x__y/z--w.v_u",
        None,
        None,
        "host-a.b-c.example/x__y/z--w.v_u:latest",
    ),
    f"alpine@{DIGEST}": ("docker.io", "library/alpine", None, DIGEST, f"docker.io/library/alpine@{DIGEST}"),
    f"r.io/a:t@{DIGEST}": ("r.io", "a", "t", DIGEST, f"r.io/a:t@{DIGEST}"),
    f"r.io/a@{LONG_DIGEST}": ("r.io", "a", None, LONG_DIGEST, f"r.io/a@{LONG_DIGEST}"),
    "r.io/a:" + "T" * 128: ("r.io", "a", "T" * 128, None, "r.io/a:" + "T" * 128),
    "r.io/" + "a" * 255: ("r.io", "a" * 255, None, None, "r.io/" + "a" * 255 + ":latest"),
    "0" * 63: ("docker.io", "library/" + "0" * 63, None, None, "docker.io/library/" + "0" * 63 + ":latest"),
}


@pytest.mark.parametrize("text", VALID)
def test_valid_references(text: str) -> None:
    found = Reference.parse(text)
    assert (found.host, found.repository, found.tag, found.digest, str(found)) == VALID[text]


INVALID = {
    "": "the repository's name is missing",
    "r.io/": "the repository's name is missing",
    "/app": "'/app' is not a repository's name",
    "r.io//app": "'/app' is not a repository's name",
    "r.io/App": "'App' is not a repository's name; names are written in lower case",
    "Alpine": "'library/Alpine' is not a repository's name; names are written in lower case",
    "r.io/a..b": "'a..b' is not a repository's name",
    "r.io/a/../b": "'a/../b' is not a repository's name",
    "r.io/a___b": "'a___b' is not a repository's name",
    "r.io/-a": "'-a' is not a repository's name",
    "r.io/a b": "'a b' is not a repository's name",
    "r.io/a\n": "'a\\n' is not a repository's name",
    "r.io/ä": "'ä' is not a repository's name",
    "r.io/a:": "'' is not a tag: 1 to 128 letters, digits, '_', '.' and '-'",
    "r.io/a:.t": "'.t' is not a tag: 1 to 128 letters, digits, '_', '.' and '-'",
    "r.io/a:t/u": "'t/u' is not a tag: 1 to 128 letters, digits, '_', '.' and '-'",
    "r.io/a:" + "t" * 129: f"'{'t' * 129}' is not a tag: 1 to 128 letters, digits, '_', '.' and '-'",
    "r.io/" + "a" * 256: "the repository's name is longer than 255 bytes",
    "r_x.io/a": "'r_x.io' is not a host name",
    "r.io:70000/a": "there is no port 70000",
    "r.io:x/a": "'r.io:x' is not a host name",
    "user:pass@r.io/a": '"r.io/a" is not a sha256 or sha512 digest',
    "r.io/a@": '"" is not a sha256 or sha512 digest',
    "r.io/a@sha256:abc": '"sha256:abc" is not a sha256 or sha512 digest',
    f"r.io/a@{DIGEST.upper()}": f'"{DIGEST.upper()}" is not a sha256 or sha512 digest',
    "r.io/a@sha256:../../etc/passwd": '"sha256:../../etc/passwd" is not a sha256 or sha512 digest',
    "0" * 64: "64 hexadecimal digits are an image ID, not a name; write NAME@sha256:DIGITS",
}


@pytest.mark.parametrize("text", INVALID)
def test_invalid_references(text: str) -> None:
    with pytest.raises(ImageReferenceError) as caught:
        Reference.parse(text)
    shown = repr(text if len(text) <= 150 else text[:150] + "…")
    assert caught.value.message == f"{shown} is not an image reference: {INVALID[text]}"
    assert caught.value.context == {"reference": text}


def test_parts_of_a_reference() -> None:
    hub = Reference.parse("alpine")
    assert (hub.registry, hub.name, hub.identifier) == ("registry-1.docker.io", "docker.io/library/alpine", "latest")
    other = Reference.parse(f"localhost:5000/a/b:t@{DIGEST}")
    assert (other.registry, other.name, other.identifier) == ("localhost:5000", "localhost:5000/a/b", DIGEST)
    assert Reference.parse("r.io/a:t").identifier == "t"


HOSTS = st.from_regex(r"[a-z][a-z0-9]{0,8}\.[a-z]{2,5}(:[1-9][0-9]{0,3})?", fullmatch=True)
PATHS = st.from_regex(r"[a-z0-9]+([._-][a-z0-9]+){0,2}(/[a-z0-9]+){0,3}", fullmatch=True)
TAGS = st.none() | st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}", fullmatch=True)


@given(HOSTS, PATHS, TAGS, st.sampled_from([None, DIGEST, LONG_DIGEST]))
def test_what_is_written_is_read_again(host: str, path: str, tag: str | None, digest: str | None) -> None:
    written = Reference(host, path, tag, digest)
    assert Reference.parse(str(written)) == Reference(host, path, tag or (None if digest else "latest"), digest)


@given(st.text(max_size=60))
def test_any_text_is_a_reference_or_refused_as_one(text: str) -> None:
    with contextlib.suppress(ImageReferenceError):
        found = Reference.parse(text)
        assert str(Reference.parse(str(found))) == str(found)


ALPINE = Reference("docker.io", "library/alpine", "3")
LOCATIONS = {
    "docker://alpine:3": Location("", "docker", reference=ALPINE, is_remote=True),
    "alpine:3": Location("", "docker", reference=ALPINE, is_remote=True),
    "oci:dir": Location("", "oci", path=Path("dir")),
    "oci:/a/b:t": Location("", "oci", path=Path("/a/b"), tag="t"),
    "oci:dir:docker.io/library/alpine:3": Location("", "oci", path=Path("dir"), tag="docker.io/library/alpine:3"),
    f"oci:dir@{DIGEST}": Location("", "oci", path=Path("dir"), digest=DIGEST),
    f"oci:dir:t@{DIGEST}": Location("", "oci", path=Path("dir"), tag="t", digest=DIGEST),
    "tar:a:b@c": Location("", "tar", path=Path("a:b@c")),
    "oci:a@b": Location("", "oci", path=Path("a@b")),
    "oci-archive:f.tar": Location("", "oci-archive", path=Path("f.tar")),
    "oci-archive:f.tar:": Location("", "oci-archive", path=Path("f.tar")),
    "oci-archive:f.tar:t": Location("", "oci-archive", path=Path("f.tar"), tag="t"),
    "docker-archive:f.tar": Location("", "docker-archive", path=Path("f.tar")),
    "docker-archive:f.tar:alpine:3": Location("", "docker-archive", path=Path("f.tar"), reference=ALPINE),
    "docker-archive:f.tar:@2": Location("", "docker-archive", path=Path("f.tar"), position=2),
}


@pytest.mark.parametrize("text", LOCATIONS)
def test_locations(text: str) -> None:
    found = parse_location(text)
    expected = LOCATIONS[text]
    assert found == Location(text, *[getattr(expected, name) for name in list(expected.__dataclass_fields__)[1:]])
    assert str(found) == text


PREFIXES = "docker://, oci:, oci-archive:, docker-archive:, docker-daemon:, containers-storage:, tar: or dir:"

BAD_LOCATIONS = {
    "": "nothing is written there",
    "docker://": "the repository's name is missing",
    "docker:alpine": "write docker://HOST/NAME[:TAG]",
    "oci:": "the path is missing; write oci:PATH[:TAG]",
    "oci::tag": "the path is missing; write oci:PATH[:TAG]",
    "oci:dir@sha256:00": '"sha256:00" is not a sha256 or sha512 digest',
    "docker-archive:": "the path is missing; write docker-archive:FILE[:NAME[:TAG]]",
    "docker-archive:f:@x": "'@x' is not the number of an image; write @0 for the first one",
    f"docker-archive:f:a@{DIGEST}": "a Docker archive has no digests; write docker-archive:FILE:NAME:TAG",
    "ostree:alpine": f"ostree: is not supported; use {PREFIXES}",
    "tar:": "the path is missing; write tar:PATH",
    "https://ghcr.io/a": f"https: is not supported; use {PREFIXES}",
    "./nothing": "a file on disk is written oci-archive:./nothing, docker-archive:./nothing or tar:./nothing",
    "image.tar": "a file on disk is written oci-archive:image.tar, docker-archive:image.tar or tar:image.tar",
    "layout": "it is a folder with oci-layout: write oci:layout",
    "./layout": "it is a folder with oci-layout: write oci:./layout",
    "./folder": "a folder on disk is written oci:./folder or dir:./folder",
}


@pytest.mark.parametrize("text", BAD_LOCATIONS)
def test_bad_locations(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("image.tar").touch()
    Path("folder").mkdir()
    Path("layout").mkdir()
    Path("layout/oci-layout").touch()
    with pytest.raises(ImageReferenceError) as caught:
        parse_location(text)
    assert caught.value.message == f"{text!r} is not an image reference: {BAD_LOCATIONS[text]}"


def test_a_repository_may_be_called_like_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("alpine").mkdir()
    assert parse_location("alpine").reference == Reference("docker.io", "library/alpine")
