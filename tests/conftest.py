"""Rules for every test: no skip without a reason in CI, nothing left over, no daemon that complains."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from daemons import StartDaemon, daemons
from leaks import Snapshot, keep_apart, left_over, snapshot

ALLOWED_SKIPS = Path(__file__).with_name("allowed-skips.txt")
IN_CI = os.environ.get("CI") == "true"

# Where a run spends its time; each file of tests goes to one process, so that the long ones have to start first.
LONGEST_FIRST = ("vm", "managers", "posix", "interop")

_before = pytest.StashKey[Snapshot]()
_skips = pytest.StashKey[list[str]]()


def _allowed_skips() -> list[str]:
    patterns = []
    for number, line in enumerate(ALLOWED_SKIPS.read_text().splitlines(), 1):
        if line.strip() and not line.startswith("#"):
            pattern, _, reason = line.partition("  ")
            if not reason.strip():
                raise pytest.UsageError(f"{ALLOWED_SKIPS}:{number}: {pattern} has no reason; put it after two spaces.")
            patterns.append(pattern)
    return patterns


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_skips] = _allowed_skips()
    keep_apart()
    # How long an example takes is the machine's matter.
    hypothesis.settings.register_profile("untimed", deadline=None)
    hypothesis.settings.load_profile("untimed")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long tests first: else one process works on the last of them while the others have nothing to do."""

    def rank(item: pytest.Item) -> int:
        folders = [
            place for place, name in enumerate(LONGEST_FIRST) if Path(__file__).with_name(name) in item.path.parents
        ]
        return folders[0] if folders else len(LONGEST_FIRST)

    items.sort(key=rank)


def _refuse_skip(config: pytest.Config, report: pytest.TestReport | pytest.CollectReport) -> None:
    """Under CI=true a skip that nobody allowed is a failure, and so is a failure that is only expected."""
    if not IN_CI or report.outcome != "skipped":
        return
    if any(fnmatch.fnmatchcase(report.nodeid, pattern) for pattern in config.stash[_skips]):
        return
    why = report.longrepr[2] if isinstance(report.longrepr, tuple) else getattr(report, "wasxfail", "")
    report.outcome = "failed"
    report.longrepr = f"{report.nodeid}: {why}\nA skip in CI has to be named in {ALLOWED_SKIPS.name}, with a reason."
    if hasattr(report, "wasxfail"):
        del report.wasxfail


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _refuse_skip(item.config, report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _refuse_skip(collector.config, report)
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, None, None]:
    item.session.stash[_before] = snapshot()
    yield


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
) -> Generator[None, object, object]:
    """What a fixture of a wider scope brings is there for the tests after this one too: no leak of this one."""
    if fixturedef.scope == "function":
        return (yield)
    result = yield
    session = request.session
    if _before in session.stash:
        session.stash[_before] = session.stash[_before] | snapshot()
    return result


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, None, None]:
    yield
    left = left_over(item.session.stash[_before])
    if left:
        pytest.fail("\n".join(left), pytrace=False)


@pytest.fixture
def start_daemon(tmp_path: Path) -> Iterator[StartDaemon]:
    """Starts daemons, ends them after the test, and fails it when one complained or did not end cleanly."""
    with daemons(tmp_path) as start:
        yield start
