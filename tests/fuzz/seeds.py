"""Seeded loops, bounded in time: FERRYFS_FUZZ_SEED repeats a run, FERRYFS_FUZZ_SECONDS makes it longer."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator

SECONDS = float(os.environ.get("FERRYFS_FUZZ_SECONDS", "4"))


def rounds(seconds: float = SECONDS) -> Iterator[random.Random]:
    """One generator a round until the time is over. The seed of each is printed: pytest shows it when a round fails."""
    given = os.environ.get("FERRYFS_FUZZ_SEED")
    if given is not None:
        yield random.Random(int(given))
        return
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        seed = random.SystemRandom().getrandbits(48)
        print(f"FERRYFS_FUZZ_SEED={seed}")
        yield random.Random(seed)
