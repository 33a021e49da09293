"""wire/vhost_user.py: the message table against the specification's numbers, and the codec in both directions."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ferryfs.errors import FrontendError, PeerError
from ferryfs.wire import vhost_user as vu
from ferryfs.wire.vhost_user import Payload, ProtocolFeature, Reply, Request, Value

REGION = vu.MemoryRegion(0x1_0000_0000, 0x4000_0000, 0x7F00_0000_0000, 0x8000)
SAMPLES: dict[Payload, tuple[Value, bytes]] = {
    Payload.NOTHING: (None, b""),
    Payload.U64: (0x1122334455667788, struct.pack("=Q", 0x1122334455667788)),
    Payload.VRING_STATE: (vu.VringState(1, 256), struct.pack("=II", 1, 256)),
    Payload.VRING_ADDR: (vu.VringAddr(2, 1, 0x10, 0x20, 0x30, 0x40), struct.pack("=IIQQQQ", 2, 1, 16, 32, 48, 64)),
    Payload.MEM_TABLE: ((REGION, REGION), struct.pack("=IIQQQQQQQQ", 2, 0, *REGION, *REGION)),
    Payload.MEM_REGION: (REGION, struct.pack("=QQQQQ", 0, *REGION)),
    Payload.LOG: (vu.LogArea(0x1000, 0x2000), struct.pack("=QQ", 0x1000, 0x2000)),
    Payload.CONFIG: (vu.ConfigSpace(4, 1, b"abc"), struct.pack("=III", 4, 3, 1) + b"abc"),
    Payload.STATE_TRANSFER: (vu.StateTransfer(1, 0), struct.pack("=II", 1, 0)),
}
SHAPES = sorted(SAMPLES, key=lambda shape: shape.name)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_payload_both_ways(shape: Payload) -> None:
    value, data = SAMPLES[shape]
    assert vu.encode_payload(value) == data
    assert vu.decode_payload("X", shape, data) == value


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_payload_truncated_and_with_rubbish_behind(shape: Payload) -> None:
    _, data = SAMPLES[shape]
    for length in range(len(data)):
        with pytest.raises(FrontendError, match=r"^SOME_NAME has a payload of \d+ bytes"):
            vu.decode_payload("SOME_NAME", shape, data[:length])
    with pytest.raises(FrontendError, match=r"^SOME_NAME has a payload of \d+ bytes"):
        vu.decode_payload("SOME_NAME", shape, data + b"\0")


def test_counts_that_are_too_large() -> None:
    with pytest.raises(FrontendError, match="SET_MEM_TABLE has 33 memory regions, but at most 32"):
        vu.decode_payload("SET_MEM_TABLE", Payload.MEM_TABLE, struct.pack("=II", 33, 0) + bytes(33 * 32))
    with pytest.raises(FrontendError, match="GET_CONFIG has 257 bytes of configuration space, more than 256"):
        vu.decode_payload("GET_CONFIG", Payload.CONFIG, struct.pack("=III", 0, 257, 0) + bytes(257))


@given(st.sampled_from(list(Payload)), st.binary(max_size=600))
def test_any_bytes_are_a_value_or_an_error(shape: Payload, data: bytes) -> None:
    try:
        value = vu.decode_payload("X", shape, data)
    except FrontendError:
        return
    # Padding is not kept, everything else is.
    assert vu.decode_payload("X", shape, vu.encode_payload(value)) == value
    assert len(vu.encode_payload(value)) == len(data)


def test_numbers() -> None:
    assert [int(request) for request in Request] == list(range(1, 45))
    assert (Request.RESET_DEVICE, Request.SET_DEVICE_STATE_FD, Request.CHECK_DEVICE_STATE) == (34, 42, 43)
    assert (ProtocolFeature.CONFIGURE_MEM_SLOTS, ProtocolFeature.DEVICE_STATE) == (15, 19)
    assert [int(feature) for feature in ProtocolFeature] == list(range(21))


@pytest.mark.parametrize("request_", Request, ids=lambda request: request.name)
def test_row_is_consistent(request_: Request) -> None:
    assert 0 <= request_.fds_min <= request_.fds_max <= vu.FDS_MAX
    if request_.reply is not Reply.NOT_OFFERED:
        assert request_.payload is not Payload.UNKNOWN
    if request_.payload in SAMPLES:
        assert len(SAMPLES[request_.payload][1]) <= vu.PAYLOAD_MAX
    if request_.reply is Reply.ACK:
        assert request_.answer is Payload.U64


def test_largest_payloads_are_within_the_limit() -> None:
    assert len(vu.encode_payload((REGION,) * vu.REGIONS_MAX)) <= vu.PAYLOAD_MAX
    assert len(vu.encode_payload(vu.ConfigSpace(0, 0, bytes(vu.CONFIG_MAX)))) <= vu.PAYLOAD_MAX


def test_request_header() -> None:
    message = vu.encode_request(Request.SET_VRING_NUM, vu.VringState(1, 128), need_reply=True)
    assert message == struct.pack("=IIIII", 8, 0x9, 8, 1, 128)
    header = vu.decode_header(message)
    assert header == (8, 0x9, 8)
    assert header.need_reply
    assert not vu.decode_header(vu.encode_request(Request.SET_OWNER)).need_reply


@pytest.mark.parametrize("length", range(12))
def test_header_truncated(length: int) -> None:
    with pytest.raises(FrontendError, match=f"ends in its header: {length} bytes instead of 12"):
        vu.decode_header(vu.encode_request(Request.SET_OWNER)[:length])


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ((3, 0, 0), "SET_OWNER has version 0"),
        ((3, 2, 0), "SET_OWNER has version 2"),
        ((3, 5, 0), "SET_OWNER is marked as a reply"),
        ((5, 1, 100_000), "SET_MEM_TABLE announces 100000 bytes"),
        ((99, 1, 1 << 31), "message 99 announces 2147483648 bytes"),
    ],
)
def test_header_that_can_not_be(fields: tuple[int, int, int], sentence: str) -> None:
    with pytest.raises(FrontendError, match=sentence):
        vu.decode_header(struct.pack("=III", *fields))


def test_reply() -> None:
    data = vu.encode_reply(Request.GET_VRING_BASE, vu.VringState(1, 77))
    header = vu.decode_reply_header(Request.GET_VRING_BASE, data)
    assert header == (11, 5, 8)
    assert vu.decode_reply(Request.GET_VRING_BASE, data[12:]) == vu.VringState(1, 77)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"\1\0", "ends in its header: 2 bytes"),
        (struct.pack("=III", 2, 5, 8), "answered SET_FEATURES when GET_FEATURES was asked"),
        (struct.pack("=III", 1, 1, 8), "flags 0x1, which are not those of an answer"),
        (struct.pack("=III", 1, 4, 8), "flags 0x4, which are not those of an answer"),
        (struct.pack("=III", 1, 5, 1 << 20), "announces 1048576 bytes"),
    ],
)
def test_reply_header_that_can_not_be(data: bytes, sentence: str) -> None:
    with pytest.raises(PeerError, match=sentence):
        vu.decode_reply_header(Request.GET_FEATURES, data)


def test_reply_of_another_size() -> None:
    with pytest.raises(PeerError, match="The answer to GET_FEATURES has a payload of 4 bytes"):
        vu.decode_reply(Request.GET_FEATURES, b"1234")
