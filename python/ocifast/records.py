"""Dataclasses whose methods are written when they are first called.

`dataclasses.dataclass` compiles up to six methods for each class while its module is imported. That is half a
millisecond a class; a command imports sixty of them, makes objects of a third, and compares next to none. Here a class
has its fields at once, so that `dataclasses.fields`, `replace`, `asdict` and classes derived by either decorator find
what they expect. Each method is written when somebody asks for it, and `__init__`, whose writing takes as long as
making twenty to forty objects without it, when some have been made.
"""

from __future__ import annotations

from dataclasses import MISSING, Field, FrozenInstanceError, fields
from dataclasses import dataclass as _at_once
from functools import partial
from inspect import get_annotations
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

__all__ = ["dataclass"]

if TYPE_CHECKING:
    from dataclasses import dataclass
else:

    def dataclass(cls: type | None = None, /, *, frozen: bool = False) -> Any:
        """As `dataclasses.dataclass`, of which it knows the one option that is used here."""
        return _record(cls, frozen) if cls is not None else lambda it: _record(it, frozen)


class _Factory:
    """The default that stands for what a field's `default_factory` makes, as it is shown in a signature."""

    def __repr__(self) -> str:
        return "<factory>"


_FACTORY = _Factory()
_LOOSE = SimpleNamespace(frozen=False)
"""What `dataclasses` asks of a base."""


class _Unwritten:
    """A method in its class until it is asked for.

    Threads that ask at the same time may write it twice; both are the same.
    """

    def __init__(self, owner: Any, name: str, frozen: bool) -> None:
        self._owner = owner
        self._name = name
        self._frozen = frozen

    def __get__(self, instance: object | None, owner: type | None = None) -> Any:
        return self.written().__get__(instance, owner)

    def written(self) -> Any:
        name, cls = self._name, self._owner
        method = _write_init(cls, self._frozen) if name == "__init__" else _write(cls, name)
        setattr(cls, name, method)
        return method


_FEW = 20
"""So many objects of a class are made without a written `__init__`."""


class _UnwrittenInit(_Unwritten):
    """An `__init__` that makes the first objects itself, and leaves to the written one whatever is wrong."""

    _made = 0

    def __get__(self, instance: object | None, owner: type | None = None) -> Any:
        # Whoever asks the class wants the signature; Python 3.13's `inspect` passes the class itself.
        if not isinstance(instance, self._owner) or self._made >= _FEW:
            return super().__get__(instance, owner)
        self._made += 1
        return partial(self._make, instance)

    def _make(self, instance: Any, /, *positional: Any, **named: Any) -> None:
        cls = self._owner
        every = sorted(fields(cls), key=lambda each: bool(each.kw_only))
        values = dict(zip(cls.__match_args__, positional, strict=False)) | named
        wanted = {each.name: each for each in every if each.init}
        missing = wanted.keys() - values.keys()
        if (
            len(values) < len(positional) + len(named)
            or not values.keys() <= wanted.keys()
            or any(wanted[name].default is wanted[name].default_factory is MISSING for name in missing)
        ):
            self.written()(instance, *positional, **named)
            return
        put = object.__setattr__ if self._frozen else setattr
        for each in every:
            if each.name in values:
                put(instance, each.name, values[each.name])
            elif each.default_factory is not MISSING:
                put(instance, each.name, each.default_factory())
            elif each.init:
                put(instance, each.name, each.default)
        if hasattr(cls, "__post_init__"):
            instance.__post_init__()


def _record(cls: Any, frozen: bool) -> Any:
    annotations = get_annotations(cls)
    values = {name: vars(cls)[name] for name in annotations if name in vars(cls)}
    # A class of the same annotations and without bases: whether those are frozen is checked by type checkers. It has a
    # docstring, lest one be made of a signature.
    body = {"__module__": cls.__module__, "__annotations__": annotations, "__doc__": cls.__doc__ or cls.__name__}
    own: Any = _at_once(init=False, repr=False, eq=False)(type(cls.__name__, (), {**body, **values}))
    of_class = own.__dataclass_params__
    of_class.init = of_class.repr = of_class.eq = True
    of_class.frozen = frozen
    cls.__dataclass_params__ = of_class
    cls.__dataclass_fields__ = {}
    for base in reversed(cls.__mro__[1:]):
        cls.__dataclass_fields__ |= vars(base).get("__dataclass_fields__", {})
    cls.__dataclass_fields__ |= own.__dataclass_fields__
    matched = (each.name for each in fields(cls) if each.init and not each.kw_only)
    cls.__match_args__ = tuple(matched)  # type: ignore[misc]
    if "__replace__" in vars(own):
        cls.__replace__ = own.__replace__
    for name, value in values.items():
        if isinstance(value, Field) and value.default is MISSING:
            delattr(cls, name)
        elif isinstance(value, Field):
            setattr(cls, name, value.default)
    for name in ("__init__", "__repr__", "__eq__"):
        if name not in vars(cls):
            setattr(cls, name, (_UnwrittenInit if name == "__init__" else _Unwritten)(cls, name, frozen))
    if vars(cls).get("__hash__") is None:
        cls.__hash__ = _Unwritten(cls, "__hash__", frozen) if frozen else None
    if frozen:
        _freeze(cls)
    return cls


def _freeze(cls: Any) -> None:
    def refuse_or_set(self: object, name: str, value: object) -> None:
        if type(self) is cls or name in cls.__dataclass_fields__:
            raise FrozenInstanceError(f"cannot assign to field {name!r}")
        super(cls, self).__setattr__(name, value)

    def refuse_or_delete(self: object, name: str) -> None:
        if type(self) is cls or name in cls.__dataclass_fields__:
            raise FrozenInstanceError(f"cannot delete field {name!r}")
        super(cls, self).__delattr__(name)

    cls.__setattr__, cls.__delattr__ = refuse_or_set, refuse_or_delete


def _write(cls: Any, name: str) -> Any:
    """`__repr__`, `__eq__` or `__hash__`: the standard library's, of a class that has the same fields from its base."""
    base = type("_Base", (), {"__dataclass_fields__": cls.__dataclass_fields__, "__dataclass_params__": _LOOSE})
    like = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__name__}
    asked = {"repr": name == "__repr__", "eq": name == "__eq__", "unsafe_hash": name == "__hash__"}
    # Its members go with a class, which another thread may collect as soon as nobody holds it.
    written: type = _at_once(init=False, **asked)(type(cls.__name__, (base,), like))
    return vars(written)[name]


def _write_init(cls: Any, frozen: bool) -> Any:
    """`__init__`: as `dataclasses` writes it, which for a frozen class would write two methods more."""
    names: dict[str, Any] = {"__name__": cls.__module__, "_FACTORY": _FACTORY, "_set": object.__setattr__}
    parameters, lines = ["self"], []
    for each in sorted(fields(cls), key=lambda each: bool(each.kw_only)):
        name = value = each.name
        if each.default_factory is not MISSING:
            names[f"_make_{name}"] = each.default_factory
            value = f"_make_{name}() if {name} is _FACTORY else {name}" if each.init else f"_make_{name}()"
        elif not each.init:
            continue
        lines.append(f"_set(self, {name!r}, {value})" if frozen else f"self.{name} = {value}")
        if not each.init:
            continue
        if each.kw_only and "*" not in parameters:
            parameters.append("*")
        if each.default is not MISSING:
            names[f"_default_{name}"] = each.default
            parameters.append(f"{name}=_default_{name}")
        else:
            parameters.append(name if each.default_factory is MISSING else f"{name}=_FACTORY")
    if hasattr(cls, "__post_init__"):
        lines.append("self.__post_init__()")
    # The names are identifiers: each is an annotation in the class's body.
    exec(f"def __init__({', '.join(parameters)}):\n " + "\n ".join(lines or ["pass"]), names)  # noqa: S102
    method = names["__init__"]
    method.__qualname__ = f"{cls.__qualname__}.__init__"
    method.__annotations__ = {**{each.name: each.type for each in fields(cls) if each.init}, "return": None}
    return method
