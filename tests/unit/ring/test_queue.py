"""The queue alone: where the rings may lie, what ends a ring, when the guest is told, what the dirty log says."""

from __future__ import annotations

import pytest
from ring_pair import PAGE, Pair, Place, descriptor

from ferryfs.ring.model import DESC_F_WRITE, Fault, Outcome

USER = 0x7F0000000000
PLACE = Place(0, USER, 8 * PAGE)
NUM = 8
DESC, AVAIL, USED = USER, USER + PAGE, USER + 2 * PAGE


def offer(pair: Pair, index: int, head: int = 0) -> None:
    """The guest's index becomes this; all new entries name the same chain."""
    for entry in range(NUM):
        pair.poke_user(AVAIL + 4 + 2 * entry, head.to_bytes(2, "little"))
    pair.poke_user(AVAIL + 2, (index % 65536).to_bytes(2, "little"))


def wish(pair: Pair, used_event: int) -> None:
    pair.poke_user(AVAIL + 4 + 2 * NUM, (used_event % 65536).to_bytes(2, "little"))


END = USER + PLACE.size


@pytest.mark.parametrize(
    ("desc", "avail", "used", "missing"),
    [
        (DESC, AVAIL, USED, 0),
        (END - 16 * NUM, AVAIL, USED, 0),
        (END - 16 * NUM + 16, AVAIL, USED, 1),
        (USER - 16, AVAIL, USED, 1),
        (DESC + 8, AVAIL, USED, 1),
        ((1 << 64) - 16, AVAIL, USED, 1),
        (DESC, END - 6 - 2 * NUM, USED, 0),
        (DESC, END - 4 - 2 * NUM, USED, 2),
        (DESC, AVAIL + 1, USED, 2),
        (DESC, 0, USED, 2),
        (DESC, AVAIL, END - 8 - 8 * NUM, 0),
        (DESC, AVAIL, END - 4 - 8 * NUM, 3),
        (DESC, AVAIL, USED + 2, 3),
        (DESC, AVAIL, (1 << 64) - 4, 3),
        (0, 0, 0, 1),
    ],
)
def test_where_the_rings_may_lie(desc: int, avail: int, used: int, missing: int) -> None:
    with Pair((PLACE,), NUM) as pair:
        assert pair.attach(desc, avail, used) == missing


def test_a_region_that_is_not_aligned_in_its_file() -> None:
    """The front-end's addresses are fine, the host's are odd: refused, for an atomic access there is not allowed."""
    with Pair((Place(0, USER, 8 * PAGE, offset=1),), NUM) as pair:
        assert pair.ring.attach(DESC, AVAIL, USED, True) == 2
        assert pair.ring.attach(DESC, AVAIL + 1, USED, True) == 2
    with Pair((Place(0, USER, 8 * PAGE, offset=2),), NUM) as pair:
        assert pair.ring.attach(DESC, AVAIL, USED, True) == 3
    with Pair((Place(0, USER, 8 * PAGE, offset=4),), NUM) as pair:
        assert pair.ring.attach(DESC, AVAIL, USED, True) == 0


@pytest.mark.parametrize("base", [0, 7, 65535])
@pytest.mark.parametrize("lie", [NUM + 1, 32768, 65535])
def test_more_than_the_ring_has_is_a_broken_ring(base: int, lie: int) -> None:
    with Pair((PLACE,), NUM) as pair:
        pair.set_base(base)
        pair.attach(DESC, AVAIL, USED)
        offer(pair, base + lie)
        assert pair.pop()[0] == Outcome.BROKEN
        offer(pair, base + NUM)
        assert pair.pop()[0] == Outcome.GOT


@pytest.mark.parametrize("head", [NUM, 255, 65535])
def test_a_head_beyond_the_table_is_a_broken_ring(head: int) -> None:
    with Pair((PLACE,), NUM) as pair:
        pair.attach(DESC, AVAIL, USED)
        offer(pair, 1, head)
        assert pair.pop()[0] == Outcome.BROKEN
        assert pair.ring.state() == (0, 0), "nothing was taken"


def test_the_used_index_of_a_running_ring_is_ours() -> None:
    with Pair((PLACE,), NUM) as pair:
        pair.poke_user(USED + 2, b"\x05\x00")
        pair.attach(DESC, AVAIL, USED)
        assert pair.ring.state() == (0, 5)
        pair.poke_user(USED + 2, b"\x99\x99")
        pair.attach(DESC, AVAIL, USED, fresh=False)
        assert pair.ring.state() == (0, 5)
        pair.push(3, 17)
        pair.compare()
        assert pair.files[0][2 * PAGE + 2 : 2 * PAGE + 4] == b"\x06\x00"
        assert pair.files[0][2 * PAGE + 4 + 8 * 5 : 2 * PAGE + 4 + 8 * 6] == b"\x03\0\0\0\x11\0\0\0"


def test_indices_wrap() -> None:
    with Pair((PLACE,), NUM) as pair:
        pair.poke_user(USED + 2, (65530).to_bytes(2, "little"))
        pair.set_base(65530)
        pair.attach(DESC, AVAIL, USED)
        for i in range(65531, 65551):
            offer(pair, i)
            assert pair.pop() == (Outcome.GOT, 0, b"", 0, Fault.OK)
            pair.push(0, i)
            pair.compare()
        assert pair.ring.state() == (14, 14)


def test_notification_by_flag() -> None:
    with Pair((PLACE,), NUM) as pair:
        pair.attach(DESC, AVAIL, USED)
        assert pair.should_notify()
        pair.poke_user(AVAIL, b"\x01\x00")
        assert not pair.should_notify()
        pair.wake()
        assert pair.files[0][2 * PAGE] == 1
        assert not pair.rest()
        assert pair.files[0][2 * PAGE] == 0
        offer(pair, 1)
        assert pair.rest()


@pytest.mark.parametrize("base", [0, 65530])
def test_notification_by_event_index(base: int) -> None:
    with Pair((PLACE,), NUM) as pair:
        pair.poke_user(USED + 2, base.to_bytes(2, "little"))
        pair.set_event_idx(True)
        pair.set_base(base)
        pair.attach(DESC, AVAIL, USED)
        pair.push(0, 0)
        assert pair.should_notify(), "the first after a start, whatever the guest's event says"
        assert not pair.should_notify(), "nothing new"
        wish(pair, base + 4)
        told = []
        for _ in range(1, 10):
            pair.push(0, 0)
            told.append(pair.should_notify())
        assert told == [False, False, False, True, False, False, False, False, False]
        wish(pair, base + 12)
        for _ in range(6):
            pair.push(0, 0)
        assert pair.should_notify(), "the event lies in the middle of a batch"


def test_rest_says_where_we_are() -> None:
    with Pair((PLACE,), NUM) as pair:
        pair.set_event_idx(True)
        pair.set_base(65535)
        pair.attach(DESC, AVAIL, USED)
        offer(pair, 65536)
        assert pair.rest(), "there is one already"
        pair.pop()
        assert not pair.rest()
        assert pair.files[0][2 * PAGE + 4 + 8 * NUM :][:2] == b"\0\0"


def test_the_dirty_log_has_what_changed() -> None:
    """Payload by its guest address, the used ring by its log address, nothing else; and nothing while it is off."""
    used_log = 6 * PAGE
    with Pair((PLACE,), NUM, log_size=2) as pair:
        pair.poke_user(DESC, descriptor(3 * PAGE - 2, PAGE + 3, DESC_F_WRITE, 0))
        pair.attach(DESC, AVAIL, USED)
        assert pair.log is not None
        for on in (False, True):
            offer(pair, 1 + on)
            pair.pop()
            pair.set_log(on, used_log)
            pair.write(0, b"12345")
            pair.mark(5)
            pair.push(0, 5)
            pair.compare()
            assert pair.log[:] == (b"\x4c\0" if on else b"\0\0")
        pair.mark(PAGE + 3)
        assert pair.log[:] == b"\x5c\0"
        pair.set_log(True, 15 * PAGE)
        pair.rest()
        assert pair.log[:] == b"\x5c\x80"
        pair.set_log(True, 16 * PAGE)
        pair.rest()
        pair.compare()


def test_each_changed_page_is_in_the_log() -> None:
    """The log is compared with what really changed, page by page, and not only with the model's."""
    with Pair((PLACE,), NUM, log_size=1) as pair:
        table = b"".join(descriptor(4 * PAGE + 2000 * i, 900, DESC_F_WRITE | (i < 3), i + 1) for i in range(4))
        pair.poke_user(DESC, table)
        pair.attach(DESC, AVAIL, USED)
        pair.set_log(True, 2 * PAGE)
        offer(pair, 1)
        before = pair.snapshot()[0]
        pair.pop()
        pair.write(0, b"\xff" * 3600)
        pair.mark(3600)
        pair.push(0, 3600)
        pair.rest()
        after = pair.snapshot()[0]
        changed = sum(1 << p for p in range(8) if before[p * PAGE :][:PAGE] != after[p * PAGE :][:PAGE])
        assert changed == 0b110100, "the used ring, and a payload over two pages"
        assert pair.log is not None
        assert pair.log[0] == changed
