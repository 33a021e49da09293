"""Random guests: layouts of memory, descriptor tables honest and not, and what guest and device do in turn."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import strategies as st
from ring_pair import PAGE, Place, descriptor

from ferryfs.ring.model import DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE, DESC_SIZE, MAX_CHAIN_BYTES

TOP = 1 << 64


@dataclass(frozen=True, slots=True)
class World:
    """Memory, and where in it the ring lies (by the front-end's addresses)."""

    places: tuple[Place, ...]
    num: int
    desc: int
    avail: int
    used: int


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """One to four regions, touching or apart, and a ring flush with the beginning or the end of one of them."""
    num = 1 << draw(st.integers(0, 6))
    count = draw(st.integers(1, 4))
    order = draw(st.permutations(range(count)))
    guest = draw(st.sampled_from((0, PAGE, 1 << 32)))
    places = []
    for i in range(count):
        size = PAGE * draw(st.integers(1, 3))
        offset = draw(st.sampled_from((0, 0, PAGE, 3 * PAGE)))
        places.append(Place(guest, 0x7F0000000000 + 0x100000 * order[i], size, offset))
        guest += size + draw(st.sampled_from((0, 0, PAGE, 1 << 30)))
    home = draw(st.sampled_from(places))
    sizes = (DESC_SIZE * num, 6 + 2 * num, 6 + 8 * num)
    if draw(st.booleans()):
        desc = home.user
        avail = desc + sizes[0]
        used = avail + sizes[1] + -(avail + sizes[1]) % 4
    else:
        used = (home.user + home.size - sizes[2]) & ~3
        avail = (used - sizes[1]) & ~1
        desc = (avail - sizes[0]) & ~15
    return World(tuple(places), num, desc, avail, used)


def addresses(world: World) -> st.SearchStrategy[int]:
    """Guest addresses: inside, at each edge, in the holes, at the end of all addresses."""
    edges = [edge for p in world.places for edge in (p.guest, p.guest + p.size)]
    near = st.builds(lambda edge, by: (edge + by) % TOP, st.sampled_from(edges), st.integers(-40, 40))
    inside = st.one_of([st.integers(p.guest, p.guest + p.size - 1) for p in world.places])
    return st.one_of(inside, inside, near, st.sampled_from((0, TOP - 1, TOP - PAGE, 1 << 63)))


LENGTHS = st.one_of(
    st.integers(0, 48),
    st.integers(0, 4 * PAGE),
    st.sampled_from((PAGE, 2 * PAGE, MAX_CHAIN_BYTES, MAX_CHAIN_BYTES + 1, 1 << 31, (1 << 32) - 1)),
)
FLAGS = st.one_of(
    st.sampled_from((0, DESC_F_NEXT, DESC_F_WRITE, DESC_F_NEXT | DESC_F_WRITE, DESC_F_INDIRECT)),
    st.integers(0, 7),
    st.sampled_from((0xFFFF, 0x80, DESC_F_INDIRECT | DESC_F_NEXT)),
)


@st.composite
def descriptors(draw: st.DrawFn, world: World, number: int, table: int) -> bytes:
    """A descriptor that could stand at this place of a table: mostly sane, so that chains get long."""
    if draw(st.integers(0, 3)):
        # Sane: inside of one region; leads on to the next entry.
        place = draw(st.sampled_from(world.places))
        start = draw(st.integers(0, place.size - 1))
        length = draw(st.integers(0, min(place.size - start, 300)))
        write = draw(st.booleans())
        flags = DESC_F_NEXT * (number + 1 < table and draw(st.integers(0, 4)) > 0) | DESC_F_WRITE * write
        return descriptor(place.guest + start, length, flags, number + 1)
    following = draw(st.one_of(st.integers(0, table + 1), st.just(0xFFFF)))
    flags = draw(FLAGS)
    length = draw(LENGTHS)
    if flags & DESC_F_INDIRECT and draw(st.integers(0, 3)):
        length = DESC_SIZE * draw(st.integers(1, 8))
    return descriptor(draw(addresses(world)), length, flags, following)


@st.composite
def tables(draw: st.DrawFn, world: World, entries: int) -> bytes:
    return b"".join(draw(descriptors(world, i, entries)) for i in range(entries))


Step = tuple[str, int, bytes | int | None]


def steps(world: World) -> st.SearchStrategy[Step]:
    """What happens next: by the guest (offer, good, lie, honest, indirect, scribble, wish) or the device."""
    word = st.integers(0, 0xFFFF)
    return st.one_of(
        st.tuples(
            st.just("offer"), st.one_of(st.integers(0, world.num - 1), st.integers(0, world.num - 1), word), word
        ),
        st.tuples(st.just("offer"), st.integers(0, world.num - 1), word),
        st.tuples(st.just("lie"), word, st.just(0)),
        st.tuples(st.just("honest"), st.just(0), st.just(0)),
        st.tuples(st.just("indirect"), addresses(world), st.integers(1, 8).flatmap(lambda n: tables(world, n))),
        st.tuples(st.just("scribble"), addresses(world), st.binary(min_size=1, max_size=40)),
        st.tuples(st.just("wish"), st.one_of(st.integers(-3, 5), word), st.integers(0, 3)),
        st.tuples(st.just("serve"), st.integers(0, 9000), st.binary(max_size=40)),
        st.tuples(st.just("good"), st.integers(0, world.num - 1), st.integers(0, 3)),
        st.tuples(st.just("serve"), st.just(0), st.binary(max_size=40)),
        st.tuples(st.just("notify"), st.just(0), st.just(0)),
        st.tuples(st.just("rest"), st.just(0), st.just(0)),
        st.tuples(st.just("wake"), st.just(0), st.just(0)),
        st.tuples(st.just("event_idx"), st.integers(0, 1), st.just(0)),
        st.tuples(
            st.just("log"), st.integers(0, 1), st.one_of(st.none(), st.integers(0, 24 * PAGE // 4).map(lambda n: 4 * n))
        ),
        st.tuples(st.just("again"), st.integers(0, 1), st.just(0)),
    )


def plays(world: World) -> st.SearchStrategy[tuple[bytes, int, list[Step]]]:
    """A descriptor table, the index that the ring starts from, and what happens then."""
    return st.tuples(
        tables(world, world.num),
        st.one_of(st.just(0), st.sampled_from((0xFFFF, 0xFFF0, 0x7FFF))),
        st.booleans().flatmap(
            lambda on: st.lists(steps(world), min_size=5, max_size=40).map(lambda play: [("event_idx", on, 0), *play])
        ),
    )
