"""Dataclasses that write their methods late are like those of the standard library, to whoever looks."""

from __future__ import annotations

import ast
import copy
import dataclasses
import gc
import inspect
import pickle
import sys
import threading
from collections.abc import Callable
from dataclasses import KW_ONLY, FrozenInstanceError, asdict, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from ocifast import PackOptions, records

LATE: Any = records.dataclass
AT_ONCE: Any = dataclasses.dataclass


def classes(make: Any) -> dict[str, Any]:
    """The same classes by one of the decorators."""

    @make(frozen=True)
    class Point:
        """A point."""

        x: int
        y: int = 0
        tag: str = field(default="", repr=False, compare=False)
        more: dict[str, int] = field(default_factory=dict, hash=False)
        kind: ClassVar[str] = "point"

        @property
        def sum(self) -> int:
            return self.x + self.y

    @make(frozen=True)
    class Named(Point):
        """With a base, whose default is another, and what is made after."""

        y: int = 7
        _: KW_ONLY
        name: str
        note: str = "-"

        def __post_init__(self) -> None:
            if self.name == "bad":
                raise ValueError("bad name")

    @make(frozen=True)
    class Further(Named):
        """With one more by position, after those that are by name."""

        z: int = 1

    @make
    class Tally:
        """Not frozen."""

        count: int = 0
        seen: list[int] = field(default_factory=list)
        made: list[int] = field(init=False, default_factory=list)

    @make(frozen=True)
    class Own:
        """With methods of its own."""

        x: int

        def __eq__(self, other: object) -> bool:
            return True

        def __repr__(self) -> str:
            return "own"

    @make(frozen=True)
    class Empty:
        """Without fields."""

    class Plain(Point):
        """Derived without a decorator."""

    return {each.__name__: each for each in (Point, Named, Further, Tally, Own, Empty, Plain)}


def told(action: Callable[[dict[str, Any]], Any]) -> tuple[Any, Any]:
    """What comes of it with late classes, and with those of the standard library."""
    answers = []
    for make in (LATE, AT_ONCE):
        try:
            answers.append(repr(action(classes(make))))
        except Exception as error:
            answers.append(f"{type(error).__name__}: {error}")
    return answers[0], answers[1]


def put(it: Any, name: str) -> Any:
    """Sets an attribute and gives it back."""
    setattr(it, name, 2)
    return getattr(it, name)


ACTIONS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "made": lambda of: [of["Point"](1), of["Point"](1, 2, "t"), of["Named"](1, name="n"), of["Tally"](), of["Empty"]()],
    "by position": lambda of: of["Further"](1, 2, "t", {}, 5, name="n"),
    "missing": lambda of: of["Point"](),
    "missing by keyword": lambda of: of["Named"](1),
    "unknown": lambda of: of["Named"](1, name="n", other=2),
    "too many": lambda of: of["Tally"](1, [], []),
    "refused": lambda of: of["Named"](1, name="bad"),
    "signatures": lambda of: [str(inspect.signature(each)) for each in of.values()],
    "equal": lambda of: [of["Point"](1) == of["Point"](1, tag="t"), of["Point"](1) == of["Point"](2)],
    "equal to another class": lambda of: [of["Point"](1) == of["Plain"](1), of["Point"](1) == (1, 0)],
    "equal, not frozen": lambda of: [of["Tally"](1) == of["Tally"](1), of["Tally"](1) != of["Tally"](1, [1])],
    "hashed": lambda of: [hash(of["Point"](1, 2, "t")) == hash((1, 2)), len({of["Point"](1), of["Point"](1)})],
    "hashed, not frozen": lambda of: hash(of["Tally"]()),
    "own methods": lambda of: [of["Own"](1) == 5, of["Own"](1), hash(of["Own"](1)) == hash((1,))],
    "set": lambda of: put(of["Point"](1), "x"),
    "set what is no field": lambda of: put(of["Point"](1), "other"),
    "set of a plain class": lambda of: [put(of["Plain"](1), "other"), put(of["Plain"](1), "x")],
    "deleted": lambda of: delattr(of["Named"](1, name="n"), "name"),
    "set, not frozen": lambda of: put(of["Tally"](), "count"),
    "fields": lambda of: {each: [str(one) for one in fields(of[each])] for each in of},
    "replaced": lambda of: replace(of["Named"](1, name="n"), x=5, note="m"),
    "as a dict": lambda of: [asdict(of["Named"](1, name="n")), asdict(of["Tally"](3))],
    "of the class": lambda of: [of["Point"].y, of["Named"].y, of["Point"].tag, of["Point"].kind],
    "of the class, made by a factory": lambda of: of["Tally"].seen,
    "matched": lambda of: [of[each].__match_args__ for each in of],
    "parameters": lambda of: [of[each].__dataclass_params__ for each in of],
    "annotations": lambda of: of["Named"].__init__.__annotations__,
    "documented": lambda of: [of[each].__doc__ for each in of],
    "factories make anew": lambda of: of["Tally"]().seen is of["Tally"]().seen,
    "copied": lambda of: [copy.copy(of["Point"](1)), copy.deepcopy(of["Tally"](2))],
    "derived frozen": lambda of: AT_ONCE(frozen=True)(type("Sub", (of["Point"],), {}))(1, 2),
    "derived not frozen": lambda of: AT_ONCE(type("Sub", (of["Point"],), {})),
}


@pytest.mark.parametrize("few", [0, records._FEW])
@pytest.mark.parametrize("name", ACTIONS)
def test_late_classes_do_what_those_of_the_standard_library_do(
    name: str, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "_FEW", few)
    late, at_once = told(ACTIONS[name])
    assert late == at_once


def test_methods_are_written_when_they_are_asked_for() -> None:
    late = classes(LATE)["Point"]
    unwritten = records._Unwritten
    assert all(isinstance(vars(late)[name], unwritten) for name in ("__init__", "__repr__", "__eq__", "__hash__"))
    made = [late(1) for _ in range(records._FEW)]
    assert isinstance(vars(late)["__init__"], unwritten)
    made.append(late(1))
    assert not isinstance(vars(late)["__init__"], unwritten)
    assert [vars(each) for each in made] == [{"x": 1, "y": 0, "tag": "", "more": {}}] * len(made)
    assert all(isinstance(vars(late)[name], unwritten) for name in ("__repr__", "__eq__", "__hash__"))
    assert late(1) == late(1)
    assert not isinstance(vars(late)["__eq__"], unwritten)


def test_an_object_of_a_library_class_is_pickled_and_matched() -> None:
    options = PackOptions(level=3)
    assert pickle.loads(pickle.dumps(options)) == options
    with pytest.raises(FrozenInstanceError, match="cannot assign to field 'level'"):
        options.level = 4  # type: ignore[misc]


def test_threads_that_make_the_first_object_together_all_get_it() -> None:
    sys.setswitchinterval(1e-6)
    # What only one thread holds while it writes a method is collected by another as soon as it is let go.
    thresholds = gc.get_threshold()
    gc.set_threshold(50)
    try:
        for _ in range(50):
            late = classes(LATE)["Named"]
            ready = threading.Barrier(4)
            found: list[Any] = []

            def make(late: Any = late, ready: threading.Barrier = ready, found: list[Any] = found) -> None:
                ready.wait()
                found.append((late(1, name="n"), repr(late(1, name="n")), hash(late(1, name="n"))))

            threads = [threading.Thread(target=make) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert len(found) == 4
            assert all(one == found[0] for one in found)
    finally:
        sys.setswitchinterval(0.005)
        gc.set_threshold(*thresholds)


def test_every_dataclass_of_the_package_is_a_late_one() -> None:
    root = Path(records.__file__).parent
    at_once = [
        str(path.relative_to(root))
        for path in sorted(root.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module == "dataclasses" and path.name != "records.py"
        if any(name.name == "dataclass" for name in node.names)
    ]
    assert at_once == []
