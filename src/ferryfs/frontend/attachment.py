"""A set of virtqueues in guest memory, and the back-end that serves them at the moment.

What a monitor's vhost code does around start, stop and migration, in QEMU's order of messages. The memory and the
rings outlive the back-end: they are handed to another one by ``stop`` here and ``start`` there.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final

from ferryfs.errors import PeerError
from ferryfs.frontend.client import (
    VHOST_F_LOG_ALL,
    VHOST_USER_F_PROTOCOL_FEATURES,
    VIRTIO_F_EVENT_IDX,
    VIRTIO_F_INDIRECT_DESC,
    VIRTIO_F_VERSION_1,
    VhostUserClient,
)
from ferryfs.frontend.driver import DriverQueue
from ferryfs.frontend.ram import GuestRam
from ferryfs.wire.vhost_user import VRING_F_LOG, ProtocolFeature

SUPPORTED_FEATURES: Final = (
    VIRTIO_F_VERSION_1 | VIRTIO_F_INDIRECT_DESC | VIRTIO_F_EVENT_IDX | VHOST_USER_F_PROTOCOL_FEATURES
)
SUPPORTED_PROTOCOL: Final = (
    ProtocolFeature.MQ,
    ProtocolFeature.LOG_SHMFD,
    ProtocolFeature.REPLY_ACK,
    ProtocolFeature.CONFIG,
    ProtocolFeature.RESET_DEVICE,
    ProtocolFeature.CONFIGURE_MEM_SLOTS,
    ProtocolFeature.DEVICE_STATE,
)
_LOG_PAGE: Final = 4096


def negotiate(client: VhostUserClient, *, queues: int, wanted: int = SUPPORTED_FEATURES) -> int:
    """First messages to a daemon; returns the device features that both sides have. ``queues`` counts all, the
    high-priority one too.

    Raises PeerError when the daemon is no VIRTIO 1 device, has too few queues or has no protocol features.
    """
    offered = client.get_features()
    if not offered & VIRTIO_F_VERSION_1 or not offered & VHOST_USER_F_PROTOCOL_FEATURES:
        raise PeerError(f"The daemon is no vhost-user device of today: it offers the features {offered:#x}.")
    supported = sum(1 << feature for feature in SUPPORTED_PROTOCOL)
    client.set_protocol_features(client.get_protocol_features() & supported)
    client.set_owner()
    if client.has(ProtocolFeature.MQ):
        available = client.get_queue_num()
        if available < queues:
            raise PeerError(
                f"The daemon has {available} queues, {queues} are wanted: lower --queues to {max(available - 1, 1)}."
            )
    return offered & wanted


class Attachment:
    """One back-end serving these queues. ``start`` and ``stop`` alternate; the connection is the caller's."""

    def __init__(self, client: VhostUserClient, ram: GuestRam, queues: Sequence[DriverQueue], features: int) -> None:
        self.client = client
        self.features = features
        self._ram = ram
        self._queues = queues
        self._log_fd = -1
        self.logging = False

    def introduce(self) -> None:
        """Features and memory: what a device state may need to be loaded."""
        self.client.set_features(self.features)
        self.client.set_mem_table(self._ram.regions)

    def start(self, bases: Sequence[int]) -> None:
        """Starts and enables every ring at its next available index."""
        for index, queue in enumerate(self._queues):
            self.client.set_vring_num(index, queue.size)
            self.client.set_vring_base(index, bases[index])
            self._set_addr(index, queue)
            self.client.set_vring_err(index, queue.err_fd)
            self.client.set_vring_kick(index, queue.kick_fd)
            self.client.set_vring_call(index, queue.call_fd)
        for index in range(len(self._queues)):
            self.client.set_vring_enable(index, True)

    def kick(self) -> None:
        """Tells the daemon to look at every ring. A kick too many does no harm."""
        for queue in self._queues:
            os.eventfd_write(queue.kick_fd, 1)

    def stop(self) -> list[int]:
        """Disables and stops every ring; every request that the daemon took is answered then. Next available
        indices.
        """
        for index in range(len(self._queues)):
            self.client.set_vring_enable(index, False)
        return [self.client.get_vring_base(index) for index in range(len(self._queues))]

    def start_logging(self) -> None:
        """Announces a migration: a dirty log, then the feature, then the rings' addresses once more with the log
        flag.
        """
        end = max(gpa + size for gpa, size, *_ in self._ram.regions)
        size = (end // _LOG_PAGE + 63) // 64 * 8
        self._log_fd = os.memfd_create("ferryfs-dirty-log", os.MFD_CLOEXEC)
        os.ftruncate(self._log_fd, size)
        self.client.set_log_base(size, 0, self._log_fd)
        self.logging = True
        self._announce()

    def stop_logging(self) -> None:
        """The migration is over or cancelled. Idempotent."""
        if self.logging:
            self.logging = False
            self._announce()
        if self._log_fd >= 0:
            os.close(self._log_fd)
            self._log_fd = -1

    def close(self) -> None:
        """Ends the connection. Idempotent."""
        self.client.close()
        if self._log_fd >= 0:
            os.close(self._log_fd)
            self._log_fd = -1

    def dirty_pages(self) -> int:
        """How many pages the log says were written."""
        if self._log_fd < 0:
            return 0
        size = os.fstat(self._log_fd).st_size
        return sum(byte.bit_count() for byte in os.pread(self._log_fd, size, 0))

    def _announce(self) -> None:
        self.client.set_features(self.features | (VHOST_F_LOG_ALL if self.logging else 0))
        for index, queue in enumerate(self._queues):
            self._set_addr(index, queue)

    def _set_addr(self, index: int, queue: DriverQueue) -> None:
        self.client.set_vring_addr(
            index,
            desc=self._ram.user_addr(queue.desc_gpa),
            used=self._ram.user_addr(queue.used_gpa),
            avail=self._ram.user_addr(queue.avail_gpa),
            log=queue.used_gpa,
            flags=VRING_F_LOG if self.logging else 0,
        )
