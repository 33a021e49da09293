# What compiled code has to know of the columns' values.
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy

from ferryfs.migration.held cimport Held


cdef extern from *:
    """
    #define FERRY_NOT_MEASURED UINT64_MAX
    #define FERRY_SWAP (__BYTE_ORDER__ == __ORDER_BIG_ENDIAN__)
    """
    # The size of an inode that was not looked at, because its handle tells it from others (trailer_identities.NOT_MEASURED).
    const uint64_t NOT_MEASURED "FERRY_NOT_MEASURED"
    const bint SWAP "FERRY_SWAP"


cdef inline uint64_t item(const uint8_t *at, int width) noexcept nogil:
    """The number of ``width`` bytes that stands at ``at``."""
    cdef uint64_t value = 0
    cdef int i
    if not SWAP:
        # SAFETY: width is at most 8, and the caller has width bytes at ``at``.
        memcpy(&value, at, width)
        return value
    for i in range(width):
        value |= <uint64_t>at[i] << (8 * i)
    return value


cdef inline void put_item(uint8_t *at, uint64_t value, int width) noexcept nogil:
    cdef int i
    if not SWAP:
        # SAFETY: as in item().
        memcpy(at, &value, width)
        return
    for i in range(width):
        at[i] = <uint8_t>(value >> (8 * i))


# The numbers of a column, wherever they lie.
cdef struct View:
    const uint8_t *at
    uint64_t base
    Py_ssize_t count
    int width
    bint signed


cdef inline uint64_t view_item(const View *view, Py_ssize_t i) noexcept nogil:
    """A number; a signed one in two's complement."""
    cdef uint64_t number = view.base
    # Each width by itself: the compiler then knows it.
    if view.width == 4:
        number += item(view.at + 4 * i, 4)
    elif view.width == 1:
        number += view.at[i]
    elif view.width == 8:
        number += item(view.at + 8 * i, 8)
    elif view.width == 2:
        number += item(view.at + 2 * i, 2)
    return number ^ <uint64_t>1 << 63 if view.signed else number


cdef class Column:
    cdef Held held
    cdef View view


cdef View view_of(object values) except *
