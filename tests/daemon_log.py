"""What a daemon must never write, whatever a test does to it."""

from __future__ import annotations

import re
from collections.abc import Iterable

# Python's, the C library's, the sanitizers' and Rust's ways to say that a program has a fault of its own.
SUSPICIOUS = re.compile(
    r"Traceback \(most recent call last\)|Exception ignored|Fatal Python error|\w+Warning: |panicked at"
    r"|AddressSanitizer|LeakSanitizer|UndefinedBehaviorSanitizer|runtime error: "
    r"|Assertion .* failed|malloc\(\): |free\(\): "
)


def complaints(text: str, allowed: Iterable[str] = ()) -> list[str]:
    """The lines of a daemon's output that only a fault of its own explains; ``allowed`` are regular expressions."""
    patterns = [re.compile(one) for one in allowed]
    return [
        line
        for line in text.splitlines()
        if SUSPICIOUS.search(line) and not any(pattern.search(line) for pattern in patterns)
    ]
