"""The control socket of a mount, both ends of it."""

from __future__ import annotations

import json
import select
import socket
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from ferryfs.errors import CancelledError, OptionError, PeerError
from ferryfs.frontend.control import Answer, ControlServer, ask, control_path


def handle(request: Mapping[str, Any]) -> Answer:
    if request["command"] == "fail":
        raise PeerError("It can't be done.")
    return {"seen": request["command"], "more": request.get("more")}


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Path]:
    """A mount point whose control socket answers three connections."""
    server = ControlServer(control_path(str(tmp_path)), handle)
    thread = threading.Thread(target=lambda: [server.serve() for _ in range(3)])
    thread.start()
    yield tmp_path
    # Whatever the test left unused, the server must come to its end.
    while thread.is_alive():
        try:
            ask(str(tmp_path), "end", timeout_s=1.0)
        except (OptionError, PeerError):
            break
    thread.join()
    server.close()
    assert not control_path(str(tmp_path)).exists()


def test_questions_and_refusals(served: Path) -> None:
    assert ask(str(served), "hello", {"more": 7}) == {"seen": "hello", "more": 7}
    with pytest.raises(PeerError, match=r"^It can't be done\.$"):
        ask(str(served), "fail")


@pytest.mark.parametrize("rubbish", [b"", b"\n", b"[1]\n", b"{}\n", b"\xff\xfe\n", b"x" * 65536])
def test_rubbish_harms_nobody(served: Path, rubbish: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(control_path(str(served))))
        sock.sendall(rubbish)
        sock.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: sock.recv(4096), b""))
    assert b'"ok": false' in answer
    assert ask(str(served), "hello")["seen"] == "hello"


def test_an_asker_that_gives_up(tmp_path: Path) -> None:
    """By a second line, or by going away; one that only writes no more waits for its answer."""
    seen: list[bool] = []

    def wait(request: Mapping[str, Any]) -> Answer:
        assert server.asker is not None
        if request["command"] == "wait" and not server.asker.gave_up():
            select.select([server.asker], [], [], 10.0)
        seen.append(server.asker.gave_up())
        if seen[-1]:
            raise CancelledError("Cancelled.")
        return {}

    server = ControlServer(control_path(str(tmp_path)), wait)
    try:
        for more, ends in ((b"give up\n", False), (b"", True), (b"", False)):
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(str(control_path(str(tmp_path))))
                sock.sendall(b'{"command": "wait"}\n')
                thread = threading.Thread(target=server.serve)
                thread.start()
                sock.sendall(more)
                if ends:
                    sock.close()
                elif not more:
                    sock.shutdown(socket.SHUT_WR)
                thread.join()
                if more:
                    assert json.loads(sock.recv(4096)) == {"ok": False, "error": "Cancelled.", "cancelled": True}
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(control_path(str(tmp_path))))
            # Both lines at once.
            sock.sendall(b'{"command": "now"}\ngive up\n')
            server.serve()
    finally:
        server.close()
    assert seen == [True, True, False, True]
    assert server.asker is None


def test_no_mount_there(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="No `ferryfs mount`"):
        ask(str(tmp_path), "status")


def test_a_later_mounts_socket_stays(tmp_path: Path) -> None:
    path = control_path(str(tmp_path))
    first = ControlServer(path, handle)
    second = ControlServer(path, handle)
    first.close()
    assert path.exists()
    second.close()
    assert not path.exists()
