"""Policies in the format of containers-policy.json(5): what they allow; what is not understood allows nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ocifast.errors import FileError, PolicyError
from ocifast.reference import Reference
from ocifast.signatures import Verification, check
from ocifast.signatures.identity import IdentityRule, Kind
from ocifast.signatures.policy import Accepting, Refusing, Signed, read_policy
from ocifast.sources.open import open_source, parse_location

from tests.support.faulty import serve_faulty
from tests.support.images import build_image, write_layout
from tests.support.layers import TarBuilder
from tests.support.pulls import QUICK
from tests.support.signing import Signer, bundle, fallback, rsa_key, simple, tag_of

ACCEPT = [{"type": "insecureAcceptAnything"}]
REJECT = [{"type": "reject"}]
DIGEST = "sha256:" + "5" * 64


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    return Signer.make(tmp_path / "keys")


def written(tmp_path: Path, policy: Any) -> str:
    file = tmp_path / "policy.json"
    file.write_text(policy if isinstance(policy, str) else json.dumps(policy))
    return str(file)


def decision(tmp_path: Path, policy: Any, image: str) -> str:
    """What is asked of an image, in one word each."""
    found = read_policy(written(tmp_path, policy)).requirements(parse_location(image))
    words = {Accepting: "accept", Refusing: "reject", Signed: "signed"}
    return " ".join(words[type(each)] for each in found)


SCOPES = [
    ("docker.io/library/busybox:latest", "busybox", "other:1"),
    ("docker.io/library/busybox", "busybox:1.2", "docker.io/library/busybox2"),
    ("docker.io/library", "busybox", "docker.io/lib/busybox"),
    ("docker.io", "org/app", "quay.io/org/app"),
    ("host.example.com:5000", "host.example.com:5000/a/b", "host.example.com/a/b"),
    ("*.example.com", "host.example.com:5000/a/b", "example.com/a"),
    ("*.com", "a.b.com/c", "a.b.org/c"),
    (f"example.com/app@{DIGEST}", f"example.com/app@{DIGEST}", "example.com/app"),
    ("example.com/app:1", "example.com/app:1", "example.com/app:2"),
]


@pytest.mark.parametrize(("scope", "within", "outside"), SCOPES)
def test_scopes_of_registries(tmp_path: Path, scope: str, within: str, outside: str) -> None:
    policy = {"default": REJECT, "transports": {"docker": {scope: ACCEPT}}}
    assert decision(tmp_path, policy, within) == "accept"
    assert decision(tmp_path, policy, outside) == "reject"


def test_the_most_specific_scope_counts_alone(tmp_path: Path) -> None:
    scopes = {"": REJECT, "docker.io": ACCEPT, "docker.io/org": REJECT, "docker.io/org/app": ACCEPT}
    policy = {"default": REJECT, "transports": {"docker": scopes}}
    assert decision(tmp_path, policy, "docker.io/org/app:1") == "accept"
    assert decision(tmp_path, policy, "docker.io/org/other") == "reject"
    assert decision(tmp_path, policy, "docker.io/x/y") == "accept"
    assert decision(tmp_path, policy, "quay.io/x/y") == "reject"
    both = {"default": ACCEPT, "transports": {"docker": {"": REJECT}}}
    assert decision(tmp_path, both, "quay.io/x/y") == "reject"
    assert decision(tmp_path, both, "oci:x") == "accept"


def test_scopes_of_places_on_disk(tmp_path: Path) -> None:
    inner = tmp_path / "a/b"
    inner.mkdir(parents=True)
    (tmp_path / "link").symlink_to(inner)
    policy = {"default": REJECT, "transports": {"oci": {str(tmp_path / "a"): ACCEPT}, "dir": {"": ACCEPT}}}
    assert decision(tmp_path, policy, f"oci:{inner}:tag") == "accept"
    assert decision(tmp_path, policy, f"oci:{tmp_path}/link") == "accept"
    assert decision(tmp_path, policy, f"oci:{tmp_path}/ab") == "reject"
    assert decision(tmp_path, policy, f"oci-archive:{inner}") == "reject"
    assert decision(tmp_path, policy, f"dir:{inner}") == "accept"
    store = {"default": ACCEPT, "transports": {"containers-storage": {"[/x]": REJECT}}}
    assert decision(tmp_path, store, "containers-storage:app") == "reject"


def test_all_requirements_must_be_met(tmp_path: Path, signer: Signer) -> None:
    signed = {"type": "sigstoreSigned", "keyPath": str(signer.file)}
    policy = {"default": [*ACCEPT, signed, *REJECT]}
    assert decision(tmp_path, policy, "org/app") == "accept signed reject"
    location = parse_location(f"oci:{write_layout(tmp_path / 'l', build_image([TarBuilder()]))}")
    verify = Verification(policy=written(tmp_path, {"default": [*ACCEPT, *REJECT]}))
    with pytest.raises(PolicyError, match="rejects it"):
        check(verify, location, open_source(location), [])


UNKNOWN = [
    ("{", "is not understood"),
    ("[]", "the policy is no object"),
    ({}, "has no field 'default'"),
    ({"default": []}, "default is no list of requirements"),
    ({"default": [7]}, "no object"),
    ({"default": [{"type": "signedByNobody"}]}, "unknown type 'signedByNobody'"),
    ({"default": [{"type": "reject", "more": 1}]}, "unknown field 'more'"),
    ({"default": ACCEPT, "more": {}}, "unknown field 'more'"),
    ('{"default":[{"type":"reject"}],"default":[{"type":"insecureAcceptAnything"}]}', "a key stands twice"),
    ('{"default":[{"type":"reject","type":"insecureAcceptAnything"}]}', "a key stands twice"),
    ({"default": ACCEPT, "transports": {"docker": {"x": [{"type": "?"}]}}}, "docker 'x' asks for the unknown type"),
    ({"default": ACCEPT, "transports": {"docker": []}}, "docker is no object"),
    ({"default": [{"type": "sigstoreSigned"}]}, "must have one of keyPath"),
    ({"default": [{"type": "sigstoreSigned", "keyPath": "a", "keyData": "b"}]}, "must have one of keyPath"),
    ({"default": [{"type": "sigstoreSigned", "keyPaths": "a"}]}, "not a list of texts"),
    ({"default": [{"type": "sigstoreSigned", "keyPaths": [1]}]}, "not a list of texts"),
    ({"default": [{"type": "sigstoreSigned", "keyPath": ""}]}, "not a text"),
    ({"default": [{"type": "sigstoreSigned", "keyData": "%"}]}, "no base64"),
    ({"default": [{"type": "sigstoreSigned", "keyRing": "a"}]}, "unknown field 'keyRing'"),
]
IDENTITIES = [
    (7, "unknown type"),
    ({"type": "matchAnything"}, "unknown type 'matchAnything'"),
    ({"type": "matchExact", "more": 1}, "unknown field 'more'"),
    ({"type": "exactReference"}, "has no field 'dockerReference'"),
    ({"type": "exactReference", "dockerReference": "org/app"}, "neither tag nor digest"),
    ({"type": "exactReference", "dockerReference": "UPPER"}, "not a repository"),
    ({"type": "exactRepository", "dockerRepository": "org/app:1"}, "has a tag or a digest"),
    ({"type": "remapIdentity", "prefix": "a"}, "has no field 'signedPrefix'"),
    ({"type": "remapIdentity", "prefix": "a/b:1", "signedPrefix": "c"}, "no prefix of repositories"),
]


@pytest.mark.parametrize(
    ("policy", "says"),
    [
        *UNKNOWN,
        *(
            ({"default": [{"type": "sigstoreSigned", "keyPath": "k", "signedIdentity": identity}]}, says)
            for identity, says in IDENTITIES
        ),
    ],
)
def test_what_is_not_understood_refuses_every_image(tmp_path: Path, policy: Any, says: str) -> None:
    name = written(tmp_path, policy)
    with pytest.raises(PolicyError, match=says) as caught:
        read_policy(name)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_deep_and_long_policies_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match=r"nested too deep|no JSON"):
        read_policy(written(tmp_path, "[" * 100_000))
    with pytest.raises(PolicyError, match="longer than 4 MiB"):
        read_policy(written(tmp_path, " " * ((4 << 20) + 1)))
    with pytest.raises(FileError, match="cannot read the policy"):
        read_policy(str(tmp_path / "none"))


@pytest.mark.parametrize(
    ("requirement", "says"),
    [
        ({"type": "signedBy", "keyType": "GPGKeys", "keyPath": "a"}, "asks for signedBy"),
        ({"type": "sigstoreSigned", "fulcio": {}}, "asks for fulcio"),
        ({"type": "sigstoreSigned", "pki": {}}, "asks for pki"),
        ({"type": "sigstoreSigned", "keyPath": "k", "rekorPublicKeyPath": "r"}, "asks for rekorPublicKeyPath"),
    ],
)
def test_what_is_known_and_not_done_refuses_the_images_that_it_is_for(
    tmp_path: Path, requirement: dict[str, Any], says: str
) -> None:
    policy = {"default": ACCEPT, "transports": {"docker": {"example.com": [requirement]}}}
    assert decision(tmp_path, policy, "quay.io/x") == "accept"
    (found,) = read_policy(written(tmp_path, policy)).requirements(parse_location("example.com/x"))
    assert isinstance(found, Refusing)
    assert says in found.why


def test_keys_in_files_and_in_the_policy(tmp_path: Path, signer: Signer) -> None:
    for keys in (
        {"keyPath": str(signer.file)},
        {"keyPaths": [str(signer.file), str(signer.file)]},
        {"keyData": signer.data},
        {"keyDatas": [signer.data, signer.data]},
    ):
        policy = {"default": [{"type": "sigstoreSigned", **keys}]}
        (found,) = read_policy(written(tmp_path, policy)).requirements(parse_location("a/b"))
        assert isinstance(found, Signed)
        assert len(found.keys) == (2 if next(iter(keys)).endswith("s") else 1)
    for broken in (str(rsa_key(tmp_path / "rsa.pub")), str(signer.private_file)):
        policy = {"default": [{"type": "sigstoreSigned", "keyPaths": [str(signer.file), broken]}]}
        with pytest.raises(PolicyError, match=r"kind that is not taken|is no public key"):
            decision(tmp_path, policy, "a/b")


T, D = "example.com/org/app:1", f"example.com/org/app@{DIGEST}"
TABLE: list[tuple[Kind, str | None, str, bool]] = [
    ("matchExact", T, T, True),
    ("matchExact", T, "example.com/org/app:2", False),
    ("matchExact", T, "example.com/org/app", False),
    ("matchExact", D, T, False),
    ("matchExact", D, D, True),
    ("matchRepoDigestOrExact", T, T, True),
    ("matchRepoDigestOrExact", T, "example.com/org/app:2", False),
    ("matchRepoDigestOrExact", T, "example.com/org/app", False),
    ("matchRepoDigestOrExact", D, "example.com/org/app:7", True),
    ("matchRepoDigestOrExact", D, "example.com/org/app", False),
    ("matchRepoDigestOrExact", D, "example.com/org/other:1", False),
    ("matchRepoDigestOrExact", f"{T}@{DIGEST}", "example.com/org/app:2", False),
    ("matchRepository", T, "example.com/org/app", True),
    ("matchRepository", T, "example.com/org/app:9", True),
    ("matchRepository", T, "example.com/org/app2:1", False),
    ("matchRepository", T, "not a reference", False),
    ("matchRepository", None, T, False),
    ("matchRepository", "docker.io/library/busybox:1", "index.docker.io/library/busybox", True),
]


@pytest.mark.parametrize(("kind", "image", "stated", "fits"), TABLE)
def test_rules_of_identity(kind: Kind, image: str | None, stated: str, fits: bool) -> None:
    reason = IdentityRule(kind).reason_against(None if image is None else Reference.parse(image), stated)
    assert (reason is None) == fits
    assert reason is None or stated[:20] in reason or image is None


def test_rules_that_name_something_else() -> None:
    exact = IdentityRule("exactReference", Reference.parse("signed.example/app:1"))
    assert exact.reason_against(None, "signed.example/app:1") is None
    assert exact.reason_against(Reference.parse(T), "signed.example/app:2") is not None
    repository = IdentityRule("exactRepository", Reference.parse("signed.example/app"))
    assert repository.reason_against(None, "signed.example/app:9") is None
    assert repository.reason_against(Reference.parse(T), T) is not None
    remap = IdentityRule("remapIdentity", prefix="mirror.local/docker", signed_prefix="docker.io/library")
    assert remap.reason_against(Reference.parse("mirror.local/docker/app:1"), "docker.io/library/app:1") is None
    assert remap.reason_against(Reference.parse("mirror.local/docker/app:1"), "docker.io/library/app:2") is not None
    assert remap.reason_against(Reference.parse("mirror.local/docker2/app:1"), "docker.io/library2/app:1") is not None
    assert remap.reason_against(Reference.parse("mirror.local/docker2/app:1"), "mirror.local/docker2/app:1") is None
    host = IdentityRule("remapIdentity", prefix="mirror.local", signed_prefix="quay.io")
    assert host.reason_against(Reference.parse(f"mirror.local/a/b@{DIGEST}"), "quay.io/a/b:1") is None


def test_a_policy_decides_about_real_signatures(tmp_path: Path, signer: Signer) -> None:
    image = build_image([TarBuilder().file("a", b"1")])
    with serve_faulty() as server:
        name = server.put(image, "org/app:1")
        location = parse_location(name)
        source = open_source(location, options=QUICK)

        def asked(**rule: Any) -> None:
            signed = {"type": "sigstoreSigned", "keyPath": str(signer.file)}
            if rule:
                signed["signedIdentity"] = rule  # type: ignore[assignment]
            policy = written(tmp_path, {"default": REJECT, "transports": {"docker": {server.host: [signed]}}})
            check(Verification(policy=policy), location, source, [image.digest])

        server.put(bundle(signer, image), "org/app:bundle")
        with pytest.raises(PolicyError, match="names no repository, and signedIdentity asks for one"):
            asked(type="matchRepository")
        # As cosign writes it: the repository without a tag.
        server.put(simple(signer, image, f"{server.host}/org/app"), f"org/app:{tag_of(image)}")
        with pytest.raises(PolicyError, match="matchRepoDigestOrExact does not take"):
            asked()
        asked(type="matchRepository")
        asked(type="exactRepository", dockerRepository=f"{server.host}/org/app")
        server.put(simple(signer, image, f"{server.host}/org/app:1"), f"org/app:{tag_of(image)}")
        asked()
        asked(type="matchExact")
        source.close()


def test_a_layout_is_held_to_a_name_that_the_policy_says(tmp_path: Path, signer: Signer) -> None:
    image = build_image([TarBuilder().file("a", b"1")])
    tag, listing = fallback(image, simple(signer, image, "example.com/org/app", subject=True))
    location = parse_location(f"oci:{write_layout(tmp_path / 'layout', {'app': image, tag: listing})}:app")
    for repository, taken in (("example.com/org/app", True), ("example.com/org/other", False)):
        rule = {"type": "exactRepository", "dockerRepository": repository}
        signed = {"type": "sigstoreSigned", "keyData": signer.data, "signedIdentity": rule}
        verify = Verification(policy=written(tmp_path, {"default": [signed]}))
        if taken:
            check(verify, location, open_source(location), [image.digest])
            continue
        with pytest.raises(PolicyError, match="exactRepository does not take"):
            check(verify, location, open_source(location), [image.digest])
