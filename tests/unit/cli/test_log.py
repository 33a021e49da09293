"""Levels, RUST_LOG, and the journal's mark."""

import os

import pytest

from ferryfs.cli.log import journal_reads_stderr, rust_log_level, traceback_text
from ferryfs.cli.options import LogLevel


@pytest.mark.parametrize(
    ("spec", "level"),
    [
        (None, None),
        ("", None),
        ("debug", LogLevel.DEBUG),
        ("WARN", LogLevel.WARN),
        ("virtiofsd=trace", LogLevel.TRACE),
        ("vhost=trace", None),
        ("vhost=trace,info", LogLevel.INFO),
        ("ferryfsd=error,info", LogLevel.INFO),
        ("virtiofsd", None),
        ("debug/regex", LogLevel.DEBUG),
        ("=,=/,,x=y=z", None),
    ],
)
def test_rust_log(spec: str | None, level: LogLevel | None) -> None:
    assert rust_log_level(spec) is level


def test_journal_is_recognised_by_the_socket() -> None:
    status = os.fstat(2)
    assert journal_reads_stderr({"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"})
    assert not journal_reads_stderr({"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino + 1}"})
    assert not journal_reads_stderr({"JOURNAL_STREAM": "nonsense"})
    assert not journal_reads_stderr({})


def test_traceback_names_frames_and_causes_without_source() -> None:
    def inner() -> None:
        raise ValueError("the cause")

    def outer() -> None:
        try:
            inner()
        except ValueError as error:
            raise RuntimeError("the effect") from error

    with pytest.raises(RuntimeError) as caught:
        outer()
    lines = traceback_text(caught.value).splitlines()
    assert lines[-1] == "RuntimeError: the effect"
    assert "ValueError: the cause" in lines
    assert any(line.endswith("in inner") for line in lines)
