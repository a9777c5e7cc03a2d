"""Platforms: how they are written, what this machine is, and which entry of an index fits.

Words and values are those of image-spec, image-index.md ("platform"), which are Go's GOOS and GOARCH. A variant names a
level of an instruction set: a machine of one level runs what was built for a lower one, so a lower level is taken where
the exact one is missing, the highest first.
"""

from __future__ import annotations

import platform as _host
import re
from collections.abc import Iterable, Sequence

from ocifast.errors import PlatformError, UsageError
from ocifast.logs import logger
from ocifast.patterns import pattern
from ocifast.spec import INDEXES, MANIFESTS, Descriptor, Platform

__all__ = ["choose", "describe", "fits", "host", "is_attestation", "listing", "normalise", "parse"]

_log = logger(__name__)

_LISTED = 10
"""Most names in a message; an index of 4 MiB can hold ten thousand."""

_LENGTH = 150
"""Most characters of one of them."""

_SYSTEMS = {"macos": "darwin"}

# Names of machines by uname, Debian and others, as (architecture, variant).
_ALIASES: dict[str, tuple[str, str | None]] = {
    "x86_64": ("amd64", None),
    "x86-64": ("amd64", None),
    "x64": ("amd64", None),
    "i386": ("386", None),
    "i486": ("386", None),
    "i586": ("386", None),
    "i686": ("386", None),
    "x86": ("386", None),
    "aarch64": ("arm64", "v8"),
    "armhf": ("arm", "v7"),
    "armel": ("arm", "v6"),
    "armv5l": ("arm", "v5"),
    "armv5tel": ("arm", "v5"),
    "armv6l": ("arm", "v6"),
    "armv7l": ("arm", "v7"),
    "armv7": ("arm", "v7"),
    "armv8l": ("arm", "v7"),
    "loongarch64": ("loong64", None),
    "mips64el": ("mips64le", None),
    "mipsel": ("mipsle", None),
    "powerpc64le": ("ppc64le", None),
    "ppc64el": ("ppc64le", None),
}

# What is meant where no variant is written; for all other architectures a variant is a name without order.
_BASELINES = {"amd64": (1, 0), "arm": (7, 0), "arm64": (8, 0)}

_WRITTEN = pattern(
    r"(?P<os>[A-Za-z0-9_-]+)(?:\((?P<version>[^()+/]*)(?P<features>(?:\+[^()+/]+)*)\))?"
    r"(?:/(?P<architecture>[A-Za-z0-9_-]+)(?:/(?P<variant>[A-Za-z0-9._-]+))?)?",
    re.ASCII,
)


def parse(text: str) -> Platform:
    """Reads `OS/ARCHITECTURE[/VARIANT]`, or an OS or an architecture alone, the other being this machine's.

    An OS may carry its version and features in brackets: `windows(10.0.17763+win32k)/amd64`. Other names of an
    architecture are taken too (`x86_64`, `aarch64`, `armhf`, ...).

    Raises:
        UsageError: not written so.
    """
    match = _WRITTEN.fullmatch(text)
    if match is None:
        raise UsageError(f"{text[:100]!r} is not a platform; write OS/ARCHITECTURE[/VARIANT], as linux/arm64")
    system, architecture = match["os"], match["architecture"]
    if architecture is None:
        if system.lower() in {"linux", "windows", "darwin", "freebsd", "netbsd", "openbsd", "macos"}:
            architecture = host().architecture
        elif match["version"] is None and (system.lower() in _ALIASES or system.lower() in _KNOWN):
            system, architecture = "linux", system
        else:
            raise UsageError(f"{text!r} is neither an operating system nor an architecture; write OS/ARCHITECTURE")
    features = tuple(match["features"].split("+")[1:]) if match["features"] else ()
    return normalise(Platform(architecture, system, match["variant"], match["version"] or None, features))


_KNOWN = frozenset(
    [
        "386",
        "amd64",
        "arm",
        "arm64",
        "loong64",
        "mips",
        "mips64",
        "mips64le",
        "mipsle",
        "ppc64",
        "ppc64le",
        "riscv64",
        "s390x",
        "wasm",
    ]
)


_KNOWN_SYSTEMS = frozenset(["aix", "darwin", "freebsd", "linux", "netbsd", "openbsd", "solaris", "windows"])
_COMPARED = 1000
"""Most platforms that a mistyped one is compared with."""


def normalise(platform: Platform) -> Platform:
    """The same platform in the words of the specification: lower case, Go's names, variants as `v8`."""
    system = platform.os.lower()
    system = _SYSTEMS.get(system, system)
    architecture, implied = _ALIASES.get(platform.architecture.lower(), (platform.architecture.lower(), None))
    variant = (platform.variant or "").lower() or implied
    if variant is not None and architecture in _BASELINES and re.fullmatch(r"[0-9]+(\.[0-9]+)?", variant, re.ASCII):
        variant = f"v{variant}"
    return Platform(architecture, system, variant, platform.os_version, platform.os_features)


def host() -> Platform:
    """What containers on this machine are; the OS is Linux wherever images are Linux's.

    The architecture has its baseline level, whatever the processor can do beyond, so that the same command takes the
    same image on every machine of the architecture.
    """
    system = _host.system().lower()
    return normalise(Platform(_host.machine(), "windows" if system == "windows" else "linux"))


def describe(platform: Platform | None) -> str:
    """As users write it, with the OS version where there is one."""
    if platform is None:
        return "unknown"
    version = "+".join(filter(None, (platform.os_version, *platform.os_features)))
    system = f"{platform.os}({version})" if version else platform.os
    return "/".join(filter(None, (system, platform.architecture, platform.variant)))


def listing(texts: Sequence[str]) -> str:
    """Some of many, for a message: ten, the beginning of each, and how many more there are."""
    more = f" and {len(texts) - _LISTED} more" if len(texts) > _LISTED else ""
    return ", ".join(text if len(text) <= _LENGTH else text[:_LENGTH] + "…" for text in texts[:_LISTED]) + more


def fits(offered: Platform, wanted: Platform) -> bool:
    """Whether something built for `offered` runs on `wanted`."""
    return _distance(normalise(offered), normalise(wanted)) is not None


def is_attestation(descriptor: Descriptor) -> bool:
    """Whether an index entry is BuildKit's provenance or SBOM, which stands beside the images under no platform."""
    if (descriptor.annotations or {}).get("vnd.docker.reference.type") == "attestation-manifest":
        return True
    found = descriptor.platform
    return found is not None and (found.os, found.architecture) == ("unknown", "unknown")


def choose(manifests: Iterable[Descriptor], wanted: Platform, *, name: str) -> Descriptor:
    """The entry of an index for a platform: the exact variant, else the highest lower one; of equals the first.

    Entries without a platform, attestations and entries that are no manifests are passed over; entries that are
    indexes themselves must have been replaced by theirs.

    Args:
        manifests: the entries, in the order of the index.
        wanted: normalised or not.
        name: how messages call the index.

    Raises:
        PlatformError: none fits; the message and `context["available"]` list what there is.
    """
    goal = normalise(wanted)
    offered = [
        entry
        for entry in manifests
        if entry.platform is not None and entry.media_type in MANIFESTS | INDEXES and not is_attestation(entry)
    ]
    ranked: list[tuple[tuple[int, ...], Descriptor]] = []
    for entry in offered:
        assert entry.platform is not None
        distance = _distance(normalise(entry.platform), goal)
        if distance is not None:
            ranked.append((distance, entry))
    if not ranked:
        available = sorted({describe(entry.platform) for entry in offered})
        listed = f"it has {listing(available)}" if available else "it names no platform at all"
        if meant := _meant(wanted, available):
            listed += f"; did you mean {meant}?"
        raise PlatformError(
            f"{name} has no image for {describe(wanted)}; {listed}", reference=name, available=tuple(available)
        )
    best, chosen = min(ranked, key=lambda item: item[0])
    same = {entry.digest for distance, entry in ranked if distance == best}
    if len(same) > 1:
        _log.warning("%s has %d images for %s; taking the first, %s", name, len(same), describe(wanted), chosen.digest)
    return chosen


def _meant(wanted: Platform, available: Sequence[str]) -> str | None:
    """The platform that an unknown one is most likely a misspelling of; None when its parts are known."""
    if wanted.architecture in _KNOWN and wanted.os in _KNOWN_SYSTEMS:
        return None
    from difflib import get_close_matches

    short = [name for name in available[:_COMPARED] if len(name) <= _LENGTH]
    return next(iter(get_close_matches(describe(wanted)[:_LENGTH], short, n=1)), None)


def _distance(offered: Platform, wanted: Platform) -> tuple[int, ...] | None:
    """How far an offer is from what is wanted, the nearest smallest; None when it does not run there."""
    if (offered.os, offered.architecture) != (wanted.os, wanted.architecture):
        return None
    if wanted.os_version and not _same_version(offered.os_version, wanted.os_version):
        return None
    if wanted.os_features and not set(offered.os_features) <= set(wanted.os_features):
        return None
    variant = _variant_distance(offered, wanted)
    return None if variant is None else (*variant, len(set(offered.os_features) - set(wanted.os_features)))


def _variant_distance(offered: Platform, wanted: Platform) -> tuple[int, int] | None:
    have, want = _level(offered), _level(wanted)
    if have is not None and want is not None:
        if wanted.architecture == "arm64" and have[0] == 8 and want[0] == 9:
            # Armv9.N holds all that Armv8.(N+5) has.
            want = (8, want[1] + 5)
            return (1, want[1] - have[1]) if have[1] <= want[1] else None
        if wanted.architecture == "arm64" and have[0] != want[0]:
            return None
        return (want[0] - have[0], want[1] - have[1]) if have <= want else None
    if offered.variant == wanted.variant:
        return (0, 0)
    # A variant without order: none asked takes any, the plain one first; one asked takes the plain one too.
    return (1, 0) if wanted.variant is None or offered.variant is None else None


def _level(platform: Platform) -> tuple[int, int] | None:
    baseline = _BASELINES.get(platform.architecture)
    if baseline is None or platform.variant is None:
        return baseline
    match = re.fullmatch(r"v([0-9]{1,4})(?:\.([0-9]{1,4}))?", platform.variant, re.ASCII)
    return None if match is None else (int(match[1]), int(match[2] or 0))


def _same_version(offered: str | None, wanted: str) -> bool:
    # Windows: major, minor and build must agree, the revision need not (image-spec leaves it to the OS).
    return offered is not None and offered.split(".")[:3] == wanted.split(".")[:3]
