"""A guest writes anything into its ring: the compiled ring says what the model says, and touches no other byte.

The same comparison as the differential test of the unit suite, in longer plays than Hypothesis makes.
"""

from __future__ import annotations

import random

from ring_pair import PAGE, Pair, Place, descriptor

from ferryfs.ring.model import DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE, DESC_SIZE, Outcome

from .seeds import rounds

LOG_SIZE = 8


def test_random_guests_and_the_model_agree() -> None:
    seen: set[Outcome] = set()
    told: set[bool] = set()
    for rng in rounds():
        play(rng, seen, told)
    assert seen == set(Outcome)
    assert told == {False, True}


def layout(rng: random.Random) -> list[Place]:
    places = []
    guest = rng.choice((0, PAGE, 1 << 32))
    for number in rng.sample(range(8), rng.randint(1, 4)):
        size = PAGE * rng.randint(1, 3)
        places.append(Place(guest, 0x7F0000000000 + (number << 20), size, PAGE * rng.randint(0, 2)))
        guest += size + rng.choice((0, 0, PAGE, 1 << 30))
    return places


def random_descriptor(rng: random.Random, places: list[Place], entries: int, number: int) -> bytes:
    place = rng.choice(places)
    if rng.random() < 0.85:
        start = rng.choice((0, rng.randrange(place.size), place.size - rng.randint(1, 64)))
        length = min(rng.choice((0, 1, 7, 16, 80, PAGE)), place.size - start)
        flags = DESC_F_NEXT * (number + 1 < entries and rng.random() < 0.7) | DESC_F_WRITE * (rng.random() < 0.5)
        return descriptor(place.guest + start, length, flags, number + 1)
    address = rng.choice((place.guest + rng.randint(-20, place.size + 20), rng.getrandbits(64))) % (1 << 64)
    length = rng.choice((rng.randint(0, 2 * PAGE), DESC_SIZE * rng.randint(0, 9), rng.getrandbits(32)))
    flags = rng.choice((DESC_F_INDIRECT, rng.randint(0, 7), rng.getrandbits(16)))
    return descriptor(address, length, flags, rng.choice((rng.randint(0, entries), rng.getrandbits(16))))


def play(rng: random.Random, seen: set[Outcome], told: set[bool]) -> None:
    places = layout(rng)
    num = 1 << rng.randint(0, 6)
    home = rng.choice(places)
    end = home.user + home.size
    used = (end - 6 - 8 * num) & ~3
    avail = (used - 6 - 2 * num) & ~1
    desc = (avail - DESC_SIZE * num) & ~15
    base = rng.choice((0, rng.getrandbits(16)))
    with Pair(places, num, log_size=LOG_SIZE) as pair:
        pair.set_event_idx(rng.random() < 0.5)
        pair.set_base(base)
        pair.poke_user(used + 2, base.to_bytes(2, "little"))
        assert pair.attach(desc, avail, used) == 0
        for _ in range(rng.randint(20, 120)):
            action = rng.randrange(16)
            if action < 5:
                # The guest fills the table and offers a few entries, sometimes with a lie among them.
                for number in range(num):
                    if rng.random() < 0.5:
                        pair.poke_user(desc + DESC_SIZE * number, random_descriptor(rng, places, num, number))
                offered = pair.slow.last_avail
                for _ in range(rng.randint(1, num)):
                    head = rng.randrange(num) if rng.random() < 0.98 else rng.getrandbits(16)
                    pair.poke_user(avail + 4 + 2 * (offered % num), head.to_bytes(2, "little"))
                    offered = (offered + 1) % 65536
                if rng.random() < 0.05:
                    offered = rng.getrandbits(16)
                pair.poke_user(avail + 2, offered.to_bytes(2, "little"))
            elif action == 5:
                place = rng.choice(places)
                table = b"".join(random_descriptor(rng, places, 6, i) for i in range(6))
                at = place.guest + rng.randrange(place.size)
                pair.poke(at, table)
                pair.poke_user(desc, descriptor(at, DESC_SIZE * rng.randint(1, 6), DESC_F_INDIRECT, 0))
            elif action == 6:
                place = rng.choice(places)
                pair.poke(place.guest + rng.randrange(place.size), rng.randbytes(rng.randint(1, 64)))
            elif action == 7:
                event = (pair.slow.next_used + rng.randint(-3, 3)) % 65536
                pair.poke_user(avail + 4 + 2 * num, event.to_bytes(2, "little"))
                pair.poke_user(avail, rng.choice((b"\0\0", b"\1\0", rng.randbytes(2))))
            elif action < 12:
                for _ in range(rng.randint(1, 8)):
                    outcome, head, _, room, _ = pair.pop()
                    seen.add(outcome)
                    if outcome == Outcome.GOT:
                        offset = rng.randint(0, min(room, 9000))
                        done = pair.write(offset, rng.randbytes(rng.randint(0, 200)))
                        pair.mark(offset + done)
                        pair.push(head, offset + done)
                    elif outcome == Outcome.BAD_CHAIN:
                        pair.push(head, 0)
                    else:
                        break
                told.add(pair.should_notify())
            elif action == 12:
                pair.rest()
            elif action == 13:
                pair.wake()
            elif action == 14:
                address = 4 * rng.randrange(LOG_SIZE * 8 * PAGE // 4 + PAGE)
                pair.set_log(rng.random() < 0.8, rng.choice((None, address)))
            else:
                pair.attach(desc, avail, used, fresh=rng.random() < 0.2)
            pair.compare()
