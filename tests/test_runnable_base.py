"""Runnables on a base image: its layers are kept, its config is added to."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from ocifast.errors import DocumentError, PlatformError
from ocifast.runnable import Runnable

from tests.support.archives import Opened
from tests.support.elf import SHT_ARM_ATTRIBUTES, build_elf, gnu_property
from tests.support.images import Layer, build_image, build_index, write_layout
from tests.support.layers import TarBuilder
from tests.support.oracle import umoci_unpack
from tests.support.registry import Registry
from tests.support.run import run

EPOCH = "1970-01-01T00:00:00Z"
BASE = {
    "User": "www",
    "ExposedPorts": {"80/tcp": {}},
    "Env": ["PATH=/bin", "A=base"],
    "Entrypoint": ["/old"],
    "Cmd": ["old"],
    "Volumes": {"/old": {}},
    "WorkingDir": "/srv",
    "Labels": {"a": "base", "b": "base"},
    "StopSignal": "SIGQUIT",
    "Healthcheck": {"Test": ["NONE"]},
    "Image": "sha256:of-the-build",
}


@pytest.fixture
def hello(tmp_path: Path) -> Path:
    path = tmp_path / "hello"
    path.write_bytes(build_elf())
    return path


def system() -> TarBuilder:
    """A merged-usr system: /lib is a link."""
    files = TarBuilder().directory("usr").directory("usr/lib").directory("etc").symlink("lib", "usr/lib")
    return files.file("etc/passwd", b"www:x:33:33::/:\n").file("usr/lib/old.so", b"old")


def on_base(runnable: Runnable, folder: Path) -> Opened:
    runnable.write(folder / "image.tar")
    return Opened(folder / "image.tar")


@pytest.mark.tools
def test_layers_are_kept_and_the_config_is_added_to(hello: Path, tmp_path: Path) -> None:
    history = [{"created_by": "base"}, {"created_by": "ENV", "empty_layer": True}, {"created_by": "more"}]

    def edit(config: dict[str, Any]) -> None:
        config |= {"created": "2020-01-01T00:00:00Z", "author": "me", "history": history, "container": "of Docker"}

    second = Layer(TarBuilder().file("etc/x", b"x"), compression="zstd")
    base = build_image([system(), second], config=BASE, edit_config=edit)
    layout = write_layout(tmp_path / "base", base)
    runnable = Runnable(
        hello,
        base=f"oci:{layout}:app",
        env={"A": "ours", "C": "ours"},
        labels={"b": "ours"},
        ports=["443"],
        volumes=["/new"],
        args=["arg"],
        annotations={"x": "y"},
    )
    image = on_base(runnable, tmp_path)
    assert image.manifest["layers"][:2] == base.manifest["layers"]
    own = image.manifest["layers"][2]
    assert image.config == {
        "created": EPOCH,
        "author": "me",
        "architecture": "amd64",
        "os": "linux",
        "config": {
            "User": "www",
            "ExposedPorts": {"80/tcp": {}, "443/tcp": {}},
            "Env": ["PATH=/bin", "A=ours", "C=ours"],
            "Entrypoint": ["/hello"],
            "Cmd": ["arg"],
            "Volumes": {"/old": {}, "/new": {}},
            "WorkingDir": "/srv",
            "Labels": {"a": "base", "b": "ours"},
            "StopSignal": "SIGQUIT",
            "Healthcheck": {"Test": ["NONE"]},
        },
        "rootfs": {"type": "layers", "diff_ids": [*(layer.diff_id for layer in base.layers), own["digest"]]},
        "history": [
            *history,
            {"created": EPOCH, "created_by": "ocifast runnable", "comment": "executable /hello"},
        ],
    }
    # A path of this machine is not told.
    assert image.manifest["annotations"] == {"org.opencontainers.image.base.digest": base.digest, "x": "y"}


def test_our_own_settings_win(hello: Path, tmp_path: Path) -> None:
    layout = write_layout(tmp_path / "base", build_image([system()], config=BASE))
    options: dict[str, Any] = {"user": "app", "working_dir": "/", "stop_signal": "SIGINT"}
    image = on_base(Runnable(hello, base=f"oci:{layout}:app", **options), tmp_path)
    config = image.config["config"]
    assert (config["User"], config["WorkingDir"], config["StopSignal"]) == ("app", "/", "SIGINT")
    assert "Cmd" not in config
    # The base knows its users: its /etc/passwd is not replaced.
    assert len(image.manifest["layers"]) == 2
    # Its history tells nothing of its one layer, so a line is made up for it.
    assert [line.get("comment") for line in image.config["history"]] == ["layer of the base image", "executable /hello"]


@pytest.mark.tools
@pytest.mark.root
def test_folders_of_the_base_stay_what_they_are(hello: Path, tmp_path: Path) -> None:
    layout = write_layout(tmp_path / "base", build_image([system()]))
    (tmp_path / "new").mkdir()
    (tmp_path / "new/empty").mkdir()
    (tmp_path / "new/new.so").write_text("new")
    add = [(tmp_path / "new", "/lib")]
    Runnable(hello, base=f"oci:{layout}:app", add=add, ca_certs=True).write(f"oci:{tmp_path}/out:app")
    root = umoci_unpack(tmp_path / "out", tmp_path / "bundle")
    assert (root / "lib").is_symlink()
    assert sorted(path.name for path in (root / "usr/lib").iterdir()) == ["empty", "new.so", "old.so"]
    assert sorted(path.name for path in (root / "etc").iterdir()) == ["passwd", "ssl"]


@pytest.mark.tools
def test_media_types_of_docker_become_those_of_oci(hello: Path, tmp_path: Path) -> None:
    layers = [Layer(system(), compression="gzip"), Layer(TarBuilder().file("x", b"x"), compression="plain")]
    layout = write_layout(tmp_path / "base", build_image(layers, docker=True))
    image = on_base(Runnable(hello, base=f"oci:{layout}:app"), tmp_path)
    assert [layer["mediaType"] for layer in image.manifest["layers"]] == [
        "application/vnd.oci.image.layer.v1.tar+gzip",
        "application/vnd.oci.image.layer.v1.tar",
        "application/vnd.oci.image.layer.v1.tar",
    ]
    run("skopeo", "--insecure-policy", "copy", "-q", f"oci-archive:{tmp_path}/image.tar", f"oci:{tmp_path}/copied:x")


def test_each_executable_gets_the_base_of_its_platform(tmp_path: Path) -> None:
    children = [
        build_image([TarBuilder().file("for", platform.encode())], platform=platform)
        for platform in ("linux/amd64", "linux/arm64/v8", "linux/arm/v7")
    ]
    layout = write_layout(tmp_path / "base", {"app": build_index(children)})
    (tmp_path / "a").write_bytes(build_elf())
    (tmp_path / "b").write_bytes(build_elf(machine=183))
    result = Runnable([tmp_path / "a", tmp_path / "b"], name="x", base=f"oci:{layout}:app").write(tmp_path / "out.tar")
    assert [str(image.platform) for image in result.images] == ["linux/amd64", "linux/arm64/v8"]
    image = Opened(tmp_path / "out.tar")
    index = image.json(image.index["manifests"][0])
    for entry, child in zip(index["manifests"], children, strict=False):
        manifest = image.json(entry)
        assert manifest["layers"][:1] == child.manifest["layers"]
        assert manifest["annotations"] == {"org.opencontainers.image.base.digest": child.digest}


def test_a_base_for_no_higher_or_another_machine(tmp_path: Path) -> None:
    v3 = tmp_path / "v3"
    v3.write_bytes(build_elf(gnu_property(0xC0008002, b"\7\0\0\0")))
    layout = write_layout(tmp_path / "base", build_image([system()], platform="linux/amd64"))
    (image,) = Runnable(v3, base=f"oci:{layout}:app").write(tmp_path / "a.tar").images
    assert str(image.platform) == "linux/amd64/v3"
    foreign = write_layout(tmp_path / "foreign", build_image([system()], platform="linux/arm64"))
    with pytest.raises(PlatformError, match="is for linux/arm64, not for linux/amd64"):
        Runnable(v3, base=f"oci:{foreign}:app").write(tmp_path / "b.tar")
    assert not (tmp_path / "b.tar").exists()


def test_a_base_for_a_higher_level_raises_the_platform(tmp_path: Path) -> None:
    attributes = b"A" + struct.pack("<I", 17) + b"aeabi\0" + b"\1" + struct.pack("<I", 7) + b"\x06\x04"
    program = tmp_path / "v5"
    sections = ((SHT_ARM_ATTRIBUTES, attributes),)
    program.write_bytes(build_elf(machine=40, bits=32, flags=0x05000000, sections=sections))
    assert str(Runnable(program).write(tmp_path / "a.tar").images[0].platform) == "linux/arm/v5"
    children = [build_image([system()], platform=platform) for platform in ("linux/amd64", "linux/arm/v7")]
    layout = write_layout(tmp_path / "base", {"app": build_index(children)})
    (image,) = Runnable(program, base=f"oci:{layout}:app").write(tmp_path / "b.tar").images
    assert str(image.platform) == "linux/arm/v7"
    assert Opened(tmp_path / "b.tar").config["variant"] == "v7"


def test_a_base_in_a_registry_is_named_and_its_layers_are_mounted(
    registry: Registry, hello: Path, tmp_path: Path
) -> None:
    name = registry.put(build_image([system()]), "runnable/base:1")
    before = len(registry.requests())
    result = Runnable(hello, base=name).push(f"{registry.host}/runnable/on-base:1")
    asked = registry.requests()[before:]
    base_layer, own_layer = result.images[0].layers
    assert not [line for line in asked if line.startswith("GET") and base_layer.digest in line], asked
    raw = run("skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{registry.host}/runnable/on-base:1")
    assert json.loads(raw)["annotations"]["org.opencontainers.image.base.name"] == name
    assert own_layer.digest != base_layer.digest


def test_a_base_whose_documents_do_not_fit(hello: Path, tmp_path: Path) -> None:
    edits: list[tuple[dict[str, Any], str]] = [
        ({"history": "none"}, "history that is no list"),
        ({"rootfs": {"type": "layers", "diff_ids": []}}, "0 diff IDs"),
        ({"config": {"Env": "A=b"}}, "is not a valid ImageConfig"),
    ]
    for number, (edit, message) in enumerate(edits):

        def change(config: dict[str, Any], edit: dict[str, Any] = edit) -> None:
            config |= edit

        layout = write_layout(tmp_path / str(number), build_image([system()], edit_config=change))
        with pytest.raises(DocumentError, match=message):
            Runnable(hello, base=f"oci:{layout}:app").write(tmp_path / "x.tar")
        assert not (tmp_path / "x.tar").exists()
