"""A front-end that says things at random."""

from __future__ import annotations

import random
import select
import struct

from ferryfs.errors import PeerError
from ferryfs.frontend.client import VHOST_F_LOG_ALL
from ferryfs.guest.backend import Backend
from ferryfs.wire.vhost_user import Request

from .monitor import SIZE, Monitor, idle, raw, served, settles
from .seeds import rounds

MESSAGES = [m for m in Request if m not in (Request.SET_DEVICE_STATE_FD, Request.CHECK_DEVICE_STATE)]


def test_random_messages(backend: Backend) -> None:
    """Right and wrong messages in any order, with any fds: the daemon answers or ends the connection."""
    before = idle(backend)
    for rng in rounds():
        with Monitor(backend) as monitor:
            try:
                monitor.start()
                for _ in range(60):
                    talk(monitor, rng)
            except (PeerError, TimeoutError, OSError):
                continue
    served(backend)
    settles(backend, before)


def talk(monitor: Monitor, rng: random.Random) -> None:
    message = rng.choice(MESSAGES)
    payload = bytearray(rng.choice((b"", bytes(message.payload.size), rng.randbytes(message.payload.size))))
    if message is Request.SET_VRING_ADDR and rng.random() < 0.7:
        payload = bytearray(struct.pack("=IIQQQQ", *monitor.addr(rng.randrange(2))))
    elif message in (Request.GET_VRING_BASE, Request.SET_VRING_ENABLE, Request.SET_VRING_NUM, Request.SET_VRING_BASE):
        payload = bytearray(struct.pack("=II", rng.randrange(3), rng.choice((0, 1, SIZE, 3, 0xFFFF))))
    elif message in (Request.SET_VRING_KICK, Request.SET_VRING_CALL, Request.SET_VRING_ERR):
        payload = bytearray(struct.pack("=Q", rng.randrange(3) | rng.choice((0, 1 << 8))))
    elif message is Request.SET_MEM_TABLE:
        regions = monitor.ram.regions[: rng.randint(0, 2)]
        payload = bytearray(
            struct.pack("=II", len(regions), 0) + b"".join(struct.pack("=QQQQ", *r[:4]) for r in regions)
        )
    elif message is Request.SET_FEATURES:
        payload = bytearray(struct.pack("=Q", monitor.features | rng.choice((0, VHOST_F_LOG_ALL, 1 << 5))))
    if payload and rng.random() < 0.1:
        payload[rng.randrange(len(payload))] = rng.getrandbits(8)
    queue = monitor.queues[rng.randrange(2)]
    pool = [queue.kick_fd, queue.call_fd, queue.err_fd, monitor.ram.regions[0][4], monitor.ram.regions[1][4]]
    count = rng.choice((message.fds_min, message.fds_max, 1, 2)) if rng.random() < 0.95 else 40
    fds = [rng.choice(pool) for _ in range(min(count, 200))]
    flags = rng.choice((1, 9, 1, 9, 1, 5, 0))
    monitor.client.send_raw(raw(message, bytes(payload), flags), fds)
    if rng.random() < 0.5:
        monitor.add(1)
        queue.kick(force=True)
    heard = flags == 9 or rng.random() < 0.3
    if heard and select.select([monitor.client.fileno()], [], [], 0.002)[0] and not monitor.read():
        raise PeerError("the connection ended")
