"""`WWW-Authenticate` is read as RFC 9110 writes it, and as registries do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ocifast.sources.registry.challenge import Challenge, parse_challenges

HUB = {"realm": "https://auth.docker.io/token", "service": "registry.docker.io", "scope": "repository:a/b:pull,push"}


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (
            [
                'Bearer realm="https://auth.docker.io/token",service="registry.docker.io",'
                'scope="repository:a/b:pull,push"'
            ],
            [("bearer", HUB)],
        ),
        (['Basic realm="Registry"'], [("basic", {"realm": "Registry"})]),
        (['BASIC Realm="Registry", charset="UTF-8"'], [("basic", {"realm": "Registry", "charset": "UTF-8"})]),
        # Several challenges on one line, and on several lines.
        (
            ['Basic realm="a, b", Bearer realm="https://c/token" , service="d"'],
            [("basic", {"realm": "a, b"}), ("bearer", {"realm": "https://c/token", "service": "d"})],
        ),
        (["Negotiate", 'Basic realm="x"'], [("negotiate", {}), ("basic", {"realm": "x"})]),
        (['Negotiate, Basic realm="x"'], [("negotiate", {}), ("basic", {"realm": "x"})]),
        (['NTLM TlRMTVNTUAAB==, Basic realm="x"'], [("ntlm", {}), ("basic", {"realm": "x"})]),
        # Escapes, blanks around signs, values without quotes.
        ([r'Basic realm="say \"hi\", \\ you"'], [("basic", {"realm": 'say "hi", \\ you'})]),
        (['Bearer realm = "https://c/t" ,\tservice= d'], [("bearer", {"realm": "https://c/t", "service": "d"})]),
        (["Bearer realm=https://c/t?x=1,service=d"], [("bearer", {"realm": "https://c/t?x=1", "service": "d"})]),
        # The first of equal names counts; an error is only another parameter.
        (
            ['Bearer realm="https://a/",realm="https://b/",error="insufficient_scope"'],
            [("bearer", {"realm": "https://a/", "error": "insufficient_scope"})],
        ),
        (['Bearer realm="https://a/', 'Basic realm="x"'], [("bearer", {}), ("basic", {"realm": "x"})]),
        ([""], []),
        ([",,, "], []),
        (["\x00\x01"], []),
    ],
)
def test_challenges(lines: list[str], expected: list[tuple[str, dict[str, str]]]) -> None:
    assert parse_challenges(lines) == [Challenge(scheme, parameters) for scheme, parameters in expected]


@given(st.lists(st.text(alphabet='Baer=", \\\t/:;xy09', max_size=60), max_size=3))
def test_any_text_is_read_without_failing(lines: list[str]) -> None:
    for challenge in parse_challenges(lines):
        assert challenge.scheme == challenge.scheme.lower() != ""


VALUES = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20)


@given(st.lists(st.tuples(st.sampled_from(["Basic", "Bearer", "Digest"]), VALUES, VALUES), max_size=4))
def test_what_is_written_is_read(challenges: list[tuple[str, str, str]]) -> None:
    def quoted(value: str) -> str:
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'

    line = ", ".join(f"{scheme} realm={quoted(realm)},scope={quoted(scope)}" for scheme, realm, scope in challenges)
    assert parse_challenges([line]) == [
        Challenge(scheme.lower(), {"realm": realm, "scope": scope}) for scheme, realm, scope in challenges
    ]
