"""Every recorded command line starts, serves a front-end, and ends with it, as its manager expects."""

import os
import shlex
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from .command_lines import COMMAND_LINES

PROGRAM = "import sys; from ferryfs.cli.daemon import main; sys.argv[0] = 'virtiofsd'; main()"
READY = "Waiting for vhost-user socket connection..."

# vhost-user: GET_FEATURES, version 1; the answer has the same number, 8 bytes of payload.
GET_FEATURES = (1).to_bytes(4, "little") + (1).to_bytes(4, "little") + bytes(4)


@pytest.mark.skipif(os.geteuid() != 0, reason="managers start it as root: run the tests as root")
@pytest.mark.parametrize("name", COMMAND_LINES)
def test_starts_serves_and_ends(name: str, tmp_path: Path) -> None:
    share = tmp_path / ("with,comma" if "{commas}" in COMMAND_LINES[name] else "share")
    share.mkdir()
    path = tmp_path / "fs.sock"
    with ExitStack() as stack:
        fds = []
        words = {"share": str(share), "socket": str(path), "commas": str(share).replace(",", ",,"), "fd": ""}
        if "{fd}" in COMMAND_LINES[name]:
            listening = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            listening.bind(str(path))
            listening.listen()
            fds = [listening.fileno()]
            words["fd"] = str(listening.fileno())
        line = shlex.split(COMMAND_LINES[name].format(**words))
        daemon = stack.enter_context(
            subprocess.Popen(
                [sys.executable, "-I", "-c", PROGRAM, *line],
                stderr=subprocess.PIPE,
                text=True,
                pass_fds=fds,
                cwd=share,
            )
        )
        stack.callback(daemon.kill)
        assert daemon.stderr is not None
        seen = []
        for text in daemon.stderr:
            seen.append(text)
            if READY in text:
                break
        else:
            pytest.fail(f"{name}: {''.join(seen)}")
        if not fds:
            assert int((tmp_path / "fs.sock.pid").read_text()) == daemon.pid
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as front_end:
            front_end.connect(str(path))
            front_end.sendall(GET_FEATURES)
            answer = front_end.recv(64)
        assert answer[:4] == GET_FEATURES[:4]
        assert int.from_bytes(answer[12:20], "little") >> 32 & 1
        assert daemon.wait(30) == 0
