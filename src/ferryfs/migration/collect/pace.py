"""How collecting in the background leaves the processors to the guest.

Some facts about priorities. The idle scheduling class gives a thread next to nothing of a processor that somebody
wants, and a niceness of 19 not much more. A Python thread of such a class may be preempted while it holds the
interpreter's lock, and then this happens:

1. the collecting thread, in the idle class, runs a line of Python, and loses its processor to a guest's;
2. the front-end sends a message, as "no more dirty log" or GET_VRING_BASE, and waits for the answer, its guest with it;
3. the session's thread wants the interpreter's lock, which is given back when the collecting thread has run a little:
   with ten threads a processor, that was after 5 to 45 seconds.

An ordinary user can't give such a thread its class back either. So the thread stays as any other, and rests instead.
"""

from __future__ import annotations

import resource
import threading
import time
from typing import Final

# Preempted means that somebody waits for this processor: then this many times as long as it worked, the thread rests.
# With 9 a guest that keeps both processors of a machine busy had 0.86 of its rate, as it and the daemon wait for each
# other; with 19 it has 0.92.
REST_PER_WORK: Final = 19
LONGEST_REST_S: Final = 1.0


class Pace:
    """Of one collecting thread. Called between two steps of the work: whether to give up; comes back after a rest where
    one is due. On a machine that has a processor to spare, none is.
    """

    def __init__(self, cancelled: threading.Event) -> None:
        self._cancelled = cancelled
        self._preempted: int | None = None
        self._rested_at = 0.0

    def __call__(self) -> bool:
        preempted = resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw
        if preempted != self._preempted:
            worked = time.thread_time() - self._rested_at
            if self._preempted is not None:
                self._cancelled.wait(min(worked * REST_PER_WORK, LONGEST_REST_S))
            self._preempted = preempted
            self._rested_at = time.thread_time()
        return self._cancelled.is_set()
