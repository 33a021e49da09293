"""The list of checks: a check is a plain function of a directory that is empty when the check begins."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

CheckFunction = Callable[[Path], None]


@dataclass(frozen=True, slots=True)
class Check:
    """One check.

    `needs` names what the *bare* directory must offer (see features.py): what is probed there and not on a mount can't
    hide a fault of the mount.
    """

    name: str
    needs: tuple[str, ...]
    run: CheckFunction


CHECKS: Final[dict[str, Check]] = {}


def register(name: str, run: CheckFunction, *needs: str) -> None:
    """Adds a check under a name of the form `family.claim`."""
    if name in CHECKS:
        raise ValueError(f"two checks are called {name}")
    CHECKS[name] = Check(name, needs, run)


def check(*needs: str) -> Callable[[CheckFunction], CheckFunction]:
    """Registers the decorated function as `module.function`."""

    def decorate(run: CheckFunction) -> CheckFunction:
        register(f"{run.__module__.rpartition('.')[2]}.{run.__name__}", run, *needs)
        return run

    return decorate
