"""Times and bytes of the phases of a compilation, and the spans of OpenTelemetry that are made of them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import ocifast
import pytest
from ocifast.cli import main
from ocifast.compiler import CompileOptions
from ocifast.metrics import PHASES, Meter

from tests.support.faulty import FaultyRegistry, serve_faulty
from tests.support.images import BuiltImage, Layer, build_image, write_layout
from tests.support.layers import TarBuilder
from tests.support.pulls import QUICK


@pytest.fixture
def server() -> Iterator[FaultyRegistry]:
    with serve_faulty() as running:
        yield running


def app() -> BuiltImage:
    return build_image([TarBuilder().file(name, b"x" * 10_000, mtime=0) for name in ("a", "b")])


def compiled(reference: str, output: Path, **options: Any) -> ocifast.CompiledImage:
    return ocifast.compile(reference, output, options=CompileOptions(registry=QUICK, **options))


def test_every_phase_has_its_time_and_bytes(server: FaultyRegistry, tmp_path: Path) -> None:
    image = app()
    made = compiled(server.put(image, "org/app:1"), tmp_path / "a.tar")
    phases = {phase.name: phase for phase in made.phases}
    assert tuple(phases) == PHASES
    config = image.blobs[image.manifest["config"]["digest"]]
    assert {name: phase.bytes for name, phase in phases.items()} == {
        "resolve": len(image.raw) + len(config),
        "fetch": sum(len(layer.blob) for layer in image.layers),
        "inflate": sum(len(layer.tar.build()) for layer in image.layers if isinstance(layer.tar, TarBuilder)),
        "merge": 20_000,
        "pack": made.data_size,
        "publish": made.data_size,
    }
    assert all(0 <= phase.begun <= made.seconds and 0 <= phase.seconds <= made.seconds for phase in made.phases)
    assert phases["resolve"].begun < phases["fetch"].begun < phases["pack"].begun < phases["publish"].begun
    assert sorted(made.decoded) == sorted(layer.diff_id for layer in image.layers)


def test_what_was_not_done_has_no_phase(server: FaultyRegistry, tmp_path: Path) -> None:
    image = app()
    reference = server.put(image, "org/app:1")
    compiled(reference, tmp_path / "a.tar.gz", keep_layers=True)
    again = compiled(reference, tmp_path / "b.tar.gz")
    assert again.from_cache
    assert ([phase.name for phase in again.phases], again.decoded) == (["resolve", "publish"], ())
    # Another format takes the kept layers: nothing is fetched or inflated.
    other = compiled(reference, tmp_path / "c.cpio")
    assert ([phase.name for phase in other.phases], other.decoded) == (["resolve", "merge", "pack", "publish"], ())


def test_blobs_of_the_cache_are_inflated_and_not_fetched(server: FaultyRegistry, tmp_path: Path) -> None:
    reference = server.put(app(), "org/app:1")
    compiled(reference, tmp_path / "a.tar")
    names = [phase.name for phase in compiled(reference, tmp_path / "c.cpio").phases]
    assert names == ["resolve", "inflate", "merge", "pack", "publish"]


def test_a_layer_that_stands_twice_counts_twice(tmp_path: Path) -> None:
    layer = Layer(TarBuilder().file("a", b"1"))
    layout = write_layout(tmp_path / "layout", build_image([layer, layer]))
    made = compiled(f"oci:{layout}:app", tmp_path / "a.tar")
    assert made.decoded == (layer.diff_id, layer.diff_id)


def test_json_has_them(server: FaultyRegistry, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    reference = server.put(app(), "org/app:1")
    assert main(["compile", reference, str(tmp_path / "a.tar"), "--json"]) == 0
    told = json.loads(capfd.readouterr().out)
    assert tuple(told["phases"]) == PHASES
    assert set(told["phases"]["fetch"]) == {"begun", "seconds", "bytes"}
    assert told["decoded_layers"] == 2
    assert len(told["key"]) == 64


def test_phases_that_run_side_by_side_have_one_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("ocifast.metrics.time.monotonic", lambda: now[0])
    meter = Meter()
    first, second = meter.during("fetch"), meter.during("fetch")
    for moment, enter, each in ((1, True, first), (2, True, second), (5, False, first), (9, False, second)):
        now[0] = moment
        if enter:
            each.__enter__()
        else:
            each.__exit__(None, None, None)
    meter.add("fetch", 3)
    meter.add("fetch", 4)
    (metric,) = meter.metrics()
    assert (metric.name, metric.begun, metric.seconds, metric.bytes) == ("fetch", 1, 8, 7)


@pytest.fixture
def spans() -> Iterator[Any]:
    """Opentelemetry's own exporter into memory, for all tests of the run that use it."""
    trace: Any = import_module("opentelemetry.trace")
    sdk: Any = import_module("opentelemetry.sdk.trace")
    export: Any = import_module("opentelemetry.sdk.trace.export")
    memory: Any = import_module("opentelemetry.sdk.trace.export.in_memory_span_exporter")
    exporter = memory.InMemorySpanExporter()
    provider = sdk.TracerProvider()
    provider.add_span_processor(export.SimpleSpanProcessor(exporter))
    before = trace._TRACER_PROVIDER
    trace._TRACER_PROVIDER = provider
    yield exporter
    trace._TRACER_PROVIDER = before


def test_spans_of_opentelemetry(server: FaultyRegistry, tmp_path: Path, spans: Any) -> None:
    reference = server.put(app(), "org/app:1")
    tracer = import_module("opentelemetry.trace").get_tracer("test")
    with tracer.start_as_current_span("outer") as outer:
        made = compiled(reference, tmp_path / "a.tar")
    found = {span.name: span for span in spans.get_finished_spans()}
    assert set(found) == {"outer", "ocifast.compile", *(f"ocifast.{name}" for name in PHASES)}
    whole = found["ocifast.compile"]
    assert whole.parent.span_id == outer.get_span_context().span_id
    assert whole.attributes["ocifast.image"] == reference
    for phase in made.phases:
        span = found[f"ocifast.{phase.name}"]
        assert span.parent.span_id == whole.context.span_id
        assert span.attributes["ocifast.bytes"] == phase.bytes
        assert span.end_time - span.start_time == pytest.approx(phase.seconds * 1e9, abs=1000)
        assert whole.start_time <= span.start_time <= span.end_time <= whole.end_time


def test_a_span_of_what_failed_says_why(server: FaultyRegistry, tmp_path: Path, spans: Any) -> None:
    with pytest.raises(ocifast.OcifastError):
        compiled(f"{server.host}/org/none:1", tmp_path / "a.tar")
    found = {span.name: span for span in spans.get_finished_spans()}
    assert set(found) == {"ocifast.compile", "ocifast.resolve"}
    assert not found["ocifast.compile"].status.is_ok
    assert "not found" in found["ocifast.compile"].status.description


def test_nothing_is_recorded_where_nobody_has_set_it_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = write_layout(tmp_path / "layout", app())
    for name in [name for name in sys.modules if name.partition(".")[0] == "opentelemetry"]:
        monkeypatch.delitem(sys.modules, name)
    compiled(f"oci:{layout}:app", tmp_path / "a.tar")
    assert "opentelemetry.trace" not in sys.modules
    monkeypatch.setenv("OTEL_SERVICE_NAME", "x")
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    compiled(f"oci:{layout}:app", tmp_path / "b.tar.gz")
