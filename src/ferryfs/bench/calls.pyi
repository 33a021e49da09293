"""Bare system calls, as many of them as fit into a time: what a daemon's operation costs where there is no daemon."""

from array import array
from collections.abc import Sequence
from typing import Final, final

NUMBERS: Final[dict[str, int]]
LAST_FD: Final[int]

class Call:
    """One system call: its name, its arguments, and the errno with which it is meant to fail (0: none)."""

    name: str
    arguments: tuple[int | bytes | bytearray, ...]
    expected_errno: int
    def __init__(self, name: str, *arguments: int | bytes | bytearray, expected_errno: int = 0) -> None: ...

@final
class CallLoop:
    """Operations prepared to be made as often as wanted."""

    def __init__(self, operations: Sequence[Sequence[Call]]) -> None: ...
    @property
    def latencies_ns(self) -> array[int]: ...
    def run(self, seconds: float, samples: int = 0) -> tuple[int, float, float]: ...
    def stop(self) -> None: ...
