"""Signatures of images: which are believed, and that nothing of an image is used before one is."""

from __future__ import annotations

import asyncio
import pickle
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import ocifast
import pytest
from cryptography.hazmat.primitives import hashes
from ocifast import aio
from ocifast.cli import main
from ocifast.errors import FileError, PolicyError, UsageError
from ocifast.options import CompileOptions
from ocifast.signatures import Verification
from ocifast.signatures.keys import read_key, read_private_key
from ocifast.sources.registry.options import RegistryOptions

from tests.support.faulty import FaultyRegistry, serve_faulty
from tests.support.images import BuiltImage, build_image, build_index, write_layout, write_oci_archive
from tests.support.layers import TarBuilder
from tests.support.pulls import QUICK
from tests.support.registry import Registry
from tests.support.signing import (
    BUNDLE,
    SIMPLE,
    Signer,
    bundle,
    fallback,
    holding,
    payload_of,
    rsa_key,
    simple,
    tag_of,
)


@pytest.fixture
def server() -> Iterator[FaultyRegistry]:
    with serve_faulty() as running:
        yield running


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    return Signer.make(tmp_path / "keys")


def app(text: bytes = b"hello") -> BuiltImage:
    return build_image([TarBuilder().file("etc/motd", text, mtime=0)])


def compiled(reference: str, output: Path, verify: Verification, **options: object) -> ocifast.CompiledImage:
    chosen = CompileOptions(verify=verify, registry=QUICK, **options)  # type: ignore[arg-type]
    return ocifast.compile(reference, output, options=chosen)


def refused(reference: str, tmp_path: Path, verify: Verification, says: str) -> None:
    output = tmp_path / "refused.tar"
    with pytest.raises(PolicyError, match=says):
        compiled(reference, output, verify)
    assert not output.exists()


def by_tag(server: FaultyRegistry, signer: Signer, image: BuiltImage, repository: str) -> None:
    server.put(simple(signer, image, f"{server.host}/{repository}"), f"{repository}:{tag_of(image)}")


def by_referrer(server: FaultyRegistry, signer: Signer, image: BuiltImage, repository: str) -> None:
    server.put(simple(signer, image, f"{server.host}/{repository}", subject=True), f"{repository}:any")


def by_bundle(server: FaultyRegistry, signer: Signer, image: BuiltImage, repository: str) -> None:
    server.put(bundle(signer, image), f"{repository}:any")


def by_fallback(server: FaultyRegistry, signer: Signer, image: BuiltImage, repository: str) -> None:
    server.knows_referrers = False
    tag, listing = fallback(image, bundle(signer, image))
    server.put(listing, f"{repository}:{tag}")


BOUNDS = import_module("ocifast.signatures.attached")
Attach = Callable[[FaultyRegistry, Signer, BuiltImage, str], None]
WAYS = (by_tag, by_referrer, by_bundle, by_fallback)


@pytest.mark.parametrize(
    ("attach", "kind"), [*((way, "p256") for way in WAYS), (by_tag, "p384"), (by_bundle, "ed25519")]
)
def test_every_format_is_taken_with_every_kind_of_key(
    server: FaultyRegistry, tmp_path: Path, attach: Attach, kind: str
) -> None:
    signer, other = Signer.make(tmp_path, kind), Signer.make(tmp_path, kind, "other")
    image = app()
    reference = server.put(image, "org/app:1")
    refused(reference, tmp_path, Verification(signer.file), "there is no signature of sha256")
    attach(server, signer, image, "org/app")
    assert compiled(reference, tmp_path / "a.tar", Verification(signer.file)).digest == image.digest
    refused(reference, tmp_path, Verification(other.file), "is not by the key")
    either = Verification([other.file, signer.file])
    assert compiled(reference, tmp_path / "b.tar", either).digest == image.digest


def test_a_bundle_of_a_larger_curve_is_hashed_as_that_curve_wants(server: FaultyRegistry, tmp_path: Path) -> None:
    signer, image = Signer.make(tmp_path, "p384"), app()
    reference = server.put(image, "org/app:1")
    server.put(bundle(signer, image, hashed=hashes.SHA384()), "org/app:any")
    assert compiled(reference, tmp_path / "a.tar", Verification(signer.file)).digest == image.digest


@pytest.mark.parametrize("attach", WAYS)
@pytest.mark.parametrize("whole", [True, False])
def test_the_index_or_the_image_may_be_signed(
    server: FaultyRegistry, tmp_path: Path, signer: Signer, attach: Attach, whole: bool
) -> None:
    children = [
        build_image([TarBuilder().file("a", name.encode())], platform=name) for name in ("linux/amd64", "linux/arm64")
    ]
    index = build_index(children)
    reference = server.put(index, "org/app:1")
    attach(server, signer, index if whole else children[1], "org/app")
    verify = CompileOptions(verify=Verification(signer.file), registry=QUICK)
    made = ocifast.compile(reference, tmp_path / "a.tar", platform="linux/arm64", options=verify)
    assert made.digest == children[1].digest
    if not whole:
        with pytest.raises(PolicyError, match=r"no signature of sha256:.* or of sha256:"):
            ocifast.compile(reference, tmp_path / "b.tar", platform="linux/amd64", options=verify)


def test_no_layer_and_no_config_is_asked_for_before_the_signature_is_believed(
    server: FaultyRegistry, tmp_path: Path, signer: Signer
) -> None:
    image = app()
    reference = server.put(image, "org/app:1")
    refused(reference, tmp_path, Verification(signer.file), "no signature")
    assert [line for line in server.lines if "/blobs/" in line] == []


@pytest.mark.parametrize("attach", [by_tag, by_referrer, by_bundle])
def test_a_signature_of_another_image_is_none(
    server: FaultyRegistry, tmp_path: Path, signer: Signer, attach: Attach
) -> None:
    """Swapped: what is signed is not what stands under the tag."""
    good, bad = app(), app(b"something else")
    reference = server.put(bad, "org/app:1")
    name = f"{server.host}/org/app"
    if attach is by_tag:
        server.put(simple(signer, good, name), f"org/app:{tag_of(bad)}")
    elif attach is by_referrer:
        server.put(simple(signer, bad, name, subject=True, digest=good.digest), "org/app:any")
    else:
        server.put(bundle(signer, bad, digest=good.digest), "org/app:any")
    refused(reference, tmp_path, Verification(signer.file), f"is of {good.digest}")


@pytest.mark.parametrize("attach", [by_tag, by_referrer])
def test_a_signature_for_another_repository_is_none(
    server: FaultyRegistry, tmp_path: Path, signer: Signer, attach: Attach
) -> None:
    """Replayed: the same image and its signature, pushed to a repository that it was not signed for."""
    image = app()
    reference = server.put(image, "evil/app:1")
    server.put(image, "org/app:1")
    attach(server, signer, image, "org/app")
    server.blobs["evil/app"] |= server.blobs["org/app"]
    server.manifests["evil/app"] |= {name: it for name, it in server.manifests["org/app"].items() if name != "1"}
    compiled(f"{server.host}/org/app:1", tmp_path / "a.tar", Verification(signer.file))
    refused(reference, tmp_path, Verification(signer.file), "a signature is for .*/org/app, which matchRepository")


def test_a_bundle_that_names_a_repository_is_held_to_it(server: FaultyRegistry, tmp_path: Path, signer: Signer) -> None:
    image = app()
    reference = server.put(image, "org/app:1")
    server.put(bundle(signer, image, name=f"{server.host}/org/other"), "org/app:any")
    refused(reference, tmp_path, Verification(signer.file), "a signature is for .*/org/other")
    server.put(bundle(signer, image, name=f"{server.host}/org/app"), "org/app:more")
    compiled(reference, tmp_path / "a.tar", Verification(signer.file))


def test_a_statement_about_an_image_is_no_signature_of_it(
    server: FaultyRegistry, tmp_path: Path, signer: Signer
) -> None:
    image = app()
    reference = server.put(image, "org/app:1")
    document = bundle(signer, image, predicate="https://slsa.dev/provenance/v1")
    server.put(document, "org/app:any")
    refused(reference, tmp_path, Verification(signer.file), "says nothing that is understood: its predicate")


def test_one_wrong_bit_is_seen(server: FaultyRegistry, tmp_path: Path, signer: Signer) -> None:
    image = app()
    reference = server.put(image, "org/app:1")
    payload = payload_of(image.digest, f"{server.host}/org/app")
    signature = {"dev.cosignproject.cosign/signature": signer.sign(payload)}
    changed = payload.replace(b"org/app", b"org/apq")
    server.put(holding([(changed, SIMPLE, signature)]), f"org/app:{tag_of(image)}")
    refused(reference, tmp_path, Verification(signer.file), "is not by the key")
    server.put(holding([(payload, SIMPLE, signature)]), f"org/app:{tag_of(image)}")
    compiled(reference, tmp_path / "a.tar", Verification(signer.file))


@pytest.mark.parametrize(
    ("payload", "says"),
    [
        (b"{", "no JSON"),
        (b"[" * 100_000, "nested too deep|no JSON"),
        (b'{"critical":{},"critical":{},"optional":null}', "a key stands twice"),
        (b'{"critical":{},"optional":null,"more":1}', "unknown field 'more'"),
        (payload_of("sha256:0", "org/app"), "digest"),
        (payload_of("sha256:" + "0" * 64, "org/app", type="atomic container signature"), "its type is"),
        (payload_of("sha256:" + "0" * 64, "org/app", more=1), "unknown field 'more'"),
        (payload_of("sha256:" + "0" * 64, "org/app", identity={"docker-reference": 3}), "docker-reference is no text"),
    ],
)
def test_what_is_signed_and_malformed_is_refused_with_the_reason(
    server: FaultyRegistry, tmp_path: Path, signer: Signer, payload: bytes, says: str
) -> None:
    image = app()
    reference = server.put(image, "org/app:1")
    piece = (payload, SIMPLE, {"dev.cosignproject.cosign/signature": signer.sign(payload)})
    server.put(holding([piece]), f"org/app:{tag_of(image)}")
    refused(reference, tmp_path, Verification(signer.file), says)


@pytest.mark.parametrize("junk", [b"{", b"[" * 200_000, b'{"mediaType":"' + BUNDLE.encode() + b'","dsseEnvelope":7}'])
def test_junk_beside_a_right_signature_does_not_hide_it(
    server: FaultyRegistry, tmp_path: Path, signer: Signer, junk: bytes
) -> None:
    image = app()
    reference = server.put(image, "org/app:1")
    server.put(holding([(junk, BUNDLE, {})], artifact=BUNDLE, subject=image), "org/app:junk")
    server.put(holding([(b"x", SIMPLE, {})], subject=image), "org/app:junk2")
    server.put(holding([(b"y", SIMPLE, {"dev.cosignproject.cosign/signature": "%"})]), f"org/app:{tag_of(image)}")
    refused(reference, tmp_path, Verification(signer.file), "no signature")
    by_bundle(server, signer, image, "org/app")
    compiled(reference, tmp_path / "a.tar", Verification(signer.file))


def test_large_and_many_signature_documents_are_bounded(
    server: FaultyRegistry, tmp_path: Path, signer: Signer, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = app(b"large")
    reference = server.put(large, "org/large:1")
    server.put(holding([(bytes((1 << 20) + 1), SIMPLE, {})]), f"org/large:{tag_of(large)}")
    refused(reference, tmp_path, Verification(signer.file), "a signature of 1048577 bytes; that is refused")
    assert [line for line in server.lines if "/blobs/" in line] == []
    monkeypatch.setattr(BOUNDS, "_SIGNATURES", 7)
    many = app(b"many")
    reference = server.put(many, "org/many:1")
    server.put(holding([(b"%d" % number, SIMPLE, {}) for number in range(9)]), f"org/many:{tag_of(many)}")
    server.requests.clear()
    refused(reference, tmp_path, Verification(signer.file), "more than 7 signatures")
    assert len([line for line in server.lines if "/blobs/" in line]) == 7
    monkeypatch.setattr(BOUNDS, "_MANIFESTS", 5)
    crowd = app(b"crowd")
    reference = server.put(crowd, "org/crowd:1")
    for number in range(6):
        junk = holding([(b"%d" % number, BUNDLE, {})], artifact=BUNDLE, subject=crowd)
        server.put(junk, f"org/crowd:junk{number}")
    refused(reference, tmp_path, Verification(signer.file), "more than 5 manifests")
    monkeypatch.setattr(BOUNDS, "_ALL", 100)
    refused(reference, tmp_path, Verification(signer.file), "more than 100 bytes")


def test_what_is_cached_is_checked_in_every_run(server: FaultyRegistry, tmp_path: Path, signer: Signer) -> None:
    image = app()
    reference = server.put(image, "org/app:1")
    plain = CompileOptions(registry=QUICK, keep_layers=True)
    # Kept beside its layers, as what is only a copy of them is not everywhere.
    ocifast.compile(reference, tmp_path / "a.squashfs", options=plain)
    assert ocifast.compile(reference, tmp_path / "b.squashfs", options=plain).from_cache
    verify = Verification(signer.file)
    with pytest.raises(PolicyError):
        compiled(reference, tmp_path / "c.squashfs", verify)
    with pytest.raises(PolicyError):
        compiled(f"{server.host}/org/app@{image.digest}", tmp_path / "c.squashfs", verify)
    by_tag(server, signer, image, "org/app")
    assert compiled(reference, tmp_path / "c.squashfs", verify).from_cache
    # Stripped again, with everything in the cache.
    del server.manifests["org/app"][tag_of(image)]
    with pytest.raises(PolicyError):
        compiled(reference, tmp_path / "d.squashfs", verify)
    assert sorted(path.name for path in tmp_path.glob("*.squashfs")) == ["a.squashfs", "b.squashfs", "c.squashfs"]


def test_every_verb_asks(server: FaultyRegistry, tmp_path: Path, signer: Signer) -> None:
    image = app()
    reference = server.put(image, "org/app:1")
    verify, options = Verification(signer.file), RegistryOptions(retries=0)
    target = f"oci:{tmp_path}/mirror:app"
    for verb in (ocifast.copy, ocifast.pull):
        with pytest.raises(PolicyError):
            verb(reference, target, verify=verify, options=options)
        with pytest.raises(PolicyError):
            asyncio.run(getattr(aio, verb.__name__)(reference, target, verify=verify, options=options))
    assert not (tmp_path / "mirror").exists()
    with pytest.raises(PolicyError):
        ocifast.open(reference, verify=verify)
    with pytest.raises(PolicyError):
        asyncio.run(aio.open(reference, verify=verify))
    layout = f"oci:{write_layout(tmp_path / 'layout', image)}:app"
    with pytest.raises(PolicyError):
        ocifast.push(layout, f"{server.host}/org/new:1", verify=verify, options=options)
    by_bundle(server, signer, image, "org/app")
    assert ocifast.copy(reference, target, verify=verify, options=options).digest == image.digest
    with ocifast.open(reference, verify=verify) as opened:
        assert opened.digest == image.digest


def test_an_index_that_is_copied_whole_is_asked_for_itself(
    server: FaultyRegistry, tmp_path: Path, signer: Signer
) -> None:
    child = app()
    index = build_index([child])
    reference = server.put(index, "org/app:1")
    by_tag(server, signer, child, "org/app")
    verify = Verification(signer.file)
    ocifast.copy(reference, f"oci:{tmp_path}/one:app", verify=verify, platform="linux/amd64")
    with pytest.raises(PolicyError, match=index.digest):
        ocifast.copy(reference, f"oci:{tmp_path}/all:app", verify=verify)
    by_tag(server, signer, index, "org/app")
    assert ocifast.copy(reference, f"oci:{tmp_path}/all:app", verify=verify).digest == index.digest


def test_signatures_in_layouts_and_archives(tmp_path: Path, signer: Signer) -> None:
    image = app()
    name = "example.com/org/app"
    tag, listing = fallback(image, bundle(signer, image))
    for images in ({tag_of(image): simple(signer, image, name)}, {tag: listing}):
        folder = write_layout(
            tmp_path / f"layout{len(images)}{len(list(tmp_path.iterdir()))}", {"app": image, **images}
        )
        place = f"oci:{folder}:app"
        # A layout says nothing about the repository: only a policy can, or a bundle that names none.
        if tag in images:
            compiled(place, tmp_path / "a.tar", Verification(signer.file))
        else:
            refused(place, tmp_path, Verification(signer.file), "matchRepository needs the image's name")
    archive = write_oci_archive(tmp_path / "app.tar", {"app": image, tag: listing})
    compiled(f"oci-archive:{archive}:app", tmp_path / "b.tar", Verification(signer.file))
    refused(f"oci:{write_layout(tmp_path / 'bare', image)}:app", tmp_path, Verification(signer.file), "no signature")
    tar = tmp_path / "rootfs.tar"
    tar.write_bytes(TarBuilder().file("a").build())
    refused(f"tar:{tar}", tmp_path, Verification(signer.file), "signatures stand in registries and OCI layouts only")


def test_seeds_are_checked_like_the_registry(server: FaultyRegistry, tmp_path: Path, signer: Signer) -> None:
    image = app()
    reference = server.put(image, "org/app:1")
    seed = write_layout(tmp_path / "seed", {reference: image})
    options = {"seeds": (str(seed),)}
    with pytest.raises(PolicyError):
        compiled(reference, tmp_path / "a.tar", Verification(signer.file), **options)
    by_bundle(server, signer, image, "org/app")
    compiled(reference, tmp_path / "a.tar", Verification(signer.file), **options)


def test_debians_registry_with_the_fallback_tag(registry: Registry, tmp_path: Path, signer: Signer) -> None:
    image = app(b"debian")
    reference = registry.put(image, "signed/app:1")
    with pytest.raises(PolicyError):
        compiled(reference, tmp_path / "a.tar", Verification(signer.file))
    tag, listing = fallback(image, bundle(signer, image))
    registry.put(listing, f"signed/app:{tag}")
    assert compiled(reference, tmp_path / "a.tar", Verification(signer.file)).digest == image.digest


def test_keys_that_are_none(tmp_path: Path, signer: Signer, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileError, match="cannot read the key"):
        read_key(str(tmp_path / "none"))
    (tmp_path / "junk").write_bytes(b"junk")
    with pytest.raises(PolicyError, match="junk is no public key"):
        read_key(str(tmp_path / "junk"))
    with pytest.raises(PolicyError, match=r"a key of a kind that is not taken \(RSA\); ECDSA and Ed25519 are"):
        read_key(str(rsa_key(tmp_path / "rsa.pub")))
    with pytest.raises(PolicyError, match="is no public key"):
        read_key(str(signer.private_file))
    with pytest.raises(UsageError, match="is no private key"):
        read_private_key(str(signer.file))
    key = read_private_key(str(signer.private_file))
    assert key.public.verifies(b"x", key.sign(b"x"))
    assert not key.public.verifies(b"y", key.sign(b"x"))
    with pytest.raises(UsageError, match="nothing to verify with"):
        Verification()
    verify = Verification([signer.file], tmp_path / "policy.json")
    assert pickle.loads(pickle.dumps(verify)) == verify
    monkeypatch.setitem(sys.modules, "cryptography", None)
    monkeypatch.setitem(sys.modules, "cryptography.exceptions", None)
    with pytest.raises(UsageError, match=r"signatures need the package cryptography: pip install 'ocifast\[verify\]'"):
        read_key(str(signer.file))


def test_the_command_line(
    server: FaultyRegistry, tmp_path: Path, signer: Signer, capfd: pytest.CaptureFixture[str]
) -> None:
    image = app()
    reference = server.put(image, "org/app:1")
    for words in (
        ["compile", reference, str(tmp_path / "a.tar")],
        ["copy", reference, f"oci:{tmp_path}/copy:app"],
        ["pull", reference, f"oci:{tmp_path}/pull:app"],
        ["ls", reference],
        ["cat", reference, "/etc/motd"],
        ["du", reference],
        ["diff", reference, reference],
    ):
        assert main([*words, "--verify-key", str(signer.file)]) == 1, words
        assert capfd.readouterr().err.startswith(f"ocifast: error: {reference} is not signed as {signer.file} asks: ")
    by_tag(server, signer, image, "org/app")
    assert main(["cat", reference, "/etc/motd", "--verify-key", str(signer.file)]) == 0
    assert capfd.readouterr().out == "hello"
    policy = tmp_path / "policy.json"
    policy.write_text('{"default":[{"type":"reject"}]}')
    assert main(["ls", reference, "--verify-key", str(signer.file), "--policy", str(policy)]) == 1
    assert capfd.readouterr().err == f"ocifast: error: {reference}: {policy} rejects it\n"
