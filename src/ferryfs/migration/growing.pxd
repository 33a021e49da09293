# Bytes that grow at their end, as a stream is written.
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy


cdef struct Bytes:
    uint8_t *data
    size_t length
    size_t room


cdef inline int make_room(Bytes *into, size_t length) except -1 nogil:
    """Sees to it that ``length`` bytes more fit."""
    cdef size_t room
    cdef void *grown
    if into.length + length <= into.room:
        return 0
    room = 2 * (into.length + length) + 4096
    grown = realloc(into.data, room)
    if grown == NULL:
        with gil:
            raise MemoryError
    into.data = <uint8_t *>grown
    into.room = room
    return 0


cdef inline int put(Bytes *into, const void *data, size_t length) except -1 nogil:
    if length == 0:
        return 0            # and maybe neither side has memory
    make_room(into, length)
    # SAFETY: length more bytes fit, by the line above.
    memcpy(into.data + into.length, data, length)
    into.length += length
    return 0


cdef inline void dropped(Bytes *one) noexcept nogil:
    free(one.data)
    one.data = NULL
    one.length = 0
    one.room = 0


# ---- into room that was made before: each gives the place behind what it wrote -----------------------------------------------


cdef enum:
    NUMBER_ROOM = 10                # of the longest varint


cdef inline uint8_t *write_number(uint8_t *at, uint64_t value) noexcept nogil:
    """A varint."""
    while value > 0x7f:
        at[0] = <uint8_t>(value & 0x7f) | 0x80
        value >>= 7
        at += 1
    at[0] = <uint8_t>value
    return at + 1


cdef inline uint8_t *write_signed(uint8_t *at, int32_t value) noexcept nogil:
    return write_number(at, (<uint32_t>value << 1) ^ <uint32_t>(value >> 31))


cdef inline uint8_t *write_bytes(uint8_t *at, const void *data, size_t length) noexcept nogil:
    # SAFETY: the caller has made room for them. No bytes may have no memory either.
    if length:
        memcpy(at, data, length)
    return at + length
