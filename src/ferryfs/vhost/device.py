"""Carries out a session's actions: the one place where vhost-user meets the device and a migration."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Protocol

from ferryfs.errors import FerryError
from ferryfs.vhost.endpoint import Outcome
from ferryfs.vhost.session import (
    Action,
    AddMemRegion,
    BeginTransfer,
    CheckTransfer,
    EnableVring,
    LogAll,
    RemoveMemRegion,
    ResetDevice,
    SetBackendChannel,
    SetFeatures,
    SetLog,
    SetMemTable,
    SetVringAddr,
    SetVringBase,
    SetVringFd,
    SetVringNum,
    StopVring,
)
from ferryfs.vhost.sharing import SharingCheck
from ferryfs.wire.vhost_user import STATE_REPLY_NO_FD, Request

if TYPE_CHECKING:
    from ferryfs.engine.device import Device

_LOG = logging.getLogger("ferryfs.vhost")

_TRANSFER_FAILED = STATE_REPLY_NO_FD | 1


class Migration(Protocol):
    """Who takes part in a migration for this device. Without one, DEVICE_STATE is not offered.

    All of it is called from the session's thread. ``begin`` and ``check`` may raise FerryError or OSError: that is
    logged, and the front-end gets a failure, which does not end the connection.
    """

    def log_all(self, on: bool) -> None:
        """The dirty log was switched on, so a migration begins; or off, so it ended (the source's rings may run on)."""

    def reset(self) -> None:
        """RESET_DEVICE: what was collected, and a transfer that runs, are about inodes that are about to be dropped."""

    def ring_starts(self) -> None:
        """A ring is about to be served."""

    def begin(self, direction: int, phase: int, fd: int) -> tuple[int, int | None]:
        """SET_DEVICE_STATE_FD: start the transfer, and return before data flows.

        A pipe whose other end waits for the answer would fill up. ``fd`` stays the caller's: duplicate it. Returns the
        u64 of the answer (low byte 0: good; bit 8: ``fd`` is used) and, if bit 8 is not set, a file descriptor that is
        given away.
        """

    def check(self) -> int:
        """CHECK_DEVICE_STATE: wait for the transfer's end; 0 if it went well."""

    def close(self) -> None:
        """The connection ended. Idempotent."""


class DeviceControl:
    """A device, the back-end channel and the migration of one connection."""

    def __init__(self, device: Device, migration: Migration | None = None) -> None:
        self.device = device
        self.migration = migration
        # Held for the front-end's sake, which takes its end as broken otherwise; nothing is sent on it.
        self._channel = -1
        self._sharing = SharingCheck()
        self._kicked: set[int] = set()
        self._enabled: set[int] = set()

    def close(self) -> None:
        """End everything that belongs to the connection. Idempotent."""
        if self.migration is not None:
            self.migration.close()
        self.device.close()
        self._set_channel(-1)
        self._sharing.close()

    def carry_out(self, action: Action) -> Outcome:
        """Do it. Raises FrontendError where the front-end's values can't be, with one sentence."""
        device = self.device
        match action:
            case SetFeatures(features):
                device.set_features(features)
            case LogAll(on):
                if self.migration is not None:
                    self.migration.log_all(on)
            case SetMemTable(regions, fds):
                device.set_mem_table([(*region, fd) for region, fd in zip(regions, fds, strict=True)])
                self._sharing.clear()
                for region, fd in zip(regions, fds, strict=True):
                    self._sharing.add(region, fd)
            case AddMemRegion(region, fd):
                device.add_mem_region((*region, fd))
                self._sharing.add(region, fd)
            case RemoveMemRegion(region):
                device.remove_mem_region(region.guest_addr, region.size, region.user_addr)
            case SetLog(area, fd):
                device.set_log(fd, area.offset, area.size)
            case SetVringNum(ring, num):
                device.set_vring_num(ring, num)
            case SetVringAddr(addr):
                device.set_vring_addr(addr.ring, addr.desc, addr.used, addr.avail, addr.log, addr.flags)
            case SetVringBase(ring, base):
                device.set_vring_base(ring, base)
            case SetVringFd(request, ring, fd):
                if request is Request.SET_VRING_KICK:
                    if self.migration is not None:
                        self.migration.ring_starts()
                    self._kicked.add(ring)
                    self._check_sharing(ring)
                self._set_vring_fd(request, ring, fd)
            case EnableVring(ring, on):
                if on:
                    if self.migration is not None:
                        self.migration.ring_starts()
                    self._enabled.add(ring)
                    self._check_sharing(ring)
                device.set_vring_enable(ring, on)
            case StopVring(ring):
                return Outcome(device.get_vring_base(ring))
            case ResetDevice():
                if self.migration is not None:
                    self.migration.reset()
                device.reset()
            case SetBackendChannel(fd):
                self._set_channel(os.dup(fd))
            case BeginTransfer(transfer, fd):
                return self._begin(transfer.direction, transfer.phase, fd)
            case CheckTransfer():
                return self._check()
        return Outcome()

    def _check_sharing(self, ring: int) -> None:
        """Where rings are enabled from the beginning that says nothing: the memory may still be to come."""
        if ring in self._kicked & self._enabled and (sentence := self._sharing.conclude()):
            _LOG.error("%s", sentence)

    def _set_vring_fd(self, request: Request, ring: int, fd: int) -> None:
        match request:
            case Request.SET_VRING_KICK:
                self.device.set_vring_kick(ring, fd)
            case Request.SET_VRING_CALL:
                self.device.set_vring_call(ring, fd)
            case _:
                self.device.set_vring_err(ring, fd)

    def _set_channel(self, fd: int) -> None:
        old, self._channel = self._channel, fd
        if old >= 0:
            os.close(old)

    def _begin(self, direction: int, phase: int, fd: int) -> Outcome:
        if self.migration is None:
            _LOG.error("SET_DEVICE_STATE_FD is refused: this device's state can't be transferred.")
            return Outcome(_TRANSFER_FAILED)
        try:
            value, own_fd = self.migration.begin(direction, phase, fd)
        except (FerryError, OSError) as error:
            _LOG.error("The state can't be %s: %s", "loaded" if direction else "saved", error)
            return Outcome(_TRANSFER_FAILED)
        return Outcome(value, -1 if own_fd is None else own_fd)

    def _check(self) -> Outcome:
        if self.migration is None:
            return Outcome(1)
        try:
            return Outcome(self.migration.check())
        except (FerryError, OSError) as error:
            _LOG.error("The transfer of the state failed: %s", error)
            return Outcome(1)
