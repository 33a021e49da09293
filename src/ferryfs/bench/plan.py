"""What a run was asked for, and what all sets need from it."""

from __future__ import annotations

import contextlib
import shlex
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from ferryfs.bench.results import Cell

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Daemon:
    """A daemon under measurement; in its command ``{share}`` stands for the shared directory."""

    name: str
    command: str

    def line(self, share: Path, *options: str) -> str:
        """The command for a share, with more options."""
        return shlex.join([word.replace("{share}", str(share)) for word in shlex.split(self.command)] + list(options))

    def line_for_many(self, share: Path, *options: str) -> str:
        """The same for more inodes than there can be open files: virtiofsd keeps one open for each, unless it is told
        to use file handles.
        """
        by_handle = ["--inode-file-handles=prefer"] if "virtiofsd" in self.command else []
        return self.line(share, *by_handle, *options)


@dataclass(slots=True)
class Plan:
    """The options of a run. ``daemons``: ours first. ``rows``: only these, where there are any."""

    daemons: list[Daemon]
    base: Path | None = None
    rounds: int = 5
    seconds: float = 0.15
    scale: float = 1.0
    rows: frozenset[str] = frozenset()
    in_flight: Sequence[int] = (1, 16, 32, 64)
    queues: Sequence[int] = (1, 2, 4)
    front_ends: Sequence[str] = ("sleeping", "polling")
    progress: Callable[[list[Cell]], None] = lambda _: None
    notes: list[str] = field(default_factory=list)

    def wants(self, row: str) -> bool:
        """Whether a row was asked for."""
        return not self.rows or row in self.rows

    def turns(self, subjects: Sequence[T]) -> Iterator[list[T]]:
        """The subjects for each round. Who comes first changes, so that nobody always follows the same neighbour."""
        for turn in range(self.rounds):
            yield list(subjects) if turn % 2 == 0 else list(reversed(subjects))

    def scaled(self, count: int, least: int = 1) -> int:
        """A number of things, made smaller by the scale."""
        return max(least, int(count * self.scale))

    def note(self, sentence: str) -> None:
        """Something that the reader of the results must know; once."""
        if sentence not in self.notes:
            self.notes.append(sentence)

    def tool(self, name: str, row: str) -> bool:
        """Whether a program is there; notes the row that is left out without it."""
        if shutil.which(name):
            return True
        self.note(f"{row} was left out: there is no `{name}` on this machine.")
        return False

    @staticmethod
    def default_base() -> str:
        """Where shares are made unless something else was asked for."""
        return tempfile.gettempdir()

    @contextlib.contextmanager
    def folder(self) -> Iterator[Path]:
        """A directory for the time of a set."""
        with tempfile.TemporaryDirectory(prefix="ferryfs-bench-", dir=self.base) as name:
            yield Path(name)
