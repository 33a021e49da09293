"""One front-end's session: a state machine from (message, file descriptors) to (actions, answer). No socket, no device.

``Session.receive`` checks a message against the table in ``wire/vhost_user.py`` and against what came before, and
gives back a ``Step``: what is to be carried out, in order, and how to answer once that is done. Whatever a front-end
sends, the result is a Step or a FrontendError; after the latter the connection has to be ended.

Any order of messages is taken: Cloud Hypervisor sends memory, features and state in another order than QEMU, and leaves
GET_PROTOCOL_FEATURES out when it restores a machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from ferryfs.errors import FrontendError
from ferryfs.wire.vhost_user import (
    CONFIG_MIGRATION,
    HEADER,
    REQUESTS,
    VRING_INDEX_MASK,
    VRING_NO_FD,
    ConfigSpace,
    Feature,
    Header,
    LogArea,
    MemoryRegion,
    Payload,
    ProtocolFeature,
    Reply,
    Request,
    StateTransfer,
    Value,
    VringAddr,
    VringState,
    decode_header,
    decode_payload,
    encode_reply,
)

RING_SIZE_MAX: Final = 32768
"""Largest split virtqueue (virtio 1.2, 2.7)."""
MEM_SLOTS: Final = 509
"""Most memory regions at a time: as many as rust-vmm's back-ends take, virtiofsd among them."""
QUEUES_MAX: Final = 65
"""The hiprio queue and 64 request queues. The front-end uses as many of them as it has been told to."""
TAG_SIZE: Final = 36
"""Bytes of the mount tag in the configuration space (virtio 1.2, 5.11.4)."""

FEATURES: Final = sum(1 << feature for feature in Feature)
"""The device features that are offered: all that ``Feature`` knows."""

SHARE_HINT: Final = (
    "give QEMU -object memory-backend-memfd,id=mem,size=SIZE,share=on -numa node,memdev=mem (SIZE as in -m), "
    "or libvirt <memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>"
)
"""What to do about guest memory that another process can't map."""


# --- actions: what a message makes the device do. File descriptors in them stay the caller's.
# Named tuples, not frozen dataclasses: sixteen of those are 8 ms of every start.


class SetFeatures(NamedTuple):
    features: int


class LogAll(NamedTuple):
    """VHOST_F_LOG_ALL changed: a migration begins (``on``), or ended without a switch-over."""

    on: bool


class SetMemTable(NamedTuple):
    regions: tuple[MemoryRegion, ...]
    fds: tuple[int, ...]


class AddMemRegion(NamedTuple):
    region: MemoryRegion
    fd: int


class RemoveMemRegion(NamedTuple):
    region: MemoryRegion


class SetLog(NamedTuple):
    area: LogArea
    fd: int


class SetVringNum(NamedTuple):
    ring: int
    num: int


class SetVringAddr(NamedTuple):
    addr: VringAddr


class SetVringBase(NamedTuple):
    ring: int
    base: int


class SetVringFd(NamedTuple):
    """An eventfd of a ring; ``fd`` -1 takes it away. The kick's starts the ring."""

    request: Request
    ring: int
    fd: int


class EnableVring(NamedTuple):
    ring: int
    on: bool


class StopVring(NamedTuple):
    """Complete what was taken from the ring, stop it; its result is the next available index."""

    ring: int


class ResetDevice(NamedTuple):
    """Stop the rings; drop inodes, handles and a running collection; memory, log and back-end channel stay."""


class SetBackendChannel(NamedTuple):
    fd: int


class BeginTransfer(NamedTuple):
    """Save to or load from ``fd``; its result is the u64 of the answer, and perhaps a file descriptor."""

    transfer: StateTransfer
    fd: int


class CheckTransfer(NamedTuple):
    """Whether the transfer went well; its result is 0 for yes."""


Action = (
    SetFeatures
    | LogAll
    | SetMemTable
    | AddMemRegion
    | RemoveMemRegion
    | SetLog
    | SetVringNum
    | SetVringAddr
    | SetVringBase
    | SetVringFd
    | EnableVring
    | StopVring
    | ResetDevice
    | SetBackendChannel
    | BeginTransfer
    | CheckTransfer
)


class Step(NamedTuple):
    """What one message comes to: the actions in order, then the answer.

    ``answered``: whether the front-end waits for one. ``refusal``: the sentence for a request that was understood and
    is not carried out, which does not end the connection.
    """

    request: Request
    answered: bool
    value: Value
    actions: tuple[Action, ...]
    refusal: str = ""

    def answer(self, result: int = 0) -> bytes:
        """The whole answer, or nothing where none is wanted. ``result`` is what the last action gave."""
        if not self.answered:
            return b""
        match self.request:
            case Request.GET_VRING_BASE:
                state = self.value
                assert isinstance(state, VringState)
                return encode_reply(self.request, VringState(state.ring, result))
            case Request.SET_DEVICE_STATE_FD | Request.CHECK_DEVICE_STATE:
                return encode_reply(self.request, result)
        if self.request.reply is Reply.ALWAYS:
            return encode_reply(self.request, self.value)
        return encode_reply(self.request, 1 if self.refusal else 0)

    def failure(self) -> bytes:
        """The answer when an action failed, or nothing where the protocol has no way to say so."""
        if not self.answered or self.request.reply is Reply.ALWAYS:
            return b""
        return encode_reply(self.request, 1)


def virtio_fs_config(tag: bytes, request_queues: int) -> bytes:
    """The device's configuration space: struct virtio_fs_config (virtio 1.2, 5.11.4).

    ``tag`` has at most ``TAG_SIZE`` bytes; whoever parses the option says so to the user.
    """
    return tag.ljust(TAG_SIZE, b"\0")[:TAG_SIZE] + request_queues.to_bytes(4, "little")


class Session:
    """What one front-end has negotiated and set up so far.

    ``queue_count`` counts the hiprio queue. ``config`` is the configuration space, empty without ``--tag`` (then the
    front-end has its own). ``device_state`` says whether a migration can be taken part in.
    """

    def __init__(self, queue_count: int, config: bytes = b"", *, device_state: bool = False) -> None:
        self.queue_count = queue_count
        self.config = config
        self.device_state = device_state
        self.features = 0
        # Whether SET_FEATURES came without PROTOCOL_FEATURES: then SET_VRING_ENABLE does not exist, and a ring runs
        # from its start. Before SET_FEATURES nothing runs: RESET_DEVICE comes even earlier, and at the destination of
        # a migration no ring may be looked at before the state is loaded.
        self._rings_start_enabled = False
        self.protocol_features = 0
        self.offered_protocol_features = self._offer()
        # By what identifies a region to REM_MEM_REG; the device has the mappings.
        self._regions: set[tuple[int, int, int]] = set()

    def _offer(self) -> int:
        """Front-ends use whatever is offered, so only what works is.

        Not STATUS: QEMU's fs device never says DRIVER_OK, and says status 0 on a stop, before the state is saved.
        Not INFLIGHT_SHMFD: it promises that a daemon which crashed can be replaced.
        """
        offer = [
            ProtocolFeature.MQ,
            ProtocolFeature.LOG_SHMFD,
            ProtocolFeature.REPLY_ACK,
            ProtocolFeature.BACKEND_REQ,
            ProtocolFeature.BACKEND_SEND_FD,
            ProtocolFeature.RESET_DEVICE,
            ProtocolFeature.CONFIGURE_MEM_SLOTS,
        ]
        if self.config:
            offer.append(ProtocolFeature.CONFIG)
        if self.device_state:
            offer.append(ProtocolFeature.DEVICE_STATE)
        return sum(1 << feature for feature in offer)

    def receive(self, message: bytes, fds: Sequence[int] = ()) -> Step:
        """Take one whole message and the descriptors that came with it. Raises FrontendError, naming the message."""
        header = decode_header(message)
        request = REQUESTS.get(header.request)
        if request is None:
            raise FrontendError(f"The front-end sent message {header.request}, which vhost-user does not have.")
        self._check_offered(request)
        if len(message) != HEADER.size + header.size:
            raise FrontendError(
                f"{request.name} announces a payload of {header.size} bytes, but {len(message) - HEADER.size} came."
            )
        value = decode_payload(request.name, request.payload, message[HEADER.size :])
        expected = _fds_expected(request, value)
        if len(fds) not in expected:
            raise FrontendError(_wrong_fds(request, value, len(fds), expected[0]))
        return self._step(request, header, value, tuple(fds))

    def _check_offered(self, request: Request) -> None:
        feature = request.feature
        if feature is not None and not self.offered_protocol_features >> feature & 1:
            raise FrontendError(f"{request.name} needs the protocol feature {feature.name}, which was not offered.")
        if request.reply is Reply.NOT_OFFERED:
            raise FrontendError(f"{request.name} is not for a virtio-fs device.")

    def _step(self, request: Request, header: Header, value: Value, fds: tuple[int, ...]) -> Step:
        actions: tuple[Action, ...] = ()
        reply: Value = None
        refusal = ""
        match request, value:
            case Request.GET_FEATURES, _:
                reply = FEATURES
            case Request.SET_FEATURES, int():
                actions = self._set_features(value)
            case Request.GET_PROTOCOL_FEATURES, _:
                reply = self.offered_protocol_features
            case Request.SET_PROTOCOL_FEATURES, int():
                self._set_protocol_features(value)
            case Request.GET_QUEUE_NUM, _:
                reply = self.queue_count
            case Request.GET_MAX_MEM_SLOTS, _:
                reply = MEM_SLOTS
            case Request.RESET_OWNER, _:
                actions = self._enable_all(False)
            case Request.RESET_DEVICE, _:
                actions = (ResetDevice(), *self._enable_all(self._rings_start_enabled))
            case Request.SET_MEM_TABLE, tuple():
                actions = (self._set_mem_table(value, fds),)
            case Request.ADD_MEM_REG, MemoryRegion():
                actions = (self._add_region(value, fds[0]),)
            case Request.REM_MEM_REG, MemoryRegion():
                actions = (self._remove_region(value),)
            case Request.SET_LOG_BASE, LogArea():
                actions = (_set_log(value, fds[0]),)
            case Request.SET_BACKEND_REQ_FD, _:
                actions = (SetBackendChannel(fds[0]),)
            case Request.GET_CONFIG, ConfigSpace():
                reply = self._read_config(value)
            case Request.SET_CONFIG, ConfigSpace():
                # After a migration the front-end repeats the source's configuration; this daemon's tag stays its own.
                if value.flags != CONFIG_MIGRATION:
                    refusal = "SET_CONFIG is refused: the guest can't change a virtio-fs device's configuration."
            case Request.SET_DEVICE_STATE_FD, StateTransfer():
                actions = (BeginTransfer(value, fds[0]),)
            case Request.CHECK_DEVICE_STATE, _:
                actions = (CheckTransfer(),)
            case ((Request.SET_VRING_KICK | Request.SET_VRING_CALL | Request.SET_VRING_ERR), int()):
                ring = self._ring(request, value & VRING_INDEX_MASK)
                actions = (SetVringFd(request, ring, fds[0] if fds else -1),)
            case Request.SET_VRING_ADDR, VringAddr():
                self._ring(request, value.ring)
                actions = (SetVringAddr(value),)
            case _, VringState():
                self._ring(request, value.ring)
                reply = value
                actions = (_vring_state(request, value),)
        answered = header.need_reply or request.reply is Reply.ALWAYS
        if request.reply is Reply.LOG_SHMFD and self.protocol_features >> ProtocolFeature.LOG_SHMFD & 1:
            answered = True
        return Step(request, answered, reply, actions, refusal)

    # --- features

    def _has(self, feature: Feature) -> bool:
        return bool(self.features >> feature & 1)

    def _set_features(self, features: int) -> tuple[Action, ...]:
        unknown = features & ~FEATURES
        if unknown:
            raise FrontendError(f"SET_FEATURES acknowledges {unknown:#x}, which was not offered.")
        logged_before = self._has(Feature.LOG_ALL)
        self.features = features
        actions: list[Action] = [SetFeatures(features)]
        start_enabled = not self._has(Feature.PROTOCOL_FEATURES)
        if start_enabled != self._rings_start_enabled:
            # Only on a change: the message comes again on running rings when logging goes on and off, and must not
            # touch what SET_VRING_ENABLE said.
            self._rings_start_enabled = start_enabled
            actions += self._enable_all(start_enabled)
        if self._has(Feature.LOG_ALL) != logged_before:
            actions.append(LogAll(not logged_before))
        return tuple(actions)

    def _set_protocol_features(self, features: int) -> None:
        unknown = features & ~self.offered_protocol_features
        if unknown:
            raise FrontendError(f"SET_PROTOCOL_FEATURES acknowledges {unknown:#x}, which was not offered.")
        self.protocol_features = features

    # --- memory

    def _set_mem_table(self, table: tuple[object, ...], fds: tuple[int, ...]) -> Action:
        regions = tuple(region for region in table if isinstance(region, MemoryRegion))
        for region in regions:
            _check_region(Request.SET_MEM_TABLE, region)
        self._regions = {_key(region) for region in regions}
        if len(self._regions) != len(regions):
            raise FrontendError("SET_MEM_TABLE has the same memory region twice.")
        return SetMemTable(regions, fds)

    def _add_region(self, region: MemoryRegion, fd: int) -> Action:
        _check_region(Request.ADD_MEM_REG, region)
        if _key(region) in self._regions:
            raise FrontendError(f"ADD_MEM_REG has the region at {region.guest_addr:#x}, which is there already.")
        if len(self._regions) >= MEM_SLOTS:
            raise FrontendError(f"ADD_MEM_REG brings one region more than the {MEM_SLOTS} that were offered.")
        self._regions.add(_key(region))
        return AddMemRegion(region, fd)

    def _remove_region(self, region: MemoryRegion) -> Action:
        if _key(region) not in self._regions:
            raise FrontendError(f"REM_MEM_REG has the region at {region.guest_addr:#x}, which is not there.")
        self._regions.remove(_key(region))
        return RemoveMemRegion(region)

    # --- rings

    def _ring(self, request: Request, ring: int) -> int:
        if ring >= self.queue_count:
            raise FrontendError(
                f"{request.name} is about queue {ring}, but there are {self.queue_count}: "
                f"lower num-request-queues of the front-end's device to {self.queue_count - 1}."
            )
        return ring

    def _enable_all(self, on: bool) -> tuple[Action, ...]:
        return tuple(EnableVring(ring, on) for ring in range(self.queue_count))

    # --- configuration space

    def _read_config(self, asked: ConfigSpace) -> ConfigSpace:
        """As many bytes as were asked for: generic front-ends read more than a virtio-fs device has, and get zeros."""
        size = len(asked.data)
        return ConfigSpace(
            asked.offset, asked.flags, self.config[asked.offset : asked.offset + size].ljust(size, b"\0")
        )


def _key(region: MemoryRegion) -> tuple[int, int, int]:
    return region.guest_addr, region.size, region.user_addr


def _check_region(request: Request, region: MemoryRegion) -> None:
    """Sums that stay within 64 bits (63 for the file), so that nobody has to think of it again."""
    what = f"{request.name} has a memory region at {region.guest_addr:#x}"
    if region.size == 0:
        raise FrontendError(f"{what} of size 0.")
    if max(region.guest_addr, region.user_addr) + region.size > 1 << 64 or region.mmap_offset + region.size > 1 << 63:
        raise FrontendError(f"{what} of {region.size:#x} bytes, which goes past the end of the address space.")


def _set_log(area: LogArea, fd: int) -> Action:
    if area.size == 0 or area.offset + area.size > 1 << 63:
        raise FrontendError(
            f"SET_LOG_BASE has a log of {area.size:#x} bytes at {area.offset:#x}, which can't be mapped."
        )
    return SetLog(area, fd)


def _vring_state(request: Request, state: VringState) -> Action:
    """The four messages whose payload is a ring and a number."""
    ring, num = state
    match request:
        case Request.SET_VRING_NUM:
            if not 0 < num <= RING_SIZE_MAX or num & (num - 1):
                raise FrontendError(
                    f"SET_VRING_NUM has {num} for queue {ring}, which is not a power of two up to {RING_SIZE_MAX}."
                )
            return SetVringNum(ring, num)
        case Request.SET_VRING_BASE:
            if num > 0xFFFF:
                raise FrontendError(
                    f"SET_VRING_BASE has {num} for queue {ring}, but an index of a split ring has 16 bits."
                )
            return SetVringBase(ring, num)
        case Request.SET_VRING_ENABLE:
            if num > 1:
                raise FrontendError(f"SET_VRING_ENABLE has {num} for queue {ring}, which is neither 0 nor 1.")
            return EnableVring(ring, bool(num))
        case _:
            return StopVring(ring)


def _fds_expected(request: Request, value: Value) -> tuple[int, ...]:
    """The counts of file descriptors that are right for this message, the usual one first."""
    match request, value:
        case Request.SET_MEM_TABLE, tuple():
            return (len(value),)
        case Request.ADD_MEM_REG, _:
            return (1,)
        case ((Request.SET_VRING_KICK | Request.SET_VRING_CALL | Request.SET_VRING_ERR), int()):
            return (0,) if value & VRING_NO_FD else (1,)
        case _:
            # REM_MEM_REG has none, and one from front-ends that got the specification wrong: closed, not used.
            return tuple(range(request.fds_min, request.fds_max + 1))


def _wrong_fds(request: Request, value: Value, got: int, expected: int) -> str:
    if request.payload in (Payload.MEM_TABLE, Payload.MEM_REGION) and got < expected:
        return f"{request.name} has guest memory without a file descriptor, so it is not shared: {SHARE_HINT}."
    return f"{request.name} came with {got} file descriptors instead of {expected}."
