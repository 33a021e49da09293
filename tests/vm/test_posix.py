"""The POSIX suite inside a guest; what the host's directory lacks is not asked of the share.

The guest's kernel and the whole virtio transport take the place of `ferryfs mount` here. The reference daemons are run
through that one already (tests/posix), so a guest runs them only when FERRYFS_TEST_GUEST_DAEMONS names them.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from differences import find, load
from test_posix_mount import ALL

from vm.conftest import Mounted, mounted_share

SUITE = Path(__file__).parent.parent / "posix"
DAEMONS = os.environ.get("FERRYFS_TEST_GUEST_DAEMONS", "ferryfsd").split(",")
# The list of known differences calls the daemon with these options so.
CONFIGURATION = "all"
# All of it takes two minutes under emulation on an idle machine of two cores.
TIMEOUT = 840.0
CHECK_TIMEOUT = 240


@pytest.fixture(scope="module", params=DAEMONS)
def with_python(request: pytest.FixtureRequest) -> Iterator[Mounted]:
    """A guest with a Python and the suite in it, and a share with everything on that the suite asks for."""
    # Not pytest's own directory, which is on a tmpfs on some machines.
    with tempfile.TemporaryDirectory(dir=os.environ.get("FERRYFS_TEST_DIRECTORY", "/var/tmp")) as folder:
        for mounted in mounted_share(request.param, Path(folder), ALL, python=True):
            archive = io.BytesIO()
            with tarfile.open(fileobj=archive, mode="w:gz") as tar:
                tar.add(SUITE, "posix", filter=lambda member: None if "__pycache__" in member.name else member)
            mounted.guest.agent.put("/tmp/posix.tar.gz", archive.getvalue())
            mounted.guest.check("cd / && gunzip -c /tmp/posix.tar.gz | tar x")
            yield mounted


def test_posix_suite_in_a_guest(with_python: Mounted) -> None:
    """Each check passes, or is known to differ, or says that the host's own directory lacks what it needs."""
    probe = [sys.executable, str(SUITE), str(with_python.shared), "--probe"]
    features = subprocess.run(probe, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
    known = load()
    fatal = [check for entry in known if entry.fatal for check in entry.checks]
    without = " ".join(f"--except '{check}'" for check in fatal)
    command = f"python3 /posix {with_python.inside} --features {features} --json --timeout {CHECK_TIMEOUT} {without}"
    result = with_python.guest.run(command, TIMEOUT)
    checks = [json.loads(line) for line in result.output.splitlines() if line.startswith("{")]
    failed = [
        f"{check['name']}: {check['detail']}"
        for check in checks
        if check["status"] == "failed" and find(known, check["name"], with_python.daemon, CONFIGURATION) is None
    ]
    assert failed == [], "\n".join(failed)
    assert sum(check["status"] == "passed" for check in checks) >= 150, result.output
