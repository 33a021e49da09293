"""The POSIX suite inside a guest, through each daemon; what the host's directory lacks is not asked of the share."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from vm.conftest import Mounted, mounted_share

SUITE = Path(__file__).parent.parent / "posix"
# The whole suite takes about a minute under emulation on an idle machine of two cores.
TIMEOUT = 600.0


@pytest.fixture(scope="module", params=["ferryfsd", "virtiofsd-1.14.0"])
def with_python(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mounted]:
    """A guest with a Python and the suite in it, and a share with everything on that the suite asks for."""
    folder = tmp_path_factory.mktemp("posix")
    options = ["--xattr", "--posix-acl" if request.param == "ferryfsd" else "--posix-acl=always", "--allow-direct-io"]
    for mounted in mounted_share(request.param, folder, options, python=True):
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w:gz") as tar:
            tar.add(SUITE, "posix", filter=lambda member: None if "__pycache__" in member.name else member)
        mounted.guest.agent.put("/tmp/posix.tar.gz", archive.getvalue())
        mounted.guest.check("cd / && gunzip -c /tmp/posix.tar.gz | tar x")
        yield mounted


def test_posix_suite_in_a_guest(with_python: Mounted) -> None:
    """Each check passes, or says that the host's own directory lacks what it needs."""
    probe = [sys.executable, str(SUITE), str(with_python.shared), "--probe"]
    features = subprocess.run(probe, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
    command = f"python3 /posix {with_python.inside} --features {features} --json --timeout 60"
    result = with_python.guest.run(command, TIMEOUT)
    checks = [json.loads(line) for line in result.output.splitlines() if line.startswith("{")]
    failed = [f"{check['name']}: {check['detail']}" for check in checks if check["status"] == "failed"]
    assert failed == [], "\n".join(failed)
    assert sum(check["status"] == "passed" for check in checks) >= 150, result.output
