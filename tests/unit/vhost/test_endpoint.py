"""vhost/endpoint.py over real socket pairs: the test is the front-end, the descriptors are real, none may be left."""

import array
import errno
import os
import select
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ferryfs.errors import FrontendError, SetupError
from ferryfs.vhost import session as s
from ferryfs.vhost.endpoint import Disconnected, Endpoint, Outcome
from ferryfs.vhost.session import Action, Session
from ferryfs.wire import vhost_user as vu
from ferryfs.wire.vhost_user import Request, Value

from .conftest import open_descriptors

QUEUES = 3
REGION = vu.MemoryRegion(0x1000, 0x4000, 0x7F0000001000, 0)


class FrontEnd:
    """The other end of an Endpoint, and what the Endpoint was told to carry out."""

    def __init__(self, outcome: Callable[[Action], Outcome] = lambda _: Outcome()) -> None:
        self.sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(10)
        self.actions: list[Action] = []
        self.inodes: list[int] = []
        self._outcome = outcome
        self.endpoint = Endpoint(theirs, Session(QUEUES, device_state=True), self._carry_out)

    def _carry_out(self, action: Action) -> Outcome:
        self.actions.append(action)
        fds = getattr(action, "fds", (getattr(action, "fd", -1),))
        self.inodes += [os.fstat(fd).st_ino for fd in fds if fd >= 0]
        return self._outcome(action)

    def close(self) -> None:
        self.sock.close()
        self.endpoint.close()

    def send(self, data: bytes, fds: Sequence[int] = ()) -> None:
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        assert self.sock.sendmsg([data], ancillary) == len(data)

    def turn(self) -> None:
        """Let the endpoint do whatever poll says it can do now, until there is nothing more."""
        poll = select.poll()
        while True:
            poll.register(self.endpoint.fileno(), self.endpoint.events())
            ready = poll.poll(0)
            if not ready:
                return
            self.endpoint.handle(ready[0][1])

    def answer(self, request: Request) -> Value:
        header = vu.decode_reply_header(request, self.sock.recv(12, socket.MSG_WAITALL))
        payload = self.sock.recv(header.size, socket.MSG_WAITALL) if header.size else b""
        return vu.decode_reply(request, payload)

    def ask(self, request: Request, value: Value = None, fds: Sequence[int] = ()) -> Value:
        self.send(vu.encode_request(request, value, need_reply=True), fds)
        self.turn()
        return self.answer(request)


@pytest.fixture
def front() -> Iterator[FrontEnd]:
    front_end = FrontEnd()
    yield front_end
    front_end.close()


@contextmanager
def files(count: int) -> Iterator[list[int]]:
    with ExitStack() as stack:
        fds = []
        for number in range(count):
            fd = os.memfd_create(f"test-{number}")
            stack.callback(os.close, fd)
            fds.append(fd)
        yield fds


def inode(fd: int) -> int:
    return os.fstat(fd).st_ino


def test_question_and_answer(front: FrontEnd) -> None:
    assert front.ask(Request.GET_FEATURES) == s.FEATURES
    assert front.ask(Request.SET_OWNER) == 0
    assert front.actions == []


def test_descriptors_reach_the_action_in_order_and_are_closed_after_it(front: FrontEnd) -> None:
    regions = tuple(REGION._replace(guest_addr=index << 20) for index in range(32))
    before = open_descriptors()
    with files(32) as fds:
        assert front.ask(Request.SET_MEM_TABLE, regions, fds) == 0
        assert front.inodes == [inode(fd) for fd in fds]
    assert open_descriptors() == before


def test_received_descriptors_are_close_on_exec() -> None:
    seen: list[bool] = []

    def carry_out(action: Action) -> Outcome:
        assert isinstance(action, s.SetBackendChannel)
        seen.append(os.get_inheritable(action.fd))
        return Outcome()

    front = FrontEnd(carry_out)
    with files(1) as fds:
        front.ask(Request.SET_BACKEND_REQ_FD, None, fds)
    front.close()
    assert seen == [False]


def test_message_byte_by_byte(front: FrontEnd) -> None:
    message = vu.encode_request(Request.SET_VRING_CALL, 1, need_reply=True)
    with files(1) as fds:
        for index in range(len(message)):
            front.send(message[index : index + 1], fds if index == 0 else ())
            front.turn()
            assert len(front.actions) == (index == len(message) - 1)
        assert front.inodes == [inode(fds[0])]
    assert front.answer(Request.SET_VRING_CALL) == 0


def test_descriptor_with_the_payload(front: FrontEnd) -> None:
    """Header and payload in two messages of the socket, the descriptor with the second."""
    message = vu.encode_request(Request.SET_VRING_CALL, 1, need_reply=True)
    with files(1) as fds:
        front.send(message[:12])
        front.turn()
        front.send(message[12:], fds)
        front.turn()
        assert front.inodes == [inode(fds[0])]
    assert front.answer(Request.SET_VRING_CALL) == 0


def test_messages_in_one_go_keep_their_descriptors(front: FrontEnd) -> None:
    with files(2) as fds:
        front.send(vu.encode_request(Request.SET_VRING_CALL, 0), fds[:1])
        front.send(vu.encode_request(Request.SET_VRING_NUM, vu.VringState(1, 8)))
        front.send(vu.encode_request(Request.SET_VRING_ERR, 2), fds[1:])
        front.turn()
        assert front.inodes == [inode(fd) for fd in fds]
    assert [type(action) for action in front.actions] == [s.SetVringFd, s.SetVringNum, s.SetVringFd]


def test_descriptor_that_comes_with_the_next_message_is_not_this_ones(front: FrontEnd) -> None:
    with files(1) as fds:
        front.send(vu.encode_request(Request.SET_OWNER))
        front.send(vu.encode_request(Request.SET_OWNER), fds)
        front.endpoint.handle(select.POLLIN)
        with pytest.raises(FrontendError, match="SET_OWNER came with 1 file descriptors instead of 0"):
            front.endpoint.handle(select.POLLIN)


def test_too_many_descriptors(front: FrontEnd) -> None:
    with files(33) as fds:
        front.send(vu.encode_request(Request.SET_OWNER), fds)
        with pytest.raises(FrontendError, match="more file descriptors than it may have"):
            front.turn()


def test_too_many_descriptors_in_pieces(front: FrontEnd) -> None:
    message = vu.encode_request(Request.SET_OWNER)
    with files(17) as fds:
        front.send(message[:6], fds)
        front.send(message[6:], fds)
        with pytest.raises(FrontendError, match="more file descriptors than it may have"):
            front.turn()


@pytest.mark.parametrize("request_", [Request.GET_VRING_BASE, Request.SET_DEVICE_STATE_FD, Request.CHECK_DEVICE_STATE])
def test_result_of_the_action_is_in_the_answer(request_: Request) -> None:
    front = FrontEnd(lambda _: Outcome(0x1234))
    with files(1) as fds:
        values: dict[int, Value] = {11: vu.VringState(1, 0), 42: vu.StateTransfer(0, 0)}
        answer = front.ask(request_, values.get(request_), fds if request_ is Request.SET_DEVICE_STATE_FD else ())
    assert answer == (vu.VringState(1, 0x1234) if request_ is Request.GET_VRING_BASE else 0x1234)
    front.close()


def test_descriptor_with_the_answer() -> None:
    read_end, write_end = os.pipe()
    front = FrontEnd(lambda _: Outcome(0, read_end))
    with files(1) as fds:
        front.send(vu.encode_request(Request.SET_DEVICE_STATE_FD, vu.StateTransfer(0, 0)), fds)
    front.turn()
    data, received, _, _ = socket.recv_fds(front.sock, 100, 4)
    assert data == vu.encode_reply(Request.SET_DEVICE_STATE_FD, 0)
    os.write(write_end, b"state")
    os.close(write_end)
    assert [os.read(fd, 100) for fd in received] == [b"state"]
    for fd in received:
        os.close(fd)
    front.close()


@pytest.mark.parametrize("need_reply", [False, True])
def test_action_that_fails_is_answered_and_raised(need_reply: bool) -> None:
    def fail(_: Action) -> Outcome:
        raise FrontendError("The ring is in the moon.")

    front = FrontEnd(fail)
    front.send(vu.encode_request(Request.SET_VRING_NUM, vu.VringState(1, 8), need_reply=need_reply))
    with pytest.raises(FrontendError, match="in the moon"):
        front.turn()
    if need_reply:
        assert front.answer(Request.SET_VRING_NUM) == 1
    front.endpoint.close()
    assert front.sock.recv(1) == b""
    front.close()


def test_refusal_is_logged_and_answered(caplog: pytest.LogCaptureFixture) -> None:
    sock, theirs = socket.socketpair()
    session = Session(QUEUES, s.virtio_fs_config(b"tag", 1))
    endpoint = Endpoint(theirs, session, lambda _: Outcome())
    sock.send(vu.encode_request(Request.SET_CONFIG, vu.ConfigSpace(0, 0, b"x"), need_reply=True))
    endpoint.handle(select.POLLIN)
    assert sock.recv(100) == vu.encode_reply(Request.SET_CONFIG, 1)
    assert "SET_CONFIG is refused" in caplog.text
    sock.close()
    endpoint.close()


def test_what_the_kernel_refuses_ends_the_connection_with_a_sentence() -> None:
    """No file descriptor is left for a message: the error of one front-end, not the end of the daemon."""

    def carry_out(action: Action) -> Outcome:
        raise OSError(errno.EMFILE, "Too many open files")

    front = FrontEnd(carry_out)
    try:
        with files(1) as fds:
            front.send(vu.encode_request(Request.SET_VRING_CALL, 1, need_reply=True), fds)
            with pytest.raises(SetupError, match=r"^SET_VRING_CALL can't be carried out: Too many open files\.$"):
                front.turn()
        assert front.answer(Request.SET_VRING_CALL) == 1
    finally:
        front.close()


def test_front_end_that_goes(front: FrontEnd) -> None:
    front.sock.close()
    with pytest.raises(Disconnected):
        front.turn()


@pytest.mark.parametrize("length", [1, 11, 12, 19])
def test_front_end_that_goes_in_the_middle(front: FrontEnd, length: int, caplog: pytest.LogCaptureFixture) -> None:
    with files(1) as fds:
        front.send(vu.encode_request(Request.SET_VRING_CALL, 1)[:length], fds)
    front.sock.close()
    with pytest.raises(Disconnected):
        front.turn()
    what = "SET_VRING_CALL" if length >= 12 else "a message"
    assert f"The front-end went away in the middle of {what}." in caplog.text


def test_front_end_that_goes_before_its_answer(front: FrontEnd) -> None:
    front.send(vu.encode_request(Request.GET_FEATURES))
    front.sock.close()
    with pytest.raises(Disconnected):
        front.turn()


def test_front_end_that_does_not_read_waits_for_itself_alone(front: FrontEnd) -> None:
    """Questions without end: the endpoint stops reading when its answers are not taken, and goes on when they are."""
    question = vu.encode_request(Request.GET_FEATURES)
    front.sock.setblocking(False)
    asked = 0
    for _ in range(100_000):
        try:
            front.sock.send(question)
        except BlockingIOError:
            break
        asked += 1
        front.turn()
    assert front.endpoint.events() == select.POLLOUT
    front.sock.settimeout(10)
    for _ in range(asked):
        assert front.answer(Request.GET_FEATURES) == s.FEATURES
        front.turn()
    assert front.endpoint.events() == select.POLLIN


@given(
    st.lists(
        st.tuples(
            st.one_of(
                st.binary(max_size=40),
                st.builds(
                    lambda request, size, flags, payload: vu.HEADER.pack(request, flags, size) + payload,
                    st.integers(0, 46),
                    st.one_of(st.sampled_from([0, 8, 16, 40]), st.integers(0, 2**32 - 1)),
                    st.sampled_from([1, 9]),
                    st.binary(max_size=48),
                ),
            ),
            st.integers(0, 9),
        ),
        max_size=6,
    )
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_stream_ends_in_an_error_or_waits(pieces: list[tuple[bytes, int]]) -> None:
    before = open_descriptors()
    front = FrontEnd()
    try:
        with files(9) as fds:
            for data, count in pieces:
                if data:
                    front.send(data, fds[:count])
        front.turn()
        front.sock.shutdown(socket.SHUT_WR)
        front.turn()
    except (FrontendError, Disconnected):
        pass
    finally:
        front.close()
    assert open_descriptors() == before
