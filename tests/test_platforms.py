"""Platforms: how they are read, and which entry of an index is taken."""

from __future__ import annotations

import logging

import pytest
from ocifast import platforms
from ocifast.errors import PlatformError, UsageError
from ocifast.spec import DOCKER_MANIFEST, OCI_MANIFEST, Descriptor, Platform

WRITTEN = {
    "linux/amd64": "linux/amd64",
    "Linux/AMD64": "linux/amd64",
    "linux/x86_64": "linux/amd64",
    "x86_64": "linux/amd64",
    "linux/amd64/v3": "linux/amd64/v3",
    "linux/amd64/3": "linux/amd64/v3",
    "linux/arm64": "linux/arm64",
    "aarch64": "linux/arm64/v8",
    "linux/arm64/8": "linux/arm64/v8",
    "armhf": "linux/arm/v7",
    "armel": "linux/arm/v6",
    "linux/arm/v6": "linux/arm/v6",
    "i386": "linux/386",
    "linux/i686": "linux/386",
    "loongarch64": "linux/loong64",
    "ppc64el": "linux/ppc64le",
    "riscv64": "linux/riscv64",
    "s390x": "linux/s390x",
    "macos/arm64": "darwin/arm64",
    "windows/amd64": "windows/amd64",
    "windows(10.0.17763)/amd64": "windows(10.0.17763)/amd64",
    "windows(10.0.17763+win32k)/amd64": "windows(10.0.17763+win32k)/amd64",
}


@pytest.mark.parametrize("text", WRITTEN)
def test_platforms_are_read(text: str) -> None:
    assert platforms.describe(platforms.parse(text)) == WRITTEN[text]


def test_an_operating_system_alone_means_this_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert platforms.describe(platforms.parse("windows")) == "windows/arm64"
    assert platforms.describe(platforms.host()) == "linux/arm64/v8"


@pytest.mark.parametrize("text", ["", "/", "linux/", "linux/amd64/", "linux/amd64/v1/x", "lin ux/amd64", "what", "a(b"])
def test_other_texts_are_no_platforms(text: str) -> None:
    with pytest.raises(UsageError, match="write OS/ARCHITECTURE"):
        platforms.parse(text)


def entry(text: str | None, number: int = 0, **fields: object) -> Descriptor:
    """An index entry that is told apart by its size."""
    system, architecture, variant = [*(text or "").split("/"), None, None][:3]
    platform = None if text is None else Platform(architecture or "", system or "", variant)
    return Descriptor(OCI_MANIFEST, "sha256:" + f"{number:064x}", number, platform=platform, **fields)  # type: ignore[arg-type]


# wanted: the entries, of which the one marked with a star is taken; none is marked when none fits
CHOICES = {
    "linux/amd64": [
        "linux/arm64 *linux/amd64",
        "windows/amd64 *linux/amd64",
        "linux/amd64/v2 linux/amd64/v3 *linux/amd64",
        "linux/amd64/v2 *linux/amd64/v1",
        "linux/amd64/v2",
        "linux/386 linux/x86",
        "*Linux/x86_64",
        "",
    ],
    "linux/amd64/v3": [
        "linux/amd64 linux/amd64/v2 *linux/amd64/v3 linux/amd64/v4",
        "linux/amd64 *linux/amd64/v2 linux/amd64/v4",
        "*linux/amd64 linux/amd64/v4",
    ],
    "linux/arm64": ["linux/arm/v8 *linux/arm64", "*linux/arm64/v8", "linux/arm64/v9 *linux/arm64", "linux/arm64/v8.1"],
    "linux/arm64/v8": ["*linux/arm64", "*linux/arm64/v8 linux/arm64"],
    "linux/arm64/v9": [
        "linux/arm64 *linux/arm64/v9",
        "linux/arm64 *linux/arm64/v8.5 linux/arm64/v8.6",
        "linux/arm64/v9.1 *linux/arm64",
    ],
    "linux/arm64/v8.2": ["linux/arm64 *linux/arm64/v8.2", "linux/arm64/v8.3 *linux/arm64/v8.1 linux/arm64/v9"],
    "linux/arm": ["linux/arm/v5 linux/arm/v6 *linux/arm/v7", "linux/arm/v5 *linux/arm/v6", "linux/arm/v8"],
    "linux/arm/v6": ["linux/arm/v7 linux/arm/v5 *linux/arm/v6", "linux/arm/v7 *linux/arm/v5", "linux/arm"],
    "linux/arm/v5": ["linux/arm/v6 linux/arm/v7"],
    "linux/riscv64": ["linux/riscv64/rva22u64 *linux/riscv64", "*linux/riscv64/rva22u64"],
    "linux/riscv64/rva22u64": ["linux/riscv64 *linux/riscv64/rva22u64", "linux/riscv64/rva23u64 *linux/riscv64"],
    "linux/386": ["linux/amd64"],
    "linux/s390x": ["*linux/s390x unknown/unknown"],
}


@pytest.mark.parametrize(("wanted", "offer"), [(wanted, offer) for wanted in CHOICES for offer in CHOICES[wanted]])
def test_the_nearest_entry_is_taken(wanted: str, offer: str) -> None:
    offered = offer.split()
    entries = [entry(text.lstrip("*"), number) for number, text in enumerate(offered)]
    starred = [number for number, text in enumerate(offered) if text.startswith("*")]
    goal = platforms.parse(wanted)
    if starred:
        assert platforms.choose(entries, goal, name="app").size == starred[0]
    else:
        with pytest.raises(PlatformError):
            platforms.choose(entries, goal, name="app")


def test_versions_and_features_of_windows() -> None:
    def windows(version: str | None, number: int, *features: str) -> Descriptor:
        platform = Platform("amd64", "windows", None, version, features)
        return Descriptor(OCI_MANIFEST, "sha256:" + f"{number:064x}", number, platform=platform)

    entries = [
        windows("10.0.20348.1", 0),
        windows("10.0.17763.5", 1, "win32k"),
        windows("10.0.17763.4", 2),
        windows(None, 3),
    ]

    def chosen(text: str) -> int:
        return platforms.choose(entries, platforms.parse(text), name="app").size

    assert chosen("windows/amd64") == 0
    assert chosen("windows(10.0.17763.9)/amd64") == 2
    assert chosen("windows(10.0.17763+win32k)/amd64") == 1
    with pytest.raises(PlatformError, match=r"app has no image for windows\(10\.0\.1\)/amd64; it has windows\(10\."):
        chosen("windows(10.0.1)/amd64")


def test_what_is_no_image_is_passed_over() -> None:
    attestation = {"vnd.docker.reference.type": "attestation-manifest"}
    entries = [
        entry(None, 0),
        entry("linux/amd64", 1, annotations=attestation),
        entry("unknown/unknown", 2),
        Descriptor("application/json", "sha256:" + "0" * 64, 3, platform=Platform("amd64", "linux")),
        Descriptor(DOCKER_MANIFEST, "sha256:" + "0" * 64, 4, platform=Platform("amd64", "linux")),
    ]
    assert platforms.choose(entries, platforms.parse("linux/amd64"), name="app").size == 4


def test_the_error_lists_what_there_is() -> None:
    entries = [entry("linux/arm64/v8"), entry("linux/amd64"), entry("unknown/unknown"), entry("linux/amd64", 1)]
    with pytest.raises(PlatformError) as caught:
        platforms.choose(entries, platforms.parse("linux/s390x"), name="r.io/app:1")
    assert caught.value.message == "r.io/app:1 has no image for linux/s390x; it has linux/amd64, linux/arm64/v8"
    assert caught.value.context["available"] == ("linux/amd64", "linux/arm64/v8")
    with pytest.raises(PlatformError, match="app has no image for linux/s390x; it names no platform at all"):
        platforms.choose([entry(None)], platforms.parse("linux/s390x"), name="app")


def test_of_equals_the_first_is_taken_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    entries = [entry("linux/amd64", 7), entry("linux/amd64", 8), entry("linux/amd64/v1", 9)]
    with caplog.at_level(logging.WARNING):
        assert platforms.choose(entries, platforms.parse("linux/amd64"), name="app").size == 7
    assert [record.getMessage() for record in caplog.records] == [
        f"app has 3 images for linux/amd64; taking the first, sha256:{7:064x}"
    ]
    caplog.clear()
    platforms.choose([entries[0], entries[0]], platforms.parse("linux/amd64"), name="app")
    assert caplog.records == []
