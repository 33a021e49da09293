"""Values with named fields do what the standard module's do, which is the oracle here."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import Any

import pytest

from ferryfs.values import field, field_metadata, frozen, mutable


@frozen
class Place:
    x: int
    name: str = "here"

    def twice(self) -> int:
        return 2 * self.x


@dataclasses.dataclass(frozen=True, slots=True)
class StandardPlace:
    x: int
    name: str = "here"


@mutable
class Bag:
    things: dict[str, int] = field(default_factory=dict)
    count: int = field(default=3, metadata={"row": 1})
    total: int = field(init=False)

    def __post_init__(self) -> None:
        self.total = self.count


@frozen
class Nothing:
    pass


def test_a_value_is_its_fields() -> None:
    """Equal, hashed and written by its fields, and by its class."""
    assert Place(1) == Place(x=1, name="here") != Place(2)
    assert hash(Place(1)) == hash(Place(1, "here"))
    assert Place(1) != StandardPlace(1)
    assert repr(Place(1)) == repr(StandardPlace(1)).replace("Standard", "")
    assert Place(3).twice() == 6
    assert Nothing() == Nothing() != Place(1)
    assert repr(Nothing()) == "Nothing()"


@pytest.mark.parametrize("arguments", [(), (1, "a", 2)])
def test_wrong_arguments_are_refused_as_usual(arguments: tuple[Any, ...]) -> None:
    """TypeError, at the first making of a value and at every later one."""
    for _ in range(2):
        with pytest.raises(TypeError):
            Place(*arguments)


def test_frozen_is_frozen() -> None:
    """Nothing can be set, removed or added."""
    place: Any = Place(1)
    for change in (
        lambda: setattr(place, "x", 2),
        lambda: delattr(place, "x"),
        lambda: setattr(place, "other", 2),
    ):
        with pytest.raises(AttributeError):
            change()
    assert place == Place(1)


def test_mutable_fields() -> None:
    """Each value has containers of its own; there is no hash and no other attribute."""
    one, other = Bag(), Bag(count=5)
    one.things["a"] = 1
    one.count = 4
    assert (one.things, one.count, one.total) == ({"a": 1}, 4, 3)
    assert (other.things, other.count, other.total) == ({}, 5, 5)
    with pytest.raises(TypeError):
        hash(one)
    unknown: Any = one
    with pytest.raises(AttributeError):
        unknown.other = 1


def test_patterns_match_by_position() -> None:
    """As a match statement takes them apart."""
    match Place(1, "there"):
        case Place(x, name):
            assert (x, name) == (1, "there")


def test_the_standard_functions_take_them() -> None:
    """fields, replace, asdict and is_dataclass."""
    place: Any = Place(1)
    bag: Any = Bag({"a": 1})
    assert dataclasses.is_dataclass(place)
    assert [each.name for each in dataclasses.fields(place)] == ["x", "name"]
    assert dataclasses.replace(place, x=5) == Place(5)
    assert dataclasses.asdict(bag) == {"things": {"a": 1}, "count": 3, "total": 3}
    assert field_metadata(Bag) == {"things": {}, "count": {"row": 1}, "total": {}}


def test_the_daemon_starts_without_the_standard_module() -> None:
    """It and what it brings along are a third of a start; whoever imports it again should know."""
    script = "import sys, ferryfs.cli.startup, ferryfs.cli.service\nprint('dataclasses' in sys.modules)"
    done = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
