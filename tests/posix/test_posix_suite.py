"""The suite itself: a failing, hanging, dying or untidy check is reported as what it is."""

import errno
import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from posix_suite import CHECKS, run
from posix_suite.assertions import equal, fails
from posix_suite.features import FEATURES
from posix_suite.registry import Check
from posix_suite.runner import remove

HERE = Path(__file__).parent


def _result(directory: Path, function: object, *needs: str, limit: float = 30.0) -> tuple[str, str]:
    assert callable(function)
    result = run(Check("self.test", needs, function), directory, frozenset(FEATURES) - {"whiteout"}, limit)
    return result.status, result.detail


def test_a_passing_check_leaves_nothing(tmp_path: Path) -> None:
    assert _result(tmp_path, lambda directory: (directory / "file").touch()) == ("passed", "")
    assert list(tmp_path.iterdir()) == []


def test_a_failing_check_says_why(tmp_path: Path) -> None:
    status, detail = _result(tmp_path, lambda directory: equal(1, 2, "number"))
    assert status == "failed"
    assert detail.startswith("AssertionError: number: expected 1, found 2")
    assert list(tmp_path.iterdir()) == []


def test_an_unexpected_error_fails(tmp_path: Path) -> None:
    status, detail = _result(tmp_path, lambda directory: (directory / "missing").stat())
    assert status == "failed"
    assert "FileNotFoundError" in detail


def test_a_hanging_check_is_ended(tmp_path: Path) -> None:
    status, detail = _result(tmp_path, lambda directory: signal.pause(), limit=0.2)
    assert (status, detail) == ("failed", "did not end within 0 s")


def test_a_dying_check_is_reported(tmp_path: Path) -> None:
    status, detail = _result(tmp_path, lambda directory: os.kill(os.getpid(), signal.SIGKILL))
    assert status == "failed"
    assert f"status {-signal.SIGKILL}" in detail


def test_a_missing_feature_skips_with_its_reason(tmp_path: Path) -> None:
    assert _result(tmp_path, lambda directory: None, "whiteout") == ("skipped", "no RENAME_WHITEOUT")


def test_fails_wants_the_right_errno() -> None:
    with fails(errno.ENOENT):
        Path("/missing").stat()
    with pytest.raises(AssertionError, match="expected ENOTDIR, found ENOENT"), fails(errno.ENOTDIR):
        Path("/missing").stat()
    with pytest.raises(AssertionError, match="expected ENOTDIR, found success"), fails(errno.ENOTDIR):
        Path("/").stat()


def test_remove_takes_trees_of_any_depth(tmp_path: Path) -> None:
    top = tmp_path / "top"
    top.mkdir()
    fd = os.open(top, os.O_RDONLY)
    for _ in range(60):
        os.mkdir("d" * 200, dir_fd=fd)
        os.close(os.open("file", os.O_CREAT, dir_fd=fd))
        below = os.open("d" * 200, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    remove(top)
    assert list(tmp_path.iterdir()) == []


def test_every_need_is_a_known_feature() -> None:
    assert {need for check in CHECKS.values() for need in check.needs} <= set(FEATURES)


def test_runs_without_a_test_framework(tmp_path: Path) -> None:
    """As in a guest: one archive, an isolated interpreter, no site packages."""
    archive = tmp_path / "posix.pyz"
    with zipfile.ZipFile(archive, "w") as bundle:
        for path in (HERE / "__main__.py", *sorted((HERE / "posix_suite").rglob("*.py"))):
            bundle.write(path, path.relative_to(HERE))
    command = [sys.executable, "-I", "-S", str(archive), str(tmp_path), "--only", "names.utf8", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert '"status": "passed"' in done.stdout
    assert done.stderr == "1 passed, 0 failed, 0 skipped\n"
