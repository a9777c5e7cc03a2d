"""`ocifast inspect`: what is shown of images and indexes, wherever they are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from ocifast.cli import main
from ocifast.cli.inspect import command

from tests.support.images import BuiltImage, Layer, as_json, build_image, build_index, write_layout
from tests.support.layers import TarBuilder
from tests.support.registry import Registry

CONFIG = {
    "User": "app\x1b]0;me\x07",
    "Entrypoint": ["/bin/app", "two words"],
    "Cmd": ["--help"],
    "Env": ["A=1", "B=\x1b[31mred"],
    "WorkingDir": "/srv",
    "StopSignal": "SIGINT",
    "ExposedPorts": {"80/tcp": {}},
    "Volumes": {"/data": {}},
    "Labels": {"b": "2", "a": "1"},
}
AMD64 = build_image(
    [Layer(TarBuilder().file("one")), Layer(TarBuilder().file("two"), compression="plain")],
    config=CONFIG,
    annotations={"note": "hello"},
    edit_config=lambda config: config.update(created="2026-01-02T03:04:05Z"),
)
ARM64 = build_image([TarBuilder().file("arm")], platform="linux/arm64/v8")
INDEX = build_index([AMD64, ARM64])


@pytest.fixture(autouse=True)
def _this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")


def inspect(*arguments: str) -> bytes:
    """Standard output of the command, which must succeed."""
    done = CliRunner().invoke(command, arguments, catch_exceptions=False, obj={})
    assert (done.exit_code, done.stderr) == (0, "")
    return done.stdout_bytes


def layout(folder: Path, image: BuiltImage) -> str:
    """Where the image is."""
    write_layout(folder, image)
    return f"oci:{folder}:app"


def test_an_image_for_people(tmp_path: Path) -> None:
    where = layout(tmp_path, AMD64)
    one, two = AMD64.layers
    assert inspect(where).decode().splitlines() == [
        f"reference     {where}",
        f"digest        {AMD64.digest}",
        "platform      linux/amd64",
        "created       2026-01-02T03:04:05Z",
        f"size          {(len(one.blob) + len(two.blob)) / 1000:.1f} kB",
        f"layers        {one.digest}  {len(one.blob)} B",
        f"              {two.digest}  {len(two.blob) / 1000:.1f} kB",
        "user          app\\x1b]0;me\\x07",
        "working dir   /srv",
        "stop signal   SIGINT",
        "entrypoint    /bin/app 'two words'",
        "cmd           --help",
        "env           A=1",
        "              B=\\x1b[31mred",
        "ports         80/tcp",
        "volumes       /data",
        "labels        a=1",
        "              b=2",
        "annotations   note=hello",
    ]


def test_an_index_for_people(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where = layout(tmp_path, INDEX)
    shown = inspect(where, "--platform", "linux/arm64").decode().splitlines()
    first = [
        f"reference     {where}",
        f"digest        {INDEX.digest}",
        f"platforms     linux/amd64         {AMD64.digest}",
        f"              linux/arm64/v8      {ARM64.digest}",
    ]
    assert shown == [
        *first,
        f"image         {ARM64.digest}",
        "platform      linux/arm64/v8",
        f"size          {ARM64.layers[0].size} B",
        f"layers        {ARM64.layers[0].digest}  {ARM64.layers[0].size} B",
    ]
    # Nothing for this machine, and nobody asked for it.
    monkeypatch.setattr("platform.machine", lambda: "s390x")
    assert inspect(where).decode().splitlines() == first


def test_json(tmp_path: Path) -> None:
    where = layout(tmp_path, INDEX)
    shown = json.loads(inspect(where, "--json"))
    one, two = AMD64.layers
    assert shown == {
        "reference": where,
        "digest": INDEX.digest,
        "media_type": INDEX.media_type,
        "manifests": [
            {
                "platform": platform,
                "digest": image.digest,
                "media_type": image.media_type,
                "size": len(image.raw),
            }
            for platform, image in (("linux/amd64", AMD64), ("linux/arm64/v8", ARM64))
        ],
        "image": {
            "digest": AMD64.digest,
            "platform": "linux/amd64",
            "created": "2026-01-02T03:04:05Z",
            "size": len(one.blob) + len(two.blob),
            "layers": [
                {
                    "digest": layer.digest,
                    "diff_id": layer.diff_id,
                    "media_type": AMD64.manifest["layers"][number]["mediaType"],
                    "size": layer.size,
                }
                for number, layer in enumerate(AMD64.layers)
            ],
            "user": "app\x1b]0;me\x07",
            "entrypoint": ["/bin/app", "two words"],
            "cmd": ["--help"],
            "env": ["A=1", "B=\x1b[31mred"],
            "working_dir": "/srv",
            "exposed_ports": ["80/tcp"],
            "volumes": ["/data"],
            "stop_signal": "SIGINT",
            "labels": {"a": "1", "b": "2"},
            "annotations": {"note": "hello"},
        },
    }


def test_bytes_as_they_are(tmp_path: Path) -> None:
    where = layout(tmp_path, INDEX)
    assert inspect(where, "--raw") == INDEX.raw
    assert inspect(where, "--raw", "--platform", "linux/arm64") == ARM64.raw
    assert inspect(where, "--config") == AMD64.blobs[AMD64.manifest["config"]["digest"]]
    assert inspect(f"{where}@{ARM64.digest}", "--raw") == ARM64.raw
    # Of what is no image the manifest can be seen all the same.
    artifact = BuiltImage(as_json({**AMD64.manifest, "artifactType": "a/b"}), AMD64.media_type)
    assert inspect(layout(tmp_path / "artifact", artifact), "--raw") == artifact.raw


def test_a_remote_image_without_its_layers(registry: Registry) -> None:
    registry.put(INDEX, "inspect/app:1")
    before = len(registry.requests())
    shown = json.loads(inspect(f"{registry.host}/inspect/app:1", "--json"))
    assert shown["digest"] == INDEX.digest
    assert shown["image"]["digest"] == AMD64.digest
    asked = registry.requests()[before:]
    config = AMD64.manifest["config"]["digest"]
    assert not [line for line in asked if "/blobs/" in line and config not in line]
    assert [line for line in asked if config in line]


ERRORS = {
    ("--platform", "linux/s390x"): "oci:{0}:app has no image for linux/s390x; it has linux/amd64, linux/arm64/v8",
    ("--platform", "linux/s390x", "--raw"): (
        "oci:{0}:app has no image for linux/s390x; it has linux/amd64, linux/arm64/v8"
    ),
    ("--platform", "nonsense"): (
        "'nonsense' is neither an operating system nor an architecture; write OS/ARCHITECTURE"
    ),
}


@pytest.mark.parametrize("arguments", ERRORS)
def test_errors_are_one_line(arguments: tuple[str, ...], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    where = layout(tmp_path, INDEX)
    assert main(["inspect", where, *arguments]) == 1
    captured = capfd.readouterr()
    assert captured.err == f"ocifast: error: {ERRORS[arguments].format(tmp_path)}\n"
    assert captured.out == ""


def test_only_one_form_at_a_time(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", layout(tmp_path, INDEX), "--raw", "--config"]) == 2
    assert "choose one of --raw, --config, --format and --json" in capfd.readouterr().err


FORMATS = [
    ("{digest}", AMD64.digest),
    ("{image.platform} {image.size}", f"linux/amd64 {sum(len(layer.blob) for layer in AMD64.layers)}"),
    ("{image.layers.1.digest}", AMD64.layers[1].digest),
    ("{ image.labels.b }|{image.cmd}|{image.created}", '2|["--help"]|2026-01-02T03:04:05Z'),
    ("{{{image.working_dir}}}\\t\\\\n\\n-", "{/srv}\t\\n\n-"),
    ("{image.user}", "app\\x1b]0;me\\x07"),
    ("plain", "plain"),
]


@pytest.mark.parametrize(("template", "text"), FORMATS)
def test_a_template(tmp_path: Path, template: str, text: str) -> None:
    assert inspect("--format", template, layout(tmp_path, AMD64)).decode() == f"{text}\n"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{image.nope}", "there is no 'nope' in {image.nope}; there is digest, platform"),
        ("{image.layers.2}", "'2' is no position in a list of 2"),
        ("{image.layers.-1}", "'-1' is no position"),
        ("{image.digest.x}", "nothing is below"),
        ("{digest.__class__}", "nothing is below"),
        ("{", "a '{' is alone"),
        ("a}", "a '}' is alone"),
    ],
)
def test_a_template_that_leads_nowhere(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], template: str, message: str
) -> None:
    assert main(["inspect", "--format", template, layout(tmp_path, AMD64)]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert message in err
    assert err.count("\n") == 1


def test_a_template_of_labels_with_dots_and_of_an_index(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    labels = {"org.opencontainers.image.title": "app", "org": "{digest}"}
    where = layout(tmp_path / "one", build_image([], config={"Labels": labels}))
    template = "{image.labels.org.opencontainers.image.title} {image.labels.org}"
    assert inspect("--format", template, where) == b"app {digest}\n"
    where = layout(tmp_path / "index", build_index([ARM64]))
    assert inspect("--format", "{manifests.0.platform}", where) == b"linux/arm64/v8\n"
    assert main(["inspect", "--format", "{image.digest}", where]) == 2
    assert "choose one with --platform" in capfd.readouterr().err
