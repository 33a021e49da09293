"""A hostile front-end's rings: addresses, sizes and changes that can't be, and stops and switches while it is busy."""

from __future__ import annotations

import os
import select
import threading

import pytest

from ferryfs.frontend.client import VHOST_F_LOG_ALL
from ferryfs.guest.backend import Backend
from ferryfs.wire.fuse import Op
from ferryfs.wire.vhost_user import VRING_F_LOG, LogArea, Request, VringState

from .monitor import PAGE, QUEUES, SIZE, TIMEOUT, TOP, Case, Cases, Monitor, play

CASES = Cases()
case = CASES.add


def refused_command(message: Request, *values: object) -> Case:
    """Each of these ends the connection or is refused, on a connection of its own."""

    def play(monitor: Monitor) -> None:
        monitor.close()
        for value in values:
            with Monitor(monitor.backend) as other:
                other.begin()
                other.client.set_vring_num(1, SIZE)

                def send(value: object = value, other: Monitor = other) -> None:
                    other.client.command(message, value)
                    other.client.set_vring_kick(1, other.queues[1].kick_fd)

                other.refused(send)

    return play


def refused_addr(**other: int) -> Case:
    def play(monitor: Monitor) -> None:
        monitor.begin()
        monitor.client.set_vring_num(1, SIZE)

        def send() -> None:
            monitor.client.command(Request.SET_VRING_ADDR, monitor.addr(**other))
            monitor.client.set_vring_kick(1, monitor.queues[1].kick_fd)

        monitor.refused(send)

    return play


CASES["ring sizes that can not be"] = refused_command(
    Request.SET_VRING_NUM, *(VringState(1, n) for n in (0, 3, 65, 65536, 1 << 31, 0xFFFFFFFF))
)
CASES["rings that do not exist"] = refused_command(
    Request.SET_VRING_NUM, *(VringState(i, SIZE) for i in (65, 255, 256, 1 << 31, 0xFFFFFFFF))
)
for _part in ("desc", "used", "avail"):
    CASES[f"{_part} at 0"] = refused_addr(**{_part: 0})
    CASES[f"{_part} at the end of all"] = refused_addr(**{_part: TOP - 16})
    CASES[f"{_part} that wraps"] = refused_addr(**{_part: TOP - 1})
    CASES[f"{_part} where nothing is"] = refused_addr(**{_part: 1 << 40})


def over_the_end(part: str, align: int) -> Case:
    def play(monitor: Monitor) -> None:
        end = monitor.ram.user_addr(monitor.ram.regions[1][0]) + monitor.ram.regions[1][1]
        refused_addr(**{part: end - align})(monitor)

    return play


CASES["desc over the end"] = over_the_end("desc", 16)
CASES["avail over the end"] = over_the_end("avail", 2)
CASES["used over the end"] = over_the_end("used", 4)


def misaligned(part: str, by: int) -> Case:
    def play(monitor: Monitor) -> None:
        refused_addr(**{part: getattr(monitor.addr(), part) + by})(monitor)

    return play


CASES["desc not aligned"] = misaligned("desc", 8)
CASES["avail not aligned"] = misaligned("avail", 1)
CASES["used not aligned"] = misaligned("used", 2)


@case
def all_three_parts_at_one_place(monitor: Monitor) -> None:
    """Descriptors, offers and answers overwrite each other: rubbish, but nobody else's."""
    monitor.begin()
    at = monitor.addr().desc
    monitor.client.set_vring_num(1, SIZE)
    monitor.client.command(Request.SET_VRING_ADDR, monitor.addr(used=at, avail=at))
    monitor.ram.write(monitor.queues[1].desc_gpa, bytes(range(1, 255)) * 3)
    monitor.client.set_vring_kick(1, monitor.queues[1].kick_fd)
    monitor.client.set_vring_enable(1, True)
    for _ in range(100):
        monitor.queues[1].kick(force=True)
    monitor.client.get_vring_base(1)


@case
def two_rings_at_one_place(monitor: Monitor) -> None:
    monitor.begin()
    for index in (0, 1):
        monitor.client.set_vring_num(index, SIZE)
        monitor.client.set_vring_base(index, 0)
        monitor.client.command(Request.SET_VRING_ADDR, monitor.addr(1)._replace(ring=index))
        monitor.client.set_vring_call(index, monitor.queues[1].call_fd)
        monitor.client.set_vring_kick(index, monitor.queues[1].kick_fd)
        monitor.client.set_vring_enable(index, True)
    monitor.add(SIZE // 4)
    monitor.queues[1].kick(force=True)
    for index in (0, 1):
        monitor.client.get_vring_base(index)


@case
def a_base_far_away(monitor: Monitor) -> None:
    """The ring starts where nothing was offered: it is broken at once, and only it."""
    monitor.begin()
    for index, base in ((0, 0), (1, 0xFFFF)):
        monitor.client.set_vring_num(index, SIZE)
        monitor.client.command(Request.SET_VRING_BASE, VringState(index, base))
        monitor.client.command(Request.SET_VRING_ADDR, monitor.addr(index))
        monitor.client.set_vring_call(index, monitor.queues[index].call_fd)
        monitor.client.set_vring_err(index, monitor.queues[index].err_fd)
        monitor.client.set_vring_kick(index, monitor.queues[index].kick_fd)
        monitor.client.set_vring_enable(index, True)
    monitor.queues[1].avail_idx = 0x1234
    monitor.queues[1].kick(force=True)
    assert select.select([monitor.queues[1].err_fd], [], [], TIMEOUT)[0]
    monitor.ask(Op.GETATTR, queue=0)


@case
def changes_of_a_running_ring(monitor: Monitor) -> None:
    """Size and base of a running ring stay: refused, or without effect."""
    monitor.close()
    for message, value in ((Request.SET_VRING_NUM, VringState(1, 128)), (Request.SET_VRING_BASE, VringState(1, 7))):
        with Monitor(monitor.backend) as other:
            other.start()
            other.refused(lambda other=other, message=message, value=value: other.client.command(message, value))


@case
def a_kick_before_anything(monitor: Monitor) -> None:
    monitor.begin()
    monitor.refused(
        lambda: (
            monitor.client.set_vring_kick(1, monitor.queues[1].kick_fd)
            or monitor.client.set_vring_enable(1, True)
            or monitor.client.get_vring_base(64)
            or monitor.client.get_vring_base(65)
        )
    )


@case
def stopping_what_never_ran(monitor: Monitor) -> None:
    monitor.begin()
    for index in range(QUEUES):
        for _ in range(3):
            assert monitor.client.get_vring_base(index) == 0


@case
def a_ring_without_a_kick(monitor: Monitor) -> None:
    """No kick fd: the ring is polled."""
    monitor.start()
    monitor.client.set_vring_kick(1, -1)
    monitor.collect(monitor.add(SIZE // 4))


# --- while it is busy


@case
def stopped_while_busy(monitor: Monitor) -> None:
    """GET_VRING_BASE comes in the middle: what was taken is answered, the rest is answered after the next start."""
    monitor.start()
    base = 1
    for _ in range(50):
        tokens = monitor.add(SIZE // 4)
        monitor.queues[1].kick()
        base = monitor.client.get_vring_base(1)
        assert base == monitor.queues[1].used_idx
        monitor.client.set_vring_base(1, base)
        monitor.client.command(Request.SET_VRING_ADDR, monitor.addr())
        monitor.client.set_vring_kick(1, monitor.queues[1].kick_fd)
        monitor.client.set_vring_enable(1, True)
        monitor.collect(tokens)


@case
def gone_while_busy(monitor: Monitor) -> None:
    monitor.close()
    for _ in range(10):
        with Monitor(monitor.backend) as other:
            other.start()
            other.add(SIZE // 2)
            other.queues[1].kick()


@case
def reset_while_busy(monitor: Monitor) -> None:
    monitor.start()
    monitor.add(SIZE // 2)
    monitor.queues[1].kick()
    monitor.client.reset_device()
    monitor.client.reset_device()
    monitor.client.get_features()


@case
def the_owner_is_reset_while_busy(monitor: Monitor) -> None:
    monitor.start()
    monitor.add(SIZE // 2)
    monitor.queues[1].kick()
    monitor.client.reset_owner()
    monitor.client.get_features()


@case
def logging_on_and_off_under_load(monitor: Monitor) -> None:
    """Thousands of SET_FEATURES and SET_VRING_ADDR while requests fly: no answer is lost, none comes twice."""
    monitor.start()
    log = os.memfd_create("log")
    failed: list[BaseException] = []
    stop = threading.Event()
    asked = 0

    def load() -> None:
        nonlocal asked
        try:
            while not stop.is_set():
                tokens = monitor.add(SIZE // 2)
                monitor.queues[1].kick()
                monitor.collect(tokens)
                asked += len(tokens)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=load)
    try:
        os.ftruncate(log, 1 << 20)
        monitor.client.set_log_base(1 << 20, 0, log)
        thread.start()
        for turn in range(1500):
            on = turn % 2 == 0
            monitor.client.set_features(monitor.features | (VHOST_F_LOG_ALL if on else 0))
            for index in range(QUEUES):
                flags = VRING_F_LOG if on else 0
                log_addr = monitor.queues[index].used_gpa
                monitor.client.command(Request.SET_VRING_ADDR, monitor.addr(index, flags=flags, log=log_addr))
            if turn % 100 == 0:
                monitor.client.set_mem_table(monitor.ram.regions)
    finally:
        stop.set()
        thread.join()
        os.close(log)
    assert failed == []
    assert asked > 0


@case
def logs_of_every_size(monitor: Monitor) -> None:
    """Too small, at odd places, again and again: what lies beyond is not marked, and nothing breaks."""
    monitor.start()
    fd = os.memfd_create("log")
    try:
        os.ftruncate(fd, 1 << 16)
        monitor.client.set_features(monitor.features | VHOST_F_LOG_ALL)
        for size, offset in ((1, 0), (1, 65535), (7, 4093), (65536, 0), (3, 1)):
            monitor.client.set_log_base(size, offset, fd)
            assert monitor.ask(Op.GETATTR) == 0
        monitor.close()
        for message in (LogArea(0, 0), LogArea(TOP - 1, 0), LogArea(1, TOP - 1), LogArea(65537, 0)):
            with Monitor(monitor.backend) as other:
                other.start()
                other.client.send(Request.SET_LOG_BASE, message, [fd])
                other.ends()
    finally:
        os.close(fd)


@case
def used_rings_logged_anywhere(monitor: Monitor) -> None:
    monitor.start()
    fd = os.memfd_create("log")
    try:
        os.ftruncate(fd, PAGE)
        monitor.client.set_log_base(PAGE, 0, fd)
        monitor.client.set_features(monitor.features | VHOST_F_LOG_ALL)
        for log in (0, 3, PAGE * PAGE * 8 - 1, 1 << 40, 1 << 63, TOP - 4, TOP - 1):
            monitor.client.command(Request.SET_VRING_ADDR, monitor.addr(flags=VRING_F_LOG, log=log))
            assert monitor.ask(Op.GETATTR) == 0
    finally:
        os.close(fd)


@pytest.mark.parametrize("name", CASES)
def test_rings(backend: Backend, name: str) -> None:
    play(backend, CASES[name])
