"""Whatever a guest does, the compiled ring and the model agree: on every request, answer, notification and error."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ring_pair import Pair, descriptor

from ferryfs.ring import model

from .strategies import Step, World, plays, worlds

LOG_SIZE = 64
"""Bytes: the first 2 MiB of guest addresses. Regions above are beyond the log, as a hole in the front-end's book."""


@given(st.data())
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_the_ring_and_the_model_agree(data: st.DataObject) -> None:
    world = data.draw(worlds())
    table, base, play = data.draw(plays(world))
    with Pair(world.places, world.num, log_size=LOG_SIZE) as pair:
        run(pair, world, table, base, play)


def run(pair: Pair, world: World, table: bytes, base: int, play: list[Step]) -> None:
    pair.poke_user(world.desc, table)
    pair.poke_user(world.avail + 2, base.to_bytes(2, "little"))
    pair.poke_user(world.used + 2, base.to_bytes(2, "little"))
    pair.set_base(base)
    assert pair.attach(world.desc, world.avail, world.used) == 0
    offered = base
    for step, number, more in play:
        match step, more:
            case "offer", int():
                pair.poke_user(world.avail + 4 + 2 * (offered % world.num), number.to_bytes(2, "little"))
                offered = (offered + 1) % 65536
                pair.poke_user(world.avail + 2, offered.to_bytes(2, "little"))
            case "good", int():
                place = world.places[more % len(world.places)]
                chain = descriptor(place.guest, 8 * more, model.DESC_F_WRITE, 0)
                pair.poke_user(world.desc + model.DESC_SIZE * number, chain)
            case "lie", _:
                offered = number
                pair.poke_user(world.avail + 2, number.to_bytes(2, "little"))
            case "honest", _:
                offered = pair.slow.last_avail
                pair.poke_user(world.avail + 2, offered.to_bytes(2, "little"))
            case (("indirect" | "scribble"), bytes()):
                pair.poke(number, more)
            case "wish", int():
                pair.poke_user(world.avail, more.to_bytes(2, "little"))
                event = (pair.slow.next_used + number) % 65536
                pair.poke_user(world.avail + 4 + 2 * world.num, event.to_bytes(2, "little"))
            case "serve", bytes():
                serve(pair, number, more)
            case "notify", _:
                pair.should_notify()
            case "rest", _:
                pair.rest()
            case "wake", _:
                pair.wake()
            case "event_idx", _:
                pair.set_event_idx(bool(number))
            case "log", (int() | None) as used_log:
                pair.set_log(bool(number), used_log)
            case "again", _:
                assert pair.attach(world.desc, world.avail, world.used, fresh=bool(number)) == 0
        pair.compare()


def serve(pair: Pair, offset: int, answer: bytes) -> None:
    outcome, head, _, room, _ = pair.pop()
    match outcome:
        case model.Outcome.GOT:
            done = pair.write(offset, answer)
            assert done == max(0, min(len(answer), room - offset))
            pair.mark(offset + done if done else 0)
            pair.push(head, done)
        case model.Outcome.BAD_CHAIN:
            pair.push(head, 0)
