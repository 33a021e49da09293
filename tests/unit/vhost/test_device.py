"""vhost/device.py: actions on the real device, and a migration that writes real bytes to a real pipe."""

import os
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from ferryfs.engine.device import Device
from ferryfs.errors import FrontendError, StateError
from ferryfs.frontend.driver import DriverQueue
from ferryfs.frontend.ram import GuestRam
from ferryfs.passthrough.config import ShareConfig
from ferryfs.vhost import session as s
from ferryfs.vhost.device import DeviceControl
from ferryfs.vhost.endpoint import Outcome
from ferryfs.wire import fuse
from ferryfs.wire import vhost_user as vu
from ferryfs.wire.fuse import Op
from ferryfs.wire.vhost_user import Feature, Request

QUEUES = 3
PAGE = 4096
REGION = vu.MemoryRegion(0x10000, 16 * PAGE, 0x7F0000000000, 0)


class Saving:
    """A migration that saves two bytes, and notes what it was told."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.fails: Exception | None = None
        self.own_fd: int | None = None

    def log_all(self, on: bool) -> None:
        self.told.append("on" if on else "off")

    def reset(self) -> None:
        self.told.append("reset")

    def ring_starts(self) -> None:
        """Nothing is under way that would mind."""

    def begin(self, direction: int, phase: int, fd: int) -> tuple[int, int | None]:
        if self.fails:
            raise self.fails
        self.told.append(f"begin {direction} {phase}")
        if self.own_fd is not None:
            return 0, self.own_fd
        os.write(fd, b"ok")
        return vu.STATE_REPLY_NO_FD, None

    def check(self) -> int:
        if self.fails:
            raise self.fails
        return 0

    def close(self) -> None:
        self.told.append("close")


@contextmanager
def a_control(share: Path, migration: Saving | None = None) -> Iterator[DeviceControl]:
    root = os.open(share, os.O_PATH | os.O_DIRECTORY)
    proc = os.open("/proc/self/fd", os.O_PATH | os.O_DIRECTORY)
    try:
        with closing(DeviceControl(Device(ShareConfig(), root, proc, QUEUES), migration)) as control:
            yield control
    finally:
        os.close(root)
        os.close(proc)


@pytest.fixture
def control(tmp_path: Path) -> Iterator[DeviceControl]:
    with a_control(tmp_path) as control:
        yield control


@contextmanager
def memory(pages: int = 16) -> Iterator[int]:
    fd = os.memfd_create("ram")
    os.truncate(fd, pages * PAGE)
    try:
        yield fd
    finally:
        os.close(fd)


# --- memory


def test_memory_comes_and_goes(control: DeviceControl) -> None:
    with memory() as one, memory() as two:
        other = REGION._replace(guest_addr=0x100000, user_addr=0x7F0000100000)
        assert control.carry_out(s.SetMemTable((REGION, other), (one, two))) == Outcome()
        control.carry_out(s.RemoveMemRegion(other))
        control.carry_out(s.AddMemRegion(other, two))
        control.carry_out(s.SetMemTable((other,), (one,)))
        control.carry_out(s.SetMemTable((), ()))


def test_memory_of_a_device_without_size(control: DeviceControl) -> None:
    """A character device can't seek and has no size: nothing to check against."""
    with open("/dev/zero", "r+b", buffering=0) as device:
        control.carry_out(s.AddMemRegion(REGION, device.fileno()))


@pytest.mark.parametrize("what", ["pipe", "folder", "read-only"])
def test_memory_that_is_not_shared_says_what_to_type(control: DeviceControl, what: str, tmp_path: Path) -> None:
    read_end, write_end = os.pipe()
    with memory() as ram:
        fd = {
            "pipe": lambda: os.dup(read_end),
            "folder": lambda: os.open(tmp_path, os.O_RDONLY),
            "read-only": lambda: os.open(f"/proc/self/fd/{ram}", os.O_RDONLY),
        }[what]()
        for action in (s.AddMemRegion(REGION, fd), s.SetMemTable((REGION,), (fd,))):
            with pytest.raises(FrontendError, match=r"0x10000 .*memory-backend-memfd,id=mem,size=SIZE,share=on"):
                control.carry_out(action)
        os.close(fd)
    os.close(read_end)
    os.close(write_end)


def test_file_that_is_smaller_than_its_region(control: DeviceControl) -> None:
    with memory(15) as fd, pytest.raises(FrontendError):
        control.carry_out(s.AddMemRegion(REGION, fd))


def test_log(control: DeviceControl) -> None:
    with memory(1) as fd:
        assert control.carry_out(s.SetLog(vu.LogArea(PAGE, 0), fd)) == Outcome()
    read_end, write_end = os.pipe()
    with pytest.raises(FrontendError, match="SET_LOG_BASE"):
        control.carry_out(s.SetLog(vu.LogArea(PAGE, 0), read_end))
    os.close(read_end)
    os.close(write_end)


def test_memory_that_a_guest_does_not_share_is_told_of_once(
    control: DeviceControl, caplog: pytest.LogCaptureFixture
) -> None:
    with memory(512) as fd:
        os.pwrite(fd, bytes(512 * PAGE), 0)
        control.carry_out(s.AddMemRegion(REGION._replace(size=512 * PAGE), fd))
    kick = os.eventfd(0, os.EFD_NONBLOCK)
    control.carry_out(s.SetVringNum(1, 8))
    control.carry_out(s.SetVringFd(Request.SET_VRING_KICK, 1, kick))
    for on in (False, True, True):
        control.carry_out(s.EnableVring(1, on))
    os.close(kick)
    assert len(caplog.messages) == 1
    assert "nothing but zeros" in caplog.text


def test_rings_that_are_enabled_before_the_memory_comes(
    control: DeviceControl, caplog: pytest.LogCaptureFixture
) -> None:
    """So they are for a front-end without PROTOCOL_FEATURES: nothing is wrong yet, and what is wrong later is told."""
    kick = os.eventfd(0, os.EFD_NONBLOCK)
    for ring in range(2):
        control.carry_out(s.EnableVring(ring, True))
    assert caplog.messages == []
    with memory(512) as fd:
        os.pwrite(fd, bytes(512 * PAGE), 0)
        control.carry_out(s.AddMemRegion(REGION._replace(size=512 * PAGE), fd))
    for ring in range(2):
        control.carry_out(s.SetVringNum(ring, 8))
        control.carry_out(s.SetVringFd(Request.SET_VRING_KICK, ring, kick))
    os.close(kick)
    assert len(caplog.messages) == 1
    assert "nothing but zeros" in caplog.text


# --- rings


def test_ring_that_was_never_started_gives_its_base_back(control: DeviceControl) -> None:
    control.carry_out(s.SetVringNum(1, 128))
    control.carry_out(s.SetVringBase(1, 4711))
    assert control.carry_out(s.StopVring(1)) == Outcome(4711)


def test_start_and_stop_of_a_ring(control: DeviceControl) -> None:
    features = 1 << Feature.VERSION_1 | 1 << Feature.PROTOCOL_FEATURES | 1 << Feature.RING_EVENT_IDX
    base = REGION.user_addr
    with memory() as fd:
        control.carry_out(s.SetMemTable((REGION,), (fd,)))
    control.carry_out(s.SetFeatures(features))
    kick, call, err = (os.eventfd(0, os.EFD_NONBLOCK) for _ in range(3))
    for _ in range(3):
        control.carry_out(s.SetVringNum(1, 8))
        control.carry_out(s.SetVringBase(1, 0))
        control.carry_out(s.SetVringAddr(vu.VringAddr(1, 0, base, base + 2 * PAGE, base + PAGE, 0)))
        control.carry_out(s.SetVringFd(Request.SET_VRING_CALL, 1, call))
        control.carry_out(s.SetVringFd(Request.SET_VRING_ERR, 1, err))
        control.carry_out(s.SetVringFd(Request.SET_VRING_KICK, 1, kick))
        control.carry_out(s.EnableVring(1, True))
        os.eventfd_write(kick, 1)  # spurious: the ring is empty
        control.carry_out(s.SetFeatures(features | 1 << Feature.LOG_ALL))
        control.carry_out(s.SetFeatures(features))
        assert control.carry_out(s.StopVring(1)) == Outcome(0)
        control.carry_out(s.ResetDevice())
    for fd in (kick, call, err):
        os.close(fd)


@given(st.permutations(["memory", "features", "num", "addr", "base", "call", "kick", "enable"]))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_order_of_set_up_serves_what_is_there_without_a_kick(tmp_path: Path, order: list[str]) -> None:
    """Size and base come before the kick's eventfd, which starts the ring; all else may come in any order."""
    assume(max(order.index("num"), order.index("base")) < order.index("kick"))
    with a_control(tmp_path) as control, GuestRam([1 << 20]) as ram:
        queue = DriverQueue(ram, 8, slot_bytes=PAGE)
        desc, used, avail = (ram.user_addr(gpa) for gpa in (queue.desc_gpa, queue.used_gpa, queue.avail_gpa))
        regions = tuple(vu.MemoryRegion(*region[:4]) for region in ram.regions)
        actions: dict[str, s.Action] = {
            "memory": s.SetMemTable(regions, tuple(region[4] for region in ram.regions)),
            "features": s.SetFeatures(s.FEATURES & ~(1 << Feature.LOG_ALL)),
            "num": s.SetVringNum(1, queue.size),
            "addr": s.SetVringAddr(vu.VringAddr(1, 0, desc, used, avail, 0)),
            "base": s.SetVringBase(1, 0),
            "call": s.SetVringFd(Request.SET_VRING_CALL, 1, queue.call_fd),
            "kick": s.SetVringFd(Request.SET_VRING_KICK, 1, queue.kick_fd),
            "enable": s.EnableVring(1, True),
        }
        body = fuse.INIT_IN.pack(major=7, minor=45)
        header = fuse.IN_HEADER.pack(len=fuse.IN_HEADER.size + len(body), opcode=Op.INIT, unique=2)
        queue.add([header + body], [Op.INIT.reply_room({})])
        for name in order:
            control.carry_out(actions[name])
        assert queue.wait() is not None
        queue.close()


# --- back-end channel and migration


def test_back_end_channel_is_held_until_the_end(tmp_path: Path) -> None:
    with a_control(tmp_path) as control:
        ours = []
        for _ in range(2):
            mine, theirs = socket.socketpair()
            control.carry_out(s.SetBackendChannel(theirs.fileno()))
            theirs.close()
            ours.append(mine)
        assert ours[0].recv(1) == b""  # the second took its place
        ours[1].setblocking(False)
        with pytest.raises(BlockingIOError):
            ours[1].recv(1)
    assert ours[1].recv(1) == b""
    for sock in ours:
        sock.close()


def test_migration_is_told(tmp_path: Path) -> None:
    migration = Saving()
    with a_control(tmp_path, migration) as control:
        for action in (s.LogAll(True), s.LogAll(False), s.ResetDevice()):
            control.carry_out(action)
        read_end, write_end = os.pipe()
        assert control.carry_out(s.BeginTransfer(vu.StateTransfer(0, 0), write_end)) == Outcome(0x100, -1)
        assert os.read(read_end, 10) == b"ok"
        assert control.carry_out(s.CheckTransfer()) == Outcome(0)
        migration.own_fd = read_end
        assert control.carry_out(s.BeginTransfer(vu.StateTransfer(1, 0), write_end)) == Outcome(0, read_end)
        os.close(read_end)
        os.close(write_end)
    assert migration.told == ["on", "off", "reset", "begin 0 0", "begin 1 0", "close"]


@pytest.mark.parametrize(
    ("direction", "error", "sentence"),
    [
        (
            0,
            StateError("The file share/x is in the moon."),
            "The state can't be saved: The file share/x is in the moon.",
        ),
        (1, OSError(28, "No space left on device"), "The state can't be loaded: [Errno 28] No space left on device"),
    ],
)
def test_migration_that_fails_does_not_end_the_connection(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, direction: int, error: Exception, sentence: str
) -> None:
    migration = Saving()
    migration.fails = error
    with a_control(tmp_path, migration) as control:
        outcome = control.carry_out(s.BeginTransfer(vu.StateTransfer(direction, 0), 0))
        assert outcome == Outcome(vu.STATE_REPLY_NO_FD | 1)
        assert control.carry_out(s.CheckTransfer()) == Outcome(1)
    assert caplog.messages[0] == sentence
    assert caplog.messages[1].startswith("The transfer of the state failed: ")


def test_without_migration(control: DeviceControl, caplog: pytest.LogCaptureFixture) -> None:
    control.carry_out(s.LogAll(True))
    assert control.carry_out(s.BeginTransfer(vu.StateTransfer(0, 0), 0)) == Outcome(vu.STATE_REPLY_NO_FD | 1)
    assert control.carry_out(s.CheckTransfer()) == Outcome(1)
    assert "SET_DEVICE_STATE_FD is refused" in caplog.text
