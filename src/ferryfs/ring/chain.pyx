"""Descriptor chains (virtio 1.2, 2.7.5 to 2.7.7) as byte streams.

A chain is walked once, each descriptor read once into locals, and every window is checked when it is made. What follows
only ever sees offsets into "all readable bytes" and "all writable bytes".
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy

from ferryfs.ring.atomics cimport ferry_read_u16, ferry_read_u32, ferry_read_u64
from ferryfs.ring.memory cimport MemoryTable, memory_mark, memory_prefix


cdef int grow(Chain *chain) noexcept nogil:
    cdef uint32_t capacity = chain.capacity + CHAIN_STEP if chain.capacity < CHAIN_STEP else chain.capacity * 2
    cdef void *block = realloc(chain.segments, capacity * sizeof(iovec))
    if block == NULL:
        return CHAIN_NO_MEMORY
    chain.segments = <iovec *>block
    block = realloc(chain.addresses, capacity * sizeof(uint64_t))
    if block == NULL:
        return CHAIN_NO_MEMORY
    chain.addresses = <uint64_t *>block
    chain.capacity = capacity
    return CHAIN_OK


cdef int chain_init(Chain *chain) noexcept nogil:
    """A chain with room for what Linux sends; CHAIN_OK, or CHAIN_NO_MEMORY.

    Before there is a request: one that finds no room can only be answered with nothing, which Linux takes for a good answer.
    """
    chain.segments = NULL
    chain.addresses = NULL
    chain.capacity = 0
    return grow(chain)


cdef int add(Chain *chain, const MemoryTable *memory, uint64_t address, uint32_t length, bint writable) noexcept nogil:
    """Appends one descriptor's bytes, cut where memory regions meet."""
    cdef uint64_t left = length
    cdef uint64_t got = 0
    cdef uint8_t *base
    cdef uint32_t used
    cdef int error
    if chain.writable > 0 and not writable:
        return CHAIN_BAD_ORDER
    if chain.readable_bytes + chain.writable_bytes + length > MAX_CHAIN_BYTES:
        return CHAIN_TOO_BIG
    while left > 0:
        base = memory_prefix(memory, address, left, &got)
        if base == NULL:
            return CHAIN_UNMAPPED
        used = chain.readable + chain.writable
        if used == chain.capacity:
            error = grow(chain)
            if error != CHAIN_OK:
                return error
        # SAFETY: used < capacity (grown above); both arrays have capacity entries.
        chain.segments[used].iov_base = base
        chain.segments[used].iov_len = got
        chain.addresses[used] = address
        if writable:
            chain.writable += 1
            chain.writable_bytes += got
        else:
            chain.readable += 1
            chain.readable_bytes += got
        address += got
        left -= got
    return CHAIN_OK


cdef int chain_load(
    Chain *chain, const MemoryTable *memory, const uint8_t *table, uint16_t num, uint16_t head
) noexcept nogil:
    """Walks the chain that begins at `head` of the table of `num` descriptors; CHAIN_OK or what is wrong with it.

    `table` must be a window of num * DESC_SIZE bytes, and head < num: the queue sees to both.
    """
    cdef uint64_t address
    cdef uint32_t length
    cdef uint16_t flags
    cdef uint16_t following
    cdef uint32_t entries = num     # of the table we are in
    cdef uint32_t walked = 0        # descriptors of the table we are in
    cdef uint32_t index = head
    cdef uint64_t got = 0
    cdef const uint8_t *desc
    cdef bint indirect = False
    cdef int error

    chain.head = head
    chain.readable = 0
    chain.writable = 0
    chain.readable_bytes = 0
    chain.writable_bytes = 0

    while True:
        if index >= entries:
            return CHAIN_BAD_INDEX
        if walked == entries:
            return CHAIN_TOO_LONG
        walked += 1
        # SAFETY: index < entries (above); table is a window of entries * DESC_SIZE bytes: the caller's, or made below.
        desc = table + <uint64_t>index * DESC_SIZE
        address = ferry_read_u64(desc)
        length = ferry_read_u32(desc + 8)
        flags = ferry_read_u16(desc + 12)
        following = ferry_read_u16(desc + 14)
        if flags & DESC_F_INDIRECT:
            # 2.7.5.3.1: not inside another table, and not with NEXT; a WRITE flag here is ignored (2.7.5.3.2).
            if indirect or flags & DESC_F_NEXT or length == 0 or length % DESC_SIZE or length // DESC_SIZE > MAX_CHAIN:
                return CHAIN_BAD_INDIRECT
            table = memory_prefix(memory, address, length, &got)
            if table == NULL or got != length:
                return CHAIN_UNMAPPED
            entries = length // DESC_SIZE
            indirect = True
            walked = 0
            index = 0
            continue
        error = add(chain, memory, address, length, flags & DESC_F_WRITE)
        if error != CHAIN_OK:
            return error
        if not flags & DESC_F_NEXT:
            return CHAIN_OK
        index = following


cdef uint64_t chain_read(const Chain *chain, uint64_t offset, void *into, uint64_t length) noexcept nogil:
    """Copies readable bytes [offset, offset + length) once; returns how many there were."""
    cdef uint8_t *target = <uint8_t *>into
    cdef uint64_t done = 0
    cdef uint64_t part
    cdef uint32_t i
    for i in range(chain.readable):
        if done == length:
            break
        if offset >= chain.segments[i].iov_len:
            offset -= chain.segments[i].iov_len
            continue
        part = chain.segments[i].iov_len - offset
        if part > length - done:
            part = length - done
        # SAFETY: offset + part <= iov_len, a window checked by add(); done + part <= length, the caller's room.
        memcpy(target + done, <uint8_t *>chain.segments[i].iov_base + offset, part)
        done += part
        offset = 0
    return done


cdef uint64_t chain_write(const Chain *chain, uint64_t offset, const void *data, uint64_t length) noexcept nogil:
    """Copies to writable bytes [offset, offset + length); returns how many there was room for."""
    cdef const uint8_t *source = <const uint8_t *>data
    cdef uint64_t done = 0
    cdef uint64_t part
    cdef uint32_t i
    for i in range(chain.readable, chain.readable + chain.writable):
        if done == length:
            break
        if offset >= chain.segments[i].iov_len:
            offset -= chain.segments[i].iov_len
            continue
        part = chain.segments[i].iov_len - offset
        if part > length - done:
            part = length - done
        # SAFETY: offset + part <= iov_len, a window checked by add(); done + part <= length bytes of data.
        memcpy(<uint8_t *>chain.segments[i].iov_base + offset, source + done, part)
        done += part
        offset = 0
    return done


cdef int chain_slice(
    const Chain *chain, bint writable, uint64_t offset, uint64_t length, iovec *into, int room
) noexcept nogil:
    """The windows of [offset, offset + length) of one side, for preadv and pwritev: how many of `into` were filled.

    Ends at `room` windows or at the end of the side, whichever comes first: the caller adds up iov_len.
    """
    cdef uint32_t first = chain.readable if writable else 0
    cdef uint32_t count = chain.writable if writable else chain.readable
    cdef uint64_t part
    cdef uint32_t i
    cdef int filled = 0
    for i in range(first, first + count):
        if length == 0 or filled == room:
            break
        if offset >= chain.segments[i].iov_len:
            offset -= chain.segments[i].iov_len
            continue
        part = chain.segments[i].iov_len - offset
        if part > length:
            part = length
        # SAFETY: offset + part <= iov_len, a window checked by add().
        into[filled].iov_base = <uint8_t *>chain.segments[i].iov_base + offset
        into[filled].iov_len = part
        filled += 1
        length -= part
        offset = 0
    return filled


cdef void chain_mark(const Chain *chain, const MemoryTable *memory, uint64_t length) noexcept nogil:
    """Marks the first `length` writable bytes in the dirty log."""
    cdef uint64_t part
    cdef uint32_t i
    if not memory.log_on:
        return
    for i in range(chain.readable, chain.readable + chain.writable):
        if length == 0:
            break
        part = chain.segments[i].iov_len if chain.segments[i].iov_len < length else length
        memory_mark(memory, chain.addresses[i], part)
        length -= part


cdef void chain_free(Chain *chain) noexcept nogil:
    free(chain.segments)
    free(chain.addresses)
    chain.segments = NULL
    chain.addresses = NULL
    chain.capacity = 0
