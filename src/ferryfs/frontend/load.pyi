"""A load generator: prepared FUSE requests, many in flight on one request queue, latencies taken without the GIL."""

from array import array
from collections.abc import Sequence
from typing import final

from ferryfs.frontend.driver import DriverQueue

class LoadRequest:
    """One request of a lane; see the compiled module."""

    readable: tuple[bytes, ...]
    writable: tuple[int, ...]
    expected_error: int
    patch: tuple[tuple[int, int, int], ...]
    hiprio: bool
    def __init__(
        self,
        readable: Sequence[bytes],
        writable: Sequence[int],
        *,
        expected_error: int = 0,
        patch: Sequence[tuple[int, int, int]] = (),
        hiprio: bool = False,
    ) -> None: ...

class LoadResult:
    """What a run measured."""

    done: int
    errors: int
    first_error: tuple[int, int] | None
    kicks: int
    latencies_ns: array[int]
    positions: array[int]
    seconds: float

@final
class LoadGenerator:
    """Lanes prepared in guest memory, to be run as often as wanted."""

    def __init__(
        self, queue: DriverQueue, lanes: Sequence[Sequence[LoadRequest]], hiprio: DriverQueue | None = None
    ) -> None: ...
    def run(
        self,
        *,
        count: int | None = None,
        seconds: float | None = None,
        polling: bool = False,
        capacity: int = 1 << 20,
        lane: int = -1,
    ) -> LoadResult: ...
