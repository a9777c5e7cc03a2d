"""Bad images on the command line: one line that names image, layer and entry; nothing left, nothing else touched."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.images import (
    BuiltImage,
    Layer,
    build_image,
    build_index,
    digest_of,
    write_layout,
)
from tests.support.layers import TarBuilder
from tests.support.oracle import dump_directory
from tests.support.registry import Registry, serve_registry
from tests.support.run import try_ocifast

GOOD = TarBuilder().file("fine", b"a layer like any other")
TAR = TarBuilder().file("first", b"1" * 3000).file("second", b"2" * 3000).build()
SECRET = "correct-horse-battery"


def flipped(data: bytes, at: int) -> bytes:
    """The bytes with one bit turned."""
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@dataclass(frozen=True)
class Bad:
    """A bad image.

    Attributes:
        layer: its second layer, over a good one.
        code: of the error.
        entry: what the line says of the place in the layer, when there is one.
        by_registry: whether docker-registry takes it.
    """

    layer: Callable[[], Layer]
    code: str
    entry: str = ""
    by_registry: bool = True


def gzipped(**lies: object) -> Layer:
    """The layer of two files, with what is told of it wrongly."""
    return Layer(TAR, **lies)  # type: ignore[arg-type]


HONEST = gzipped()
BAD: dict[str, Bad] = {
    "another blob under the digest": Bad(
        lambda: Layer(TAR, blob=Layer(GOOD).blob, digest=HONEST.digest, size=len(Layer(GOOD).blob)), "digest_mismatch"
    ),
    "a flipped bit in the checksum": Bad(
        lambda: gzipped(blob=flipped(HONEST.blob, len(HONEST.blob) - 5), digest=HONEST.digest), "digest_mismatch"
    ),
    "a blob that is too short": Bad(
        lambda: gzipped(blob=HONEST.blob[:-9], digest=HONEST.digest, size=HONEST.size), "size_mismatch"
    ),
    "a blob that is too long": Bad(
        lambda: gzipped(blob=HONEST.blob + b"more", digest=HONEST.digest, size=HONEST.size), "size_mismatch"
    ),
    "another layer than the diff ID": Bad(lambda: gzipped(diff_id=digest_of(b"another")), "diff_id_mismatch"),
    "bytes after the end of the archive": Bad(lambda: Layer(TAR, blob=Layer(TAR + b"more").blob), "diff_id_mismatch"),
    "a gzip stream that is cut": Bad(lambda: gzipped(blob=HONEST.blob[: len(HONEST.blob) // 2]), "compression_invalid"),
    "a gzip stream with a flipped bit": Bad(
        lambda: gzipped(blob=flipped(HONEST.blob, len(HONEST.blob) - 5)), "compression_invalid"
    ),
    "a zstd stream that is cut": Bad(
        lambda: Layer(TAR, "zstd", blob=Layer(TAR, "zstd").blob[:-3]), "compression_invalid"
    ),
    "neither compressed nor an archive": Bad(
        lambda: Layer(b"<html>not found</html>" * 99, "plain"), "compression_invalid"
    ),
    "an archive that is cut": Bad(lambda: Layer(TAR[:5000], "plain"), "tar_invalid", 'entry "second"'),
    "a header with a wrong checksum": Bad(
        lambda: Layer(TarBuilder().file("first").member("second", checksum=b"0000000\x00")), "tar_invalid", "byte 512"
    ),
    "a name that leaves the root": Bad(
        lambda: Layer(TarBuilder().file("../../evil", b"x")), "entry_refused", 'entry "../../evil"'
    ),
    "a hard link that leaves the root": Bad(
        lambda: Layer(TarBuilder().hard_link("link", "../../../etc/passwd")), "entry_refused", 'entry "link"'
    ),
    "a hard link to nothing": Bad(
        lambda: Layer(TarBuilder().hard_link("link", "missing")), "entry_refused", 'entry "link"'
    ),
    "a whiteout of nothing": Bad(lambda: Layer(TarBuilder().file("etc/.wh..")), "entry_refused", 'entry "etc/.wh.."'),
    "a missing blob": Bad(lambda: gzipped(missing=True), "blob_not_found", by_registry=False),
}


@dataclass
class Work:
    """A folder with an output to be, something beside it, and a cache; all of it is looked at before and after."""

    folder: Path

    @property
    def out(self) -> Path:
        return self.folder / "work/out"

    def prepare(self) -> None:
        """Lays the folder out."""
        (self.folder / "work/beside").mkdir(parents=True)
        (self.folder / "work/beside/file").write_bytes(b"not ours")
        (self.folder / "work/out.tar").write_bytes(b"an earlier output")

    def listing(self) -> str:
        """All names with all that they have, but for the times of the folder that temporary names come and go in."""
        return re.sub(r"(?m)^(/ directory .*) \S+ - - - -$", r"\1", dump_directory(self.folder / "work"))

    def cache(self) -> list[str]:
        """What is in the cache; fails when a blob there has another digest than its name."""
        root = self.folder / "cache"
        for path in root.rglob("*"):
            if re.fullmatch("[0-9a-f]{64}", path.name) and path.is_file() and "blobs" in path.parts:
                assert digest_of(path.read_bytes()) == f"sha256:{path.name}"
        return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if "outputs" in path.parts)


@pytest.fixture
def work(tmp_path: Path) -> Work:
    """The folder of one test."""
    work = Work(tmp_path)
    work.prepare()
    return work


def fails(work: Work, location: str, form: str, *options: str, code: str, words: list[str]) -> str:
    """Compiles a bad image and holds what is promised of every failure; the one line that was said."""
    before, cached = work.listing(), work.cache()
    out = work.out.with_suffix(".tar") if form == "tar" else work.out
    environment = {"OCIFAST_CACHE_DIR": str(work.folder / "cache")}
    done = try_ocifast("compile", location, out, "-f", form, "--json", *options, env=environment, cwd=work.folder)
    said = done.stderr.decode()
    assert done.returncode == 1, said
    assert re.fullmatch(r"ocifast: error: [^\n]+\n", said), said
    assert json.loads(done.stdout)["error"]["code"] == code, said
    assert [word for word in words if word not in said] == [], said
    assert work.listing() == before
    assert work.cache() == cached
    return said


@pytest.mark.tools
@pytest.mark.slow
@pytest.mark.parametrize("form", ["dir", "tar", "erofs", "squashfs"])
@pytest.mark.parametrize("name", BAD)
def test_bad_layers_in_a_layout(work: Work, name: str, form: str) -> None:
    bad = BAD[name]
    layer = bad.layer()
    layout = write_layout(work.folder / "layout", build_image([GOOD, layer]))
    fails(work, f"oci:{layout}:app", form, code=bad.code, words=[f"oci:{layout}:app", layer.digest, bad.entry])


@pytest.mark.parametrize("name", [name for name in BAD if BAD[name].by_registry])
def test_bad_layers_in_a_registry(work: Work, registry: Registry, name: str) -> None:
    bad = BAD[name]
    layer = bad.layer()
    # A repository and a first layer of its own: what docker-registry knows of a digest, it knows for good.
    repository = "bad/" + re.sub(r"\W+", "-", name.lower())
    image = build_image([TarBuilder().file(repository), layer])
    location = registry.put(image, f"{repository}:1")
    registry.blob(layer.digest).write_bytes(layer.blob)
    fails(work, location, "dir", code=bad.code, words=[location, layer.digest, bad.entry])
    registry.blob(layer.digest).unlink()


def test_a_blob_that_the_registry_lost(work: Work, registry: Registry) -> None:
    layer = Layer(TarBuilder().file("lost", b"only here"))
    location = registry.put(build_image([GOOD, layer]), "bad/lost:1")
    registry.blob(layer.digest).unlink()
    fails(work, location, "dir", code="blob_not_found", words=[location, layer.digest])


@pytest.mark.parametrize(
    ("name", "words"), [("bad/fine:2", ["bad/fine:2"]), ("bad/no/such:1", ["bad/no/such:1"])], ids=["tag", "repository"]
)
def test_no_such_image_in_a_registry(work: Work, registry: Registry, name: str, words: list[str]) -> None:
    registry.put(build_image([GOOD]), "bad/fine:1")
    fails(work, f"{registry.host}/{name}", "dir", code="image_not_found", words=words)
    fails(
        work,
        f"{registry.host}/bad/fine@{digest_of(b'no manifest')}",
        "dir",
        code="image_not_found",
        words=[digest_of(b"no manifest")],
    )


@pytest.mark.parametrize(
    "location", ["oci:layout:2", "oci:nowhere:app", "oci-archive:nowhere.tar", "docker-archive:x.tar"]
)
def test_no_such_image_on_disk(work: Work, location: str) -> None:
    write_layout(work.folder / "layout", build_image([GOOD]))
    fails(work, location, "dir", code="image_not_found", words=[location.split(":")[1]])


def test_no_matching_platform_says_which_exist(work: Work, registry: Registry) -> None:
    index = build_index([build_image([GOOD], platform=platform) for platform in ("linux/arm64/v8", "linux/s390x")])
    location = registry.put(index, "bad/platforms:1")
    words = [location, "linux/amd64", "linux/arm64", "linux/s390x"]
    fails(work, location, "dir", "--platform", "linux/amd64", code="platform_not_found", words=words)


NOT_IMAGES: dict[str, tuple[Callable[[], BuiltImage], str]] = {
    "an artifact": (
        lambda: build_image(
            [GOOD],
            edit_manifest=lambda manifest: manifest.update(
                artifactType="application/vnd.example.sbom",
                config={"mediaType": "application/vnd.oci.empty.v1+json", "digest": digest_of(b"{}"), "size": 2},
            ),
        ),
        "not_an_image",
    ),
    "schema 1": (
        lambda: BuiltImage(
            b'{"schemaVersion":1,"name":"x","tag":"1","fsLayers":[]}',
            "application/vnd.oci.image.manifest.v1+json",
        ),
        "not_an_image",
    ),
    "a manifest and an index at once": (
        lambda: build_image([GOOD], edit_manifest=lambda manifest: manifest.update(manifests=[])),
        "document_invalid",
    ),
    "no JSON": (lambda: BuiltImage(b"<html>", "application/vnd.oci.image.manifest.v1+json"), "document_invalid"),
}


@pytest.mark.parametrize("name", NOT_IMAGES)
def test_what_is_not_an_image(work: Work, name: str) -> None:
    make, code = NOT_IMAGES[name]
    image = make()
    image.blobs[digest_of(b"{}")] = b"{}"
    layout = write_layout(work.folder / "layout", image)
    fails(work, f"oci:{layout}:app", "dir", code=code, words=[f"oci:{layout}:app"])


@pytest.mark.tools
def test_a_failure_never_tells_a_secret(work: Work, tmp_path: Path) -> None:
    layer = gzipped(diff_id=digest_of(b"another"))
    with serve_registry(tmp_path / "registry", user=("someone", SECRET)) as private:
        location = private.put(build_image([GOOD, layer]), "private/image:1")
        login = base64.b64encode(f"someone:{SECRET}".encode()).decode()
        for password, code in [(SECRET, "diff_id_mismatch"), (f"{SECRET}-wrong", "authentication_failed")]:
            auth = base64.b64encode(f"someone:{password}".encode()).decode()
            (work.folder / "docker").mkdir(exist_ok=True)
            (work.folder / "docker/config.json").write_text(json.dumps({"auths": {private.host: {"auth": auth}}}))
            environment = {
                "DOCKER_CONFIG": str(work.folder / "docker"),
                "OCIFAST_CACHE_DIR": str(work.folder / "cache"),
            }
            done = try_ocifast("compile", location, work.out, "-f", "dir", "--json", env=environment)
            everything = (done.stdout + done.stderr).decode()
            assert done.returncode == 1
            assert json.loads(done.stdout)["error"]["code"] == code
            assert [secret for secret in (SECRET, login, auth) if secret in everything] == []
        for path in (work.folder / "cache").rglob("*"):
            assert path.is_dir() or SECRET.encode() not in path.read_bytes()


@pytest.mark.parametrize("output", ["missing/folder/out.tar", "work/beside", "work/beside/file/out"])
def test_an_output_that_cannot_be_made(work: Work, output: str) -> None:
    layout = write_layout(work.folder / "layout", build_image([GOOD]))
    before = work.listing()
    form = ["-f", "dir"] if output == "work/beside" else ["-f", "tar"]
    done = try_ocifast("compile", f"oci:{layout}:app", output, *form, cwd=work.folder)
    assert done.returncode == 1
    assert re.fullmatch(r"ocifast: error: [^\n]+\n", done.stderr.decode()), done.stderr
    assert output in done.stderr.decode()
    assert work.listing() == before


@pytest.mark.parametrize("words", [["compile"], ["compile", "a"], ["compile", "a", "b", "-f", "zip"], ["nonsense"]])
def test_a_wrong_command_line_ends_with_2(work: Work, words: list[str]) -> None:
    done = try_ocifast(*words, cwd=work.folder)
    assert done.returncode == 2
    assert re.fullmatch(r"ocifast: error: [^\n]+\n", done.stderr.decode()), done.stderr
