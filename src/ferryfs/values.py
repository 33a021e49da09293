"""Values with named fields: what ``@dataclass`` makes, without what it costs at every start.

The standard decorator compiles six functions for each class, and its module brings ``inspect`` along, which brings half
a compiler: together a third of the daemon's start. Here the methods are written once for all classes, and the one that
has to be quick, ``__init__``, is compiled when the first value of its class is made. The standard module's ``fields``,
``replace``, ``asdict`` and ``is_dataclass`` take these values as their own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any, TypeVar, dataclass_transform, overload

T = TypeVar("T")

_MISSING: Any = object()


class Field:
    """What is to be known of one field, as ``dataclasses.field`` takes it."""

    __slots__ = ("default", "default_factory", "init", "metadata")

    def __init__(
        self, default: Any, default_factory: Callable[[], Any] | None, init: bool, metadata: Mapping[str, Any] | None
    ) -> None:
        self.default = default
        self.default_factory = default_factory
        self.init = init
        self.metadata = metadata


@overload
def field(*, default: T, metadata: Mapping[str, Any] | None = None) -> T: ...
@overload
def field(*, default_factory: Callable[[], T]) -> T: ...
@overload
def field(*, init: bool) -> Any: ...
def field(
    *,
    default: Any = _MISSING,
    default_factory: Callable[[], Any] | None = None,
    init: bool = True,
    metadata: Mapping[str, Any] | None = None,
) -> Any:
    """A field that is more than a name and a default."""
    return Field(default, default_factory, init, metadata)


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def frozen(cls: type[T]) -> type[T]:
    """As ``@dataclass(frozen=True, slots=True)``: ``__init__``, ``__eq__``, ``__hash__`` and ``__repr__`` for a class
    of annotated names. What the class defines itself stays.
    """
    return _make(cls, is_frozen=True)


@dataclass_transform(field_specifiers=(field,))
def mutable(cls: type[T]) -> type[T]:
    """As ``@dataclass(slots=True)``: fields can be set, and so there is no ``__hash__``."""
    return _make(cls, is_frozen=False)


def field_metadata(cls: Any) -> dict[str, Mapping[str, Any]]:
    """Name and metadata of each field, in their order."""
    fields: dict[str, Field] = cls._value_fields
    return {name: one.metadata or {} for name, one in fields.items()}


def _make(cls: type[T], *, is_frozen: bool) -> type[T]:
    inherited: dict[str, Field] = getattr(cls, "_value_fields", {})
    own = {
        name: _field(cls.__dict__.get(name, _MISSING))
        for name, hint in cls.__annotations__.items()
        if not str(hint).startswith("ClassVar")
    }
    fields = {**inherited, **own}
    namespace = {name: value for name, value in cls.__dict__.items() if name not in _NOT_COPIED and name not in own}
    namespace["__slots__"] = tuple(name for name in own if name not in inherited)
    namespace["_value_fields"] = fields
    namespace["_value_of"] = staticmethod(_values(list(fields)))
    namespace["__dataclass_fields__"] = _StandardFields()
    namespace["__match_args__"] = tuple(name for name, one in fields.items() if one.init)
    methods: dict[str, Any] = {"__eq__": _eq, "__repr__": _repr, "__hash__": _hash if is_frozen else None}
    if is_frozen:
        methods |= {"__setattr__": _refuse, "__delattr__": _refuse}
    metaclass: Any = type(cls)
    made: Any = metaclass(cls.__name__, cls.__bases__, {**methods, **namespace})
    made.__qualname__ = cls.__qualname__
    if "__init__" not in namespace:
        made.__init__ = _first_init(made, is_frozen)
    result: type[T] = made
    return result


_NOT_COPIED = frozenset({"__dict__", "__weakref__"})


def _field(default: Any) -> Field:
    return default if isinstance(default, Field) else Field(default, None, True, None)


def _values(names: list[str]) -> Callable[[Any], Any]:
    return attrgetter(*names) if names else lambda _: ()


def _first_init(cls: Any, is_frozen: bool) -> Callable[..., None]:
    def __init__(self: Any, *args: Any, **named: Any) -> None:
        cls.__init__ = _compile_init(cls, is_frozen)
        cls.__init__(self, *args, **named)

    return __init__


def _compile_init(cls: Any, is_frozen: bool) -> Callable[..., None]:
    """The ``__init__`` that one would write by hand."""
    names: dict[str, Any] = {"_set": object.__setattr__, "_missing": _MISSING}
    parameters, lines = ["self"], []
    fields: dict[str, Field] = cls._value_fields
    for name, one in fields.items():
        value = name
        if one.default_factory is not None:
            names[f"_new_{name}"] = one.default_factory
            value = f"_new_{name}() if {name} is _missing else {name}" if one.init else f"_new_{name}()"
        elif one.default is not _MISSING:
            names[f"_default_{name}"] = one.default
            value = name if one.init else f"_default_{name}"
        elif not one.init:
            continue
        if one.init and one.default_factory is not None:
            parameters.append(f"{name}=_missing")
        elif one.init:
            parameters.append(name if one.default is _MISSING else f"{name}=_default_{name}")
        lines.append(f" _set(self, {name!r}, {value})" if is_frozen else f" self.{name} = {value}")
    if hasattr(cls, "__post_init__"):
        lines.append(" self.__post_init__()")
    exec(f"def __init__({', '.join(parameters)}):\n" + "\n".join(lines or [" pass"]), names)
    made: Callable[..., None] = names["__init__"]
    made.__qualname__ = f"{cls.__qualname__}.__init__"
    return made


def _eq(self: Any, other: Any) -> Any:
    if other.__class__ is not self.__class__:
        return NotImplemented
    return self._value_of(self) == self._value_of(other)


def _hash(self: Any) -> int:
    return hash(self._value_of(self))


def _repr(self: Any) -> str:
    values = ", ".join(f"{name}={getattr(self, name)!r}" for name in self._value_fields)
    return f"{type(self).__qualname__}({values})"


def _refuse(self: object, name: str, *_: object) -> None:
    raise AttributeError(f"{type(self).__qualname__}.{name} can't be changed: its values are frozen")


class _StandardFields:
    """``__dataclass_fields__``, made when a function of the standard module asks for it."""

    def __get__(self, _: object, cls: Any) -> dict[str, Any]:
        import dataclasses

        columns = []
        fields: dict[str, Field] = cls._value_fields
        for name, one in fields.items():
            more: dict[str, Any] = {"init": one.init, "metadata": one.metadata}
            if one.default_factory is not None:
                more["default_factory"] = one.default_factory
            elif one.default is not _MISSING:
                more["default"] = one.default
            columns.append((name, Any, dataclasses.field(**more)))
        plain: Any = dataclasses.make_dataclass(cls.__name__, columns)
        result: dict[str, Any] = plain.__dataclass_fields__
        # In the place of this one: who asks once, asks for every value.
        cls.__dataclass_fields__ = result
        return result
