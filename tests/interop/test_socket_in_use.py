"""One socket path, two daemons, whichever came first: the second one ends, and the first one is served on."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from daemons import EVERY_DAEMON, OWN, StartDaemon, daemon_command

PAIRS = [(OWN, OWN), *[(OWN, other) for other in EVERY_DAEMON[1:]], *[(other, OWN) for other in EVERY_DAEMON[1:]]]


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_second_daemon_leaves_the_socket_alone(
    first: str, second: str, tmp_path: Path, start_daemon: StartDaemon
) -> None:
    one = start_daemon(daemon_command(first), tmp_path, ["--sandbox=none"])
    inode = one.socket.stat().st_ino
    command = [*daemon_command(second), f"--shared-dir={tmp_path}", f"--socket-path={one.socket}", "--sandbox=none"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1, ended.stderr
    assert one.socket.stat().st_ino == inode
    assert one.process is not None
    assert one.process.poll() is None
