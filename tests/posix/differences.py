"""The list of checks that fail on a mount and have to, each with its reason (known_differences.toml)."""

from __future__ import annotations

import fnmatch
import tomllib
from dataclasses import dataclass
from pathlib import Path

FILE = Path(__file__).with_name("known_differences.toml")


@dataclass(frozen=True, slots=True)
class Difference:
    """Checks, daemons and configurations are patterns; `passing` are checks that the patterns don't mean.

    `fatal`: mount or daemon are of no use after the check, which is therefore not run.
    `sometimes`: the check loses a race now and then; it passes, or fails with one of these texts.
    """

    checks: tuple[str, ...]
    reason: str
    daemons: tuple[str, ...] = ("*",)
    configurations: tuple[str, ...] = ("*",)
    passing: tuple[str, ...] = ()
    fatal: bool = False
    sometimes: tuple[str, ...] = ()

    def covers(self, check: str, daemon: str, configuration: str) -> bool:
        """Whether this check is to fail there."""
        return (
            _matches(check, self.checks)
            and _matches(daemon, self.daemons)
            and _matches(configuration, self.configurations)
            and not _matches(check, self.passing)
        )

    def objection(self, check: str, status: str, detail: str) -> str:
        """What is wrong with this outcome of one of its checks ("passed" or "failed"); nothing is the empty text."""
        if status == "passed":
            return "" if self.sometimes else f"{check} passes now: take it out of {FILE.name}."
        if self.sometimes and not any(text in detail for text in self.sometimes):
            return f"{check} fails with none of {self.sometimes}: {detail}"
        return ""


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def load(path: Path = FILE) -> list[Difference]:
    """All of the file. Raises ValueError where an entry has no reason, or a key that means nothing."""
    with path.open("rb") as file:
        entries = tomllib.load(file)["difference"]
    differences = []
    for entry in entries:
        reason = entry.pop("reason", "").strip()
        if not reason:
            raise ValueError(f"{path}: the difference of {entry.get('checks')} has no reason.")
        fatal = bool(entry.pop("fatal", False))
        if unknown := set(entry) - {"checks", "daemons", "configurations", "passing", "sometimes"}:
            raise ValueError(f"{path}: {sorted(unknown)} means nothing in a difference.")
        differences.append(
            Difference(reason=reason, fatal=fatal, **{key: tuple(value) for key, value in entry.items()})
        )
    return differences


def find(differences: list[Difference], check: str, daemon: str, configuration: str) -> Difference | None:
    """The entry that says that this check fails there, if there is one."""
    return next((entry for entry in differences if entry.covers(check, daemon, configuration)), None)
