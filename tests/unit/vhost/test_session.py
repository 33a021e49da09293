"""vhost/session.py: every message whole, truncated, with rubbish behind, with wrong descriptors; then their meaning."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ferryfs.errors import FrontendError
from ferryfs.vhost import session as s
from ferryfs.vhost.session import Session, Step
from ferryfs.wire import vhost_user as vu
from ferryfs.wire.vhost_user import Feature, ProtocolFeature, Reply, Request, Value

QUEUES = 3
LOGGING = 1 << Feature.LOG_ALL
NEGOTIATED = 1 << Feature.PROTOCOL_FEATURES | 1 << Feature.VERSION_1
REGION = vu.MemoryRegion(0x1000, 0x4000, 0x7F0000001000, 0)
OTHER = vu.MemoryRegion(0x100000, 0x4000, 0x7F0000100000, 0x8000)
CONFIG = s.virtio_fs_config(b"share", 1)

# A value and file descriptors with which each message that is served is right, at a session that has REGION.
SAMPLES: dict[Request, tuple[Value, tuple[int, ...]]] = {
    Request.GET_FEATURES: (None, ()),
    Request.SET_FEATURES: (NEGOTIATED, ()),
    Request.SET_OWNER: (None, ()),
    Request.RESET_OWNER: (None, ()),
    Request.SET_MEM_TABLE: ((REGION, OTHER), (50, 51)),
    Request.SET_LOG_BASE: (vu.LogArea(0x1000, 0), (52,)),
    Request.SET_LOG_FD: (None, (53,)),
    Request.SET_VRING_NUM: (vu.VringState(1, 128), ()),
    Request.SET_VRING_ADDR: (vu.VringAddr(1, 0, 0x10, 0x20, 0x30, 0), ()),
    Request.SET_VRING_BASE: (vu.VringState(1, 9), ()),
    Request.GET_VRING_BASE: (vu.VringState(1, 0), ()),
    Request.SET_VRING_KICK: (1, (54,)),
    Request.SET_VRING_CALL: (1, (55,)),
    Request.SET_VRING_ERR: (1, (56,)),
    Request.GET_PROTOCOL_FEATURES: (None, ()),
    Request.SET_PROTOCOL_FEATURES: (1 << ProtocolFeature.REPLY_ACK, ()),
    Request.GET_QUEUE_NUM: (None, ()),
    Request.SET_VRING_ENABLE: (vu.VringState(1, 1), ()),
    Request.SET_BACKEND_REQ_FD: (None, (57,)),
    Request.GET_CONFIG: (vu.ConfigSpace(0, 0, bytes(40)), ()),
    Request.SET_CONFIG: (vu.ConfigSpace(0, vu.CONFIG_MIGRATION, bytes(40)), ()),
    Request.RESET_DEVICE: (None, ()),
    Request.GET_MAX_MEM_SLOTS: (None, ()),
    Request.ADD_MEM_REG: (OTHER, (58,)),
    Request.REM_MEM_REG: (REGION, ()),
    Request.SET_DEVICE_STATE_FD: (vu.StateTransfer(0, 0), (59,)),
    Request.CHECK_DEVICE_STATE: (None, ()),
}


def fresh() -> Session:
    session = Session(QUEUES, CONFIG, device_state=True)
    session.receive(vu.encode_request(Request.SET_MEM_TABLE, (REGION,)), [40])
    return session


def send(
    session: Session, request: Request, value: Value = None, fds: Sequence[int] = (), *, need_reply: bool = False
) -> Step:
    return session.receive(vu.encode_request(request, value, need_reply=need_reply), fds)


def answer_of(request: Request, data: bytes) -> Value:
    header = vu.decode_reply_header(request, data)
    assert len(data) == vu.HEADER.size + header.size
    return vu.decode_reply(request, data[vu.HEADER.size :])


def enable_all(on: bool) -> tuple[s.Action, ...]:
    return tuple(s.EnableVring(ring, on) for ring in range(QUEUES))


# --- every message


def test_samples_are_all_that_is_served() -> None:
    assert set(SAMPLES) == {request for request in Request if request.reply is not Reply.NOT_OFFERED}


@pytest.mark.parametrize("need_reply", [False, True])
@pytest.mark.parametrize("request_", SAMPLES, ids=lambda request: request.name)
def test_whole(request_: Request, need_reply: bool) -> None:
    """Answered once if it has an answer of its own, and else if and only if one is asked for."""
    value, fds = SAMPLES[request_]
    step = send(fresh(), request_, value, fds, need_reply=need_reply)
    assert step.request is request_
    answer = step.answer()
    if need_reply or request_.reply is Reply.ALWAYS:
        answer_of(request_, answer)
    else:
        assert answer == b""
    if request_.reply is not Reply.ALWAYS and need_reply:
        assert answer_of(request_, answer) == 0
        assert answer_of(request_, step.failure()) == 1


@pytest.mark.parametrize("request_", SAMPLES, ids=lambda request: request.name)
def test_truncated_at_each_byte_and_with_rubbish_behind(request_: Request) -> None:
    value, fds = SAMPLES[request_]
    message = vu.encode_request(request_, value)
    for length in range(len(message)):
        with pytest.raises(FrontendError):
            fresh().receive(message[:length], fds)
    with pytest.raises(FrontendError, match=request_.name):
        fresh().receive(message + b"\0", fds)
    # The same with a header that admits it.
    for payload in (message[12:-1], message[12:] + b"\0" * 3):
        if len(message) > 12 or payload:
            with pytest.raises(FrontendError, match=request_.name):
                fresh().receive(vu.HEADER.pack(request_, 1, len(payload)) + payload, fds)


@pytest.mark.parametrize("count", range(9))
@pytest.mark.parametrize("request_", SAMPLES, ids=lambda request: request.name)
def test_count_of_descriptors(request_: Request, count: int) -> None:
    value, fds = SAMPLES[request_]
    message = vu.encode_request(request_, value)
    right = {len(fds)} | ({1} if request_ is Request.REM_MEM_REG else set())
    if count in right:
        fresh().receive(message, range(60, 60 + count))
    else:
        with pytest.raises(FrontendError, match=request_.name):
            fresh().receive(message, range(60, 60 + count))


@pytest.mark.parametrize(
    "request_",
    [request for request in Request if request.reply is Reply.NOT_OFFERED],
    ids=lambda request: request.name,
)
def test_not_offered(request_: Request) -> None:
    with pytest.raises(
        FrontendError, match=f"^{request_.name} (needs the protocol feature|is not for a virtio-fs device)"
    ):
        fresh().receive(vu.HEADER.pack(request_, 1, 0))


@pytest.mark.parametrize("number", [0, 45, 1000, 0xFFFFFFFF])
def test_unknown_number(number: int) -> None:
    with pytest.raises(FrontendError, match=f"message {number}, which vhost-user does not have"):
        fresh().receive(vu.HEADER.pack(number, 1, 0))


@pytest.mark.parametrize("ring", [QUEUES, 255, 0xFFFFFFFF])
@pytest.mark.parametrize(
    "request_",
    [
        Request.SET_VRING_NUM,
        Request.SET_VRING_ADDR,
        Request.SET_VRING_BASE,
        Request.GET_VRING_BASE,
        Request.SET_VRING_ENABLE,
        Request.SET_VRING_KICK,
        Request.SET_VRING_CALL,
        Request.SET_VRING_ERR,
    ],
    ids=lambda request: request.name,
)
def test_ring_that_is_not_there(request_: Request, ring: int) -> None:
    value, fds = SAMPLES[request_]
    wrong: Value
    if isinstance(value, int):
        ring &= 0xFF
        wrong = ring
    elif isinstance(value, vu.VringAddr):
        wrong = value._replace(ring=ring)
    else:
        assert isinstance(value, vu.VringState)
        wrong = value._replace(ring=ring)
    with pytest.raises(FrontendError, match=f"{request_.name} is about queue {ring}, but there are {QUEUES}"):
        send(fresh(), request_, wrong, fds)


# --- features


def test_features() -> None:
    assert answer_of(Request.GET_FEATURES, send(fresh(), Request.GET_FEATURES).answer()) == (
        1 << 26 | 1 << 28 | 1 << 29 | 1 << 30 | 1 << 32
    )
    with pytest.raises(FrontendError, match="SET_FEATURES acknowledges 0x2000000000, which was not offered"):
        send(fresh(), Request.SET_FEATURES, NEGOTIATED | 1 << 37)


@pytest.mark.parametrize(("config", "device_state"), [(b"", False), (CONFIG, False), (b"", True), (CONFIG, True)])
def test_protocol_features(config: bytes, device_state: bool) -> None:
    expected = 1 << 0 | 1 << 1 | 1 << 3 | 1 << 5 | 1 << 10 | 1 << 13 | 1 << 15
    expected |= (1 << 9 if config else 0) | (1 << 19 if device_state else 0)
    session = Session(QUEUES, config, device_state=device_state)
    assert answer_of(Request.GET_PROTOCOL_FEATURES, send(session, Request.GET_PROTOCOL_FEATURES).answer()) == expected
    send(session, Request.SET_PROTOCOL_FEATURES, expected)
    for feature in ProtocolFeature:
        if not expected >> feature & 1:
            with pytest.raises(FrontendError, match=f"SET_PROTOCOL_FEATURES acknowledges {1 << feature:#x}"):
                send(session, Request.SET_PROTOCOL_FEATURES, expected | 1 << feature)


def test_rings_start_enabled_without_protocol_features() -> None:
    features = 1 << Feature.VERSION_1
    assert send(fresh(), Request.SET_FEATURES, features).actions == (s.SetFeatures(features), *enable_all(True))


def test_no_ring_runs_before_features_are_set() -> None:
    """QEMU resets the device before it sets features, and a destination loads the state before it enables a ring."""
    session = fresh()
    assert send(session, Request.RESET_DEVICE).actions == (s.ResetDevice(), *enable_all(False))
    assert send(session, Request.SET_FEATURES, NEGOTIATED).actions == (s.SetFeatures(NEGOTIATED),)


def test_front_end_that_thinks_better_of_protocol_features() -> None:
    session = fresh()
    send(session, Request.SET_FEATURES, 0)
    assert send(session, Request.SET_FEATURES, 0).actions == (s.SetFeatures(0),)
    assert send(session, Request.SET_FEATURES, NEGOTIATED).actions == (s.SetFeatures(NEGOTIATED), *enable_all(False))


def test_set_features_on_running_rings_leaves_them_as_they_are() -> None:
    """Logging goes on and off by SET_FEATURES, thousands of times: no ring is enabled or disabled by that."""
    session = fresh()
    assert send(session, Request.SET_FEATURES, NEGOTIATED).actions == (s.SetFeatures(NEGOTIATED),)
    send(session, Request.SET_VRING_ENABLE, vu.VringState(1, 1))
    for _ in range(3):
        on = NEGOTIATED | LOGGING
        assert send(session, Request.SET_FEATURES, on).actions == (s.SetFeatures(on), s.LogAll(True))
        assert send(session, Request.SET_FEATURES, on).actions == (s.SetFeatures(on),)
        assert send(session, Request.SET_FEATURES, NEGOTIATED).actions == (s.SetFeatures(NEGOTIATED), s.LogAll(False))


def test_set_log_base_is_answered_once_when_log_shmfd_is_negotiated() -> None:
    value, fds = SAMPLES[Request.SET_LOG_BASE]
    session = fresh()
    assert send(session, Request.SET_LOG_BASE, value, fds).answer() == b""
    send(session, Request.SET_PROTOCOL_FEATURES, 1 << ProtocolFeature.LOG_SHMFD)
    for need_reply in (False, True):
        step = send(session, Request.SET_LOG_BASE, value, fds, need_reply=need_reply)
        assert step.actions == (s.SetLog(vu.LogArea(0x1000, 0), 52),)
        assert answer_of(Request.SET_LOG_BASE, step.answer()) == 0
        assert answer_of(Request.SET_LOG_BASE, step.failure()) == 1


@pytest.mark.parametrize("area", [vu.LogArea(0, 0), vu.LogArea(1, (1 << 63)), vu.LogArea((1 << 64) - 1, 1)])
def test_log_that_can_not_be_mapped(area: vu.LogArea) -> None:
    with pytest.raises(FrontendError, match="SET_LOG_BASE has a log"):
        send(fresh(), Request.SET_LOG_BASE, area, [9])


def test_reset_device_stops_the_rings_and_keeps_what_was_negotiated() -> None:
    session = fresh()
    send(session, Request.SET_PROTOCOL_FEATURES, 1 << ProtocolFeature.LOG_SHMFD)
    send(session, Request.SET_FEATURES, NEGOTIATED | LOGGING)
    assert send(session, Request.RESET_DEVICE).actions == (s.ResetDevice(), *enable_all(False))
    assert session.features == NEGOTIATED | LOGGING
    assert session.protocol_features == 1 << ProtocolFeature.LOG_SHMFD
    send(session, Request.REM_MEM_REG, REGION)


def test_reset_device_without_protocol_features() -> None:
    session = fresh()
    send(session, Request.SET_FEATURES, 0)
    assert send(session, Request.RESET_DEVICE).actions == (s.ResetDevice(), *enable_all(True))


def test_reset_owner_only_disables_the_rings() -> None:
    assert send(fresh(), Request.RESET_OWNER).actions == enable_all(False)


# --- memory


def test_memory_table_replaces_and_regions_come_and_go() -> None:
    session = Session(QUEUES)
    assert send(session, Request.SET_MEM_TABLE, (REGION, OTHER), (5, 6)).actions == (
        s.SetMemTable((REGION, OTHER), (5, 6)),
    )
    assert send(session, Request.SET_MEM_TABLE, (OTHER,), (7,)).actions == (s.SetMemTable((OTHER,), (7,)),)
    assert send(session, Request.ADD_MEM_REG, REGION, (8,)).actions == (s.AddMemRegion(REGION, 8),)
    with pytest.raises(FrontendError, match="ADD_MEM_REG has the region at 0x1000, which is there already"):
        send(session, Request.ADD_MEM_REG, REGION, (8,))
    # The offset in the file is no part of what identifies a region.
    gone = REGION._replace(mmap_offset=77)
    assert send(session, Request.REM_MEM_REG, gone).actions == (s.RemoveMemRegion(gone),)
    with pytest.raises(FrontendError, match="REM_MEM_REG has the region at 0x1000, which is not there"):
        send(session, Request.REM_MEM_REG, REGION)
    assert send(session, Request.SET_MEM_TABLE, ()).actions == (s.SetMemTable((), ()),)


def test_slots() -> None:
    session = Session(QUEUES)
    assert answer_of(Request.GET_MAX_MEM_SLOTS, send(session, Request.GET_MAX_MEM_SLOTS).answer()) == 509
    for slot in range(509):
        send(session, Request.ADD_MEM_REG, REGION._replace(guest_addr=slot << 20), [9])
    with pytest.raises(FrontendError, match="one region more than the 509"):
        send(session, Request.ADD_MEM_REG, REGION._replace(guest_addr=600 << 20), [9])


@pytest.mark.parametrize(
    "spoilt",
    [
        {"size": 0},
        {"size": (1 << 64) - 1},
        {"guest_addr": (1 << 64) - 1},
        {"user_addr": (1 << 64) - 0x3FFF},
        {"mmap_offset": (1 << 63) - 0x3FFF},
        {"mmap_offset": (1 << 64) - 1},
    ],
)
@pytest.mark.parametrize("request_", [Request.SET_MEM_TABLE, Request.ADD_MEM_REG], ids=lambda request: request.name)
def test_region_that_can_not_be(request_: Request, spoilt: dict[str, int]) -> None:
    region = OTHER._replace(**spoilt)
    value = (region,) if request_ is Request.SET_MEM_TABLE else region
    with pytest.raises(FrontendError, match=f"{request_.name} has a memory region at"):
        send(fresh(), request_, value, [9])


def test_same_region_twice() -> None:
    with pytest.raises(FrontendError, match="the same memory region twice"):
        send(fresh(), Request.SET_MEM_TABLE, (REGION, REGION), [8, 9])


@pytest.mark.parametrize("request_", [Request.SET_MEM_TABLE, Request.ADD_MEM_REG], ids=lambda request: request.name)
def test_memory_without_descriptor_says_what_to_type(request_: Request) -> None:
    value = (OTHER,) if request_ is Request.SET_MEM_TABLE else OTHER
    with pytest.raises(FrontendError, match=r"not shared: give QEMU -object memory-backend-memfd,id=mem,.*share=on"):
        send(fresh(), request_, value)


# --- rings


@pytest.mark.parametrize("num", [1, 2, 128, 1024, 32768])
def test_ring_size(num: int) -> None:
    assert send(fresh(), Request.SET_VRING_NUM, vu.VringState(2, num)).actions == (s.SetVringNum(2, num),)


@pytest.mark.parametrize("num", [0, 3, 127, 32769, 65536, 0x80000000, 0xFFFFFFFF])
def test_ring_size_that_can_not_be(num: int) -> None:
    with pytest.raises(FrontendError, match=f"SET_VRING_NUM has {num} for queue 2"):
        send(fresh(), Request.SET_VRING_NUM, vu.VringState(2, num))


def test_ring_base() -> None:
    assert send(fresh(), Request.SET_VRING_BASE, vu.VringState(0, 65535)).actions == (s.SetVringBase(0, 65535),)
    with pytest.raises(FrontendError, match="SET_VRING_BASE has 65536 for queue 0"):
        send(fresh(), Request.SET_VRING_BASE, vu.VringState(0, 65536))
    step = send(fresh(), Request.GET_VRING_BASE, vu.VringState(2, 12345), need_reply=True)
    assert step.actions == (s.StopVring(2),)
    assert answer_of(Request.GET_VRING_BASE, step.answer(777)) == vu.VringState(2, 777)


def test_ring_enable() -> None:
    for num in (0, 1):
        step = send(fresh(), Request.SET_VRING_ENABLE, vu.VringState(1, num))
        assert step.actions == (s.EnableVring(1, bool(num)),)
    with pytest.raises(FrontendError, match="SET_VRING_ENABLE has 2 for queue 1"):
        send(fresh(), Request.SET_VRING_ENABLE, vu.VringState(1, 2))


@pytest.mark.parametrize(
    "request_",
    [Request.SET_VRING_KICK, Request.SET_VRING_CALL, Request.SET_VRING_ERR],
    ids=lambda request: request.name,
)
def test_eventfds(request_: Request) -> None:
    assert send(fresh(), request_, 2, [33]).actions == (s.SetVringFd(request_, 2, 33),)
    assert send(fresh(), request_, 2 | vu.VRING_NO_FD).actions == (s.SetVringFd(request_, 2, -1),)
    with pytest.raises(FrontendError, match="came with 1 file descriptors instead of 0"):
        send(fresh(), request_, 2 | vu.VRING_NO_FD, [33])


# --- configuration space


def test_config_has_the_tag() -> None:
    step = send(fresh(), Request.GET_CONFIG, vu.ConfigSpace(0, 0, bytes(40)))
    assert answer_of(Request.GET_CONFIG, step.answer()) == vu.ConfigSpace(0, 0, b"share" + bytes(31) + b"\1\0\0\0")
    assert s.virtio_fs_config(b"x" * 36, 64) == b"x" * 36 + b"\x40\0\0\0"


@pytest.mark.parametrize(("offset", "size"), [(0, 0), (36, 4), (38, 10), (40, 8), (0, 256), (0xFFFFFFFF, 256)])
def test_config_is_as_long_as_asked_for(offset: int, size: int) -> None:
    step = send(fresh(), Request.GET_CONFIG, vu.ConfigSpace(offset, 0, bytes(size)))
    expected = CONFIG[offset : offset + size].ljust(size, b"\0")
    assert answer_of(Request.GET_CONFIG, step.answer()) == vu.ConfigSpace(offset, 0, expected)


def test_config_is_read_only_but_for_a_migration() -> None:
    step = send(fresh(), Request.SET_CONFIG, vu.ConfigSpace(0, vu.CONFIG_WRITABLE, b"x"), need_reply=True)
    assert "can't change" in step.refusal
    assert answer_of(Request.SET_CONFIG, step.answer()) == 1
    step = send(fresh(), Request.SET_CONFIG, vu.ConfigSpace(0, vu.CONFIG_MIGRATION, b"x"), need_reply=True)
    assert not step.refusal
    assert answer_of(Request.SET_CONFIG, step.answer()) == 0


def test_config_needs_a_tag() -> None:
    for request in (Request.GET_CONFIG, Request.SET_CONFIG):
        with pytest.raises(FrontendError, match="needs the protocol feature CONFIG, which was not offered"):
            send(Session(QUEUES), request, vu.ConfigSpace(0, 1, b""))


# --- migration


def test_state_transfer() -> None:
    step = send(fresh(), Request.SET_DEVICE_STATE_FD, vu.StateTransfer(1, 0), [9], need_reply=True)
    assert step.actions == (s.BeginTransfer(vu.StateTransfer(1, 0), 9),)
    assert answer_of(Request.SET_DEVICE_STATE_FD, step.answer(vu.STATE_REPLY_NO_FD)) == 0x100
    step = send(fresh(), Request.CHECK_DEVICE_STATE)
    assert step.actions == (s.CheckTransfer(),)
    assert answer_of(Request.CHECK_DEVICE_STATE, step.answer(1)) == 1


def test_state_transfer_without_migration_is_left_to_the_device_to_refuse() -> None:
    """DEVICE_STATE is not offered then; a front-end that asks all the same gets a failure, not a broken connection."""
    session = Session(QUEUES)
    assert send(session, Request.SET_DEVICE_STATE_FD, vu.StateTransfer(0, 0), [9]).answered
    assert send(session, Request.CHECK_DEVICE_STATE).answered


def test_order_of_cloud_hypervisor_on_restore() -> None:
    """Features and protocol features without having asked for them, memory last, all with need_reply."""
    session = Session(QUEUES, device_state=True)
    messages: list[tuple[Request, Value, tuple[int, ...]]] = [
        (Request.SET_OWNER, None, ()),
        (Request.SET_PROTOCOL_FEATURES, 1 << ProtocolFeature.REPLY_ACK | 1 << ProtocolFeature.DEVICE_STATE, ()),
        (Request.SET_FEATURES, NEGOTIATED, ()),
        (Request.SET_VRING_NUM, vu.VringState(1, 1024), ()),
        (Request.SET_VRING_KICK, 1, (9,)),
        (Request.SET_VRING_ENABLE, vu.VringState(1, 1), ()),
        (Request.SET_MEM_TABLE, (REGION,), (10,)),
        (Request.SET_VRING_ADDR, vu.VringAddr(1, 0, 0, 0, 0, 0), ()),
    ]
    for request, value, fds in messages:
        assert answer_of(request, send(session, request, value, fds, need_reply=True).answer()) == 0


# --- anything at all

NUMBERS = st.one_of(
    st.integers(0, 70),
    st.sampled_from([0xFF, 0x100, 0x101, 1 << 26, 1 << 31, (1 << 32) - 1]),
    st.integers(0, 2**32 - 1),
)
LARGE = st.one_of(NUMBERS, st.sampled_from([1 << 63, (1 << 64) - 1, NEGOTIATED, NEGOTIATED | LOGGING]))
REGIONS = st.one_of(st.sampled_from([REGION, OTHER]), st.builds(vu.MemoryRegion, LARGE, LARGE, LARGE, LARGE))
VALUES: st.SearchStrategy[Value] = st.one_of(
    st.none(),
    LARGE,
    st.builds(vu.VringState, NUMBERS, NUMBERS),
    st.builds(vu.VringAddr, NUMBERS, NUMBERS, LARGE, LARGE, LARGE, LARGE),
    REGIONS,
    st.lists(REGIONS, max_size=9).map(tuple),
    st.builds(vu.LogArea, LARGE, LARGE),
    st.builds(vu.ConfigSpace, NUMBERS, NUMBERS, st.binary(max_size=300)),
    st.builds(vu.StateTransfer, NUMBERS, NUMBERS),
)


@given(st.lists(st.tuples(st.sampled_from(Request), VALUES, st.integers(0, 9), st.booleans()), max_size=20))
@settings(max_examples=300)
def test_any_messages_give_a_step_or_an_error(messages: list[tuple[Request, Value, int, bool]]) -> None:
    session = Session(QUEUES, CONFIG, device_state=True)
    for request, value, count, need_reply in messages:
        fds = tuple(range(100, 100 + count))
        try:
            step = send(session, request, value, fds, need_reply=need_reply)
        except FrontendError as error:
            sentence = str(error)
            break
        for data in (step.answer(), step.failure()):
            if data:
                answer_of(request, data)
    else:
        return
    assert sentence.endswith(".")
    assert request.name in sentence


@given(st.binary(max_size=64), st.integers(0, 9))
def test_any_bytes_give_a_step_or_an_error(data: bytes, count: int) -> None:
    try:
        step = fresh().receive(data, range(100, 100 + count))
    except FrontendError:
        return
    assert isinstance(step.answer(), bytes)
