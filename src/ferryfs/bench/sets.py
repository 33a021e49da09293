"""The parts of the benchmark, each a module with ``NAME``, ``ABOUT``, ``MOUNTS`` (whether it mounts shares),
``names()`` and ``run(plan)``."""

from __future__ import annotations

import importlib
from typing import Final, Protocol

from ferryfs.bench.plan import Plan
from ferryfs.bench.results import Cell


class Part(Protocol):
    """What a module of this package offers to be a part."""

    NAME: str
    ABOUT: str
    MOUNTS: bool

    def names(self) -> list[str]:
        """The rows."""
        ...

    def run(self, plan: Plan) -> list[Cell]:
        """Measures the rows that the plan wants."""
        ...


_MODULES: Final = {
    "micro": "micro",
    "cold": "cold",
    "requests": "requests",
    "workloads": "workloads",
    "guest": "qemu",
    "fio": "fio",
    "head-of-line": "head_of_line",
    "scale": "scale",
    "start": "start",
    "migration": "migration",
}
NAMES: Final = tuple(_MODULES)


def part(name: str) -> Part:
    """The part of that name; a key of NAMES."""
    module: Part = importlib.import_module(f"ferryfs.bench.{_MODULES[name]}")
    return module
