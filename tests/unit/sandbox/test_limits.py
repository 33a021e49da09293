"""The limit of open files, in a child each, because a limit once lowered stays low."""

import subprocess
import sys

import pytest

PROGRAM = """
import logging, resource, sys
from ferryfs.errors import FerryError
from ferryfs.sandbox import limits
logging.basicConfig(format="%(message)s", stream=sys.stdout)
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


HARD = "raise the hard limit {} of whoever starts ferryfsd (ulimit -Hn, or LimitNOFILE= in a systemd unit)"


def test_too_few_for_the_daemon() -> None:
    """What to type is what would work: an option where one is the cause, the hard limit where that is."""
    few = "open files are too few, the daemon itself needs 810:"
    assert limits(1024, 5000, 5) == f"--rlimit-nofile=5: 5 {few} give at least 938"
    assert limits(512, 5000, 0) == f"--rlimit-nofile=0: 512 {few} give at least 938"
    assert limits(512, 512, None) == f"512 {few} {HARD.format(512)} to at least 938"
    assert limits(512, 600, None) == f"600 {few} {HARD.format(600)} to at least 938"
    assert limits(512, 600, 0) == f"--rlimit-nofile=0: 512 {few} {HARD.format(600)} to at least 938, and leave it out"
    assert limits(512, 600, 550) == (
        f"--rlimit-nofile=550: 550 {few} {HARD.format(600)} to at least 938, and leave it out"
    )


def test_few_for_the_guest() -> None:
    assert limits(820, 820, None) == (
        f"only 10 open files are left for the guest, {HARD.format(820)} to at least 938\n820 10 820 820"
    )
    assert limits(1024, 5000, 820) == (
        "--rlimit-nofile=820: only 10 open files are left for the guest, give at least 938\n820 10 820 820"
    )
