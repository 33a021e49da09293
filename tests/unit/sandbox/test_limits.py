"""The limit of open files, in a child each, because a limit once lowered stays low."""

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
from ferryfs.errors import FerryError
from ferryfs.sandbox import limits
soft, hard, wanted, threads = (None if word == "None" else int(word) for word in sys.argv[1:])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
try:
    print(*limits.set_file_limit(wanted, threads), *resource.getrlimit(resource.RLIMIT_NOFILE))
except FerryError as error:
    print(error)
"""


def limits(soft: int, hard: int, wanted: int | None, threads: int = 0) -> str:
    drop = ["setpriv", "--bounding-set=-sys_resource", "--inh-caps=-sys_resource"]
    done = subprocess.run(
        [*drop, sys.executable, "-I", "-c", PROGRAM, *map(str, (soft, hard, wanted, threads))],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"setpriv can't drop CAP_SYS_RESOURCE here: {done.stderr.strip()}")
    return done.stdout.strip()


def test_as_far_as_allowed() -> None:
    assert limits(1024, 5000, None) == "5000 4190 5000 5000"


def test_left_as_it_is() -> None:
    assert limits(2000, 5000, 0) == "2000 1190 2000 5000"


def test_exactly() -> None:
    assert limits(1024, 5000, 3000, threads=8) == "3000 2183 3000 3000"


def test_more_than_allowed() -> None:
    assert "is above the hard limit 5000" in limits(1024, 5000, 6000)
    assert "the kernel allows" in limits(1024, 5000, 2**31)


def test_too_few_for_the_daemon() -> None:
    assert "5 open files are too few, the daemon itself needs 810" in limits(1024, 5000, 5)
