"""Spans of OpenTelemetry, where a program uses it: one for a compilation, and one below it for each phase."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ocifast._core import __version__
from ocifast.metrics import Meter

__all__ = ["record", "recorded"]


@contextmanager
def recorded(meter: Meter, attributes: Mapping[str, Any]) -> Iterator[None]:
    """Records the block, when it ends, as `record` does; whatever it raises goes on."""
    try:
        yield
    except BaseException as error:
        record(meter, attributes, error)
        raise
    record(meter, attributes)


def record(meter: Meter, attributes: Mapping[str, Any], error: BaseException | None = None) -> None:
    """Hands the phases of one work to OpenTelemetry; does nothing where nobody has set it up.

    The API is not imported for its own sake: who has spans recorded has loaded it, or asks for it by a variable of the
    environment (`OTEL_…`).

    Args:
        meter: what was counted.
        attributes: of the whole.
        error: why it failed.
    """
    if "opentelemetry.trace" not in sys.modules and not any(name.startswith("OTEL_") for name in os.environ):
        return
    try:
        from opentelemetry import trace
    except ImportError:
        return
    tracer = trace.get_tracer("ocifast", __version__)
    metrics = meter.metrics()
    given = {f"ocifast.{name}": value for name, value in attributes.items() if value is not None}
    whole = tracer.start_span("ocifast.compile", start_time=meter.wall(0), attributes=given)
    below = trace.set_span_in_context(whole)
    end = meter.elapsed
    for metric in metrics:
        span = tracer.start_span(
            f"ocifast.{metric.name}",
            context=below,
            start_time=meter.wall(metric.begun),
            attributes={"ocifast.bytes": metric.bytes},
        )
        span.end(meter.wall(metric.begun + metric.seconds))
    if error is not None:
        whole.set_status(trace.StatusCode.ERROR, str(error))
    whole.end(meter.wall(end))
