"""The checks through the Linux FUSE client, `ferryfs mount` and a daemon: ours, and the reference to be fair."""

from __future__ import annotations

import fnmatch
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar, Final

import pytest
from differences import find, load
from mounts import Configuration, Mounted
from posix_suite import CHECKS, run

from ferryfs.guest.backend import own_daemon, reference_daemon

ALL: Final = (
    "--xattr",
    "--posix-acl",
    "--killpriv-v2",
    "--modcaps=+sys_admin",
    "--allow-direct-io",
    "--allow-mmap",
    "--preserve-noatime",
)
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


def _command(daemon: str) -> tuple[str, ...]:
    if daemon == "ferryfsd":
        return own_daemon()
    command = reference_daemon(daemon.removeprefix("virtiofsd-"))
    if command is None:
        pytest.skip(f"{daemon} is not there; run `scripts/peers`.")
    return command


@pytest.fixture(scope="class")
def mounted(request: pytest.FixtureRequest, bare_directory: Path) -> Iterator[Mounted]:
    """The mount of a class."""
    if os.geteuid() != 0 or not os.path.exists("/dev/fuse"):
        pytest.skip("mounting needs root and /dev/fuse.")
    with tempfile.TemporaryDirectory(prefix="m", dir=bare_directory) as scratch:
        os.chmod(scratch, 0o755)
        with Mounted(_command(request.cls.daemon), request.cls.configuration, Path(scratch)) as mount:
            yield mount


class OnMount:
    """The checks on one mount, which is made once for all of them. Each daemon and configuration is a subclass."""

    daemon: ClassVar[str]
    configuration: ClassVar[Configuration]

    def test(
        self, mounted: Mounted, name: str, bare_features: frozenset[str], note_difference: Callable[[str], None]
    ) -> None:
        """One check."""
        expected = find(DIFFERENCES, name, self.daemon, self.configuration.name)
        if expected is not None and expected.fatal:
            note_difference(f"{expected.reason} (not run)")
            return
        result = run(CHECKS[name], mounted.directory, bare_features)
        if result.status == "skipped":
            pytest.skip(result.detail)
        if expected is None:
            assert result.status == "passed", result.detail
        else:
            assert expected.objection(name, result.status, result.detail) == ""
            if result.status == "failed":
                note_difference(expected.reason)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The checks that run under the configuration of a class."""
    if metafunc.cls is not None and issubclass(metafunc.cls, OnMount):
        metafunc.parametrize("name", [name for name in CHECKS if _runs(metafunc.cls.configuration, name)])


for one_daemon, configurations in DAEMONS.items():
    for one in configurations:
        class_name = f"Test_{one_daemon}_{one.name}"
        globals()[class_name] = type(class_name, (OnMount,), {"daemon": one_daemon, "configuration": one})


def test_every_difference_is_about_something() -> None:
    cases = [(name, daemon, one.name) for daemon, some in DAEMONS.items() for one in some for name in CHECKS]
    for entry in DIFFERENCES:
        for pattern in (*entry.checks, *entry.passing):
            assert fnmatch.filter(CHECKS, pattern), f"no check is called {pattern}"
        assert any(entry.covers(*case) for case in cases), f"no test is covered by: {entry}"
