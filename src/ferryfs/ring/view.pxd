# The only pointer arithmetic on guest memory: a window (address, length) is checked where it is made.
from libc.stdint cimport uint8_t, uint64_t


cdef struct View:
    uint8_t *base       # host address of the byte whose address is `start`; mapped for `size` bytes
    uint64_t start      # address of the first byte, in whatever address space the view is of (guest, front-end's)
    uint64_t size       # bytes


cdef inline uint8_t *view_at(const View *view, uint64_t address, uint64_t length) noexcept nogil:
    """The host address of [address, address + length), or NULL when any of it lies outside of the view.

    The comparison is written so that no sum can overflow.
    """
    cdef uint64_t offset
    if address < view.start:
        return NULL
    offset = address - view.start
    if offset > view.size or length > view.size - offset:
        return NULL
    # SAFETY: offset + length <= size (the line above), and base is mapped for size bytes (who made the view).
    return view.base + offset


cdef inline uint8_t *view_prefix(const View *view, uint64_t address, uint64_t length, uint64_t *got) noexcept nogil:
    """As view_at, for as much of [address, address + length) as the view has from `address`; `got` says how much."""
    cdef uint64_t offset
    if address < view.start:
        return NULL
    offset = address - view.start
    if offset >= view.size:
        return NULL
    got[0] = length if length < view.size - offset else view.size - offset
    # SAFETY: offset < size and offset + got <= size (the lines above); base is mapped for size bytes.
    return view.base + offset
