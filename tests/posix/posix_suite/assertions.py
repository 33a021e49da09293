"""What a check states. Not `assert`: these say what they saw, without a test framework and under `python3 -O`."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager


def name_of(code: int | None) -> str:
    """The symbolic name of an errno value."""
    return errno.errorcode.get(code or 0, str(code))


def ensure(condition: bool, claim: str) -> None:
    """Fails unless the condition holds; `claim` says what should have been."""
    if not condition:
        raise AssertionError(claim)


def equal(expected: object, actual: object, what: str = "value") -> None:
    """Fails unless both are equal, and shows both (cut, where they are long)."""
    if expected != actual:
        raise AssertionError(f"{what}: expected {_cut(expected)}, found {_cut(actual)}")


def _cut(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 300 else f"{text[:200]} ... {text[-80:]} ({len(text)} characters)"


@contextmanager
def fails(*codes: int) -> Iterator[None]:
    """The body must raise OSError with one of these errno values."""
    wanted = " or ".join(name_of(code) for code in codes)
    try:
        yield
    except OSError as error:
        if error.errno not in codes:
            raise AssertionError(f"expected {wanted}, found {name_of(error.errno)}") from error
    else:
        raise AssertionError(f"expected {wanted}, found success")
