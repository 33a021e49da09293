"""The loop of bare system calls: it makes what it was told, and an unexpected answer is an error."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from ferryfs.bench.calls import LAST_FD, Call, CallLoop


def test_operations_are_made_in_turn(tmp_path: Path) -> None:
    folder = os.open(tmp_path, os.O_RDONLY)
    flags = os.O_CREAT | os.O_EXCL | os.O_RDWR
    try:
        loop = CallLoop(
            [
                [
                    Call("openat", folder, name, flags, 0o600),
                    Call("pwrite", LAST_FD, bytearray(b"data"), 4, 0),
                    Call("close", LAST_FD),
                ]
                for name in (b"a\0", b"b\0")
            ]
            + [[Call("unlinkat", folder, b"a\0", 0), Call("unlinkat", folder, b"b\0", 0)]]
        )
        done, wall_s, cpu_s = loop.run(0.01)
    finally:
        os.close(folder)
    assert done >= 8
    assert cpu_s > 0
    assert wall_s >= 0.01
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"data"] * (done % 3)


@pytest.mark.parametrize(
    ("call", "number"),
    [
        (Call("unlinkat", -100, b"/does/not/exist\0", 0), errno.ENOENT),
        (Call("unlinkat", -100, b"/does/not/exist\0", 0, expected_errno=errno.EPERM), errno.ENOENT),
        (Call("fsync", -1), errno.EBADF),
    ],
)
def test_another_answer_than_expected_is_an_error(call: Call, number: int) -> None:
    with pytest.raises(OSError, match=call.name) as caught:
        CallLoop([[call]]).run(0.01)
    assert caught.value.errno == number


def test_an_expected_failure_is_no_error() -> None:
    done, _, _ = CallLoop([[Call("fsync", -1, expected_errno=errno.EBADF)]]).run(0.001)
    assert done >= 1


@pytest.mark.parametrize("operations", [[], [[]], [[Call("close", 1)], []]])
def test_an_operation_has_a_call(operations: list[list[Call]]) -> None:
    with pytest.raises(ValueError, match="at least one"):
        CallLoop(operations)


def test_only_known_calls() -> None:
    with pytest.raises(ValueError, match="reboot is not among"):
        Call("reboot")
