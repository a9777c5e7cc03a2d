"""Loggers that load `logging` late: nothing is lost of what somebody listens to."""

from __future__ import annotations

import logging
import sys

import pytest
from ocifast import logs

from tests.support.run import attempt, run

_LOGGER = "import sys; from ocifast.logs import *; log = logger('ocifast.cache'); "


@pytest.mark.parametrize(
    ("words", "loaded"),
    [
        ("log.debug('a'); log.info('b')", False),
        ("log.warning('c')", True),
        ("when_used('ocifast', WARNING, lambda: None); log.info('b')", False),
        ("when_used('ocifast.cache', INFO, lambda: None); log.debug('a')", False),
        ("when_used('ocifast.cache', INFO, lambda: None); log.info('b')", True),
        ("when_used('ocifast', INFO, lambda: None); log.info('b')", True),
        ("when_used('ocifast.ca', INFO, lambda: None); log.info('b')", False),
        ("f = lambda: None; when_used('ocifast', INFO, f); forget(f); log.info('b')", False),
    ],
)
def test_logging_is_loaded_for_who_listens(words: str, loaded: bool) -> None:
    told = run(sys.executable, "-c", f"{_LOGGER}{words}; print('logging' in sys.modules)")
    assert told.decode() == f"{loaded}\n"


def test_a_warning_that_nobody_takes_is_on_standard_error() -> None:
    done = attempt(sys.executable, "-c", f"{_LOGGER}log.warning('%s is damaged', 'it')")
    assert done.stderr == b"it is damaged\n"


def test_who_waits_hears_the_first_record_and_is_told_once_that_it_comes() -> None:
    words = """
def listen():
    import logging
    print('begins')
    class Tell(logging.Handler):
        def emit(self, record): print(record.getMessage())
    logging.getLogger('ocifast').addHandler(Tell())
when_used('ocifast', WARNING, listen)
when_used('ocifast', WARNING, listen)
log.warning('one %d', 1)
log.warning('two')
"""
    told = run(sys.executable, "-c", _LOGGER + words)
    assert told.decode().splitlines() == ["begins", "one 1", "two"]


def test_records_say_where_they_were_made(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "ocifast.here")
    log = logs.logger("ocifast.here")
    for level in ("debug", "info", "warning"):
        getattr(log, level)("%s %s", "it", level, extra={"retry_in": 2})
    found = [(each.name, each.levelname, each.getMessage(), each.module, each.funcName) for each in caplog.records]
    here = ("test_logs", "test_records_say_where_they_were_made")
    assert found == [("ocifast.here", level.upper(), f"it {level}", *here) for level in ("debug", "info", "warning")]
    assert [getattr(each, "retry_in", None) for each in caplog.records] == [2, 2, 2]


def test_who_listens_late_does_so_at_once() -> None:
    heard: list[str] = []
    logs.when_used("ocifast", logs.WARNING, lambda: heard.append("now"))
    assert heard == ["now"]
    assert (logging.INFO, logging.WARNING) == (logs.INFO, logs.WARNING)
