"""What ``InitFlag`` says of when a flag is negotiated, against what the device makes of a guest that offers all."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from ferryfs.engine.device import Device
from ferryfs.frontend.driver import DriverQueue
from ferryfs.frontend.ram import GuestRam
from ferryfs.passthrough.config import ShareConfig, Ternary
from ferryfs.wire import fuse
from ferryfs.wire.fuse import InitFlag, Op
from ferryfs.wire.vhost_user import Feature

EVERYTHING = ShareConfig(
    writeback=True,
    allow_mmap=True,
    readdirplus=True,
    announce_submounts=True,
    xattr=True,
    posix_acl=Ternary.AUTO,
    security_label=Ternary.AUTO,
    killpriv_v2=True,
)
NOTHING = ShareConfig(
    readdirplus=False, announce_submounts=False, posix_acl=Ternary.NEVER, security_label=Ternary.NEVER
)
WITHOUT = {
    "writeback": replace(EVERYTHING, writeback=False),
    "allow_mmap": replace(EVERYTHING, allow_mmap=False),
    "readdirplus": replace(EVERYTHING, readdirplus=False),
    "announce_submounts": replace(EVERYTHING, announce_submounts=False),
    "posix_acl": replace(EVERYTHING, posix_acl=Ternary.NEVER),
    "security_label": replace(EVERYTHING, security_label=Ternary.NEVER),
    "killpriv_v2": replace(EVERYTHING, killpriv_v2=False),
}


def negotiated(share: Path, config: ShareConfig, offered: int) -> int:
    root = os.open(share, os.O_PATH | os.O_DIRECTORY)
    proc = os.open("/proc/self/fd", os.O_PATH | os.O_DIRECTORY)
    device = Device(config, root, proc, 2)
    try:
        with GuestRam([1 << 20]) as ram:
            queue = DriverQueue(ram, 8, slot_bytes=4096)
            device.set_mem_table(ram.regions)
            device.set_features(1 << Feature.VERSION_1 | 1 << Feature.RING_EVENT_IDX)
            device.set_vring_num(1, queue.size)
            desc, used, avail = (ram.user_addr(gpa) for gpa in (queue.desc_gpa, queue.used_gpa, queue.avail_gpa))
            device.set_vring_addr(1, desc, used, avail, 0, 0)
            device.set_vring_call(1, queue.call_fd)
            device.set_vring_kick(1, queue.kick_fd)
            device.set_vring_enable(1, True)
            body = fuse.INIT_IN.pack(
                major=7, minor=45, max_readahead=1 << 17, flags=offered & 0xFFFFFFFF, flags2=offered >> 32
            )
            header = fuse.IN_HEADER.pack(len=fuse.IN_HEADER.size + len(body), opcode=Op.INIT, unique=2)
            _, parts = queue.transact([header + body], [Op.INIT.reply_room({})])
            reply = b"".join(parts)
            assert fuse.OUT_HEADER.unpack(reply)["error"] == 0
            out = fuse.INIT_OUT.unpack(reply, fuse.OUT_HEADER.size)
            device.get_vring_base(1)
            queue.close()
            return out["flags"] | out["flags2"] << 32
    finally:
        device.close()
        os.close(root)
        os.close(proc)


def names(flags: int) -> set[str]:
    return {flag.name for flag in InitFlag if flags & flag}


ALL = sum(InitFlag)


def test_everything_that_can_be_switched_on(tmp_path: Path) -> None:
    expected = {flag.name for flag in InitFlag if not flag.when.startswith("never")}
    assert names(negotiated(tmp_path, EVERYTHING, ALL)) == expected


def test_everything_switched_off(tmp_path: Path) -> None:
    assert names(negotiated(tmp_path, NOTHING, ALL)) == {flag.name for flag in InitFlag if flag.when == "always"}


@pytest.mark.parametrize("switch", WITHOUT)
def test_one_switch_is_its_flags(tmp_path: Path, switch: str) -> None:
    with_it = names(negotiated(tmp_path, EVERYTHING, ALL))
    without = names(negotiated(tmp_path, WITHOUT[switch], ALL))
    assert with_it - without == {flag.name for flag in InitFlag if flag.when == switch}
    assert without < with_it


def test_every_switch_is_tried() -> None:
    assert set(WITHOUT) == {flag.when for flag in InitFlag if flag.when.isidentifier()} - {"always"}


def test_nothing_is_negotiated_that_was_not_offered(tmp_path: Path) -> None:
    offered = InitFlag.INIT_EXT | InitFlag.ASYNC_READ | InitFlag.CREATE_SUPP_GROUP
    assert negotiated(tmp_path, EVERYTHING, offered) == offered
    # Without INIT_EXT the second word is not part of the request.
    assert negotiated(tmp_path, EVERYTHING, offered & ~InitFlag.INIT_EXT) == InitFlag.ASYNC_READ
