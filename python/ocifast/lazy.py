"""Attributes that are computed when they are first asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar, overload

__all__ = ["Lazy"]

Value = TypeVar("Value")


class Lazy(Generic[Value]):
    """A property whose value is kept in its object.

    `functools.cached_property` of Python 3.10 and 3.11 holds one lock for all objects of a class while it computes: who
    waits for a registry would stop everybody else, and a process forked meanwhile for ever. Here is no lock. Threads
    that ask one object at the same time may compute twice; all of them get the value that was there first.
    """

    def __init__(self, compute: Callable[[Any], Value]) -> None:
        self._compute = compute
        self._name = compute.__name__
        self.__doc__ = compute.__doc__

    def __set_name__(self, owner: type[Any], name: str) -> None:
        self._name = name

    @overload
    def __get__(self, instance: None, owner: type[Any]) -> Lazy[Value]: ...

    @overload
    def __get__(self, instance: object, owner: type[Any]) -> Value: ...

    def __get__(self, instance: object | None, owner: type[Any]) -> Lazy[Value] | Value:
        if instance is None:
            return self
        kept: Value = instance.__dict__.setdefault(self._name, self._compute(instance))
        return kept
