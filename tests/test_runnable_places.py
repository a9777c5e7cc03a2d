"""Runnables: every place they go to, looked at by the tools that take them; and the same bytes whoever builds them."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import ocifast
import pytest
from ocifast.elf.machine import MACHINES
from ocifast.errors import RegistryError, UsageError
from ocifast.progress import Event, LayerState, Phase
from ocifast.runnable import Runnable
from ocifast.sources import DirectDestination
from ocifast.sources.open import open_destination, parse_location
from ocifast.spec import Document

from tests.support.archives import Opened
from tests.support.elf import build_elf, compile_c
from tests.support.registry import Registry, serve_registry
from tests.support.run import ocifast as command
from tests.support.run import run, tool, try_ocifast

REFERENCE = "ghcr.io/me/hello:1"


@pytest.fixture
def hello(tmp_path: Path) -> Path:
    return compile_c("musl-gcc", tmp_path / "hello", "-static")


def inspected(location: str, *options: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(run("skopeo", "inspect", *options, location))
    return found


def copy_to_layout(reference: str, folder: Path, *options: str) -> None:
    """A whole copy by skopeo, which verifies all that it reads."""
    source, target = f"docker://{reference}", f"oci:{folder}/copied:x"
    run("skopeo", "--insecure-policy", "copy", "-q", "--src-tls-verify=false", *options, source, target)


@pytest.mark.tools
@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
def test_skopeo_and_umoci_take_every_place(compression: str, hello: Path, tmp_path: Path) -> None:
    runnable = Runnable(hello, compression=compression, env={"A": "b"}, labels={"c": "d"}, user="app")
    places = [
        f"oci-archive:{tmp_path}/unnamed.tar",
        f"oci-archive:{tmp_path}/named.tar:{REFERENCE}",
        f"oci:{tmp_path}/layout:one",
        f"docker-archive:{tmp_path}/docker.tar:hello:1",
    ]
    digests = {place: runnable.write(place).digest for place in places}
    assert len(set(digests.values())) == 1
    for place, digest in digests.items():
        found = inspected(place.replace(f":{REFERENCE}", ""))
        assert (found["Architecture"], found["Os"]) == ("amd64", "linux")
        assert (found["Env"], found["Labels"]) == (["A=b"], {"c": "d"})
        # A Docker archive keeps no manifest; skopeo makes one up.
        assert place.startswith("docker-archive") or found["Digest"] == digest
        config = inspected(place.replace(f":{REFERENCE}", ""), "--config")
        assert config["config"] == {
            "User": "app",
            "Env": ["A=b"],
            "Entrypoint": ["/hello"],
            "WorkingDir": "/",
            "Labels": {"c": "d"},
        }
    status = json.loads(run("umoci", "stat", "--json", "--image", f"{tmp_path}/layout:one"))
    assert [line["created_by"] for line in status["history"]] == ["ocifast runnable"] * 2
    assert all(line["layer"] for line in status["history"])
    assert run("umoci", "ls", "--layout", tmp_path / "layout") == b"one\n"


@pytest.mark.tools
def test_a_docker_archive_is_named_and_holds_plain_layers(hello: Path, tmp_path: Path) -> None:
    Runnable(hello, compression="gzip").write(f"docker-archive:{tmp_path}/docker.tar", reference="me/hello:2")
    with tarfile.open(tmp_path / "docker.tar") as archive:
        listed = archive.extractfile("manifest.json")
        assert listed is not None
        (entry,) = json.loads(listed.read())
        layer = archive.extractfile(entry["Layers"][0])
        assert layer is not None
        with tarfile.open(fileobj=layer) as inner:
            assert inner.getnames() == ["hello"]
    assert entry["RepoTags"] == ["docker.io/me/hello:2"]


def test_a_docker_archive_cannot_hold_an_index(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(build_elf())
    (tmp_path / "b").write_bytes(build_elf(machine=183))
    with pytest.raises(UsageError, match="a Docker archive holds one image"):
        Runnable([tmp_path / "a", tmp_path / "b"], name="x").write(f"docker-archive:{tmp_path}/docker.tar")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


@pytest.mark.tools
def test_a_layout_is_added_to(hello: Path, tmp_path: Path) -> None:
    layout = tmp_path / "layout"
    first = Runnable(hello).write(f"oci:{layout}:one")
    blobs = {path: path.stat().st_mtime_ns for path in (layout / "blobs/sha256").iterdir()}
    second = Runnable(hello, args=["x"]).write(f"oci:{layout}:two")
    assert first.images[0].layers == second.images[0].layers
    for path, mtime in blobs.items():
        assert path.stat().st_mtime_ns == mtime, "a blob that is there is not written again"
    assert run("umoci", "ls", "--layout", layout) == b"one\ntwo\n"
    replaced = Runnable(hello, args=["y"]).write(f"oci:{layout}:one")
    assert run("umoci", "ls", "--layout", layout) == b"one\ntwo\n"
    with ocifast.open(f"oci:{layout}:one") as image:
        assert image.digest == replaced.digest
    assert not [path for path in layout.rglob("*") if path.name.startswith(".ocifast")]


def test_push_and_pull(registry: Registry, hello: Path, tmp_path: Path) -> None:
    events: list[Event] = []
    reference = f"{registry.host}/runnable/hello:1"
    result = Runnable(hello).push(reference, progress=events.append)
    assert inspected(f"docker://{reference}", "--tls-verify=false")["Digest"] == result.digest
    (layer,) = result.images[0].layers
    assert Event(Phase.PACKING, layer.digest, LayerState.UPLOADED, layer.size, layer.size) in events
    assert events[-1] == Event(Phase.COMPLETE)
    # The same bytes as in an archive, and nothing is sent twice.
    assert Runnable(hello).write(tmp_path / "image.tar").digest == result.digest
    before = len(registry.requests())
    events.clear()
    Runnable(hello).push(reference, progress=events.append)
    assert not [line for line in registry.requests()[before:] if line.startswith(("POST", "PATCH"))]
    assert Event(Phase.PACKING, layer.digest, LayerState.EXISTS, layer.size, layer.size) in events
    copy_to_layout(reference, tmp_path)


def test_push_an_index(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(build_elf())
    (tmp_path / "b").write_bytes(build_elf(machine=183))
    reference = f"{registry.host}/runnable/index:1"
    result = Runnable([tmp_path / "a", tmp_path / "b"], name="x", compression="zstd").push(reference)
    raw = run("skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{reference}")
    assert f"sha256:{hashlib.sha256(raw).hexdigest()}" == result.digest
    run(
        "skopeo",
        "--insecure-policy",
        "copy",
        "-q",
        "--all",
        "--src-tls-verify=false",
        f"docker://{reference}",
        f"oci:{tmp_path}/o:x",
    )


@pytest.mark.tools
def test_a_registry_that_refuses(tmp_path: Path, hello: Path) -> None:
    def left() -> set[Path]:
        return set(Path(os.environ.get("TMPDIR", "/tmp")).glob("ocifast-runnable-*"))

    before = left()
    with serve_registry(tmp_path / "registry", user=("me", "secret")) as closed:
        with pytest.raises(RegistryError) as caught:
            Runnable(hello).push(f"{closed.host}/hello:1")
        assert "\n" not in str(caught.value)
    assert left() - before == set()


BUILD = """
import sys
from ocifast.runnable import Runnable
executable, out, *more = sys.argv[1:]
options = dict(user="app", env={"A": "b"}, ca_certs=True, labels={"x": "y"}, created=5)
for compression in ("none", "gzip", "zstd"):
    print(Runnable(executable, compression=compression, **options).write(f"oci-archive:{out}/{compression}.tar").digest)
"""


@pytest.mark.tools
@pytest.mark.root
def test_another_day_umask_user_folder_and_name_of_the_machine(hello: Path, tmp_path: Path) -> None:
    def build(folder: Path, *prefix: str, umask: int = 0o022, mode: int = 0o755) -> tuple[str, list[str]]:
        folder.mkdir()
        folder.chmod(0o777)
        copy = Path(shutil.copy(hello, folder / "hello"))
        copy.chmod(mode)
        (folder / "out").mkdir()
        (folder / "out").chmod(0o777)
        script = folder / "build.py"
        script.write_text(BUILD)
        words = [*prefix, sys.executable, str(script), str(copy), str(folder / "out")]
        done = subprocess.run(words, capture_output=True, text=True, umask=umask, check=False)
        assert done.returncode == 0, done.stderr
        files = [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted((folder / "out").iterdir())]
        return done.stdout, files

    for parent in tmp_path.parents:  # another user must get in
        if parent.stat().st_uid == os.getuid() and str(parent).startswith("/tmp/"):
            parent.chmod(0o755)
    tmp_path.chmod(0o755)
    once = build(tmp_path / "once")
    again = build(
        tmp_path / "again",
        *(tool("faketime"), "2031-03-04 05:06:07"),
        *(tool("unshare"), "--uts", "sh", "-c", 'hostname elsewhere && exec "$@"', "sh"),
        *(tool("setpriv"), "--reuid=65534", "--regid=65534", "--clear-groups"),
        umask=0o077,
        mode=0o555,
    )
    assert once == again
    assert len(set(once[1])) == 3


@pytest.mark.slow
def test_a_gigabyte_needs_little_memory(tmp_path: Path) -> None:
    executable = tmp_path / "large"
    executable.write_bytes(build_elf())
    os.truncate(executable, 1 << 30)
    # VmHWM is of this program alone; getrusage counts what the tests held when they started it.
    script = """
import sys
from ocifast.runnable import Runnable
result = Runnable(sys.argv[1], compression=sys.argv[3]).write(sys.argv[2])
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(result.images[0].layers[0].size, status["VmHWM"].split()[0])
"""
    for compression, destination in [("none", "archive.tar"), ("zstd", "zstd.tar")]:
        words = [sys.executable, "-c", script, str(executable), str(tmp_path / destination), compression]
        size, peak = map(int, subprocess.run(words, capture_output=True, text=True, check=True).stdout.split())
        assert peak < 64 << 10, f"{compression}: {peak} KiB"
        assert (size > 1 << 30) == (compression == "none")
        (tmp_path / destination).unlink()


@pytest.mark.tools
def test_the_archive_is_written_once(hello: Path, tmp_path: Path) -> None:
    # Bytes that go through write calls of the process: the archive's, and no copy of the layer besides.
    script = """
import sys
from ocifast.runnable import Runnable
Runnable(sys.argv[1]).write(sys.argv[2])
print(dict(line.split(": ") for line in open("/proc/self/io").read().splitlines())["wchar"])
"""
    executable = tmp_path / "executable"
    executable.write_bytes(build_elf() + bytes(8 << 20))
    words = [sys.executable, "-c", script, str(executable), str(tmp_path / "image.tar")]
    written = int(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    assert (8 << 20) < written < (9 << 20)


@pytest.mark.tools
def test_command(hello: Path, tmp_path: Path) -> None:
    digest = command("runnable", hello, "-o", tmp_path / "a.tar").decode()
    assert digest == f"{Runnable(hello).write(tmp_path / 'b.tar').digest}\n"
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    words = ["--name", "x", "--arg", "a", "-e", "B=c=d", "--user", "1", "--workdir", "/w", "-l", "e=f"]
    words += ["--annotation", "g=h", "-p", "80", "--volume", "/v", "--stop-signal", "SIGHUP", "--add", f"{hello}:/y"]
    words += ["--ca-certs", "--compression", "gzip", "--level", "1", "--json", "-t", REFERENCE]
    told = json.loads(command("runnable", hello, "-o", tmp_path / "c.tar", *words))
    expected = Runnable(
        hello,
        name="x",
        args=["a"],
        env={"B": "c=d"},
        user="1",
        working_dir="/w",
        labels={"e": "f"},
        annotations={"g": "h"},
        ports=["80"],
        volumes=["/v"],
        stop_signal="SIGHUP",
        add=[(hello, "/y")],
        ca_certs=True,
        compression="gzip",
        level=1,
    ).write(tmp_path / "d.tar", reference=REFERENCE)
    assert (tmp_path / "c.tar").read_bytes() == (tmp_path / "d.tar").read_bytes()
    image = Opened(tmp_path / "c.tar")
    assert told == {
        "destination": str(tmp_path / "c.tar"),
        "media_type": "application/vnd.oci.image.manifest.v1+json",
        "digest": expected.digest,
        "images": [
            {
                "platform": "linux/amd64",
                "digest": expected.digest,
                "config": image.manifest["config"]["digest"],
                "layers": [
                    {"media_type": layer["mediaType"], "digest": layer["digest"], "size": layer["size"]}
                    for layer in image.manifest["layers"]
                ],
            }
        ],
    }


def test_command_pushes(registry: Registry, hello: Path, tmp_path: Path) -> None:
    reference = f"{registry.host}/runnable/command:1"
    digest = command("runnable", hello, "-t", reference, "--push").decode().strip()
    assert inspected(f"docker://{reference}", "--tls-verify=false")["Digest"] == digest


@pytest.mark.tools
@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["hello"], 1, "say where the image shall go: either --output FILE or --push"),
        (["hello", "-o", "x.tar", "--push", "-t", "h/x"], 1, "say where the image shall go"),
        (["hello", "--push"], 1, "--push needs to know where to: give --tag HOST/NAME[:TAG]"),
        ([], 2, "Missing argument 'EXECUTABLE...'. (see 'ocifast runnable --help')"),
        (["hello", "-o", "x.tar", "-e", "A"], 1, "--env 'A' has no value; write NAME=VALUE"),
        (["hello", "-o", "x.tar", "--add", "hello"], 1, "--add 'hello' says not where to; write SOURCE:/PATH"),
        (["hello.c", "-o", "x.tar"], 1, "hello.c: it is not an ELF file"),
        (["none", "-o", "x.tar"], 1, "none: No such file or directory"),
        (["/bin/ls", "-o", "x.tar"], 1, "/bin/ls: it is dynamically linked (interpreter /lib64/ld-linux-x86-64.so.2);"),
        (["hello", "-o", "x.tar", "-t", "NOT A NAME"], 1, "'NOT A NAME' is not an image reference"),
    ],
)
def test_command_errors(words: list[str], status: int, message: str, hello: Path, tmp_path: Path) -> None:
    (tmp_path / "hello.c").write_text("int main;")
    before = sorted(tmp_path.iterdir())
    done = try_ocifast("runnable", *words, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (status, b"")
    told = done.stderr.decode()
    assert told.startswith(f"ocifast: error: {message}")
    assert told.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


def test_a_slot_that_is_given_back_leaves_nothing(tmp_path: Path) -> None:
    data = b"blob" * 1000
    config = Document("application/vnd.oci.image.config.v1+json", b"{}")
    manifest = Document("application/vnd.oci.image.manifest.v1+json", b'{"schemaVersion":2,"layers":[]}')
    for place in (f"oci-archive:{tmp_path}/a.tar", f"oci:{tmp_path}/layout"):
        destination = open_destination(parse_location(place))
        assert isinstance(destination, DirectDestination)
        slot = destination.open_slot()
        os.pwrite(slot.fd, data, slot.offset)
        slot.complete(Document("application/octet-stream", data).descriptor())
        for twice in (True, False):  # a blob that is there already, and one that was given up
            slot = destination.open_slot()
            os.pwrite(slot.fd, data * 100, slot.offset)
            if twice:
                slot.complete(Document("application/octet-stream", data).descriptor())
            slot.discard()
        destination.put_blob(config.descriptor(), [config.raw])
        destination.put_document(manifest, root=True)
        destination.commit()
    raw = (tmp_path / "a.tar").read_bytes()
    assert len(raw) < 12000
    assert raw.endswith(bytes(1024))
    blobs = {name for name in Opened(tmp_path / "a.tar").files if name.startswith("blobs/")}
    assert blobs == {str(path.relative_to(tmp_path / "layout")) for path in tmp_path.glob("layout/blobs/sha256/*")}
    assert len(blobs) == 3
    assert not list(tmp_path.rglob(".ocifast*"))


DOCUMENT = Path(__file__).parent.parent / "docs/runnables.md"


def test_the_document_names_the_tests_that_there_are() -> None:
    rows = [line for line in DOCUMENT.read_text().splitlines() if line.startswith("|") and "`test_" in line]
    named = {name for row in rows for name in re.findall(r"`(test_\w+)`", row)}
    sources = [path.read_text() for path in Path(__file__).parent.glob("test_*.py")]
    assert {name for name in named if not any(f"def {name}(" in source for source in sources)} == set()
    assert len(rows) > 15


def test_the_document_has_every_option_and_platform() -> None:
    text = DOCUMENT.read_text()
    assert {machine.architecture for machine in MACHINES.values()} == set(re.findall(r"`linux/(\w+)` \|", text))
    offered = set(re.findall(r"--[a-z-]+", command("runnable", "--help").decode()))
    assert {word for word in re.findall(r"(?<![\w-])--[a-z][a-z-]+", text) if word not in offered} == set()


@pytest.mark.tools
def test_every_place_takes_an_index(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(build_elf())
    (tmp_path / "b").write_bytes(build_elf(machine=183))
    runnable = Runnable([tmp_path / "a", tmp_path / "b"], name="x")
    for place in (f"oci-archive:{tmp_path}/index.tar", f"oci:{tmp_path}/index:x"):
        runnable.write(place)
        for architecture in ("amd64", "arm64"):
            found = json.loads(run("skopeo", "--override-arch", architecture, "inspect", place))
            assert found["Architecture"] == architecture
