"""Runnables: what is in the image, to the byte."""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ocifast
import pytest
from ocifast.errors import ElfError, FileError, OcifastError, SizeMismatchError, UsageError
from ocifast.progress import Event, Phase
from ocifast.runnable import BuiltRunnable, Runnable, RunnableOptions

from tests.support.archives import Opened, listing, short
from tests.support.elf import build_elf
from tests.support.run import run

EPOCH = "1970-01-01T00:00:00Z"


@pytest.fixture
def hello(tmp_path: Path) -> Path:
    """A small static executable, which nothing runs here."""
    path = tmp_path / "in/hello"
    path.parent.mkdir()
    path.write_bytes(build_elf() + b"\0" * 1000)
    path.chmod(0o755)
    return path


def built(runnable: Runnable, folder: Path, **options: Any) -> Opened:
    folder.mkdir(exist_ok=True)
    runnable.write(folder / "image.tar", **options)
    assert [path.name for path in folder.iterdir()] == ["image.tar"]
    return Opened(folder / "image.tar")


def test_one_uncompressed_layer_with_the_file_at_its_name(hello: Path, tmp_path: Path) -> None:
    image = built(Runnable(hello), tmp_path / "out")
    assert image.layers() == [[f"hello file 755 0:0 0 {short(hello.read_bytes())}"]]
    # One header, the bytes, the end: nothing else fits in.
    (layer,) = image.manifest["layers"]
    blob, content = image.blob(layer), hello.read_bytes()
    assert blob[512 : 512 + len(content)] == content
    assert len(blob) == 512 + -(-len(content) // 512) * 512 + 1024
    assert layer["mediaType"] == "application/vnd.oci.image.layer.v1.tar"


def test_whole_config_manifest_and_index(hello: Path, tmp_path: Path) -> None:
    image = built(Runnable(hello), tmp_path / "out")
    (layer,) = image.manifest["layers"]
    assert image.config == {
        "created": EPOCH,
        "architecture": "amd64",
        "os": "linux",
        "config": {"Entrypoint": ["/hello"], "WorkingDir": "/"},
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
        "history": [{"created": EPOCH, "created_by": "ocifast runnable", "comment": "executable /hello"}],
    }
    config = image.manifest["config"]
    assert image.manifest == {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {**config, "mediaType": "application/vnd.oci.image.config.v1+json"},
        "layers": [layer],
    }
    (entry,) = image.index["manifests"]
    assert set(entry) == {"mediaType", "digest", "size"}


def test_with_and_without_a_name(hello: Path, tmp_path: Path) -> None:
    name = "org.opencontainers.image.ref.name"
    unnamed = built(Runnable(hello), tmp_path / "unnamed")
    named = built(Runnable(hello), tmp_path / "named", reference="ghcr.io/me/hello:1")
    assert "annotations" not in unnamed.index["manifests"][0]
    assert named.index["manifests"][0]["annotations"] == {name: "ghcr.io/me/hello:1"}
    with ocifast.open(f"oci-archive:{tmp_path}/named/image.tar:ghcr.io/me/hello:1") as opened:
        assert opened.digest == named.index["manifests"][0]["digest"]


def test_all_options_of_the_config(hello: Path, tmp_path: Path) -> None:
    runnable = Runnable(
        hello,
        name="server",
        args=["--verbose", "a b"],
        env={"TZ": "UTC", "EMPTY": "", "A": "x=y"},
        user="1000:100",
        working_dir="/srv",
        labels={"b": "2", "a": "1"},
        annotations={"org.opencontainers.image.licenses": "MIT"},
        ports=["8080", "53/udp", "6000-6010/tcp"],
        volumes=["/data", "/cache"],
        stop_signal="SIGINT",
        created=1_700_000_000,
    )
    image = built(runnable, tmp_path / "out")
    assert json.dumps(image.config["config"]) == json.dumps(
        {
            "User": "1000:100",
            "ExposedPorts": {"53/udp": {}, "6000-6010/tcp": {}, "8080/tcp": {}},
            "Env": ["TZ=UTC", "EMPTY=", "A=x=y"],
            "Entrypoint": ["/server"],
            "Cmd": ["--verbose", "a b"],
            "Volumes": {"/cache": {}, "/data": {}},
            "WorkingDir": "/srv",
            "Labels": {"a": "1", "b": "2"},
            "StopSignal": "SIGINT",
        }
    )
    assert image.config["created"] == image.config["history"][0]["created"] == "2023-11-14T22:13:20Z"
    assert image.manifest["annotations"] == {"org.opencontainers.image.licenses": "MIT"}
    assert image.layers() == [[f"server file 755 0:0 0 {short(hello.read_bytes())}"]]


def test_source_date_epoch(hello: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    assert built(Runnable(hello), tmp_path / "a").config["created"] == "2023-11-14T22:13:20Z"
    assert built(Runnable(hello, created=1), tmp_path / "b").config["created"] == "1970-01-01T00:00:01Z"
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "")
    assert built(Runnable(hello), tmp_path / "c").config["created"] == EPOCH
    for wrong in ("yesterday", "-1", "1.5", "9" * 12, "\u0661"):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", wrong)
        with pytest.raises(UsageError, match="SOURCE_DATE_EPOCH is '"):
            Runnable(hello).write(tmp_path / "d.tar")


def test_a_file_without_execute_permission_is_made_executable(hello: Path, tmp_path: Path) -> None:
    hello.chmod(0o600)
    assert built(Runnable(hello), tmp_path / "out").layers()[0][0].startswith("hello file 755 0:0 0 ")


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"env": {"A=B": "x"}}, "'A=B' is no name of an environment variable"),
    ({"env": {"": "x"}}, "'' is no name of an environment variable"),
    ({"labels": {"": "x"}}, "a label or annotation has an empty name"),
    ({"ports": ["0"]}, "'0' is no port; "),
    ({"ports": ["65536"]}, "'65536' is no port; "),
    ({"ports": ["20-10"]}, "'20-10' is no port; "),
    ({"ports": ["80/http"]}, "'80/http' is no port; "),
    ({"volumes": ["data"]}, "'data' is no absolute path; "),
    ({"working_dir": ""}, "'' is no absolute path; "),
    ({"stop_signal": "stop"}, "'stop' is no signal; "),
    ({"user": ""}, "'' is no user; "),
    ({"user": "a b"}, "'a b' is no user; "),
    ({"user": "a:b:c"}, "'a:b:c' is no user; "),
    ({"user": "root:"}, "'root:' is no user; "),
    ({"user": "x\nroot:x:0"}, "'x\\\\nroot:x:0' is no user; "),
    ({"user": "4294967295"}, "'4294967295' is no user; "),
    ({"name": "a/b"}, "'a/b' cannot be the name of a file"),
    ({"name": ".."}, "'..' cannot be the name of a file"),
    ({"name": ".wh.hello"}, "'.wh.hello' cannot be the name of a file"),
    ({"name": "n" * 256}, "cannot be the name of a file"),
    ({"name": "\udcff"}, "'\\\\udcff' is not UTF-8"),
    ({"compression": "lz4"}, "'lz4' is no compression; there are none, gzip, zstd"),
    ({"compression": "gzip", "level": 10}, "level 10 is not one of gzip, which has 1 to 9"),
    ({"level": 3}, "level 3 is not one of none, which has none"),
    ({"created": -1}, "the time of creation is -1"),
]


@pytest.mark.parametrize(("options", "message"), WRONG)
def test_wrong_options(options: dict[str, Any], message: str, hello: Path) -> None:
    with pytest.raises(UsageError) as caught:
        Runnable(hello, **options)
    assert message.replace("\\\\", "\\") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_runnable_takes_what_its_options_take(hello: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named = inspect.signature(Runnable.__init__).parameters.keys() - {"self"}
    assert named == inspect.signature(RunnableOptions.__init__).parameters.keys() - {"self"}
    assert Runnable(hello).options == RunnableOptions(hello)
    given = {name: object() for name in named}
    seen: dict[str, object] = {}

    def options(executables: object, **others: object) -> None:
        seen.update(others, executables=executables)

    monkeypatch.setattr("ocifast.runnable.runnable.RunnableOptions", options)
    Runnable(**given)  # type: ignore[arg-type]
    assert seen == given


def test_no_executable_at_all() -> None:
    with pytest.raises(UsageError, match="no executable was given"):
        Runnable([])


def refusals(hello: Path, folder: Path) -> list[tuple[Callable[[], BuiltRunnable], type[OcifastError], str]]:
    """What can be told only when files are looked at: what is done, and the error."""
    out = folder / "out/image.tar"
    (folder / "tree/.wh.x").mkdir(parents=True)
    os.mkfifo(folder / "pipe")
    missing, library = folder / "missing", folder / "library"
    library.write_bytes(b"\x7fELF")

    def write(**options: Any) -> Callable[[], BuiltRunnable]:
        return lambda: Runnable(hello, **options).write(out)

    return [
        (lambda: Runnable(missing).write(out), FileError, "missing: No such file or directory"),
        (lambda: Runnable(library).write(out), ElfError, "library: it ends at byte 4"),
        (lambda: Runnable([hello, hello]).write(out), UsageError, "are both for linux/amd64"),
        (write(add=[(missing, "/x")]), FileError, "missing: No such file or directory"),
        (write(add=[(hello, "x")]), UsageError, "'x' is no absolute path in the image"),
        (write(add=[(hello, "/a/../b")]), UsageError, "'/a/../b' is no plain path"),
        (write(add=[(hello, "/.wh.a")]), UsageError, "'/.wh.a' is no plain path"),
        (write(add=[(folder / "tree", "/x")]), UsageError, "a name that starts with .wh. would delete files"),
        (write(add=[(folder / "pipe", "/x")]), UsageError, "pipe is neither a regular file nor a folder"),
        (write(add=[(hello, "/hello")]), UsageError, "two files want to be /hello in the image"),
        (write(add=[(hello, "/a"), (library, "/a")]), UsageError, "two files want to be /a in the image"),
        (write(add=[(hello, "/etc")], user="app"), UsageError, "/etc"),
        (write(name="etc", user="app"), UsageError, "/etc"),
        (write(ca_certs=missing), FileError, "missing: No such file or directory"),
        (lambda: Runnable(hello).write(out, reference="x@sha256:" + "0" * 64), OcifastError, "sha256"),
        (lambda: Runnable(hello).write(f"oci-archive:{out}:a", reference="x:1"), UsageError, "has a name already"),
        (lambda: Runnable(hello).write(folder), UsageError, "is not a file"),
        (lambda: Runnable(hello).write(folder / "none/image.tar"), UsageError, "there is no folder"),
    ]


def test_refusals_leave_nothing_behind(hello: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    for action, error, message in refusals(hello, tmp_path):
        with pytest.raises(error) as caught:
            action()
        assert message in str(caught.value), str(caught.value)
        assert "\n" not in str(caught.value)
        assert list((tmp_path / "out").iterdir()) == []


def test_a_file_that_changes_while_it_is_read_is_noticed(hello: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/image.tar").write_text("what was there before")

    def grow(event: Event) -> None:
        if event.phase is Phase.PACKING and event.layer is None:
            with hello.open("ab") as file:
                file.write(b"more")

    with pytest.raises(SizeMismatchError, match="became longer than"):
        Runnable(hello).write(tmp_path / "out/image.tar", progress=grow)
    assert [path.read_text() for path in (tmp_path / "out").iterdir()] == ["what was there before"]
    with pytest.raises(SizeMismatchError):
        Runnable(hello).write(f"oci:{tmp_path}/layout", progress=grow)
    assert not (tmp_path / "layout").exists()


def test_several_machines_become_one_index(tmp_path: Path) -> None:
    builds: dict[str, dict[str, Any]] = {
        "hello": {},
        "hello-386": {"machine": 3, "bits": 32},
        "hello-arm64": {"machine": 183},
        "hello-s390x": {"machine": 22, "order": ">"},
    }
    paths = []
    for name, fields in builds.items():
        (tmp_path / name).write_bytes(build_elf(**fields))
        paths.append(tmp_path / name)
    options: dict[str, Any] = {"name": "hello", "user": "app", "annotations": {"a": "b"}}
    image = built(Runnable(paths, **options), tmp_path / "out")
    (entry,) = image.index["manifests"]
    assert entry["mediaType"] == "application/vnd.oci.image.index.v1+json"
    index = image.json(entry)
    assert index["annotations"] == {"a": "b"}
    assert [manifest["platform"] for manifest in index["manifests"]] == [
        {"architecture": "386", "os": "linux"},
        {"architecture": "amd64", "os": "linux"},
        {"architecture": "arm64", "os": "linux"},
        {"architecture": "s390x", "os": "linux"},
    ]
    shared = set()
    for manifest in index["manifests"]:
        files, own = image.json(manifest)["layers"]
        shared.add(files["digest"])
        config = image.json(image.json(manifest)["config"])
        assert config["architecture"] == manifest["platform"]["architecture"]
        assert config["config"]["Entrypoint"] == ["/hello"]
        name = "hello" if config["architecture"] == "amd64" else f"hello-{config['architecture']}"
        assert listing(image.blob(own)) == [f"hello file 755 0:0 0 {short((tmp_path / name).read_bytes())}"]
    assert len(shared) == 1
    again = built(Runnable(paths[::-1], **options), tmp_path / "again")
    assert again.files == image.files
    with ocifast.open(f"oci-archive:{tmp_path}/out/image.tar", platform="linux/arm64") as opened:
        assert opened.config.architecture == "arm64"


@pytest.mark.tools
@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_compressed_layers(compression: str, hello: Path, tmp_path: Path) -> None:
    plain = built(Runnable(hello), tmp_path / "plain")
    image = built(Runnable(hello, compression=compression), tmp_path / "out")
    (layer,) = image.manifest["layers"]
    assert layer["mediaType"] == f"application/vnd.oci.image.layer.v1.tar+{compression}"
    tar = run(compression, "-dc", stdin=image.blob(layer))
    assert tar == plain.blob(plain.manifest["layers"][0])
    assert image.config == plain.config
    assert layer["size"] < len(tar) / 4
    best = built(Runnable(hello, compression=compression, level=9), tmp_path / "best")
    assert best.manifest["layers"] != image.manifest["layers"]


def test_the_result_says_what_was_built(hello: Path, tmp_path: Path) -> None:
    result = Runnable(hello).write(tmp_path / "image.tar")
    image = Opened(tmp_path / "image.tar")
    (entry,) = image.index["manifests"]
    (only,) = result.images
    assert (result.digest, result.media_type) == (entry["digest"], entry["mediaType"])
    assert (only.digest, only.config_digest) == (entry["digest"], image.manifest["config"]["digest"])
    assert [layer.digest for layer in only.layers] == [layer["digest"] for layer in image.manifest["layers"]]
    assert str(only.platform) == "linux/amd64"
    assert result.destination == str(tmp_path / "image.tar")
