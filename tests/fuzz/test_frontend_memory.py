"""A hostile front-end's memory: regions that can't be, and memory that goes away."""

from __future__ import annotations

import os
import struct
from contextlib import suppress

import pytest

from ferryfs.errors import PeerError
from ferryfs.frontend.client import VHOST_F_LOG_ALL
from ferryfs.guest.backend import Backend
from ferryfs.wire.vhost_user import Request

from .monitor import PAGE, SIZE, TOP, Case, Cases, Monitor, play, raw

CASES = Cases()
case = CASES.add


def table_of(*regions: tuple[int, int, int, int]) -> Case:
    """SET_MEM_TABLE with these regions is refused."""

    def play(monitor: Monitor) -> None:
        monitor.start()
        fd = monitor.ram.regions[0][4]
        monitor.refused(lambda: monitor.client.set_mem_table([(*region, fd) for region in regions]))

    return play


CASES["an empty region"] = table_of((0, 0, 0, 0))
CASES["a region that wraps"] = table_of((TOP - PAGE, PAGE, 0, 0))
CASES["a region whose front-end address wraps"] = table_of((0, PAGE, TOP - 1, 0))
CASES["a region whose offset wraps"] = table_of((0, PAGE, 0, TOP - PAGE))
CASES["a region of all"] = table_of((0, TOP - 1, 0, 0))
CASES["a region of 2^62"] = table_of((0, 1 << 62, 0, 0))
CASES["a region of 2^47"] = table_of((0, 1 << 47, 0, 0))
CASES["a region one page longer than its file"] = table_of((0, (1 << 20) + PAGE, 0, 0))
CASES["a region behind the end of its file"] = table_of((0, PAGE, 0, 1 << 20))
CASES["regions that overlap"] = table_of((0, 2 * PAGE, 0, 0), (PAGE, 2 * PAGE, 1 << 32, 0))
CASES["the same region twice"] = table_of((0, PAGE, 0, 0), (0, PAGE, 0, 0))
CASES["a table without the rings"] = table_of((1 << 40, PAGE, 1 << 40, 0))


@case
def a_table_of_0_regions(monitor: Monitor) -> None:
    monitor.start()
    with suppress(PeerError):
        monitor.client.set_mem_table([])
        monitor.client.get_features()


@case
def a_table_of_33_regions(monitor: Monitor) -> None:
    monitor.begin()
    table = struct.pack("=II", 33, 0) + struct.pack("=QQQQ", 0, PAGE, 0, 0) * 33
    monitor.client.send_raw(raw(Request.SET_MEM_TABLE, table), [monitor.ram.regions[0][4]] * 33)
    monitor.ends()


@case
def a_table_that_claims_4_billion_regions(monitor: Monitor) -> None:
    monitor.begin()
    monitor.client.send_raw(raw(Request.SET_MEM_TABLE, struct.pack("=II", 0xFFFFFFFF, 0)), [monitor.ram.regions[0][4]])
    monitor.ends()


@case
def regions_of_one_byte_at_odd_places(monitor: Monitor) -> None:
    monitor.begin()
    fd = monitor.ram.regions[0][4]
    monitor.client.set_mem_table([(3 + 2 * i, 1, 7 + i * PAGE, 11 + i, fd) for i in range(32)])


@case
def more_regions_than_slots(monitor: Monitor) -> None:
    monitor.begin()
    fd = monitor.ram.regions[0][4]
    place = iter(range(1 << 41, 1 << 42, 1 << 20))

    def fill() -> None:
        for _ in range(510):
            at = next(place)
            monitor.client.add_mem_reg((at, PAGE, at, 0, fd))

    monitor.refused(fill)


@case
def removing_a_region_that_is_not(monitor: Monitor) -> None:
    monitor.start()
    monitor.refused(lambda: monitor.client.rem_mem_reg((1 << 40, PAGE, 0, 0, monitor.ram.regions[0][4])))


@case
def removing_the_rings_region_while_it_serves(monitor: Monitor) -> None:
    """QEMU does, before it adds what has changed. The ring waits for it."""
    monitor.start()
    tokens = monitor.add(SIZE // 2)
    monitor.queues[1].kick()
    monitor.client.rem_mem_reg(monitor.ram.regions[1])
    monitor.client.add_mem_reg(monitor.ram.regions[1])
    monitor.collect(tokens)


@case
def a_ring_that_is_not_aligned_on_the_host(monitor: Monitor) -> None:
    """The region begins at an odd byte of its file: the front-end's addresses are even, the host's are not."""
    monitor.begin()
    guest, size, user, _, fd = monitor.ram.regions[1]
    monitor.client.set_mem_table([(guest, size - PAGE, user, 1, fd)])
    monitor.client.set_vring_num(1, SIZE)
    monitor.refused(
        lambda: (
            monitor.client.command(Request.SET_VRING_ADDR, monitor.addr())
            or monitor.client.set_vring_kick(1, monitor.queues[1].kick_fd)
        )
    )


def lose_memory(monitor: Monitor, *, busy: bool) -> None:
    """The memory's file is cut to nothing while the daemon has it mapped: SIGBUS for whoever touches it."""
    fds = [os.dup(region[4]) for region in monitor.ram.regions]
    try:
        monitor.start()
        if busy:
            monitor.add(SIZE // 2)
            monitor.queues[1].kick()
        for fd in fds:
            os.ftruncate(fd, 0)
        for queue in monitor.queues:
            os.eventfd_write(queue.kick_fd, 1)
        monitor.ends()
    finally:
        for fd in fds:
            os.close(fd)


@case
def memory_that_is_taken_away(monitor: Monitor) -> None:
    lose_memory(monitor, busy=False)


@case
def memory_that_is_taken_away_while_busy(monitor: Monitor) -> None:
    lose_memory(monitor, busy=True)


@case
def a_log_that_is_taken_away(monitor: Monitor) -> None:
    monitor.start()
    fd = os.memfd_create("log")
    try:
        os.ftruncate(fd, 1 << 20)
        monitor.client.set_log_base(1 << 20, 0, fd)
        monitor.client.set_features(monitor.features | VHOST_F_LOG_ALL)
        os.ftruncate(fd, 0)
        monitor.add(4)
        monitor.queues[1].kick()
        monitor.ends()
    finally:
        os.close(fd)


@pytest.mark.parametrize("name", CASES)
def test_memory(backend: Backend, name: str) -> None:
    play(backend, CASES[name])
