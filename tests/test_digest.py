"""`ocifast digest`: what a name stands for, asked for and nothing more."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support.images import build_image, build_index, write_layout
from tests.support.layers import TarBuilder
from tests.support.registry import Registry
from tests.support.run import ocifast, try_ocifast

AMD64 = build_image([TarBuilder().file("amd")])
ARM64 = build_image([TarBuilder().file("arm")], platform="linux/arm64")
INDEX = build_index([AMD64, ARM64])


def test_of_manifests_and_indexes(tmp_path: Path) -> None:
    write_layout(tmp_path, {"one": AMD64, "all": INDEX})
    assert ocifast("digest", f"oci:{tmp_path}:one").decode() == f"{AMD64.digest}\n"
    assert ocifast("digest", f"oci:{tmp_path}:all").decode() == f"{INDEX.digest}\n"
    assert ocifast("digest", "--platform", "linux/arm64", f"oci:{tmp_path}:all").decode() == f"{ARM64.digest}\n"
    told = json.loads(ocifast("digest", "--json", f"oci:{tmp_path}:all"))
    assert told == {"reference": f"oci:{tmp_path}:all", "digest": INDEX.digest}
    assert try_ocifast("digest", f"oci:{tmp_path}:none").returncode == 1


def test_a_registry_is_asked_for_the_digest_alone(registry: Registry) -> None:
    reference = registry.put(INDEX, "digest/app:1")
    before = len(registry.requests())
    assert ocifast("digest", reference).decode() == f"{INDEX.digest}\n"
    asked = [line for line in registry.requests()[before:] if "/manifests/" in line]
    assert [line.split()[0] for line in asked] == ["HEAD"]
