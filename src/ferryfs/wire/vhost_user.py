"""The vhost-user protocol as tables, and its codec: bytes to values and back, for both ends, without a socket.

After QEMU's ``docs/interop/vhost-user.rst``. ``Request`` is the only list of messages: size checks, the count of file
descriptors, replies, debug print and tests read it. All numbers are in the machine's byte order, as the protocol is.
"""

from __future__ import annotations

import enum
import struct
from typing import Final, NamedTuple

from ferryfs.errors import FerryError, FrontendError, PeerError

HEADER: Final = struct.Struct("=III")
"""request, flags, size of the payload in bytes."""

VERSION: Final = 1
VERSION_MASK: Final = 0x3
FLAG_REPLY: Final = 1 << 2
FLAG_NEED_REPLY: Final = 1 << 3

REGIONS_MAX: Final = 32
"""Most regions in SET_MEM_TABLE; more come by ADD_MEM_REG. The specification has 8, and QEMU sends no more; rust-vmm's
front-end, which is Cloud Hypervisor's, sends up to 32."""
FDS_MAX: Final = REGIONS_MAX
"""Most file descriptors with one message: one for each of SET_MEM_TABLE's regions."""
CONFIG_MAX: Final = 256
"""Most bytes of configuration space in one message, as QEMU has it; a virtio-fs configuration has 40."""
PAYLOAD_MAX: Final = 8 + REGIONS_MAX * 32
"""The largest payload, a full SET_MEM_TABLE: what is announced as longer is not read at all."""

VRING_INDEX_MASK: Final = 0xFF
VRING_NO_FD: Final = 1 << 8
"""In the u64 of SET_VRING_KICK, _CALL and _ERR: no file descriptor comes along, the ring is to be polled."""
VRING_F_LOG: Final = 1 << 0
"""In SET_VRING_ADDR's flags: writes to the used ring are marked in the dirty log, from ``log`` on."""
STATE_REPLY_NO_FD: Final = 1 << 8
"""In SET_DEVICE_STATE_FD's reply: no file descriptor of the back-end's comes along, the front-end's is used."""
STATE_REPLY_ERROR: Final = 0xFF
"""In SET_DEVICE_STATE_FD's reply: non-zero in these bits is a failure."""
CONFIG_WRITABLE: Final = 0
CONFIG_MIGRATION: Final = 1
"""SET_CONFIG's flags: a write of the guest's, or the configuration of a machine that was migrated here."""


class Feature(enum.IntEnum):
    """Device feature bits that have a meaning here (bit numbers)."""

    LOG_ALL = 26
    RING_INDIRECT_DESC = 28
    RING_EVENT_IDX = 29
    PROTOCOL_FEATURES = 30
    VERSION_1 = 32


class ProtocolFeature(enum.IntEnum):
    """Protocol feature bits (bit numbers), all that the specification has."""

    MQ = 0
    LOG_SHMFD = 1
    RARP = 2
    REPLY_ACK = 3
    MTU = 4
    BACKEND_REQ = 5
    CROSS_ENDIAN = 6
    CRYPTO_SESSION = 7
    PAGEFAULT = 8
    CONFIG = 9
    BACKEND_SEND_FD = 10
    HOST_NOTIFIER = 11
    INFLIGHT_SHMFD = 12
    RESET_DEVICE = 13
    INBAND_NOTIFICATIONS = 14
    CONFIGURE_MEM_SLOTS = 15
    STATUS = 16
    XEN_MMAP = 17
    SHARED_OBJECT = 18
    DEVICE_STATE = 19
    SHMEM = 20


class VringState(NamedTuple):
    """A ring's index and a number: its size, base or enablement."""

    ring: int
    num: int


class VringAddr(NamedTuple):
    """Where a ring's parts are, as user addresses of the front-end; ``log`` is a guest address."""

    ring: int
    flags: int
    desc: int
    used: int
    avail: int
    log: int


class MemoryRegion(NamedTuple):
    """A piece of guest memory: ``size`` bytes from ``mmap_offset`` of its file descriptor."""

    guest_addr: int
    size: int
    user_addr: int
    mmap_offset: int


class LogArea(NamedTuple):
    """The dirty log: ``size`` bytes from ``offset`` of its file descriptor."""

    size: int
    offset: int


class ConfigSpace(NamedTuple):
    """A piece of the device's configuration space."""

    offset: int
    flags: int
    data: bytes


class StateTransfer(NamedTuple):
    """What SET_DEVICE_STATE_FD announces: ``direction`` 0 saves, 1 loads; ``phase`` 0 is "stopped", the only one."""

    direction: int
    phase: int


Value = (
    None
    | int
    | VringState
    | VringAddr
    | MemoryRegion
    | tuple[MemoryRegion, ...]
    | LogArea
    | ConfigSpace
    | StateTransfer
)
"""What a payload says."""


class Payload(enum.Enum):
    """The shapes of a payload: what it is, its fixed size in bytes."""

    NOTHING = "nothing", 0
    U64 = "u64", 8
    VRING_STATE = "vring state", 8
    VRING_ADDR = "vring address", 40
    MEM_TABLE = "memory regions", 8
    MEM_REGION = "single memory region", 40
    LOG = "log", 16
    CONFIG = "configuration space", 12
    STATE_TRANSFER = "device state transfer", 8
    UNKNOWN = "a payload that nothing here reads", 0

    @property
    def size(self) -> int:
        """Size in bytes; of MEM_TABLE without its regions, of CONFIG without its data."""
        return self.value[1]


class Reply(enum.Enum):
    """When a message is answered."""

    ACK = "u64, 0 for success, only if need_reply is set"
    ALWAYS = "its own reply, always, and never twice"
    LOG_SHMFD = "u64, once if LOG_SHMFD was negotiated or need_reply is set"
    NOT_OFFERED = "not at all: the feature it needs is never offered"


class Request(enum.IntEnum):
    """Every message of the front-end, a line each.

    number, payload, fewest and most file descriptors, when it is answered, payload of that answer, protocol feature
    that has to be offered before it may come (None: always legal). SET_MEM_TABLE brings one fd for each region.
    """

    payload: Payload
    fds_min: int
    fds_max: int
    reply: Reply
    answer: Payload
    feature: ProtocolFeature | None

    def __new__(
        cls,
        number: int,
        payload: Payload,
        fds_min: int,
        fds_max: int,
        reply: Reply,
        answer: Payload,
        feature: ProtocolFeature | None,
    ) -> Request:
        request = int.__new__(cls, number)
        request._value_ = number
        request.payload = payload
        request.fds_min = fds_min
        request.fds_max = fds_max
        request.reply = reply
        request.answer = answer
        request.feature = feature
        return request

    # fmt: off
    GET_FEATURES = 1, Payload.NOTHING, 0, 0, Reply.ALWAYS, Payload.U64, None
    SET_FEATURES = 2, Payload.U64, 0, 0, Reply.ACK, Payload.U64, None
    SET_OWNER = 3, Payload.NOTHING, 0, 0, Reply.ACK, Payload.U64, None
    RESET_OWNER = 4, Payload.NOTHING, 0, 0, Reply.ACK, Payload.U64, None
    SET_MEM_TABLE = 5, Payload.MEM_TABLE, 0, REGIONS_MAX, Reply.ACK, Payload.U64, None
    SET_LOG_BASE = 6, Payload.LOG, 1, 1, Reply.LOG_SHMFD, Payload.U64, ProtocolFeature.LOG_SHMFD
    SET_LOG_FD = 7, Payload.NOTHING, 1, 1, Reply.ACK, Payload.U64, None
    SET_VRING_NUM = 8, Payload.VRING_STATE, 0, 0, Reply.ACK, Payload.U64, None
    SET_VRING_ADDR = 9, Payload.VRING_ADDR, 0, 0, Reply.ACK, Payload.U64, None
    SET_VRING_BASE = 10, Payload.VRING_STATE, 0, 0, Reply.ACK, Payload.U64, None
    GET_VRING_BASE = 11, Payload.VRING_STATE, 0, 0, Reply.ALWAYS, Payload.VRING_STATE, None
    SET_VRING_KICK = 12, Payload.U64, 0, 1, Reply.ACK, Payload.U64, None
    SET_VRING_CALL = 13, Payload.U64, 0, 1, Reply.ACK, Payload.U64, None
    SET_VRING_ERR = 14, Payload.U64, 0, 1, Reply.ACK, Payload.U64, None
    GET_PROTOCOL_FEATURES = 15, Payload.NOTHING, 0, 0, Reply.ALWAYS, Payload.U64, None
    SET_PROTOCOL_FEATURES = 16, Payload.U64, 0, 0, Reply.ACK, Payload.U64, None
    GET_QUEUE_NUM = 17, Payload.NOTHING, 0, 0, Reply.ALWAYS, Payload.U64, ProtocolFeature.MQ
    SET_VRING_ENABLE = 18, Payload.VRING_STATE, 0, 0, Reply.ACK, Payload.U64, None
    SEND_RARP = 19, Payload.U64, 0, 0, Reply.NOT_OFFERED, Payload.U64, ProtocolFeature.RARP
    NET_SET_MTU = 20, Payload.U64, 0, 0, Reply.NOT_OFFERED, Payload.U64, ProtocolFeature.MTU
    SET_BACKEND_REQ_FD = 21, Payload.NOTHING, 1, 1, Reply.ACK, Payload.U64, ProtocolFeature.BACKEND_REQ
    IOTLB_MSG = 22, Payload.UNKNOWN, 0, 0, Reply.NOT_OFFERED, Payload.U64, None
    SET_VRING_ENDIAN = 23, Payload.VRING_STATE, 0, 0, Reply.NOT_OFFERED, Payload.U64, ProtocolFeature.CROSS_ENDIAN
    GET_CONFIG = 24, Payload.CONFIG, 0, 0, Reply.ALWAYS, Payload.CONFIG, ProtocolFeature.CONFIG
    SET_CONFIG = 25, Payload.CONFIG, 0, 0, Reply.ACK, Payload.U64, ProtocolFeature.CONFIG
    CREATE_CRYPTO_SESSION = 26, Payload.UNKNOWN, 0, 0, Reply.NOT_OFFERED, Payload.U64, ProtocolFeature.CRYPTO_SESSION
    CLOSE_CRYPTO_SESSION = 27, Payload.U64, 0, 0, Reply.NOT_OFFERED, Payload.U64, ProtocolFeature.CRYPTO_SESSION
    POSTCOPY_ADVISE = 28, Payload.NOTHING, 0, 0, Reply.NOT_OFFERED, Payload.U64, ProtocolFeature.PAGEFAULT
    POSTCOPY_LISTEN = 29, Payload.NOTHING, 0, 0, Reply.NOT_OFFERED, Payload.U64, ProtocolFeature.PAGEFAULT
    POSTCOPY_END = 30, Payload.NOTHING, 0, 0, Reply.NOT_OFFERED, Payload.U64, ProtocolFeature.PAGEFAULT
    GET_INFLIGHT_FD = 31, Payload.UNKNOWN, 0, 0, Reply.NOT_OFFERED, Payload.U64, ProtocolFeature.INFLIGHT_SHMFD
    SET_INFLIGHT_FD = 32, Payload.UNKNOWN, 0, 1, Reply.NOT_OFFERED, Payload.U64, ProtocolFeature.INFLIGHT_SHMFD
    GPU_SET_SOCKET = 33, Payload.NOTHING, 0, 1, Reply.NOT_OFFERED, Payload.U64, None
    RESET_DEVICE = 34, Payload.NOTHING, 0, 0, Reply.ACK, Payload.U64, ProtocolFeature.RESET_DEVICE
    VRING_KICK = 35, Payload.VRING_STATE, 0, 0, Reply.NOT_OFFERED, Payload.U64, ProtocolFeature.INBAND_NOTIFICATIONS
    GET_MAX_MEM_SLOTS = 36, Payload.NOTHING, 0, 0, Reply.ALWAYS, Payload.U64, ProtocolFeature.CONFIGURE_MEM_SLOTS
    ADD_MEM_REG = 37, Payload.MEM_REGION, 0, 1, Reply.ACK, Payload.U64, ProtocolFeature.CONFIGURE_MEM_SLOTS
    REM_MEM_REG = 38, Payload.MEM_REGION, 0, 1, Reply.ACK, Payload.U64, ProtocolFeature.CONFIGURE_MEM_SLOTS
    SET_STATUS = 39, Payload.U64, 0, 0, Reply.NOT_OFFERED, Payload.U64, ProtocolFeature.STATUS
    GET_STATUS = 40, Payload.NOTHING, 0, 0, Reply.NOT_OFFERED, Payload.U64, ProtocolFeature.STATUS
    GET_SHARED_OBJECT = 41, Payload.UNKNOWN, 0, 0, Reply.NOT_OFFERED, Payload.U64, ProtocolFeature.SHARED_OBJECT
    SET_DEVICE_STATE_FD = 42, Payload.STATE_TRANSFER, 1, 1, Reply.ALWAYS, Payload.U64, None
    CHECK_DEVICE_STATE = 43, Payload.NOTHING, 0, 0, Reply.ALWAYS, Payload.U64, None
    GET_SHMEM_CONFIG = 44, Payload.NOTHING, 0, 0, Reply.NOT_OFFERED, Payload.U64, ProtocolFeature.SHMEM
    # fmt: on


REQUESTS: Final = {int(request): request for request in Request}
"""The message of a number; a dictionary, because asking the enumeration for an unknown one raises."""

_U64 = struct.Struct("=Q")
_VRING_STATE = struct.Struct("=II")
_VRING_ADDR = struct.Struct("=IIQQQQ")
_TABLE_HEAD = struct.Struct("=I4x")
_REGION = struct.Struct("=QQQQ")
_SINGLE_REGION = struct.Struct("=8xQQQQ")
_LOG = struct.Struct("=QQ")
_CONFIG = struct.Struct("=III")


class Header(NamedTuple):
    """A message's first 12 bytes; ``request`` is a plain number, which may be none of the table's."""

    request: int
    flags: int
    size: int

    @property
    def need_reply(self) -> bool:
        """Whether the sender waits for an answer (REPLY_ACK)."""
        return bool(self.flags & FLAG_NEED_REPLY)


def name_of(number: int) -> str:
    """What to call a message in a sentence."""
    request = REQUESTS.get(number)
    return request.name if request else f"message {number}"


def decode_header(data: bytes | bytearray) -> Header:
    """The header at the start of ``data``, from the front-end. Raises FrontendError for what can't be one."""
    if len(data) < HEADER.size:
        raise FrontendError(f"A vhost-user message ends in its header: {len(data)} bytes instead of {HEADER.size}.")
    header = Header(*HEADER.unpack_from(data))
    name = name_of(header.request)
    if header.flags & VERSION_MASK != VERSION:
        raise FrontendError(f"{name} has version {header.flags & VERSION_MASK}, but vhost-user is version {VERSION}.")
    if header.flags & FLAG_REPLY:
        raise FrontendError(f"{name} is marked as a reply, but nothing was asked of the front-end.")
    if header.size > PAYLOAD_MAX:
        raise FrontendError(f"{name} announces {header.size} bytes, more than any message has.")
    return header


def decode_payload(name: str, shape: Payload, data: bytes, fault: type[FerryError] = FrontendError) -> Value:
    """The value that ``data`` says in this shape. Raises ``fault``, naming the message, unless the size is exact."""
    fits = len(data) == shape.size
    match shape:
        case Payload.NOTHING if fits:
            return None
        case Payload.U64 if fits:
            return int(_U64.unpack(data)[0])
        case Payload.VRING_STATE if fits:
            return VringState(*_VRING_STATE.unpack(data))
        case Payload.VRING_ADDR if fits:
            return VringAddr(*_VRING_ADDR.unpack(data))
        case Payload.MEM_REGION if fits:
            return MemoryRegion(*_SINGLE_REGION.unpack(data))
        case Payload.LOG if fits:
            return LogArea(*_LOG.unpack(data))
        case Payload.STATE_TRANSFER if fits:
            return StateTransfer(*_VRING_STATE.unpack(data))
        case Payload.MEM_TABLE if len(data) >= shape.size:
            (count,) = _TABLE_HEAD.unpack_from(data)
            if count > REGIONS_MAX:
                raise fault(f"{name} has {count} memory regions, but at most {REGIONS_MAX} are allowed.")
            if len(data) == _TABLE_HEAD.size + count * _REGION.size:
                return tuple(MemoryRegion(*fields) for fields in _REGION.iter_unpack(data[_TABLE_HEAD.size :]))
        case Payload.CONFIG if len(data) >= shape.size:
            offset, size, flags = _CONFIG.unpack_from(data)
            if size > CONFIG_MAX:
                raise fault(f"{name} has {size} bytes of configuration space, more than {CONFIG_MAX}.")
            if len(data) == _CONFIG.size + size:
                return ConfigSpace(offset, flags, data[_CONFIG.size :])
    raise fault(f"{name} has a payload of {len(data)} bytes, which is not the size of its {shape.value[0]}.")


def encode_payload(value: Value) -> bytes:
    """The bytes of a payload. Raises struct.error for a number that does not fit its field."""
    match value:
        case None:
            return b""
        case int():
            return _U64.pack(value)
        case VringState() | StateTransfer():
            return _VRING_STATE.pack(*value)
        case VringAddr():
            return _VRING_ADDR.pack(*value)
        case MemoryRegion():
            return _SINGLE_REGION.pack(*value)
        case LogArea():
            return _LOG.pack(*value)
        case ConfigSpace():
            return _CONFIG.pack(value.offset, len(value.data), value.flags) + value.data
        case _:
            return _TABLE_HEAD.pack(len(value)) + b"".join(_REGION.pack(*region) for region in value)


def encode_request(request: Request, value: Value = None, *, need_reply: bool = False) -> bytes:
    """A whole message of the front-end's."""
    payload = encode_payload(value)
    return HEADER.pack(request, VERSION | (FLAG_NEED_REPLY if need_reply else 0), len(payload)) + payload


def encode_reply(request: Request, value: Value) -> bytes:
    """A whole answer of the back-end's."""
    payload = encode_payload(value)
    return HEADER.pack(request, VERSION | FLAG_REPLY, len(payload)) + payload


def decode_reply_header(request: Request, data: bytes) -> Header:
    """The header of the answer to ``request``, for a front-end. Raises PeerError for what can't be one."""
    if len(data) < HEADER.size:
        raise PeerError(f"The answer to {request.name} ends in its header: {len(data)} bytes instead of {HEADER.size}.")
    header = Header(*HEADER.unpack_from(data))
    if header.request != request:
        raise PeerError(f"The daemon answered {name_of(header.request)} when {request.name} was asked.")
    if header.flags & VERSION_MASK != VERSION or not header.flags & FLAG_REPLY:
        raise PeerError(f"The answer to {request.name} has flags {header.flags:#x}, which are not those of an answer.")
    if header.size > PAYLOAD_MAX:
        raise PeerError(f"The answer to {request.name} announces {header.size} bytes, more than any answer has.")
    return header


def decode_reply(request: Request, payload: bytes) -> Value:
    """What the answer to ``request`` says, for a front-end. Raises PeerError for a payload of another shape."""
    return decode_payload(f"The answer to {request.name}", request.answer, payload, PeerError)
