"""The file of a batch, and the command that reads it."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from ocifast.cli import main
from ocifast.cli.batchfile import read_file, read_plans
from ocifast.compiler import CompileOptions, CompilePlan
from ocifast.edits import Addition, Edits
from ocifast.errors import FileError, UsageError
from ocifast.packers import PackOptions

from tests.support.images import write_layout
from tests.test_batch import small_images

YAML = """
defaults: {format: erofs, platform: linux/arm64}
images:
  - image: docker.io/library/busybox:1
    output: busybox.erofs
  - image: oci:layout:app
    output: [app.tar, app.cpio]
    format: null
    edits:
      add: ./agent:/sbin/agent:mode=0755,owner=1:2
      exclude: [usr/share/doc/**, "!usr/share/doc/keep"]
      layers: [top.tar]
      subtree: /srv
      mount_points: true
      chown: "3:4"
      id_offset: 5
    options: {compression: zstd, level: 3}
"""


def plans(name: str, text: str) -> list[CompilePlan]:
    return read_plans(name, text, CompileOptions(threads=2))


def test_yaml_with_all_that_an_entry_has() -> None:
    first, second = plans("a.yaml", YAML)
    assert first == CompilePlan(
        "docker.io/library/busybox:1", ("busybox.erofs",), "erofs", "linux/arm64", CompileOptions(threads=2)
    )
    assert second == CompilePlan(
        "oci:layout:app",
        ("app.tar", "app.cpio"),
        None,
        "linux/arm64",
        CompileOptions(threads=2, pack=PackOptions(compression="zstd", level=3)),
        Edits(
            add=[Addition("./agent", "/sbin/agent", 0o755, (1, 2))],
            layers=["top.tar"],
            exclude=["usr/share/doc/**", "!usr/share/doc/keep"],
            subtree="/srv",
            mount_points=True,
            owner=(3, 4),
            id_offset=5,
        ),
    )


def test_lines_of_json_and_lists_mean_the_same() -> None:
    entries = [{"image": "a", "output": "a.tar"}, {"image": "b", "output": ["b.tar"], "platform": "linux/amd64"}]
    lines = "\n".join(map(json.dumps, entries)) + "\n\n"
    found = plans("a.jsonl", lines)
    assert found == plans("-", lines) == plans("a.json", json.dumps(entries)) == plans("x.yml", json.dumps(entries))
    assert [(plan.image, plan.outputs) for plan in found] == [("a", ("a.tar",)), ("b", ("b.tar",))]
    assert plans("a.jsonl", "") == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"image":"a"}', "a.jsonl, line 1 has no output"),
        ('{"image":"a","output":"b"}\n{"output":"b"}', "line 2 has no image"),
        ('{"image":"a","output":"b","outptu":"c"}', "unknown field 'outptu'; known are image, output"),
        ('{"image":"a","output":"b"}\n{', "line 2 is no JSON"),
        ('{"image":7,"output":"b"}', "line 1: image must be a text, not '7'"),
        ('{"image":"a","output":[]}\n', "line 1 has no output"),
        ('{"image":"a","output":""}', "output must be a text"),
        ('{"image":"a","output":"b","edits":{"remove":"x"}}', "there is no edit 'remove'"),
        ('{"image":"a","output":"b","edits":{"id_offset":true}}', "id_offset cannot be True"),
        ('{"image":"a","output":"b","edits":{"add":"x"}}', "line 1: --add 'x' says not where to"),
        ('{"image":"a","output":"b","edits":{"layers":"-"}}', "a file, not standard input"),
        ('{"image":"a","output":"b","edits":[]}\n{"image":"a","output":"b","edits":[1]}', "line 2: edits is no object"),
        ('{"image":"a","output":"b","options":{"leevl":1}}', "line 1: there is no option 'leevl'"),
        ("7", "must be a list of images"),
        ("images: 7", "must be a list of images"),
        ("entries: []", "have the fields images and defaults"),
        ("- [", "is no YAML"),
        ("- image: a\n  output: b\n- x", "entry 2 is no object"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(text: str, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        plans("a.jsonl", text)
    assert says in str(caught.value)


def test_yaml_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(UsageError, match=r"needs the package PyYAML: pip install 'ocifast\[batch\]'"):
        plans("a.yaml", YAML)
    assert len(plans("a.jsonl", '{"image":"a","output":"b"}')) == 1


def test_files_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileError, match="cannot read"):
        read_file(str(tmp_path / "none"))
    (tmp_path / "latin").write_bytes(b"\xe9")
    with pytest.raises(FileError, match="no text in UTF-8"):
        read_file(str(tmp_path / "latin"))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"{}")))
    assert read_file("-") == "{}"


@pytest.fixture
def batch(tmp_path: Path) -> Path:
    """Three images, the last of which is not there."""
    layout = write_layout(tmp_path / "layout", small_images(2, 1))
    tags = ("app0", "app1", "none")
    lines = [{"image": f"oci:{layout}:{tag}", "output": str(tmp_path / f"{tag}.erofs")} for tag in tags]
    file = tmp_path / "batch.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)))
    return file


def test_results_come_in_lines_and_a_summary_at_the_end(batch: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["batch", str(batch), "--workers", "2", "--progress", "plain"]) == 1
    told = capfd.readouterr()
    assert len(told.out.splitlines()) == 2
    assert all(" -> " in line and line.startswith("sha256:") for line in told.out.splitlines())
    lines = told.err.splitlines()
    assert f"oci:{batch.parent}/layout:none failed: " in told.err
    assert "ocifast: 0 of 3 images, 0 failed" in lines
    assert lines[-1].startswith("ocifast: 2 of 3 compiled, 1 failed in ")
    assert (batch.parent / "batch.jsonl.journal").is_file()
    assert main(["batch", str(batch), "--resume", "-q"]) == 1
    told = capfd.readouterr()
    assert told.out.count("there already") == 2
    assert "0 of 3 compiled, 2 there already, 1 failed" in told.err


def test_json_is_a_line_for_each_image(batch: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["batch", str(batch), "--json", "--progress", "json"]) == 1
    told = capfd.readouterr()
    *results, last = [json.loads(line) for line in told.out.splitlines()]
    by_index: dict[int, Any] = {each["index"]: each for each in results}
    assert [by_index[index]["status"] for index in range(3)] == ["compiled", "compiled", "failed"]
    assert by_index[2]["error"]["code"] == "image_not_found"
    assert by_index[0]["images"][0]["path"] == by_index[0]["outputs"][0]
    assert {name: last["summary"][name] for name in ("total", "compiled", "skipped", "failed")} == {
        "total": 3,
        "compiled": 2,
        "skipped": 0,
        "failed": 1,
    }
    stands = [json.loads(line) for line in told.err.splitlines() if line.startswith("{")]
    assert stands[0]["total"] == 3
    assert stands[-1]["running"] == []


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--workers", "2", "--dask", "tcp://127.0.0.1:1"], "give one of them"),
        (["--username", "a"], "--username and --insecure are for one registry"),
    ],
)
def test_options_that_contradict_each_other(
    batch: Path, capfd: pytest.CaptureFixture[str], words: list[str], says: str
) -> None:
    assert main(["batch", str(batch), *words]) in (1, 2)
    assert says in capfd.readouterr().err


def test_dask_without_the_package(
    batch: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    assert main(["batch", str(batch), "--dask", "tcp://127.0.0.1:1"]) == 1
    assert "needs the package distributed: pip install 'ocifast[dask]'" in capfd.readouterr().err


def test_standard_input_has_no_journal(
    batch: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(batch.read_bytes())))
    assert main(["batch", "-", "--resume"]) == 2
    assert "--resume needs --journal" in capfd.readouterr().err
    assert main(["batch", "-"]) == 1
    assert not Path("-.journal").exists()
