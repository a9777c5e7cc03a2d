"""`ocifast history` and `Image.history`: steps beside layers, and what is said where they do not match."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ocifast
import pytest
from ocifast.errors import DocumentError
from ocifast.spec import HistoryRecord

from tests.support.images import BuiltImage, Layer, build_image, write_layout
from tests.support.layers import TarBuilder
from tests.support.registry import Registry
from tests.support.run import ocifast as command
from tests.support.run import try_ocifast

LONG = "RUN /bin/sh -c apt-get update && apt-get install -y --no-install-recommends ca-certificates # buildkit"
STEPS: list[dict[str, Any]] = [
    {"created": "2026-01-02T03:04:05.678Z", "created_by": "/bin/sh -c #(nop) ADD file:1 in / "},
    {"created": "2026-01-02T03:04:06Z", "created_by": 'CMD ["bash"]', "empty_layer": True, "author": "me"},
    {"created": "2026-02-03T04:05:06Z", "created_by": LONG, "comment": "buildkit.dockerfile.v0"},
    {"comment": "odd\x1b[31m\nstep", "empty_layer": True},
]


def image(history: object, layers: int = 2) -> BuiltImage:
    """An image of so many layers with this history."""
    tars = [Layer(TarBuilder().file(f"f{number}", bytes(2000 * number))) for number in range(layers)]
    return build_image(tars, edit_config=lambda config: config.update(history=history))


def layout(folder: Path, built: BuiltImage) -> str:
    """Where the image is."""
    return f"oci:{write_layout(folder, built)}:app"


def test_steps_stand_beside_their_layers(tmp_path: Path) -> None:
    built = image(STEPS)
    one, two = built.layers
    with ocifast.open(layout(tmp_path, built)) as opened:
        history = opened.history
    assert (history.matches, history.stated, history.layers) == (True, 2, 2)
    assert [(entry.layer and entry.layer.digest, entry.diff_id, entry.is_empty) for entry in history.entries] == [
        (one.digest, one.diff_id, False),
        (None, "", True),
        (two.digest, two.diff_id, False),
        (None, "", True),
    ]
    assert [entry.record for entry in history.entries] == [HistoryRecord(**step) for step in STEPS]


@pytest.mark.parametrize("columns", [80, 120])
def test_history_for_people(tmp_path: Path, columns: int) -> None:
    built = image(STEPS)
    ids = [layer.diff_id.removeprefix("sha256:")[:12] for layer in built.layers]
    sizes = [layer.size for layer in built.layers]
    where = layout(tmp_path, built)
    room = columns - 42
    assert command("history", where, env={"COLUMNS": str(columns)}).decode().splitlines() == [
        "CREATED               SIZE  DIFF ID       CREATED BY",
        f"2026-01-02 03:04  {sizes[0]:>6} B  {ids[0]}  ADD file:1 in /",
        '2026-01-02 03:04     empty  -             CMD ["bash"]',
        f"2026-02-03 04:05  {sizes[1]:>6} B  {ids[1]}  {LONG[: room - 1]}…",
        "-                    empty  -             odd\\x1b[31m step",
    ]


def test_nothing_is_shortened_on_request(tmp_path: Path) -> None:
    built = image(STEPS)
    shown = command("history", layout(tmp_path, built), "--no-trunc", env={"COLUMNS": "40"}).decode().splitlines()
    ids = [layer.diff_id for layer in built.layers]
    sizes = [layer.size for layer in built.layers]
    assert shown == [
        f"CREATED               SIZE  {'DIFF ID':<71}  CREATED BY",
        f"2026-01-02T03:04:05.678Z  {sizes[0]:>6} B  {ids[0]}  /bin/sh -c #(nop) ADD file:1 in /",
        f'2026-01-02T03:04:06Z     empty  {"-":<71}  CMD ["bash"]',
        f"2026-02-03T04:05:06Z  {sizes[1]:>6} B  {ids[1]}  {LONG}",
        f"-                    empty  {'-':<71}  odd\\x1b[31m\\nstep",
    ]


def test_history_as_json(tmp_path: Path) -> None:
    built = image(STEPS[:2], layers=1)
    (layer,) = built.layers
    where = layout(tmp_path, built)
    assert json.loads(command("history", where, "--json")) == {
        "reference": where,
        "digest": built.digest,
        "matches": True,
        "entries": [
            {
                "created": "2026-01-02T03:04:05.678Z",
                "created_by": "/bin/sh -c #(nop) ADD file:1 in / ",
                "author": None,
                "comment": None,
                "empty_layer": False,
                "digest": layer.digest,
                "diff_id": layer.diff_id,
                "media_type": built.manifest["layers"][0]["mediaType"],
                "size": layer.size,
            },
            {
                "created": "2026-01-02T03:04:06Z",
                "created_by": 'CMD ["bash"]',
                "author": "me",
                "comment": None,
                "empty_layer": True,
                "digest": None,
                "diff_id": None,
                "media_type": None,
                "size": None,
            },
        ],
    }


GUESS = "; which belongs to which is a guess"
MISMATCHES: list[tuple[object, int, str, list[str]]] = [
    (
        STEPS,
        1,
        f"steps of the history that made a layer: 2, layers: 1{GUESS}",
        ["0", "empty", "-", "empty"],
    ),
    (
        STEPS[:2],
        3,
        f"steps of the history that made a layer: 1, layers: 3{GUESS}",
        ["0", "empty", "1", "2"],
    ),
    (None, 2, "the config has no history of its layers (2)", ["0", "1"]),
    ([], 1, "the config has no history of its layers (1)", ["0"]),
]


@pytest.mark.parametrize(("steps", "layers", "told", "expected"), MISMATCHES)
def test_what_does_not_match_is_told(
    tmp_path: Path, steps: object, layers: int, told: str, expected: list[str]
) -> None:
    built = image(steps, layers)
    where = layout(tmp_path, built)
    done = try_ocifast("history", where, "--json")
    assert (done.returncode, done.stderr.decode()) == (0, f"ocifast: warning: {where}: {told}\n")
    shown = json.loads(done.stdout)
    numbers = {layer.diff_id: str(number) for number, layer in enumerate(built.layers)}
    entries = shown["entries"]
    found = ["empty" if one["empty_layer"] else numbers.get(one["diff_id"], "-") for one in entries]
    assert (shown["matches"], found) == (False, expected)
    text = try_ocifast("history", where).stdout.decode().splitlines()[1:]
    assert len(text) == len(expected)
    stated = len(steps) if isinstance(steps, list) else 0
    assert [line for line in text if "(no step names this layer)" in line] == text[stated:]


@pytest.mark.parametrize("history", ["nonsense", [7], [{"empty_layer": "no"}]])
def test_a_history_that_is_none(tmp_path: Path, history: object) -> None:
    where = layout(tmp_path, image(history))
    with ocifast.open(where) as opened:
        assert opened.config.architecture == "amd64"
        with pytest.raises(DocumentError, match="config has no valid history"):
            _ = opened.history
    done = try_ocifast("history", where)
    assert (done.returncode, done.stderr.count(b"\n")) == (1, 1)
    # An odd history is no reason not to read the image.
    assert b"/f0" in command("ls", where)


def test_no_layer_is_fetched(registry: Registry) -> None:
    built = image(STEPS)
    name = registry.put(built, "history/app:1")
    before = len(registry.requests())
    assert len(json.loads(command("history", name, "--json"))["entries"]) == 4
    asked = registry.requests()[before:]
    assert [line for line in asked if built.manifest["config"]["digest"] in line]
    assert [line for line in asked if any(layer.digest in line for layer in built.layers)] == []
