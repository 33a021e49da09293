"""The checks through the Linux FUSE client, `ferryfs mount` and a daemon: ours, and the reference to see we are fair."""

from __future__ import annotations

import fnmatch
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest
from differences import find, load
from mounts import Configuration, Mounted
from posix_suite import CHECKS, run

from ferryfs.guest.backend import own_daemon, reference_daemon

ALL: Final = ("--xattr", "--posix-acl", "--killpriv-v2", "--modcaps=+sys_admin", "--allow-direct-io", "--allow-mmap")
# Where a cache policy can make a difference; permissions and the like were seen under the other configurations.
CACHED: Final = ("append.*", "concurrency.*", "io.*", "mapping.*", "moving.*", "opening.*", "sparse.*", "times.*")
NAMED: Final = ("directories.*", "links.*", "names.*", "rename.*", "status.*", "symlinks.*", "unlinked.*")

OURS: Final = (
    Configuration("default"),
    Configuration("all", ALL, ("--queues=2",)),
    Configuration("always", ("--cache=always",), checks=(*CACHED, *NAMED)),
    Configuration("metadata", ("--cache=metadata",), checks=CACHED),
    Configuration("never", ("--cache=never",), checks=(*CACHED, *NAMED)),
    Configuration("writeback", ("--writeback", *ALL), checks=(*CACHED, "owners.*", "users.*", "xattrs.*")),
    Configuration("o-path", ("--inode-file-handles=never",), checks=(*NAMED, "paths.*", "special.*", "opening.*")),
    Configuration("negative", ("--negative-timeout=60", "--cache=always"), checks=(*NAMED, "paths.*", "concurrency.*")),
)
REFERENCE: Final = (Configuration("default", checks=("acls.*", "owners.*", "xattrs.*")), Configuration("all", ALL))
DAEMONS: Final[dict[str, tuple[Configuration, ...]]] = {
    "ferryfsd": OURS,
    "virtiofsd-1.13.2": REFERENCE,
    "virtiofsd-1.14.0": REFERENCE,
}
DIFFERENCES: Final = load()


def _runs(configuration: Configuration, name: str) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in configuration.checks)


CASES: Final = [
    pytest.param((daemon, configuration), name, id=f"{daemon}-{configuration.name}-{name}")
    for daemon, configurations in DAEMONS.items()
    for configuration in configurations
    for name in CHECKS
    if _runs(configuration, name)
]


def _command(daemon: str) -> tuple[str, ...]:
    if daemon == "ferryfsd":
        return own_daemon()
    command = reference_daemon(daemon.removeprefix("virtiofsd-"))
    if command is None:
        pytest.skip(f"{daemon} is not there; run `scripts/peers`.")
    return command


@pytest.fixture(scope="module")
def mounted(request: pytest.FixtureRequest, bare_directory: Path) -> Iterator[Mounted]:
    """The mount of one daemon in one configuration, shared by all its checks."""
    if os.geteuid() != 0 or not os.path.exists("/dev/fuse"):
        pytest.skip("mounting needs root and /dev/fuse.")
    daemon, configuration = request.param
    with tempfile.TemporaryDirectory(prefix="m", dir=bare_directory) as scratch:
        os.chmod(scratch, 0o755)
        with Mounted(_command(daemon), configuration, Path(scratch)) as mount:
            yield mount


@pytest.mark.parametrize(("mounted", "name"), CASES, indirect=["mounted"], scope="module")
def test_mount(
    mounted: Mounted,
    name: str,
    bare_features: frozenset[str],
    request: pytest.FixtureRequest,
    note_difference: Callable[[str], None],
) -> None:
    daemon, configuration = request.node.callspec.params["mounted"]
    expected = find(DIFFERENCES, name, daemon, configuration.name)
    result = run(CHECKS[name], mounted.directory, bare_features)
    if result.status == "skipped":
        pytest.skip(result.detail)
    if expected is None:
        assert result.status == "passed", result.detail
    else:
        assert result.status == "failed", f"{name} passes now: take it out of known_differences.toml."
        note_difference(expected.reason)


def test_every_difference_is_about_something() -> None:
    cases = [(name, daemon, one.name) for daemon, some in DAEMONS.items() for one in some for name in CHECKS]
    for entry in DIFFERENCES:
        for pattern in (*entry.checks, *entry.passing):
            assert fnmatch.filter(CHECKS, pattern), f"no check is called {pattern}"
        assert any(entry.covers(*case) for case in cases), f"no test is covered by: {entry}"
