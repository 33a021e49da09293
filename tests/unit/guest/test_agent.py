"""The host's side of the guest's agent, with the other side of the socket in the test's hand."""

from __future__ import annotations

import base64
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from ferryfs.guest.agent import Agent, AgentError, Result


class GuestSide:
    """What QEMU and the guest are otherwise."""

    def __init__(self, path: Path) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self.agent = Agent(path)
        self._connection, _ = self._listener.accept()

    def say(self, text: str) -> None:
        """Send bytes to the host as they are."""
        self._connection.sendall(text.encode())

    def answer(self, name: str, status: int, output: bytes) -> str:
        """A whole answer."""
        return f"= {name} {status} {base64.b64encode(output).decode()}\n"

    def heard(self) -> str:
        """What the host sent."""
        return self._connection.recv(65536).decode()

    def hang_up(self) -> None:
        """End the connection."""
        self._connection.close()

    def close(self) -> None:
        """End everything."""
        self.agent.close()
        self._connection.close()
        self._listener.close()


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[GuestSide]:
    """An agent that is connected."""
    side = GuestSide(tmp_path / "agent")
    yield side
    side.close()


def test_a_command_and_its_answer(guest: GuestSide) -> None:
    """The command travels as one line; status and output come back, bytes that are no UTF-8 included."""
    name = guest.agent.start("echo 'a\nb'")
    sent = guest.heard()
    assert sent.endswith("\n")
    assert sent.split()[0] == name
    assert base64.b64decode(sent.split()[1]) == b"echo 'a\nb'"
    guest.say(guest.answer(name, 3, b"out \xff\n"))
    assert guest.agent.result(name, 5) == Result(3, "out \udcff\n")


def test_answers_come_in_any_order_and_in_pieces(guest: GuestSide) -> None:
    """Two commands under way; the second ends first, and the stream is cut in an unlucky place."""
    first, second = guest.agent.start("first"), guest.agent.start("second")
    text = guest.answer(second, 0, b"2") + guest.answer(first, 1, b"")
    guest.say(text[:7])
    guest.say(text[7:])
    assert guest.agent.result(first, 5) == Result(1, "")
    assert guest.agent.result(second, 5) == Result(0, "2")


@pytest.mark.parametrize("fragment", ["", "= 1 0 aGVsb", "= ", "=", "= 1 0 aGVsbG8= ", "noise = 7"])
def test_a_reset_guest_greets_after_any_fragment(guest: GuestSide, fragment: str) -> None:
    """A guest that is reset in the middle of an answer: the fragment is nothing, the greeting behind it counts."""
    guest.agent.start("never answered")
    guest.say(fragment + guest.answer("hello", 0, b"6.12\n"))
    assert guest.agent.wait_ready(5) == "6.12"


def test_a_guest_that_goes_away_is_an_error(guest: GuestSide) -> None:
    """No waiting for what can't come."""
    name = guest.agent.start("poweroff -f")
    guest.heard()
    guest.hang_up()
    with pytest.raises(AgentError, match="went away"):
        guest.agent.result(name, 5)


def test_silence_is_an_error(guest: GuestSide) -> None:
    """The time that is given is kept."""
    with pytest.raises(AgentError, match=r"within 0\.05 s"):
        guest.agent.result(guest.agent.start("sleep 9"), 0.05)


def test_a_command_that_fails_is_quoted(guest: GuestSide) -> None:
    """``check`` names the command, the status and the output."""
    guest.say(guest.answer("1", 2, b"no such thing\n"))
    with pytest.raises(AgentError, match=r"`ls x` in the guest exits with 2: no such thing$"):
        guest.agent.check("ls x", 5)
