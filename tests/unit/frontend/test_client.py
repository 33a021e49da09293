"""The vhost-user client against a peer that answers by script, over a real socket pair."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from ferryfs.errors import PeerError, SetupError
from ferryfs.frontend.client import Direction, VhostUserClient
from ferryfs.wire import vhost_user as wire
from ferryfs.wire.vhost_user import ProtocolFeature, Request, VringState, encode_reply

Sent = list[tuple[int, int, bytes, int]]


@contextmanager
def peer(answers: Sequence[bytes], fds: Sequence[int] = ()) -> Iterator[tuple[VhostUserClient, Sent]]:
    """A client, and what its peer received: (number, flags, payload, descriptors). It goes after its last answer."""
    ours, theirs = socket.socketpair()
    seen: Sent = []

    def serve() -> None:
        with theirs:
            for answer in answers:
                header, received, _, _ = socket.recv_fds(theirs, wire.HEADER.size, 8)
                for fd in received:
                    os.close(fd)
                number, flags, size = wire.HEADER.unpack(header)
                payload = theirs.recv(size, socket.MSG_WAITALL) if size else b""
                seen.append((number, flags, payload, len(received)))
                if answer:
                    socket.send_fds(theirs, [answer], list(fds))

    server = threading.Thread(target=serve)
    server.start()
    with VhostUserClient(ours, timeout_s=10.0) as client:
        yield client, seen
        ours.close()
        server.join()


def test_a_question_is_answered() -> None:
    with peer([encode_reply(Request.GET_FEATURES, 1 << 32)]) as (client, seen):
        assert client.get_features() == 1 << 32
    assert seen == [(Request.GET_FEATURES, wire.VERSION, b"", 0)]


def test_an_acknowledgement_is_asked_for_once_it_is_negotiated() -> None:
    ack = encode_reply(Request.SET_VRING_ENABLE, 0)
    no = encode_reply(Request.SET_VRING_NUM, 1)
    with peer([b"", ack, no]) as (client, seen):
        client.set_protocol_features(1 << ProtocolFeature.REPLY_ACK)
        client.set_vring_enable(1, True)
        with pytest.raises(PeerError, match="refused SET_VRING_NUM"):
            client.set_vring_num(1, 128)
    assert [flags & wire.FLAG_NEED_REPLY for _, flags, *_ in seen] == [0, wire.FLAG_NEED_REPLY, wire.FLAG_NEED_REPLY]


def test_descriptors_travel() -> None:
    with peer([b"", b"", b""]) as (client, seen), open(os.devnull, "rb") as file:
        client.set_vring_kick(2, file.fileno())
        client.set_vring_kick(2, -1)
        client.set_mem_table([(0, 4096, 0x7000, 0, file.fileno())])
    assert [(payload[:8], count) for _, _, payload, count in seen] == [
        ((2).to_bytes(8, "little"), 1),
        ((2 | wire.VRING_NO_FD).to_bytes(8, "little"), 0),
        ((1).to_bytes(8, "little"), 1),
    ]


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (b"", "closed the connection instead of answering GET_VRING_BASE"),
        (encode_reply(Request.GET_FEATURES, 0), "GET_FEATURES when GET_VRING_BASE was asked"),
        (encode_reply(Request.GET_VRING_BASE, 7)[:16], "closed the connection"),
        (encode_reply(Request.GET_VRING_BASE, VringState(3, 9)), "of ring 1"),
        (wire.HEADER.pack(Request.GET_VRING_BASE, wire.VERSION, 8) + bytes(8), "flags"),
        (wire.HEADER.pack(Request.GET_VRING_BASE, 5, 1 << 30), "announces"),
        (wire.HEADER.pack(Request.GET_VRING_BASE, 5, 4) + bytes(4), "4 bytes"),
    ],
)
def test_a_wrong_answer_is_the_daemons_fault(answer: bytes, sentence: str) -> None:
    with peer([answer]) as (client, _), pytest.raises(PeerError, match=sentence):
        client.get_vring_base(1)


def test_silence_has_an_end() -> None:
    ours, theirs = socket.socketpair()
    with theirs, VhostUserClient(ours, timeout_s=0.05) as client, pytest.raises(PeerError, match="did not answer"):
        client.get_features()


def test_the_reply_to_a_transfer() -> None:
    no_fd = encode_reply(Request.SET_DEVICE_STATE_FD, wire.STATE_REPLY_NO_FD)
    with open(os.devnull, "rb") as file:
        with peer([no_fd]) as (client, _):
            assert client.set_device_state_fd(Direction.SAVE, file.fileno()) is None
        with peer([encode_reply(Request.SET_DEVICE_STATE_FD, 0)], [file.fileno()]) as (client, _):
            other = client.set_device_state_fd(Direction.LOAD, file.fileno())
            assert other is not None
            os.close(other)
        for refused in (encode_reply(Request.SET_DEVICE_STATE_FD, 0), encode_reply(Request.SET_DEVICE_STATE_FD, 0x101)):
            with peer([refused]) as (client, _), pytest.raises(PeerError, match="refused to save"):
                client.set_device_state_fd(Direction.SAVE, file.fileno())
        # Descriptors that come with a refusal are not leaked: the suite would say so.
        refused = encode_reply(Request.SET_DEVICE_STATE_FD, 1)
        with peer([refused], [file.fileno()]) as (client, _), pytest.raises(PeerError, match="refused to load"):
            client.set_device_state_fd(Direction.LOAD, file.fileno())


def test_nobody_listens() -> None:
    with pytest.raises(SetupError, match="/nowhere/socket"):
        VhostUserClient.connect("/nowhere/socket")
